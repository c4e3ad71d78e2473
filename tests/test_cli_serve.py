"""`faregate serve` and `faregate demo` as processes: what they say, how they end, what they leave."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from faregate import cli, serving
from faregate.commands.remote import Api
from faregate.credits.embedded import EmbeddedValkey
from faregate.errors import ConfigError
from faregate.settings import child_environment
from faregate.settings_model import Settings
from tests.cli_support import Running, environment, faregate, running, valkeys

pytestmark = pytest.mark.xdist_group("cli")
ADMIN = "an-admin-key-that-is-long-enough-for-all"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One demo for the tests that only look."""
    with running("demo", data_dir=tmp_path_factory.mktemp("demo")) as server:
        server.read_until(r"^print\(")
        yield server


def noted(server: Running) -> dict[str, str]:
    found: dict[str, str] = json.loads((server.data_dir / "demo.json").read_text())
    return found


Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def ask(demo: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """A command on the demo's data directory, here in this process: its answer as JSON."""
    for name, value in environment(demo.data_dir).items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        code = cli.main([*words, "--json"])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return [json.loads(line) for line in shown.out.splitlines()]

    return run


def is_open(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until_closed(port: int) -> None:
    ends = time.monotonic() + 10
    while is_open(port):
        assert time.monotonic() < ends, "somebody is still on the port"
        time.sleep(0.05)


# The demo -----------------------------------------------------------------------------------------------


def test_the_printed_curl_works_as_it_is(demo: Running) -> None:
    text = "\n".join(demo.said)
    command = re.search(r"^curl .*?'$", text, re.MULTILINE | re.DOTALL)
    assert command is not None
    _, url, _, authorization, _, content_type, _, body = shlex.split(command[0].replace("\\\n", " "))
    request = urllib.request.Request(url, data=body.encode())
    for header in (authorization, content_type):
        name, value = header.split(": ")
        request.add_header(name, value)
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["choices"][0]["message"]["content"]


def test_the_printed_python_works_as_it_is(demo: Running, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(demo.said)
    snippet = text[text.index("from openai") :]
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    assert capsys.readouterr().out.strip()
    scope["client"].close()


def test_what_the_demo_remembers_is_its_owners_alone(demo: Running) -> None:
    assert stat.S_IMODE((demo.data_dir / "demo.json").stat().st_mode) == 0o600
    assert noted(demo)["key"].startswith("fg_live_")


def test_a_call_is_charged_and_shown(demo: Running, ask: Ask) -> None:
    with OpenAI(base_url=f"{demo.url}/v1", api_key=noted(demo)["key"]) as client:
        client.chat.completions.create(model="sandbox", messages=[{"role": "user", "content": "Hi"}])
    (latest,) = ask("usage", "--account", "demo", "--limit", "1")
    (account,) = ask("accounts", "show", "demo")
    assert latest["creditsCharged"] > 0
    assert account["balance"] < 10_000
    assert (account["reserved"], account["available"]) == (0, account["balance"])
    (summary,) = ask("usage", "--summary", "--since", "1h")
    assert summary["count"] >= 1


def test_a_grant_beside_the_server_counts_at_once(demo: Running, ask: Ask) -> None:
    ask("accounts", "create", "Poor", "--external-id", "poor")
    key = ask("keys", "create", "poor", "--account", "poor")[0]["secret"]
    with OpenAI(base_url=f"{demo.url}/v1", api_key=key, max_retries=0) as client:
        assert status_of(client) == 402
        ask("grant", "poor", "5")
        assert status_of(client) == 200


@pytest.mark.parametrize("where", ["beside the server", "on the server"])
def test_reservations_are_made_and_ended(demo: Running, ask: Ask, where: str) -> None:
    at = ["--url", demo.url, "--key", noted(demo)["admin_key"]] if where == "on the server" else []
    name = f"wallet {where}"
    ask("accounts", "create", name, "--external-id", name)
    ask("grant", name, "5")
    (one,) = ask("reservations", "create", name, "3", "--id", name, "--ttl", "60", "--operation", "render", *at)
    (again,) = ask("reservations", "create", name, "3", "--id", name, *at)
    assert (one["status"], one["amount"], again["id"]) == ("pending", 3, one["id"])
    (account,) = ask("accounts", "show", name)
    assert (account["reserved"], account["available"]) == (3, 2)
    assert cli.main(["reservations", "create", name, "3", *at]) != 0
    (later,) = ask("reservations", "extend", name, "--ttl", "600", *at)
    assert later["expiresAt"] > one["expiresAt"]
    (done,) = ask("reservations", "confirm", one["id"], "1.5", *at)
    assert (done["amount"], done["released"], done["balance"]) == (1.5, 1.5, 3.5)
    (other,) = ask("reservations", "create", name, "1", *at)
    assert ask("reservations", "cancel", other["id"], *at)[0]["status"] == "released"
    assert cli.main(["reservations", "confirm", other["id"], "1", *at]) == 2
    assert [row["status"] for row in ask("reservations", "list", "--account", name, *at)] == ["released", "settled"]
    assert ask("reservations", "list", "--account", name, "--active", *at) == []


def test_a_revoked_or_rotated_key_stops_with_its_next_call(demo: Running, ask: Ask) -> None:
    key = ask("keys", "create", "short-lived", "--account", "demo")[0]
    with OpenAI(base_url=f"{demo.url}/v1", api_key=key["secret"], max_retries=0) as client:
        assert status_of(client) == 200
        secret = ask("keys", "rotate", key["id"])[0]["secret"]
        assert status_of(client) == 401
        client.api_key = secret
        assert status_of(client) == 200
        assert cli.main(["keys", "revoke", key["id"]]) == 0
        assert status_of(client) == 401


@pytest.mark.parametrize("over_http", [False, True])
def test_plans_are_made_assigned_and_archived(demo: Running, ask: Ask, over_http: bool) -> None:
    at = ("--url", demo.url, "--key", noted(demo)["admin_key"]) if over_http else ()
    name = f"planned-{over_http}"
    ask("accounts", "create", "Planned", "--external-id", name, *at)
    (plan,) = ask("plans", "create", "gold", "2.5", "month", "--occurrences", "3", *at)
    (assigned,) = ask("plans", "assign", name, plan["id"], *at)
    assert (assigned["planId"], assigned["active"]) == (plan["id"], True)
    assert ask("accounts", "balance", name, *at)[0]["available"] == 2.5
    past = ask("accounts", "balance", name, "--at", "2024-01-01T00:00:00Z", *at)[0]
    assert (past["balance"], past["at"]) == (0, "2024-01-01T00:00:00.000000Z")
    assert ask("plans", "archive", plan["id"], *at)[0]["isActive"] is False
    assert plan["id"] in [each["id"] for each in ask("plans", "list", *at)]
    assert cli.main(["plans", "assign", name, plan["id"], *at]) == 2
    assert cli.main(["plans", "create", "gold", "1", "year", *at]) == 2


@pytest.mark.parametrize("over_http", [False, True])
def test_cards_made_over_the_api_are_listed(demo: Running, ask: Ask, over_http: bool) -> None:
    key = noted(demo)["admin_key"]
    at = ("--url", demo.url, "--key", key) if over_http else ()
    card = {"provider": "custom", "model": f"box-{over_http}", "per_unit": {"gpu_minutes": "0.02"}}
    made = Api(demo.url, key, direct=True).post("/v1/admin/prices", card)["price"]
    (row,) = [row for row in ask("prices", "list", *at) if row["id"] == made["id"]]
    assert (row["model"], row["rates"], row["organizationId"]) == (card["model"], "gpu_minutes 0.02", None)


def status_of(client: OpenAI) -> int:
    raw = client.chat.completions.with_raw_response
    try:
        return int(raw.create(model="sandbox", messages=[{"role": "user", "content": "Hi"}]).http_response.status_code)
    except APIStatusError as error:
        return error.status_code


def test_the_same_commands_work_over_http(demo: Running, ask: Ask) -> None:
    at = ("--url", demo.url, "--key", noted(demo)["admin_key"])
    (account,) = ask("accounts", "create", "Remote", "--external-id", "remote", *at)
    (granted,) = ask("grant", "remote", "2.5", *at)
    assert granted["balance"] == 2.5
    assert [a for a in ask("accounts", "list", *at) if a["id"] == account["id"]]
    made = ask("keys", "create", "remote", "--account", "remote", "--limit", "credits:day:5", *at)[0]
    assert made["secret"].startswith("fg_live_")
    assert made["id"] in [each["id"] for each in ask("keys", "list", *at)]
    assert ask("accounts", "show", "remote", *at)[0]["available"] == 2.5
    assert cli.main(["keys", "revoke", made["id"], *at]) == 0
    assert ask("holds", *at) == []
    assert cli.main(["accounts", "show", "nobody", *at]) == 2


def test_audit_and_doctor_are_content_beside_a_server(demo: Running) -> None:
    audit = faregate("audit", data_dir=demo.data_dir)
    assert (audit.returncode, audit.stdout) == (0, "no drift: the book adds up, Redis agrees with it\n")
    doctor = faregate("doctor", data_dir=demo.data_dir)
    assert doctor.returncode == 0
    assert "Valkey" in doctor.stdout
    assert "noeviction" in doctor.stdout


def test_a_second_server_on_the_data_directory_is_exit_2(demo: Running) -> None:
    second = faregate("serve", "--port", "0", data_dir=demo.data_dir)
    assert second.returncode == 2
    assert second.stderr == f"faregate: another faregate is running on {demo.data_dir}\n"


def test_a_port_that_stays_taken_is_a_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_BIND_PATIENCE_S", 0.1)
    with serving._bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"), serving._bound("127.0.0.1", port):
            pass


def test_a_worker_that_fails_for_ever_keeps_nobody_from_being_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, started = serving.Parent(Settings(data_dir=tmp_path), {}), list[int]()
    for index, failures in enumerate((5000, 0)):
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        worker = serving._Worker(index, ended, os.open(os.devnull, os.O_RDONLY), time.monotonic(), failures=failures)
        parent._workers[index] = worker
    parent._valkey = EmbeddedValkey(tmp_path)
    monkeypatch.setattr(EmbeddedValkey, "_start", lambda self: None)  # It never answers.
    monkeypatch.setattr(EmbeddedValkey.start, "__kwdefaults__", {"timeout_s": 0.01})
    monkeypatch.setattr(serving.Parent, "_start", lambda self, index, listener, watch: started.append(index))
    with socket.socket() as listener:
        parent._mend(listener, 0)
        assert started == []
        time.sleep(0.15)
        parent._mend(listener, 0)
    assert started == [1]
    os.close(parent._workers[0].ready_fd)


# Starting and ending ------------------------------------------------------------------------------------


def test_demo_twice_and_what_a_clean_end_leaves(tmp_path: Path) -> None:
    with running("demo", data_dir=tmp_path) as first:
        first.read_until(r"^print\(")
        notes = noted(first)
        assert first.stop() == 0
        assert list((tmp_path / "journal").iterdir()) == []
        assert valkeys(tmp_path) == []
        assert not is_open(first.port)
    with running("demo", data_dir=tmp_path) as second:
        assert "(10,000 credits)" in second.read_until("account")
        assert noted(second) == notes
        assert second.stop(signal.SIGINT) == 0


def test_a_killed_parent_leaves_nobody_on_the_port_and_its_valkey_is_adopted(tmp_path: Path) -> None:
    with running("serve", "--workers", "2", data_dir=tmp_path, FAREGATE_ADMIN_KEY=ADMIN) as first:
        (valkey,) = valkeys(tmp_path)
        first.stop(signal.SIGKILL)
        wait_until_closed(first.port)
        assert valkey.is_running()
        with running("serve", data_dir=tmp_path, FAREGATE_ADMIN_KEY=ADMIN) as second:
            assert [each.pid for each in valkeys(tmp_path)] == [valkey.pid]
            assert second.stop() == 0
            assert valkeys(tmp_path) == []


def test_the_admin_key_is_said_once(tmp_path: Path) -> None:
    with running("serve", data_dir=tmp_path) as first:
        assert [line for line in first.said if re.fullmatch(r"admin key \(shown once\): fg_admin_\w{43}", line)]
        first.stop()
    with running("serve", data_dir=tmp_path) as second:
        assert second.said == [f"faregate is listening on {second.url}"]


def test_demo_leaves_anothers_book_alone(tmp_path: Path) -> None:
    faregate("migrate", data_dir=tmp_path)
    done = faregate("demo", "--port", "0", data_dir=tmp_path)
    assert done.returncode == 2
    assert "was not made by faregate demo" in done.stderr
    assert not (tmp_path / "demo.json").exists()


def test_a_demo_that_never_started_leaves_no_key(tmp_path: Path) -> None:
    with serving._locked(tmp_path / "lock"):
        done = faregate("demo", "--port", "0", data_dir=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "demo.json").exists()


def test_a_worker_that_cannot_start_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "faregate.db").write_text("not a database, but long enough to be read as one" * 30)
    done = faregate("serve", "--port", "0", data_dir=tmp_path)
    assert done.returncode == 2
    assert "cannot be prepared" in done.stderr
    assert valkeys(tmp_path) == []


def test_a_child_finds_ours_and_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    assert {"OURS": "1", "ITS": "2"}.items() <= child_environment({"ITS": "2"}).items()


def test_a_broken_pipe_is_no_traceback() -> None:
    script = "printf '{}\\n%.0s' $(seq 20000) | \"$0\" -m faregate price | head -1"
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
