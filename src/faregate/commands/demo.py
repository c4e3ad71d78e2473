"""`faregate demo`: the gateway with a pretend model, and all one needs to call it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from faregate.auth.keys import make_admin
from faregate.commands.options import Config, Host, Port, Workers
from faregate.commands.remote import Api, segment
from faregate.commands.serve import announce, arguments, server_overrides
from faregate.errors import ConfigError, InvalidApiKey, NotFound
from faregate.serving import Parent, make_data_dir
from faregate.settings import Settings, load

MODEL = "sandbox"
ACCOUNT = "demo"
CREDITS = 10_000
SCOPES = ("proxy", "usage:read", "credits:write")
_SANDBOX = {"providers.sandbox.kind": "sandbox", f"models.{MODEL}": ["sandbox/sandbox"]}


def demo(config: Config = None, host: Host = None, port: Port = None, workers: Workers = None) -> int:
    """Run the gateway with a pretend model, an account of 10,000 credits and a key.

    Prints a curl command and a Python snippet that work as they are. Providers that are configured, or found
    from the usual variables, can be called as well. A second start on the same data directory finds the same
    account, keys and balance (they are kept in demo.json there).
    """
    overrides = server_overrides(host, port, workers) | _SANDBOX
    settings = load(config, overrides=overrides)
    notes = Notes.read(settings)
    parent = Parent(
        settings,
        arguments(config, overrides),
        on_ready=lambda url: welcome(url, settings, notes),
        environment={"FAREGATE_ADMIN_KEY": notes.admin_key},
    )
    make_data_dir(settings.data_dir)
    notes.write(settings)
    try:
        return parent.run()
    finally:
        if not _has_book(settings):  # it never came to a first start: the key opens nothing
            _path(settings).unlink(missing_ok=True)


@dataclass(slots=True)
class Notes:
    """What a demo remembers in its data directory, readable by its owner only."""

    admin_key: str
    key: str = ""

    @classmethod
    def read(cls, settings: Settings) -> Notes:
        """The last demo's, else new ones. FAREGATE_ADMIN_KEY wins. Raises ConfigError on somebody else's book."""
        given = settings.admin_key.get_secret_value() if settings.admin_key is not None else ""
        try:
            stored = json.loads(_path(settings).read_bytes())
            return cls(admin_key=given or str(stored["admin_key"]) or make_admin(), key=str(stored["key"]))
        except FileNotFoundError:
            if not given and _has_book(settings):
                raise ConfigError("this book was not made by faregate demo: set FAREGATE_ADMIN_KEY to use it") from None
            return cls(admin_key=given or make_admin())
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{_path(settings)} cannot be read: delete it, and set FAREGATE_ADMIN_KEY") from None

    def write(self, settings: Settings) -> None:
        """Keep them, all or nothing. A key of the environment is not ours to keep."""
        kept = asdict(self) | ({"admin_key": ""} if settings.admin_key is not None else {})
        path = _path(settings)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(kept, file, indent=2)
        draft.rename(path)


def _path(settings: Settings) -> Path:
    return settings.data_dir / "demo.json"


def _has_book(settings: Settings) -> bool:
    """Somebody may have an admin key for it already, which a new one would replace."""
    return settings.database_url is not None or (settings.data_dir / "faregate.db").exists()


# The account and the key --------------------------------------------------------------------------------


def welcome(url: str, settings: Settings, notes: Notes) -> None:
    """Make what is missing, over the server's own API, and print how to call it."""
    announce(url)
    reach = _reachable(url)
    api = Api(reach, notes.admin_key, direct=True)
    account = _account(api)
    if not _is_good(Api(reach, notes.key, direct=True) if notes.key else None, account):
        body = {"name": "demo", "accountId": account["id"], "scopes": list(SCOPES)}
        notes.key = api.post("/v1/admin/keys", body)["secret"]
        notes.write(settings)
    balance = api.get("/v1/accounts/balance", externalId=ACCOUNT)["balance"]
    print(instructions(reach, notes, f"{balance:,}"), flush=True)


def _account(api: Api) -> dict[str, object]:
    """The demo account. Its credits are granted once: an account without any transaction has not had them."""
    try:
        account: dict[str, object] = api.get("/v1/accounts/get", externalId=ACCOUNT)["account"]
    except NotFound:
        account = api.post("/v1/accounts/create", {"name": "Demo", "externalId": ACCOUNT})["account"]
    if not api.get("/v1/transactions", externalId=ACCOUNT, limit=1)["items"]:
        body = {"externalId": ACCOUNT, "amount": CREDITS, "description": "faregate demo"}
        api.post("/v1/accounts/credits/add", body, idempotency_key=f"demo-credits-{segment(str(account['id']))}")
    return account


def _is_good(api: Api | None, account: dict[str, object]) -> bool:
    """Whether the remembered key still works, for this account."""
    if api is None:
        return False
    try:
        found: dict[str, object] = api.get("/v1/accounts/balance", externalId=ACCOUNT)
    except (InvalidApiKey, NotFound):
        return False
    return found["accountId"] == account["id"]


def _reachable(url: str) -> str:
    """An address a client on this machine can call: the wildcard addresses are none."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def instructions(url: str, notes: Notes, balance: str) -> str:
    """What is printed: ready to paste."""
    return _INSTRUCTIONS.format(url=url, key=notes.key, admin=notes.admin_key, model=MODEL, balance=balance)


_INSTRUCTIONS = """
  account    demo ({balance} credits)
  key        {key}
  admin key  {admin}

With curl:

curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

With Python (pip install openai):

from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
print(answer.choices[0].message.content)
"""
