"""The one HTTP client to providers: the only file that imports aiohttp.

A call has two phases with a timer each. Until the headers are here, `asyncio.timeout` bounds the wait. From
then on one lazy timer per call watches the body: `touch()` only sets a flag; the timer, when it fires, looks
whether something real has passed and arms itself again for the rest. The consumer's own time (a slow client)
is not silence of the provider and is not counted; a stream kept open by comments alone is silent.

Foreign exceptions carry URLs and request headers in their attributes, so none leaves this file, not even as
`__context__`: `translate` says in our own words what happened, and that is raised outside the `except` block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from weakref import WeakSet

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.client_exceptions import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientPayloadError,
    ClientSSLError,
    InvalidURL,
    ServerDisconnectedError,
)
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from faregate.errors import ConfigError, UpstreamError, UpstreamTimeout
from faregate.ports import Timeouts

FOREIGN = (ClientError, HttpProcessingError, OSError, EOFError)
"""Everything aiohttp and asyncio raise for what happens on the wire. TimeoutError is an OSError."""

_WORDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (InvalidURL, "the provider's URL is not valid"),
    (ClientConnectorDNSError, "the provider's host name does not resolve"),
    ((ClientConnectorCertificateError, ClientSSLError), "no trusted TLS connection to the provider"),
    (ClientConnectorError, "could not connect to the provider"),
    (ServerDisconnectedError, "the provider closed the connection before it answered"),
    (ClientPayloadError, "the provider's answer broke off"),
    (ConnectionResetError, "the provider reset the connection"),
    (HttpProcessingError, "the provider's answer is not valid HTTP"),
)


def translate(error: BaseException) -> UpstreamError:
    """A foreign exception in our words: UpstreamTimeout for any time-out, UpstreamError for the rest."""
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the provider did not answer in time")
    for kinds, words in _WORDS:
        if isinstance(error, kinds):
            return UpstreamError(words)
    return UpstreamError("the connection to the provider failed")


@dataclass(frozen=True, slots=True)
class Target:
    """A URL and its constant headers, prepared once per provider and endpoint."""

    url: URL
    headers: CIMultiDict[str]


def prepare(url: str, headers: Mapping[str, str]) -> Target:
    """A target for `Upstream.post`. The URL is taken as it stands: already percent-encoded.

    Raises ConfigError for a header value that HTTP cannot carry (a key read with its line break).
    """
    for name, value in headers.items():
        if not value.isprintable():
            raise ConfigError(f"the value of the header {name!r} holds a line break or control character")
    return Target(URL(url, encoded=True), CIMultiDict({**headers, "accept-encoding": "identity"}))


class Upstream:
    """A shared client session: pooled keep-alive connections; no cookies, redirects or proxies.

    aiohttp sets TCP_NODELAY on each connection. A provider that compresses although asked for `identity` is
    decompressed (it could not be metered otherwise); everything else arrives byte for byte.
    """

    def __init__(self, *, limit: int = 1000, total_s: float = 3600.0) -> None:
        """`limit` connections in all, as many of them per host as it takes; `total_s` bounds a whole call."""
        self._limit = limit
        self._total_s = total_s
        self._session: ClientSession | None = None
        self._answers: WeakSet[UpstreamAnswer] = WeakSet()
        self._closed = False
        self._timeouts: dict[float, ClientTimeout] = {}

    async def post(self, target: Target, headers: Mapping[str, str], body: bytes, timeouts: Timeouts) -> UpstreamAnswer:
        """Send; wait for the headers. Raises UpstreamError or UpstreamTimeout when no response began."""
        return await self.request("POST", target, headers, body, timeouts)

    async def request(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None, timeouts: Timeouts
    ) -> UpstreamAnswer:
        """The same by any method; a body of None is none at all."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout_at(begun + timeouts.first_byte_s):
                response = await self._send(method, target, headers, body, timeouts.connect_s)
        except FOREIGN as error:
            failure = translate(error)
        else:
            return self._answer(response, timeouts, begun)
        raise failure

    @property
    def session(self) -> ClientSession:
        """The client itself, for what is no request and answer."""
        return self._session or self._open()

    async def close(self) -> None:
        """Give every answer up that is still coming, close every connection, and send nothing from now on."""
        self._closed = True
        for answer in list(self._answers):
            answer.abort()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None, connect_s: float
    ) -> ClientResponse:
        session = self._session or self._open()
        timeout = self._timeouts.get(connect_s) or self._client_timeout(connect_s)
        sent = target.headers
        if headers:
            sent = sent.copy()
            sent.update(headers)
        return await session.request(
            method, target.url, data=body, headers=sent, allow_redirects=False, timeout=timeout
        )

    def _answer(self, response: ClientResponse, timeouts: Timeouts, begun: float) -> UpstreamAnswer:
        if 300 <= response.status < 400:
            # Following it would carry the operator's key to another place.
            response.close()
            raise UpstreamError("the provider answered with a redirect")
        answer = UpstreamAnswer(response, timeouts, begun, self._total_s)
        self._answers.add(answer)
        return answer

    def _open(self) -> ClientSession:
        if self._closed:
            raise UpstreamError("the gateway is shutting down")
        connector = TCPConnector(limit=self._limit, limit_per_host=0, ttl_dns_cache=60, keepalive_timeout=60.0)
        self._session = ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            trust_env=False,
            timeout=ClientTimeout(total=None),
            read_bufsize=65_536,  # a slow client holds back at most twice this per stream
            max_field_size=32_768,
            max_line_size=32_768,
        )
        return self._session

    def _client_timeout(self, connect_s: float) -> ClientTimeout:
        # `sock_read` stays off: aiohttp would arm a timer for every chunk.
        timeout = ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=None)
        self._timeouts[connect_s] = timeout
        return timeout


class UpstreamAnswer:
    """ports.Answer over an aiohttp response; its own iterator, since a body is read once."""

    def __init__(self, response: ClientResponse, timeouts: Timeouts, begun: float, total_s: float) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._idle_s = timeouts.idle_s
        # Some send headers, then comments for minutes: until the first real event the first-byte time counts.
        self._patience_s = timeouts.first_byte_s
        self._heard_at = begun
        self._total_at = begun + total_s
        self._paused_at: float | None = self._loop.time()
        """When the consumer took over; None while it waits for the provider."""
        self._touched = False
        self._broken: UpstreamError | None = None
        self._timer: asyncio.TimerHandle | None = None

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamError when it breaks off, UpstreamTimeout on silence."""
        return self

    def touch(self) -> None:
        """A real event has passed: the idle timer starts again."""
        self._touched = True

    def abort(self) -> None:
        """Stop now, from anywhere: the connection is cut and `chunks` raises UpstreamError."""
        if self._broken is None:
            self._broken = UpstreamError("the call was given up")
            self._content.set_exception(self._broken)
            self._disarm()
            self._response.close()

    async def close(self) -> None:
        """A body read to its end has given its connection back already; any other is cut."""
        self._disarm()
        if not self._response.closed:
            self._response.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = b"" if self._broken else await self._read()
        if data:
            self._paused_at = self._loop.time()
            return data
        self._disarm()
        raise self._broken or StopAsyncIteration

    async def _read(self) -> bytes:
        self._resume()
        try:
            return await self._content.readany()
        except UpstreamError as error:  # the watchdog's, or abort's
            self._broken = error
        except FOREIGN as error:
            self._broken = translate(error)
        # What came before the break is delivered and charged. readany() would drop it; this method takes it
        # out of the buffer without looking at the exception first.
        return self._content._read_nowait(-1)

    def _resume(self) -> None:
        """The consumer waits for the provider again: its own time is no silence."""
        now = self._loop.time()
        if self._touched:
            self._note(now)
        elif self._paused_at is not None:
            self._heard_at += now - self._paused_at
        self._paused_at = None
        if self._timer is None and not self._content.is_eof():
            self._watch()

    def _note(self, now: float) -> None:
        self._touched = False
        self._heard_at = now
        if self._patience_s != self._idle_s:  # the first real event: the timer set for its coming is too late now
            self._disarm()
            self._patience_s = self._idle_s

    def _watch(self) -> None:
        """Break the body when it is due, else look again at the earliest moment it can be due."""
        self._timer = None
        if self._content.is_eof():
            return
        now = self._loop.time()
        if self._touched:
            self._note(now)
        since = self._heard_at if self._paused_at is None else now
        due = min(since + self._patience_s, self._total_at)
        if due > now:
            self._timer = self._loop.call_at(due + 0.001, self._watch)
        else:
            self._content.set_exception(UpstreamTimeout("the provider fell silent in the middle of its answer"))

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
