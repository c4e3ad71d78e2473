"""A cluster that rearranges itself under calls, Sentinel, TLS and ACL users: Debian's own servers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from faregate.credits.store import Store, slot_of
from faregate.errors import StoreUnavailable, StoreUnreached
from tests.credits.conftest import Bench, text
from tests.redis_cluster import Cluster, Server, available, free_port, until

pytestmark = pytest.mark.skipif(not available(), reason="Debian's redis-server is not installed")
ACL = "+@read +@write +@scripting +@connection +info +time +cluster|slots"
"""What Faregate needs: docs/how-to/operate.md says so."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fg") as made:
        yield Path(made)


@pytest.mark.parametrize("key", ["fg:{b007}:gate", "fg:{b255}:acct:acc_1"])
def test_a_slot_is_the_servers_own(cluster: Cluster, key: str) -> None:
    assert slot_of(key) == cluster.say(cluster.servers[0], "CLUSTER", "KEYSLOT", key)


async def test_the_first_redirection_shows_that_it_is_a_cluster(cluster: Cluster) -> None:
    store = Store(cluster.url)
    gates = await asyncio.gather(*(store.run("epoch", (f"fg:{{b{b:03d}}}:gate",), ("",), 5.0) for b in range(256)))
    assert len({epoch for epoch, _ in gates}) == len(store.nodes()) == 3
    await store.close()


async def test_calls_go_on_while_their_slot_moves_and_nothing_is_lost_or_doubled(
    cluster: Cluster, store: Store
) -> None:
    benches = [Bench(store, account=f"a{n}") for n in range(4)]
    for bench in benches:
        await bench.rebuild(1_000_000)
    slot, done = slot_of(benches[0].keys[0]), asyncio.Event()
    spent = dict.fromkeys([bench.account for bench in benches], 0)

    async def pay(bench: Bench) -> None:
        while not done.is_set():
            hold = f"h{spent[bench.account]}"
            answer = await _until_done(bench.reserve, hold, 3)
            if answer[0] == "cold":  # Another master, another epoch: the book is read again.
                posted = 1_000_000 - 3 * spent[bench.account]
                await _until_done(bench.rebuild, posted, spent[bench.account])
                continue
            assert answer[0] in ("ok", "duplicate")
            spent[bench.account] += 1
            posted, seq = 1_000_000 - 3 * spent[bench.account], spent[bench.account]
            await _until_done(bench.settle, hold, posted, seq)

    paying = [asyncio.create_task(pay(bench)) for bench in benches]
    for _ in range(4):
        await asyncio.sleep(0.1)
        await asyncio.to_thread(cluster.move_away, slot, lambda: time.sleep(0.01))
    done.set()
    await asyncio.gather(*paying)
    for bench in benches:
        assert spent[bench.account] > 20
        assert await bench.state() == (1_000_000 - 3 * spent[bench.account], spent[bench.account], 0)
        assert await bench.holds() == {}


async def _until_done(act: Callable[..., Awaitable[Any]], *args: object) -> Any:
    """As owners do it: every script can be repeated."""
    while True:
        try:
            return await act(*args)
        except StoreUnavailable:
            await asyncio.sleep(0.01)


async def test_a_call_between_two_homes_says_that_nothing_was_applied(cluster: Cluster, store: Store) -> None:
    bench = Bench(store, account="b")
    await bench.rebuild(10)
    slot = slot_of(bench.keys[0])
    source = cluster.owner(slot)
    to = next(server for server in cluster.servers[:3] if server is not source)
    cluster.say(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    cluster.say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(to))
    with pytest.raises(StoreUnreached, match="rearranging"):  # some of its keys are there, some are nowhere yet
        await store.run("reserve", (*bench.keys, "fg:{b007}:key:k"), _reserve_args(), 0.2, ("fg:{b007}:lim:x:0",))
    for server in (source, to):
        cluster.say(server, "CLUSTER", "SETSLOT", slot, "STABLE")
    assert await bench.reserve("h", 3) == ["ok", "3", "0"]


def _reserve_args() -> tuple[str | int, ...]:
    return ("x", "b|x", "call", "", 3, 3, 0, 0, 1000, 60_000, 0, 0, 3, "m")


async def test_a_dead_master_is_followed_by_its_replica(folder: Path) -> None:
    own = Cluster(folder)
    try:
        await asyncio.to_thread(own.start)
        store = Store(own.url)
        bench = Bench(store)
        await bench.rebuild(1000, 1)
        await bench.reserve("h", 30)
        master = own.owner(slot_of(bench.keys[0]))
        await asyncio.to_thread(until, lambda: own.say(master, "WAIT", 1, 1000) == 1, 5)
        master.kill()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.run("release", bench.keys, ("h", "a|h"), 0.25)
        assert time.monotonic() - began < 3
        assert await asyncio.wait_for(_until_done(bench.reserve, "i", 5), 15) == [
            "cold",
            text((await store.run("epoch", bench.keys[:1], ("",), 5.0))[1]),
        ]
        assert list(await bench.holds()) == ["h"]
        await store.close()
    finally:
        own.stop()


async def test_sentinel_names_the_master_and_the_next_one(folder: Path) -> None:
    first = Server(folder / "first").start()
    second = Server(folder / "second", "--replicaof", f"127.0.0.1 {first.port}").start()
    (folder / "watch").mkdir()
    (folder / "watch" / "sentinel.conf").write_text(
        f"sentinel monitor credits 127.0.0.1 {first.port} 1\n"
        "sentinel down-after-milliseconds credits 400\n"
        "sentinel failover-timeout credits 1000\n"
    )
    watch = Server(folder / "watch", sentinel=True).start()
    try:
        for server in (first, second, watch):
            server.ready()
        until(lambda: _replicas_known(watch) == 1, 20)
        store = Store(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{watch.port}/credits")
        await store.connect()
        assert await _port(store) == first.port
        first.kill()
        assert await asyncio.wait_for(_port_again(store), 20) == second.port
        await store.close()
    finally:
        for server in (watch, first, second):
            server.kill()


def _replicas_known(watch: Server) -> int:
    with watch.client() as client:
        return int(client.execute_command("SENTINEL", "MASTER", "credits")["num-slaves"])


async def _port(store: Store) -> int:
    info: bytes = await store.command((b"INFO", b"server"), 1.0)
    return int(info.partition(b"tcp_port:")[2].split()[0])


async def _port_again(store: Store) -> int:
    while True:
        try:
            return await _port(store)
        except StoreUnavailable:
            await asyncio.sleep(0.05)


async def test_a_demoted_master_is_left(folder: Path) -> None:
    server = Server(folder / "one").start().ready()
    try:
        store = Store(f"redis://127.0.0.1:{server.port}")
        bench = Bench(store)
        await bench.rebuild(10)
        connection = store._connection
        await bench.command("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(StoreUnavailable, match="refused"):
            await store.run("settle", bench.keys, ("", "", 5, 9, 0, 0), 1.0)
        await bench.command("REPLICAOF", "NO", "ONE")
        assert store._connection is not connection
        await store.close()
    finally:
        server.kill()


async def test_tls_with_a_user_that_may_do_little(folder: Path) -> None:
    key, cert = _certificate(folder)
    server = Server(
        folder / "tls",
        *("--tls-port", str(tls_port := free_port()), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file", str(cert)),
        *("--user", "gate", "on", ">s3cret", "~fg:*", *ACL.split()),
    ).start()
    try:
        server.ready()
        store = Store(f"rediss://gate:s3cret@localhost:{tls_port}?ssl_ca_certs={cert}")
        await store.connect()
        bench = Bench(store)
        await bench.rebuild(100)
        assert await bench.reserve("h", 30) == ["ok", "30", "0"]
        await bench.settle("h", 70, 1)
        assert await bench.state() == (70, 1, 0)
        with pytest.raises(Exception, match=r"NOPERM|permission"):
            await store.command(("GET", "somebody-elses"), 1.0)
        wrong = Store(f"rediss://gate:wr0ng@localhost:{tls_port}?ssl_ca_certs={cert}")
        with pytest.raises(StoreUnavailable) as told:
            await wrong.connect()
        assert "wr0ng" not in str(told.value)
        await wrong.close()
        await store.close()
    finally:
        server.kill()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A key and its own certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_path, cert_path = folder / "key.pem", folder / "cert.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    cert_path.write_bytes(made.public_bytes(encoding))
    return key_path, cert_path
