from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from faregate.errors import UpstreamError
from faregate.providers.aws_signing import AwsKeys, Signer

URL = "https://bedrock-runtime.us-east-1.amazonaws.com/model/a%3A0/converse"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials anywhere, and no instance metadata is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def process(tmp_path: Path, expires_in_s: int, fails_after: int = 99) -> None:
    """A profile whose credentials a program gives out; it counts its runs, which take a moment."""
    program = tmp_path / "program.py"
    expiry = (datetime.now(UTC) + timedelta(seconds=expires_in_s)).isoformat()
    given = {"Version": 1, "SecretAccessKey": "s", "SessionToken": "t", "Expiration": expiry}
    program.write_text(f"""
import json, pathlib, sys, time
runs = pathlib.Path({str(tmp_path / "runs")!r})
count = len(runs.read_text()) + 1 if runs.exists() else 1
runs.write_text("." * count)
time.sleep(0.05)
if count > {fails_after}:
    sys.exit("broken: secret-of-the-program")
print(json.dumps({{**{given!r}, "AccessKeyId": f"AKID{{count}}"}}))
""")
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = {sys.executable} {program}\n")


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text())


async def test_given_keys_sign() -> None:
    signer = Signer("us-east-1", AwsKeys(access_key_id="AKID", secret_access_key="s", session_token="t"))
    headers = await signer.headers(URL, {}, b"{}")
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
    assert "/us-east-1/bedrock/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == "t"
    assert signer.secrets() == ("AKID", "s", "t")


async def test_a_long_body_is_signed_as_well() -> None:
    signer = Signer("us-east-1", AwsKeys(access_key_id="AKID", secret_access_key="s"))
    assert "authorization" in await signer.headers(URL, {}, b"x" * (2 << 20))


async def test_the_environments_api_key_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "absk")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    signer = Signer("us-east-1", AwsKeys())
    assert await signer.headers(URL, {}, b"{}") == {"authorization": "Bearer absk"}
    assert signer.secrets() == ("absk",)


async def test_the_environments_access_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert "Credential=AKID/" in (await Signer("us-east-1", AwsKeys()).headers(URL, {}, b"{}"))["authorization"]


async def test_nobodys_credentials_are_an_error_that_says_so() -> None:
    with pytest.raises(UpstreamError, match="no AWS credentials: configure them"):
        await Signer("us-east-1", AwsKeys()).headers(URL, {}, b"{}")


async def test_a_profile_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="ProfileNotFound"):
        await Signer("us-east-1", AwsKeys(profile="q")).headers(URL, {}, b"{}")


async def test_many_calls_load_credentials_once(tmp_path: Path) -> None:
    process(tmp_path, 3600)
    signer = Signer("us-east-1", AwsKeys(profile="p"))
    signed = await asyncio.gather(*(signer.headers(URL, {}, b"{}") for _ in range(5)))
    assert {"Credential=AKID1/" in headers["authorization"] for headers in signed} == {True}
    assert runs(tmp_path) == 1


def named(headers: dict[str, str]) -> str:
    """The access key that signed. (botocore asks twice at first for what lives less than 15 minutes.)"""
    return headers["authorization"].partition("Credential=")[2].partition("/")[0]


async def test_nobody_waits_for_a_refresh_while_the_old_ones_hold(tmp_path: Path) -> None:
    process(tmp_path, 800)
    signer = Signer("us-east-1", AwsKeys(profile="p"))
    assert named(await signer.headers(URL, {}, b"{}")) == "AKID2"
    signer._not_before = 0.0
    assert named(await signer.headers(URL, {}, b"{}")) == "AKID2"
    assert signer._refreshing is not None
    await signer._refreshing
    assert named(await signer.headers(URL, {}, b"{}")) == "AKID3"


async def test_credentials_about_to_end_are_waited_for(tmp_path: Path) -> None:
    process(tmp_path, 30)
    signer = Signer("us-east-1", AwsKeys(profile="p"))
    assert named(await signer.headers(URL, {}, b"{}")) == "AKID2"
    assert named(await signer.headers(URL, {}, b"{}")) == "AKID3"


async def test_a_refresh_that_fails_says_no_secret(tmp_path: Path) -> None:
    process(tmp_path, 1, fails_after=2)
    signer = Signer("us-east-1", AwsKeys(profile="p"))
    await signer.headers(URL, {}, b"{}")
    await asyncio.sleep(1)
    with pytest.raises(UpstreamError, match="loading them failed") as caught:
        await signer.headers(URL, {}, b"{}")
    assert "secret" not in caught.value.message
