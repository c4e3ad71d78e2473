"""Alembic's folder: shipped in the package, run by `schema.prepare`."""

from __future__ import annotations
