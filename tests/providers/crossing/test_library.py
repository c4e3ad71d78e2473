"""LiteLLM is loaded late, keeps off the network, and is missed in plain words."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from faregate.errors import InvalidRequest
from faregate.providers.crossing import library
from faregate.providers.crossing.anthropic import AnthropicCrossing
from tests.providers.crossing.parts import candidate, chat

ROOT = Path(__file__).parents[3]

ALONE = """
import asyncio, os, socket, sys
os.environ["PYTHONWARNINGS"] = "ignore"
os.environ.pop("LITELLM_LOCAL_MODEL_COST_MAP", None)

def refuse(*_, **__):
    raise SystemExit("it went to the network")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse

from faregate.errors import InvalidRequest
from faregate.providers.crossing.anthropic import AnthropicCrossing
from tests.providers.crossing.parts import candidate, chat

def ask(url):
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    call = chat(messages=[{"role": "user", "content": parts}])
    return asyncio.run(AnthropicCrossing().request(call, candidate("anthropic", "claude-sonnet-4-5"), None))

ask("https://example.org/a.png")
ask("data:image/png;base64,iVBORw0KGgo=")
try:
    ask("data:http://169.254.169.254/")
except InvalidRequest:
    pass
print("litellm" in sys.modules)
"""


def run(code: str) -> str:
    """In a process of its own, which has loaded nothing yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_library_opens_no_connection() -> None:
    assert run(ALONE) == "True"


def test_a_gateway_starts_without_it() -> None:
    code = "import sys, faregate.app, faregate.providers.anthropic; print('litellm' in sys.modules)"
    assert run(code) == "False"


async def test_without_the_extra_the_call_is_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_loaded", [])
    monkeypatch.setattr(library, "find_spec", lambda _: None)
    with pytest.raises(InvalidRequest, match="without the extra litellm"):
        await AnthropicCrossing().request(chat(), candidate("anthropic", "claude-sonnet-4-5"), None)


async def test_many_first_calls_load_it_once() -> None:
    crossing = AnthropicCrossing()
    place = candidate("anthropic", "claude-sonnet-4-5")
    made = await asyncio.gather(*(crossing.request(chat(max_tokens=at + 1), place, None) for at in range(8)))
    assert [crossed.body["max_tokens"] for crossed in made] == list(range(1, 9))


def test_bedrocks_pictures_are_not_fetched_either() -> None:
    library.load()
    factory = import_module("litellm.litellm_core_utils.prompt_templates.factory")
    with pytest.raises(ValueError, match="data: URLs only"):
        factory.BedrockImageProcessor.get_image_details("https://127.0.0.1:9/x.png")
