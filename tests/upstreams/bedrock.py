"""A server on loopback that speaks Bedrock's wire: it checks signatures, and answers what it is told.

Frames are built here by the letter of smithy.io's "Amazon Event Stream", not with the code under test.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = "AKIDEXAMPLEEXAMPLE00", "secret/of+nobody", "token-of-nobody"
API_KEY = "bedrock-api-key-of-nobody"
REGION = "eu-west-3"
STREAM = "application/vnd.amazon.eventstream"


def frame(payload: object, **headers: str) -> bytes:
    """One frame; `event_type="x"` is the header `:event-type`."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    packed = bytearray()
    for name, value in headers.items():
        key, text = f":{name.replace('_', '-')}".encode(), value.encode()
        packed += struct.pack(f">B{len(key)}sBH{len(text)}s", len(key), key, 7, len(text), text)
    total = 4 + 4 + 4 + len(packed) + len(body) + 4
    message = struct.pack(">II", total, len(packed))
    message += struct.pack(">I", zlib.crc32(message)) + bytes(packed) + body
    return message + struct.pack(">I", zlib.crc32(message))


def event(kind: str, **payload: object) -> bytes:
    """An event of ConverseStream."""
    return frame(payload, event_type=kind, content_type="application/json", message_type="event")


def chunk(vendor: object) -> bytes:
    """An event of InvokeModelWithResponseStream: the vendor's JSON in base64."""
    text = vendor if isinstance(vendor, bytes) else json.dumps(vendor).encode()
    return event("chunk", bytes=base64.b64encode(text).decode(), p="abcdefgh")


def exception(kind: str, message: str) -> bytes:
    """An exception in the middle of a stream."""
    return frame({"message": message}, exception_type=kind, content_type="application/json", message_type="exception")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer: `pieces` are written one by one; `cut` breaks the connection after them."""

    status: int = 200
    pieces: Sequence[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


def plain(body: object, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(pieces=[json.dumps(body).encode()], headers={"content-type": "application/json", **named})


def stream(*frames: bytes, cut: bool = False) -> Reply:
    return Reply(pieces=frames, headers={"content-type": STREAM}, cut=cut)


def refusal(status: int, kind: str, message: str) -> Reply:
    headers = {"content-type": "application/json", "x-amzn-errortype": f"{kind}:http://internal.amazon.com/"}
    return Reply(status=status, pieces=[json.dumps({"message": message}).encode()], headers=headers)


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    """As on the wire: percent-encoded."""
    headers: dict[str, str]
    body: Any
    signed: bool

    @property
    def model(self) -> str:
        return unquote(self.path.split("/")[2])

    @property
    def operation(self) -> str:
        return self.path.rpartition("/")[2]


class Bedrock:
    """`replies` are given in turn, the last one again and again."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{any:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        server = site._server
        assert server is not None
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = _is_signed(self.url + request.raw_path, headers, body)
        self.asked.append(Asked(request.raw_path, headers, json.loads(body), signed))
        if not signed and headers.get("authorization") != f"Bearer {API_KEY}":
            return await self._say(request, refusal(403, "InvalidSignatureException", "the signature does not match"))
        return await self._say(request, self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])

    async def _say(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        answer = web.StreamResponse(status=reply.status, headers={"x-amzn-requestid": "aws-1", **reply.headers})
        await answer.prepare(request)
        for piece in reply.pieces:
            await answer.write(piece)
        if reply.cut and request.transport is not None:
            request.transport.abort()
        return answer


def _is_signed(url: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether the signature is what botocore makes of the same request at the same second."""
    given = headers.get("authorization", "")
    if not given.startswith("AWS4-HMAC-SHA256 "):
        return False
    names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest("POST", url, headers={name: headers[name] for name in names}, data=body)
    request.context["timestamp"] = headers["x-amz-date"]
    token = SESSION_TOKEN if "x-amz-security-token" in names else None
    auth = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY, token), "bedrock", REGION)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    scope = f"Credential={ACCESS_KEY}/{headers['x-amz-date'][:8]}/{REGION}/bedrock/aws4_request"
    expected = {"host", "x-amz-date", "content-type"}
    return given.endswith(f"Signature={auth.signature(text, request)}") and scope in given and expected <= set(names)
