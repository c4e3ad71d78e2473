"""A private PostgreSQL cluster on a unix socket. Databases are copies of an empty book, emptied and used again.

Its processes are killed, its machine never: nothing needs to reach the disk.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run

import pytest

from faregate.ledger.schema import prepare

USER = "faregate"
MISSING = "PostgreSQL is not installed (scripts/services installs it as root): its tests did NOT run"
_PR_SET_PDEATHSIG = 1
_numbers = itertools.count(1)

TEMPLATE = "empty_book"
_EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE one regclass; filled boolean; found text;
BEGIN
  FOR one IN SELECT oid FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s)', one) INTO filled;
    IF filled THEN found := concat_ws(',', found, one); END IF;
  END LOOP;
  IF found IS NOT NULL THEN EXECUTE 'TRUNCATE ' || found || ' CASCADE'; END IF;
END $$
"""
_SHAPE = """
SELECT (SELECT string_agg(relname::text || relkind::text, ' ' ORDER BY relname COLLATE "C") FROM pg_class
          WHERE relnamespace = 'public'::regnamespace),
  (SELECT string_agg(tgname::text || tgenabled::text, ' ' ORDER BY oid) FROM pg_trigger WHERE NOT tgisinternal),
  (SELECT count(*) FROM pg_attribute WHERE NOT attisdropped), (SELECT count(*) FROM pg_constraint),
  (SELECT count(*) FROM pg_inherits), (SELECT count(*) FROM pg_index WHERE NOT indisvalid),
  (SELECT max(version_num) FROM alembic_version), (SELECT count(*) FROM pg_db_role_setting)
"""


def binaries() -> Path | None:
    """Where `initdb`, `postgres` and `psql` are, the newest version first."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    folders = sorted(found, key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    return next((path for path in folders if all((path / name).exists() for name in ("initdb", "postgres"))), None)


class Cluster:
    """One server; `start`, `kill` and `stop` may alternate, the data stays."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._data = folder / "data"
        self._user = _unprivileged()
        self._process: Popen[bytes] | None = None
        self._free: list[str] = []
        self._pristine: str | None = None
        self._starter = ThreadPoolExecutor(1)  # one thread for life: the kernel takes its end for the parent's death
        if self._user is not None:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
            folder.chmod(0o755)
        options = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-sync"]
        locale = ["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]  # sorts as people do, not by code point
        self._call("initdb", "-D", str(self._data), *options, *locale)

    def start(self) -> None:
        """Up, and answering."""
        process = self._process = self._starter.submit(self._spawn).result()
        deadline = time.monotonic() + 90  # a crash recovery on a busy machine
        while self.ask("SELECT 1", check=False) is None:
            assert process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not come up"
            time.sleep(0.02)

    def _spawn(self) -> Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "max_wal_size": "2GB",
            "synchronous_commit": "off",  # as a careless operator might: the book sets its own
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            return Popen(
                [self._programs / "postgres", "-D", self._data, *arguments],
                stdout=log,
                stderr=log,
                cwd="/",
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                preexec_fn=_die_with_parent(),
            )

    @property
    def pid(self) -> int | None:
        """The server's first process."""
        return self._process.pid if self._process is not None else None

    def kill(self) -> None:
        """As the machine would: SIGKILL for the server and every backend."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Without waiting for clients."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={self.folder}"

    def make_template(self) -> None:
        """What `database` copies: an empty book."""
        self.sql(f"CREATE DATABASE {TEMPLATE}")
        prepare(self.url(TEMPLATE))

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty book of one's own. It is used again, unless its schema was changed."""
        name = self._free.pop() if self._free else self._copy()
        yield self.url(name)
        if self._empty(name):
            self._free.append(name)
        else:
            self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @contextmanager
    def blank(self) -> Iterator[str]:
        """The URL of a database with nothing in it."""
        name = f"blank_{next(_numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        yield self.url(name)
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _copy(self) -> str:
        name = f"book_{next(_numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def _empty(self, name: str) -> bool:
        """Take its rows and its clients away. Whether it is what it was when it was made."""
        if self._pristine is None:
            self._pristine = self.ask(_SHAPE, TEMPLATE)
        return self.ask(_EMPTY, name, check=False) is not None and self.ask(_SHAPE, name) == self._pristine

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside any transaction."""
        self.ask(statement, database)

    def ask(self, statement: str, database: str = "postgres", *, check: bool = True) -> str | None:
        """Its answer, rows as lines; None when it cannot be had."""
        command = [str(self._programs / "psql"), "-qXAt", "-h", str(self.folder), "-U", USER, "-c", statement, database]
        done = run(command, check=check, stdout=PIPE, stderr=None if check else DEVNULL, text=True)
        return done.stdout if done.returncode == 0 else None

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        run(command, check=True, stdout=DEVNULL, cwd="/", user=self._user, preexec_fn=_die_with_parent())


@contextmanager
def running() -> Iterator[Cluster]:
    """A started cluster; without PostgreSQL the test is skipped, where nothing may be skipped (CI) it fails."""
    programs = binaries()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="fgpg", dir="/tmp"))
    cluster = Cluster(folder, programs)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> str | None:
    """PostgreSQL does not run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

    return arrange
