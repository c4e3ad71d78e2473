"""Idempotency keys on a real server of two workers, which is killed in the middle."""

from __future__ import annotations

import json
import random
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cli_support import Running, faregate, running

pytestmark = pytest.mark.xdist_group("cli")
ADMIN = "an-admin-key-that-is-long-enough-for-all"
WAYS = ("add", "deduct")


def post(server: Running, path: str, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
    """Status (0: the connection broke) and body."""
    headers = {"authorization": f"Bearer {ADMIN}", "idempotency-key": key}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, {}


def until_done(server: Running, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    """As a careful client does: again, until there is an answer."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        status, answer = post(server, path, body, key)
        if status == 200:
            return answer
        assert status in (0, 409, 503), answer
        time.sleep(0.1)
    raise AssertionError(f"{path} has no answer")


def test_many_at_once_with_one_key_on_two_workers_are_one(tmp_path: Path) -> None:
    with running("serve", "--workers", "2", data_dir=tmp_path, FAREGATE_ADMIN_KEY=ADMIN) as server:
        created = until_done(server, "/v1/accounts/create", {"name": "Ann", "externalId": "ann"}, "a")
        body = {"externalId": "ann", "amount": 3}
        for way, balance in (("add", 3), ("deduct", 0)):
            with ThreadPoolExecutor(12) as pool:
                answers = list(
                    pool.map(lambda _, way=way: post(server, f"/v1/accounts/credits/{way}", body, way), range(12))
                )
            done = [answer for status, answer in answers if status == 200]
            assert {status for status, _ in answers} <= {200, 409}
            assert {answer["balance"] for answer in done} == {balance}
            assert len({answer["transactionId"] for answer in done}) == 1
        assert created["account"]["externalId"] == "ann"
        assert server.stop() == 0
    assert faregate("audit", data_dir=tmp_path).returncode == 0


def test_a_killed_server_does_nothing_twice(tmp_path: Path) -> None:
    chance, asked = random.Random(7), [(f"k{number}", WAYS[number % 4 == 3]) for number in range(60)]
    body = {"externalId": "ann", "amount": 1}
    with running("serve", data_dir=tmp_path, FAREGATE_ADMIN_KEY=ADMIN) as server:
        until_done(server, "/v1/accounts/create", {"name": "Ann", "externalId": "ann"}, "a")
        until_done(server, "/v1/accounts/credits/add", {"externalId": "ann", "amount": 100}, "first")
        with ThreadPoolExecutor(8) as pool:
            posts = [pool.submit(post, server, f"/v1/accounts/credits/{way}", body, key) for key, way in asked]
            posts[chance.randrange(10, 40)].result()
            server.stop(signal.SIGKILL)
            before = {key: post.result() for (key, _), post in zip(asked, posts, strict=True)}
    with running("serve", data_dir=tmp_path, FAREGATE_ADMIN_KEY=ADMIN) as server:
        after = {key: until_done(server, f"/v1/accounts/credits/{way}", body, key) for key, way in asked}
        assert server.stop() == 0
    known = {key: answer for key, (status, answer) in before.items() if status == 200}
    assert known
    assert {key: after[key] for key in known} == known
    assert len({answer["transactionId"] for answer in after.values()}) == len(asked)
    assert faregate("audit", data_dir=tmp_path).returncode == 0
