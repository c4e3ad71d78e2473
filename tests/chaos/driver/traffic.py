"""What the clients do. The n-th call is the same in every run of a seed: its account, its script, when it hangs up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from tests.chaos.driver.host import Host
from tests.chaos.load import Answer, Wire, request

T = TypeVar("T")
Kind = Literal["plain", "stream", "long", "gone", "failing"]

_KINDS: tuple[tuple[Kind, int], ...] = (("plain", 34), ("stream", 26), ("long", 10), ("gone", 14), ("failing", 16))
_ACCOUNTS = (("rich", 70), ("tight", 16), ("overdrawn", 14))
_FAILURES: tuple[dict[str, object], ...] = (
    {"status": 400},
    {"status": 429},
    {"status": 500},
    {"status": 503},
    {"fault": "reset_before_headers"},
    {"fault": "close_before_headers"},
    {"fault": "reset_mid", "output_tokens": 10},
    {"fault": "truncate", "output_tokens": 10},
    {"fault": "no_done"},
    {"fault": "error_event", "output_tokens": 10},
    {"usage": "none"},
)
_PATIENCE_S = 30.0


@dataclass(slots=True, kw_only=True)
class Call:
    """One call: what was asked for, and what came of it. Times are of the monotonic clock."""

    name: str
    kind: Kind
    account: str
    told: dict[str, object]
    stream: bool
    hang_up_s: float
    host: str = ""
    began: float = 0.0
    ended: float = 0.0
    answer: Answer

    @property
    def honest(self) -> bool:
        """The provider was told to serve it whole and to count it."""
        return self.kind != "failing"


def call(seed: int, n: int) -> tuple[Call, random.Random]:
    """The n-th call, and the dice for the rest of its way."""
    dice = random.Random(f"call/{seed}/{n}")
    kind = _pick(dice, _KINDS)
    told: dict[str, object] = {
        "input_tokens": dice.randint(5, 60),
        "output_tokens": dice.randint(1, 14),
        "first_byte_s": round(dice.uniform(0, 0.08), 3),
        "delay_s": 0.004,
    }
    stream = kind in ("stream", "long") or (kind in ("gone", "failing") and dice.random() < 0.6)
    if kind == "long":
        told |= {"output_tokens": dice.randint(15, 40), "delay_s": round(dice.uniform(0.03, 0.1), 3)}
    if kind == "gone":
        told |= {"output_tokens": 20, "delay_s": 0.02}
    if kind == "failing":
        told |= dice.choice(_FAILURES)
    name = f"call-{n}"
    made = Call(
        name=name,
        kind=kind,
        account=_pick(dice, _ACCOUNTS),
        told=told,
        stream=stream,
        hang_up_s=dice.uniform(0.0, 0.4) if kind == "gone" else _PATIENCE_S,
        answer=Answer(call=name, stream=stream),
    )
    return made, dice


def _pick(dice: random.Random, weighted: Sequence[tuple[T, int]]) -> T:
    return dice.choices([one for one, _ in weighted], [weight for _, weight in weighted])[0]


@dataclass(slots=True)
class Traffic:
    """`clients` that call one after the other, each at the host its dice say."""

    seed: int
    hosts: Sequence[Host]
    clients: int
    think_s: float = 0.15
    calls: dict[str, Call] = field(default_factory=dict)
    _count: int = 0
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]

    async def stop(self) -> None:
        """Let what is in flight come to its end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def whole_since(self, moment: float, host: str | None = None) -> bool:
        """Was a call that began later answered whole?"""
        for one in reversed(self.calls.values()):
            if one.began < moment - 2 * _PATIENCE_S:
                return False
            if one.began > moment and one.answer.whole and host in (None, one.host):
                return True
        return False

    async def _client(self) -> None:
        wires: dict[str, Wire] = {}
        while not self._stopping:
            made, dice = call(self.seed, self._count)
            self._count += 1
            host = dice.choice(self.hosts)
            made.host, made.began = host.name, time.monotonic()
            self.calls[made.name] = made
            wire = wires.setdefault(host.name, Wire(host.gateway.port, host.address))
            data = request(made.name, made.told, stream=made.stream, headers=f"x-faregate-account: {made.account}\r\n")
            try:
                async with asyncio.timeout(made.hang_up_s):
                    await wire.call(made.answer, data)
            except TimeoutError:
                pass
            made.ended = time.monotonic()
            await asyncio.sleep(dice.uniform(0, self.think_s) if made.answer.complete else self.think_s)
        for wire in wires.values():
            await wire.close()
