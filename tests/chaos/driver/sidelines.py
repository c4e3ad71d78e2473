"""Beside the calls: reservations, usage from outside in bulk, and top-ups. Each insists until it is answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import httpx

from tests.chaos.driver.host import Host
from tests.chaos.load import ADMIN_KEY

End = Literal["confirmed", "cancelled", "left", "refused", "expired"]

EACH = 5
"""Usage events of one bulk request."""
INGESTED_MICROCREDITS = 400_000
"""Of one of them: 50 output tokens of gpt-4.1."""
TOP_UP_MICROCREDITS = 30_000
_PATIENCE_S = 90.0
_LEFT_TTL_S = 3


@dataclass(slots=True)
class Told:
    """What was answered. Everything else must not have left a trace."""

    reservations: dict[str, tuple[End, int]] = field(default_factory=dict)
    """How each ended and what it cost, in microcredits."""
    ingested: int = 0
    """Usage events that were queued."""
    top_ups: dict[str, int] = field(default_factory=dict)
    """How many each account got."""
    unanswered: list[str] = field(default_factory=list)
    """Answered otherwise than it may be, or not at all for as long as anybody had patience."""


@dataclass(slots=True)
class Sidelines:
    """Three clients at their own pace; the n-th request of each is the same in every run of a seed."""

    seed: int
    hosts: Sequence[Host]
    pause_s: float = 0.2
    told: Told = field(default_factory=Told)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def prepare(self) -> None:
        """Usage from outside is charged in the bootstrap organization."""
        async with httpx.AsyncClient(headers={"x-api-key": ADMIN_KEY}, timeout=20) as http:
            url = f"{_url(self.hosts[0])}/v1/admin/organizations/org_bootstrap"
            (await http.patch(url, json={"ingestCharges": True})).raise_for_status()

    def start(self) -> None:
        works = (self._reserve, self._reserve, self._ingest, self._top_up)
        self._tasks = [asyncio.create_task(self._repeat(work, n)) for n, work in enumerate(works)]

    async def stop(self) -> None:
        """Everything that was begun has been answered."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _repeat(self, work: Callable[[Any, str, random.Random], Coroutine[Any, Any, None]], line: int) -> None:
        count = 0
        async with httpx.AsyncClient(headers={"x-api-key": ADMIN_KEY}, timeout=8) as http:
            while not self._stopping:
                dice = random.Random(f"side/{self.seed}/{line}/{count}")
                await work(http, f"{line}-{count}", dice)
                count += 1
                await asyncio.sleep(dice.uniform(0, 2 * self.pause_s))

    # What they do ---------------------------------------------------------------------------------------

    async def _reserve(self, http: httpx.AsyncClient, n: str, dice: random.Random) -> None:
        amount, name = dice.randint(1, 200) * 10_000, f"r{n}"
        end = dice.choices(("confirmed", "cancelled", "left"), (60, 20, 20))[0]
        ttl_s = _LEFT_TTL_S if end == "left" else 300
        body = {"externalId": "reserving", "amount": _credits(amount), "reservationId": name, "ttlSeconds": ttl_s}
        status = await self._insist(http, "/v1/reservations/create", body, dice)
        if status != 200:
            self.told.reservations[name] = ("refused" if status == 402 else "left", 0)
            return
        cost = amount * dice.choice((0, 1, 2, 3)) // 2 if end == "confirmed" else 0
        if end == "confirmed":
            body = {"reservationId": name, "actualAmount": _credits(cost)}
            status = await self._insist(http, "/v1/reservations/confirm", body, dice)
        elif end == "cancelled":
            status = await self._insist(http, "/v1/reservations/cancel", {"reservationId": name}, dice)
        self.told.reservations[name] = (end, cost) if status == 200 else ("expired", 0)  # type: ignore[assignment]
        if cost and status == 200:  # What it had comes back: it goes on for the whole run.
            await self._credit(http, n, "reserving", cost, dice)

    async def _ingest(self, http: httpx.AsyncClient, n: str, dice: random.Random) -> None:
        tokens = {"type": "tokens", "metrics": {"input_tokens": 0, "output_tokens": 50, "total_tokens": 50}}
        one = {"provider": "openai", "model": "gpt-4.1", "usage": [tokens]}
        context = {"billable_customer_id": "ingesting"}
        body = {"transactions": [{**one, "context": context, "idempotency_key": f"{n}.{at}"} for at in range(EACH)]}
        if await self._insist(http, "/usage/transactions", body, dice, fine=(202,)) == 202:
            self.told.ingested += EACH

    async def _top_up(self, http: httpx.AsyncClient, n: str, dice: random.Random) -> None:
        await self._credit(http, n, dice.choice(("tight", "overdrawn")), TOP_UP_MICROCREDITS, dice)

    async def _credit(self, http: httpx.AsyncClient, n: str, account: str, amount: int, dice: random.Random) -> None:
        body = {"externalId": account, "amount": _credits(amount)}
        url = "/v1/accounts/credits/add"
        if await self._insist(http, url, body, dice, key=f"top-up-{account}-{n}", fine=(200,)) == 200:
            self.told.top_ups[account] = self.told.top_ups.get(account, 0) + amount

    # How they ask ---------------------------------------------------------------------------------------

    async def _insist(
        self,
        http: httpx.AsyncClient,
        path: str,
        body: dict[str, Any],
        dice: random.Random,
        key: str = "",
        fine: Sequence[int] = (200, 402, 409),
    ) -> int:
        """The status of the first answer that settles it, from whichever host; 0: there was none in time."""
        headers = {"idempotency-key": key} if key else {}
        answer = ""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_S
        while loop.time() < deadline:
            try:
                said = await http.post(f"{_url(dice.choice(self.hosts))}{path}", json=body, headers=headers)
            except httpx.TransportError as error:
                answer = repr(error)
            else:
                answer = f"{said.status_code} {said.text[:200]}"
                if said.status_code in fine and "in_progress" not in said.text:
                    return said.status_code
                if said.status_code <= 500 and not _again(said):
                    break
            await asyncio.sleep(0.2)
        self.told.unanswered.append(f"{path} {body.get('reservationId', key)}: {answer or 'no answer'}")
        return 0


def _again(said: httpx.Response) -> bool:
    """Whether an error asks to be tried again: an earlier try still runs, or (that dialect's only word) SQL is away."""
    return "in_progress" in said.text or (said.status_code == 500 and "the book" in said.text)


def _url(host: Host) -> str:
    return f"http://{host.address}:{host.gateway.port}"


def _credits(microcredits: int) -> str:
    return f"{Decimal(microcredits) / 1_000_000:f}"
