"""The shape that all endpoints share: what is read out of a request to bound its price."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil

from faregate.core.asks import hearing, pictures
from faregate.core.asks.documents import pages_of
from faregate.core.call import Call
from faregate.errors import InvalidRequest

MAX_TOKENS = 10_000_000
"""Far over any model's output; a bound beyond is a mistake."""
MAX_CHOICES = 128
"""OpenAI's limit for n; its best_of allows 20."""
_TOKENS_PER_PAGE = 2_000
"""A page full of text; that it is looked at, too, comes on top."""

ONE_REQUEST: Mapping[str, Decimal] = {"request": Decimal(1)}


@dataclass(frozen=True, slots=True)
class Asked:
    """The output a request allows."""

    per_choice: int | None
    """None: the model's own maximum."""
    choices: int
    """n or best_of, times the number of prompts."""
    cappable: bool
    param: str | None = None
    """The field that set the bound."""
    least: int = 0
    """Less than this per choice makes no sense to the provider (thinking has a smallest budget)."""


@dataclass(frozen=True, slots=True)
class Input:
    """The input's upper bound, and what besides text is in the call."""

    tokens: int
    modalities: frozenset[str] = frozenset()
    """What `core.ceiling` knows beside text: audio, image (in or out), cache_write, cache_write_1h, geo:us."""
    units: Mapping[str, Decimal] = field(default_factory=lambda: ONE_REQUEST)
    """Quantities by rate name: request, search, second, character, image."""
    tier: str = "default"


@dataclass(frozen=True, slots=True)
class Allowances:
    """What the operator and the candidates' models allow for what cannot be counted."""

    bytes_per_token: Decimal
    tokens_per_audio_second: int
    """Of a model whose family is not known, as `tokens_per_image`."""
    models: tuple[str, ...]
    """The upstream names the call may go to."""
    tokens_per_image: int
    """Of a model whose family is not known."""
    context_tokens: int | None = None
    """The largest context of those models: no document brings more."""

    def text(self, size: int) -> int:
        """The tokens of so many bytes of text."""
        return ceil(max(0, size) / self.bytes_per_token)

    def image(self, detail: object = None) -> int:
        """The tokens of one picture on the model that takes the most for it."""
        return max(pictures.tokens(model, detail, self.tokens_per_image) for model in self.models)

    def document(self, data: str | None) -> int:
        """The tokens of a document in base64 (None: it is somewhere else): its text, and a look at each page."""
        tokens = pages_of(data) * (self.image("high") + _TOKENS_PER_PAGE)
        return tokens if self.context_tokens is None else min(tokens, self.context_tokens)

    def sound(self, seconds: int) -> int:
        """The tokens of so many seconds of sound on the model that takes the most for them."""
        return seconds * max(hearing.tokens_per_second(model, self.tokens_per_audio_second) for model in self.models)


@dataclass(frozen=True, slots=True)
class Ask:
    """How one endpoint's requests are read. Both raise InvalidRequest naming the field that cannot be meant."""

    output: Callable[[Call], Asked]
    input: Callable[[Call, Allowances], Input]


def whole(body: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    """A whole number of a body, within bounds; None when it is absent. Raises InvalidRequest."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer", param=name)
    if not least <= value <= most:
        raise InvalidRequest(f"{name} must be between {least} and {most}", param=name)
    return value


def tier_of(call: Call) -> str:
    """`service_tier` as asked."""
    tier = call.body.get("service_tier")
    return tier if isinstance(tier, str) else "default"


def no_output(call: Call) -> Asked:
    """For endpoints that bill their input alone."""
    return Asked(0, 1, False)


def text_alone(call: Call, allow: Allowances) -> Input:
    """For endpoints whose requests are text and nothing else."""
    return Input(max(1, allow.text(call.body_bytes)), tier=tier_of(call))
