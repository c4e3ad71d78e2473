"""The data plane: plain ASGI callables that read a request, let the flow serve it, and say errors in its dialect."""

from __future__ import annotations
