"""The control plane: accounts, credits, transactions, usage, models, administration, operations.

route        one line of the table in `routes.py`: method, path, scopes, handler
handler      async function of (services, request) -> Reply; raises FaregateError
request      what came, read whole and bounded; its body and query are pydantic models, strict and frozen
services     what handlers work with, built once by the composition root
"""

from __future__ import annotations
