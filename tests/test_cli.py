"""The command as people meet it, without a server: help, exit codes, init, the filters."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from typer.core import TyperGroup

from faregate import __version__, cli
from faregate.settings import load
from tests.cli_support import faregate

VECTORS = Path(__file__).parent / "vectors"


def test_version(tmp_path: Path) -> None:
    done = faregate("version", data_dir=tmp_path / "data")
    assert (done.returncode, done.stdout) == (0, f"faregate {__version__}\n")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_says_what_the_list_says_and_takes_config(name: str) -> None:
    command = cli._load(name)
    assert (command.help or "").startswith(cli.COMMANDS[name][1].rstrip("."))
    leaves = command.commands.values() if isinstance(command, TyperGroup) else [command]
    assert all("--config" in [option for param in leaf.params for option in param.opts] for leaf in leaves)


def test_the_parent_of_serve_stays_light() -> None:
    heavy = ["sqlalchemy", "litellm", "aiohttp", "genai_prices", "httpx", "starlette", "uvicorn", "redis", "rich"]
    code = "import sys, faregate.cli, faregate.commands.serve, faregate.commands.demo; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(done.stdout.split())


def test_a_worker_loads_what_its_configuration_needs() -> None:
    heavy = ["alembic", "asyncpg", "botocore", "jwt", "litellm", "pyarrow", "stripe", "valkey"]
    code = "import sys, faregate.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(done.stdout.split())


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serv"], "'serve'"),
        (["serve", "--prot", "1"], "No such option: --prot"),
        (["keys"], "Missing command"),
        (["grant", "acc"], "Missing argument 'amount'"),
        (["serve", "--config", "/nowhere/faregate.yaml"], "/nowhere/faregate.yaml"),
        (["price", "/nowhere/lines"], "/nowhere/lines cannot be read"),
        (["keys", "list", "--url", "http://127.0.0.1:1"], "--url and --key go together"),
        (["keys", "list", "--url", "file:///etc/passwd", "--key", "k"], "--url must be like"),
        (["accounts", "list"], "there is no book"),
        (["prices", "show", "no-such-model-at-all"], "no price for no-such-model-at-all"),
    ],
)
def test_misuse_is_one_line_and_exit_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAREGATE_CONFIG", raising=False)
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("faregate: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1


def test_a_server_that_does_not_answer_is_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "list", "--url", "http://127.0.0.1:1", "--key", "k"]) == 1
    assert "http://127.0.0.1:1 does not answer" in capsys.readouterr().err


def test_a_mistake_in_the_configuration_names_its_line(tmp_path: Path) -> None:
    config = tmp_path / "faregate.yaml"
    config.write_text("server: {prot: 1}\n")
    done = faregate("serve", "--config", str(config), data_dir=tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, "")
    assert "faregate.yaml:1: server.prot: unknown key" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_data_directory_that_cannot_be_made_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = faregate("serve", "--port", "0", data_dir=tmp_path / "file" / "data")
    assert done.returncode == 2
    assert "cannot be made" in done.stderr


def test_init_writes_what_serve_reads_and_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", str(tmp_path)]) == 0
    path = tmp_path / "faregate.yaml"
    load(path, {})
    path.write_text("mine")
    assert cli.main(["init", str(path)]) == 2
    assert path.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


# The filters --------------------------------------------------------------------------------------------


def test_price_is_exact_and_one_line_for_each_that_is_not_empty(tmp_path: Path) -> None:
    rate = "0.000000123456789012345678"
    line = f'{{"id": "a", "model": "m", "usage": {{"input_tokens": 3}}, "prices": {{"input": {rate}}}}}'
    done = faregate("price", data_dir=tmp_path / "data", stdin=f"{line}\n\n  \nnot json\n[1]\n")
    assert done.returncode == 0
    first, second, third = [json.loads(each) for each in done.stdout.splitlines()]
    assert Decimal(first["usd"]) == 3 * Decimal(rate)
    assert second["id"] is None
    assert second["error"].startswith("not JSON")
    assert third["id"] is None
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "line", ['{"id": NaN}', '{"id": ' + "9" * 5000 + "}", "[" * 100_000, "\ufeff{", '{"a": 1e999}']
)
@pytest.mark.parametrize("name", ["meter", "price"])
def test_a_line_that_cannot_be_read_is_answered_and_the_next_goes_on(name: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(f'{line}\n{{"id": "next"}}', encoding="utf-8")
    done = faregate(name, str(path), data_dir=tmp_path / "data")
    answers = [json.loads(each) for each in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [each["id"] for each in answers] == [None, "next"]
    assert "error" in answers[0]


def test_meter_and_price_answer_every_vector(tmp_path: Path) -> None:
    for name, file in (("meter", "usage_vectors.jsonl"), ("price", "price_vectors.jsonl")):
        lines = [json.loads(line) for line in (VECTORS / file).read_text().splitlines()]
        done = faregate(name, str(VECTORS / file), data_dir=tmp_path / "data")
        assert [json.loads(each)["id"] for each in done.stdout.splitlines()] == [line["id"] for line in lines]


def test_price_takes_the_operators_prices_with_config(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("- {provider: mine, model: m, per_million: {input: 2.5, output: 5}}\n")
    config = tmp_path / "faregate.yaml"
    config.write_text("prices: prices.yaml\nproviders: {mine: {kind: openai, base_url: http://localhost/v1}}\n")
    line = json.dumps({"id": 1, "provider": "mine", "model": "m", "usage": {"input_tokens": 10, "output_tokens": 0}})
    done = faregate("price", "--config", str(config), data_dir=tmp_path / "data", stdin=line)
    assert json.loads(done.stdout)["usd"] == "0.000025"


# The doctor ---------------------------------------------------------------------------------------------


def test_doctor_says_what_is_wrong_and_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "faregate.yaml"
    config.write_text(
        "providers: {mine: {kind: openai, base_url: http://localhost/v1}}\n"
        "models: {fast: [mine/no-such-model-at-all]}\n"
        "redis_url: redis://127.0.0.1:1\n"
    )
    done = faregate("doctor", "--config", str(config), "--json", data_dir=tmp_path / "data")
    states = {line["check"]: line["state"] for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert states["configuration"] == "ok"
    assert states["provider"] == "note"
    assert (states["prices"], states["redis"]) == ("fail", "fail")
    assert not (tmp_path / "data").exists()


def test_doctor_asks_for_a_migration(tmp_path: Path) -> None:
    (tmp_path / "faregate.db").touch()
    done = faregate("doctor", data_dir=tmp_path)
    assert done.returncode == 1
    assert "faregate migrate" in done.stdout
    assert faregate("migrate", data_dir=tmp_path).returncode == 0
    assert faregate("doctor", data_dir=tmp_path).returncode == 0
