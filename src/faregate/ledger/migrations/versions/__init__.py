"""One file per revision; never edited once released."""

from __future__ import annotations
