"""The data plane's front doors: which path is which endpoint in which dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from faregate.gateway import bedrock, deployments, gemini
from faregate.gateway.anthropic import AnthropicDialect
from faregate.gateway.bedrock import BedrockDialect
from faregate.gateway.deployments import DeploymentDialect
from faregate.gateway.forms import FormDialect, MediaDialect
from faregate.gateway.gemini import GeminiDialect
from faregate.gateway.openai import OpenAIDialect
from faregate.gateway.responses import ResponsesDialect
from faregate.ports import Dialect

_OPENAI = OpenAIDialect()
_ANTHROPIC = AnthropicDialect()
_RECORDING = FormDialect("file", sound=True)


@dataclass(frozen=True, slots=True)
class Door:
    """An endpoint and the language it is asked in."""

    endpoint: str
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class Pattern:
    """Doors whose path has the model's name in its middle."""

    prefix: str
    suffix: str
    door: Door
    events: bool = False
    """Only where `alt=sse` is asked for."""

    @property
    def path(self) -> str:
        """As it is written in documentation."""
        return f"{self.prefix}{{model}}{self.suffix}"

    def matches(self, path: str, query: bytes) -> bool:
        """Whether a request is for this door. The name is not empty."""
        named = len(path) > len(self.prefix) + len(self.suffix)
        here = named and path.startswith(self.prefix) and path.endswith(self.suffix)
        return here and (not self.events or gemini.asks_for_events(query))


DOORS: Mapping[str, Door] = {
    "/v1/chat/completions": Door("chat.completions", _OPENAI),
    "/v1/completions": Door("completions", _OPENAI),
    "/v1/embeddings": Door("embeddings", _OPENAI),
    "/v1/responses": Door("responses", ResponsesDialect()),
    "/v1/messages": Door("messages", _ANTHROPIC),
    "/v1/messages/count_tokens": Door("messages.count_tokens", _ANTHROPIC),
    "/v1/moderations": Door("moderations", MediaDialect(model="omni-moderation-latest")),
    "/v1/audio/transcriptions": Door("audio.transcriptions", _RECORDING),
    "/v1/audio/translations": Door("audio.translations", _RECORDING),
    "/v1/audio/speech": Door("audio.speech", MediaDialect(stream=("stream_format", "sse"))),
    "/v1/images/generations": Door("images.generations", _OPENAI),
    "/v1/images/edits": Door("images.edits", FormDialect("image", "image[]", json=True)),
}
"""By exact path; all of them are POST."""

_PLAIN = Door("generatecontent", GeminiDialect(stream=False))
_EVENTS = Door("generatecontent", GeminiDialect(stream=True, events=True))
_ARRAY = Door("generatecontent", GeminiDialect(stream=True))

_DEPLOYED = (
    *("chat/completions", "completions", "embeddings", "audio/transcriptions", "audio/translations"),
    *("audio/speech", "images/generations", "images/edits"),
)
"""What Azure's SDK asks a deployment for."""


def _deployed(path: str) -> Pattern:
    door = DOORS[f"/v1/{path}"]
    return Pattern(deployments.PREFIX, f"/{path}", Door(door.endpoint, DeploymentDialect(door.dialect, f"/{path}")))


PATTERNS = (
    *map(_deployed, _DEPLOYED),
    *(Pattern(prefix, gemini.PLAIN, _PLAIN) for prefix in gemini.PREFIXES),
    *(Pattern(prefix, gemini.STREAM, _EVENTS, events=True) for prefix in gemini.PREFIXES),
    *(Pattern(prefix, gemini.STREAM, _ARRAY) for prefix in gemini.PREFIXES),
    *(
        Pattern(prefix, suffix, Door(endpoint, GeminiDialect(stream=False)))
        for suffix, endpoint in gemini.OTHERS.items()
        for prefix in gemini.PREFIXES
    ),
    *(
        Pattern(bedrock.PREFIX, f"/{operation}", Door(endpoint, BedrockDialect(operation, stream=stream)))
        for operation, (endpoint, stream) in bedrock.OPERATIONS.items()
    ),
)
"""Tried in order when no exact path fits; all of them are POST."""
