"""Faregate: an OpenAI-compatible gateway that meters LLM calls and charges them against credits."""

from __future__ import annotations

__version__ = "0.1.0"
