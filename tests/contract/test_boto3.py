"""The real boto3 client with nothing but its endpoint and key changed: Bedrock's runtime through the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import boto3  # type: ignore[import-untyped]
import pytest
from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError, EventStreamError  # type: ignore[import-untyped]

from tests.contract.test_bedrock_chat import ARN, CLAUDE, PRICES, answered, configured, told
from tests.contract.test_bedrock_chat import aws as aws
from tests.contract.test_bedrock_chat import house as house
from tests.contract.test_bedrock_messages import MESSAGE
from tests.contract.test_bedrock_messages import told as claude_told
from tests.contract.tls import certificate, fronted
from tests.story.conftest import Open
from tests.story.house import INPUT, OUTPUT, House
from tests.upstreams.bedrock import (
    ACCESS_KEY,
    REGION,
    SECRET_KEY,
    Bedrock,
    event,
    exception,
    plain,
    refusal,
    stream,
)

T = TypeVar("T")
MODEL = f"aws/{CLAUDE}"
FARE = 10 * INPUT + 5 * OUTPUT
ONCE: Any = {"retries": {"total_max_attempts": 1}}
HI: Any = [{"role": "user", "content": [{"text": "hi"}]}]
CLAUDES_BODY = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
}


class Use:
    """Uses a client in a thread; the gateway runs in this loop."""

    async def __call__(self, house: House, use: Callable[[Any], T], secret: str = "") -> T:
        """Over plain HTTP botocore sends no bearer key by itself."""

        def authorize(request: Any, **_: object) -> None:
            request.headers["Authorization"] = f"Bearer {secret or house.me.secret}"

        def run() -> T:
            session = boto3.session.Session()
            with closing(client_of(session, house.url, config=Config(signature_version=UNSIGNED, **ONCE))) as client:
                client.meta.events.register("before-send.bedrock-runtime", authorize)
                return use(client)

        return await asyncio.to_thread(run)


def client_of(session: Any, url: str, **more: Any) -> Any:
    return session.client("bedrock-runtime", region_name="us-east-1", endpoint_url=url, **more)


@pytest.fixture
def using() -> Use:
    return Use()


async def test_its_own_variable_holds_our_key(
    house: House, aws: Bedrock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aws.replies = [answered({"text": "hello"})]
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", house.me.secret)
    pem = certificate(tmp_path)

    def run(url: str) -> Any:
        session = boto3.session.Session()
        with closing(client_of(session, url, verify=str(pem), config=Config(**ONCE))) as client:
            return client.converse(modelId=MODEL, messages=HI)

    async with fronted(house.runtime, pem) as url:
        got = await asyncio.to_thread(run, url)
    assert got["output"]["message"]["content"] == [{"text": "hello"}]


def streamed(client: Any) -> list[Any]:
    """All events of a ConverseStream."""
    with closing(client.converse_stream(modelId=MODEL, messages=HI)["stream"]) as events:
        return list(events)


async def test_converse(house: House, aws: Bedrock, using: Use) -> None:
    aws.replies = [answered({"text": "hello"})]
    got = await using(
        house,
        lambda client: client.converse(modelId=MODEL, messages=HI, inferenceConfig={"maxTokens": 50}),
    )
    assert got["output"]["message"]["content"] == [{"text": "hello"}]
    assert got["usage"] == {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
    assert got["ResponseMetadata"]["HTTPHeaders"]["x-faregate-credits-charged"] == "0.02"
    assert (aws.last.model, aws.last.operation) == (CLAUDE, "converse")
    assert aws.last.body == {"messages": HI, "inferenceConfig": {"maxTokens": 50}}
    assert (await house.record()).charge_microcredits == FARE


async def test_converse_stream(house: House, aws: Bedrock, using: Use) -> None:
    aws.replies = [told("hel", "lo")]
    got = await using(house, streamed)
    words = [item["contentBlockDelta"]["delta"]["text"] for item in got if "contentBlockDelta" in item]
    assert "".join(words) == "hello"
    assert [next(iter(item)) for item in got[-2:]] == ["messageStop", "metadata"]
    assert aws.last.operation == "converse-stream"
    assert (await house.record()).charge_microcredits == FARE


async def test_invoke_model(house: House, aws: Bedrock, using: Use) -> None:
    aws.replies = [plain(MESSAGE, x_amzn_bedrock_input_token_count="10")]
    got = await using(
        house,
        lambda client: json.loads(client.invoke_model(modelId=MODEL, body=json.dumps(CLAUDES_BODY))["body"].read()),
    )
    assert got == MESSAGE
    assert aws.last.body == CLAUDES_BODY
    assert (await house.record()).charge_microcredits == FARE


async def test_invoke_model_with_response_stream(house: House, aws: Bedrock, using: Use) -> None:
    aws.replies = [claude_told()]

    def use(client: Any) -> list[dict[str, Any]]:
        answer = client.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(CLAUDES_BODY))
        with closing(answer["body"]) as events:
            return [json.loads(item["chunk"]["bytes"]) for item in events]

    got = await using(house, use)
    assert got[-1]["type"] == "message_stop"
    assert got[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 5
    assert (await house.record()).charge_microcredits == FARE


async def test_tiers_and_guardrails_go_along_signed(open_house: Open, aws: Bedrock, using: Use) -> None:
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    house = await open_house(providers__aws=configured(aws, **keys), prices=PRICES)
    aws.replies = [plain(MESSAGE)]
    options = {"guardrailIdentifier": "g1", "guardrailVersion": "1", "trace": "ENABLED"}
    await using(
        house,
        lambda client: client.invoke_model(modelId=MODEL, body=json.dumps(CLAUDES_BODY), **options),
    )
    assert aws.last.signed
    assert aws.last.headers["x-amzn-bedrock-guardrailidentifier"] == "g1"
    assert "x-amzn-bedrock-guardrailidentifier" in aws.last.headers["authorization"]


@pytest.mark.parametrize("model", [CLAUDE, ARN, "amazon.nova-pro-v1:0"])
async def test_the_path_upstream_is_the_one_boto3_asks_for(house: House, aws: Bedrock, model: str) -> None:
    aws.replies = [answered({"text": "hello"})]

    def run() -> None:
        session = boto3.session.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY)
        with closing(
            session.client("bedrock-runtime", region_name=REGION, endpoint_url=aws.url, config=Config(**ONCE))
        ) as client:
            client.converse(modelId=model, messages=HI)

    await asyncio.to_thread(run)
    assert aws.last.signed
    await house.call(f"aws/{model}")
    assert aws.asked[0].path == aws.asked[1].path


@pytest.mark.parametrize("bound", [{}, {"inferenceConfig": {"maxTokens": 100_000, "temperature": 0.5}}])
async def test_the_balance_bounds_the_output(house: House, aws: Bedrock, using: Use, bound: dict[str, Any]) -> None:
    aws.replies = [answered({"text": "hello"})]
    poor = await house.caller(2_000_000)
    await using(house, lambda client: client.converse(modelId=MODEL, messages=HI, **bound), poor.secret)
    sent = aws.last.body["inferenceConfig"]
    assert 64 <= sent.pop("maxTokens") < 1000
    assert sent == {name: value for name, value in bound.get("inferenceConfig", {}).items() if name != "maxTokens"}


# What goes wrong ----------------------------------------------------------------------------------------


async def failing(house: House, using: Use, secret: str = "", **options: Any) -> tuple[str, int]:
    """The class and the status of the error of a call."""
    with pytest.raises(ClientError) as caught:
        await using(
            house,
            lambda client: client.converse(**{"modelId": MODEL, "messages": HI, **options}),
            secret,
        )
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


async def test_a_refusal_is_awss_own(house: House, aws: Bedrock, using: Use) -> None:
    aws.replies = [refusal(400, "ValidationException", "no")]
    assert await failing(house, using) == ("ValidationException", 400)


async def test_our_own_refusals_have_awss_classes(house: House, using: Use) -> None:
    poor = await house.caller(1)
    assert await failing(house, using, poor.secret) == ("ServiceQuotaExceededException", 402)
    assert await failing(house, using, "fg_live_wrong") == ("UnrecognizedClientException", 401)
    assert await failing(house, using, modelId="nowhere/m") == ("ResourceNotFoundException", 404)
    bound = {"maxTokens": 100_000_000}
    assert await failing(house, using, inferenceConfig=bound) == ("ValidationException", 400)
    assert await failing(house, using, modelId="up/m") == ("ValidationException", 400)


async def test_an_exception_in_a_stream_passes(house: House, aws: Bedrock, using: Use) -> None:
    word = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "hello world"})
    aws.replies = [stream(event("messageStart", role="assistant"), word, exception("throttlingException", "slow"))]
    with pytest.raises(EventStreamError, match="slow"):
        await using(house, streamed)
    assert (await house.record()).outcome == "upstream_error"


async def test_a_cut_stream_ends_with_an_exception(house: House, aws: Bedrock, using: Use) -> None:
    word = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "hello world"})
    aws.replies = [stream(event("messageStart", role="assistant"), word, word[:9], cut=True)]
    with pytest.raises(EventStreamError, match="modelStreamErrorException"):
        await using(house, streamed)
    assert (await house.record()).estimated
