"""The book: the only truth about money, and the only package that knows SQL.

schema    brings a database up           engine     connections: one writer, some readers
batcher   group commit on one thread     commit     one transaction: usage records, entries, windows
posting   wallets and entries            grants     credits that expire
queries   everything that reads and administers (accounts, keys, organizations, transactions, usage, summary)
audit     recomputes G4 from raw data
"""

from __future__ import annotations
