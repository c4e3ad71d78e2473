"""Redis is the gate: open holds, limits, and an absolute copy of each balance. One Lua script per verb (lua/)."""

from __future__ import annotations
