"""Who calls, and what may they: keys, the principal cache, scopes, limits.

key          fg_live_<id>_<secret> or fg_test_<id>_<secret>; only its SHA-256 is kept
principal    what a good key stands for: organization, account, scopes, models, limits
rev          a key's version; Redis compares it at every hold, so a revoked key stops at its next call
bootstrap    the one key above organizations; its secret is FAREGATE_ADMIN_KEY or made on first start
"""

from __future__ import annotations
