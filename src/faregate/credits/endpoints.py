"""Where a Redis URL leads: one server, a cluster's node, or whatever Sentinel says is the master now.

redis://[user:password@]host:port/db      one server, or any node of a cluster; more nodes after a comma
rediss://…?ssl_ca_certs=/path             the same over TLS
unix:///path                              a socket
redis+sentinel://[user:password@]host:26379,host:26379/service[?sentinel_username=…&sentinel_password=…&db=0]
rediss+sentinel://…                       the same over TLS
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

Address = tuple[str, int]

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_PORT = 6379
_SENTINEL_PORT = 26379


def pool_for(url: str, address: Address | None, connect_timeout_s: float) -> ConnectionPool:
    """How connections are made. Nothing is pooled: a pipe has one at a time. Raises ValueError."""
    common = {"protocol": 2, "socket_connect_timeout": connect_timeout_s, "socket_timeout": None}
    parts = urlsplit(url)
    if parts.scheme.endswith("+sentinel"):
        return _sentinel_pool(url, common)
    pool = ConnectionPool.from_url(_first(url), **common)
    if address is not None:
        pool.connection_kwargs.update(host=address[0], port=address[1])
    return pool


async def close_pool(pool: ConnectionPool) -> None:
    """Hang up on the sentinels that were asked."""
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def seeds(url: str) -> list[Address]:
    """The addresses a URL names; none for a socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return []
    return _addresses(parts.netloc, _PORT)


def _first(url: str) -> str:
    """Without the nodes after the first."""
    parts = urlsplit(url)
    if "," not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.partition(",")[0]).geturl()


def _addresses(netloc: str, default_port: int) -> list[Address]:
    found = []
    for place in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{place}")
        found.append((parts.hostname or "localhost", parts.port or default_port))
    return found


def _sentinel_pool(url: str, common: Mapping[str, Any]) -> ConnectionPool:
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    sentinel = {
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
        "socket_connect_timeout": common["socket_connect_timeout"],
        "socket_timeout": 2 * common["socket_connect_timeout"],
    }
    wanted: dict[str, Any] = {
        **common,
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "db": int(options.pop("db", 0)),
        **options,
    }
    if parts.scheme.startswith("rediss"):
        sentinel["ssl"] = wanted["ssl"] = True
        sentinel |= {name: value for name, value in options.items() if name.startswith("ssl_")}
    service = parts.path.strip("/")
    if not service:
        raise ValueError("a sentinel URL names its service: redis+sentinel://host:26379/service")
    manager = Sentinel(  # type: ignore[no-untyped-call]
        _addresses(parts.netloc, _SENTINEL_PORT),
        sentinel_kwargs={name: value for name, value in sentinel.items() if value is not None},
    )
    given = {name: value for name, value in wanted.items() if value is not None}
    return SentinelConnectionPool(service, manager, **given)  # type: ignore[no-untyped-call]
