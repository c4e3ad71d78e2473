"""An identity provider on loopback: it serves its key set, signs tokens, turns its keys over and goes away."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE = "faregate-api"
ISSUER = "https://id.example.com"


@dataclass
class Pair:
    """A key of the provider."""

    kid: str
    algorithm: str
    private: Any

    @property
    def jwk(self) -> dict[str, Any]:
        found = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        return {**found, "kid": self.kid, "use": "sig"}

    @property
    def pem(self) -> bytes:
        """The public key, as an attacker has it."""
        public: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return public


def pair(algorithm: str, kid: str) -> Pair:
    """A new key."""
    if algorithm == "EdDSA":
        return Pair(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
    if algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        return Pair(kid, algorithm, ec.generate_private_key(curves[algorithm]))
    return Pair(kid, algorithm, rsa.generate_private_key(public_exponent=65537, key_size=2048))


@dataclass
class KeySet:
    """The provider. `document` is what it serves, if not its keys."""

    keys: list[Pair] = field(default_factory=list)
    document: bytes | None = None
    status: int = 200
    asked: int = 0
    delay_s: float = 0.0
    _port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/keys"

    def token(self, claims: dict[str, Any], key: Pair | None = None, **headers: Any) -> str:
        """Signed with its first key, unless told otherwise."""
        key = key or self.keys[0]
        return jwt.encode(claims, key.private, algorithm=key.algorithm, headers={"kid": key.kid, **headers})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        body = self.document
        if body is None:
            body = json.dumps({"keys": [key.jwk for key in self.keys]}).encode()
        head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
