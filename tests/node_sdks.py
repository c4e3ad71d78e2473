"""The SDKs for Node, as tests/node/package-lock.json pins them: installed once, beside Python's own packages."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent / "node"
_PLACE = Path(__file__).parents[1] / ".venv" / "node"
MISSING = "Node is not installed: ./scripts/services installs it"


def installed() -> Path:
    """The folder that has them. Without Node the test is skipped, where nothing may be skipped (CI) it fails."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        _without(MISSING)
    lock = (HERE / "package-lock.json").read_bytes()
    folder = _PLACE / hashlib.sha256(lock).hexdigest()[:16]
    _PLACE.mkdir(exist_ok=True)
    with (_PLACE / "lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            try:
                _install(folder)
            except (subprocess.SubprocessError, OSError) as error:
                _without(f"the SDKs for Node cannot be installed: {error}")
    return folder


def _without(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def _install(folder: Path) -> None:
    """Nothing of what is installed is run, and npm keeps nothing of it elsewhere."""
    for older in _PLACE.glob("*/done"):
        shutil.rmtree(older.parent)
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    cache = folder / "cache"
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    subprocess.run(["npm", "ci", *quiet, f"--cache={cache}"], cwd=folder, check=True, timeout=120)
    shutil.rmtree(cache, ignore_errors=True)
    (folder / "done").touch()
