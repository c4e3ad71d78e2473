"""A system clock that can be set while processes run: a small library in front of libc (clock.c), compiled here.

Debian's libfaketime will not do: with the monotonic clock left alone, `time.sleep` fails under it.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


class SteppedClock:
    """`environment` is for the processes that are to live by it."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "clock.so"
        self._file = folder / "clock"
        self.offset_s = 0

    def make(self) -> str:
        """Why it cannot be; empty when it is there."""
        compiler = shutil.which("cc")
        if compiler is None:
            return "needs a C compiler (cc)"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        command = (compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE))
        done = subprocess.run(command, capture_output=True, text=True)
        self._file.write_bytes(struct.pack("l", 0))
        return done.stderr.strip() if done.returncode else ""

    @property
    def environment(self) -> Mapping[str, str]:
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file)}

    def set(self, offset_s: int) -> None:
        """That many seconds ahead of (or behind) the machine's, at once."""
        self.offset_s = offset_s
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("l", offset_s))
