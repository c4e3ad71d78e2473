"""The real `fenra` client, with only its base URL changed: its own calls, and its hooks in two SDKs.

In a process of its own: importing it patches every SDK it finds. What the SDKs would call is answered by a transport.
"""

from __future__ import annotations

import asyncio
import sys

from tests.story.house import House

SCRIPT = """
import sys, time, httpx, httpx2, openai, anthropic, fenra

def chat(request):
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500,
             "prompt_tokens_details": {"cached_tokens": 200}}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4.1", "choices": [choice]}
    return httpx.Response(200, json={**body, "usage": usage})

def message(request):
    usage = {"input_tokens": 100, "output_tokens": 10,
             "cache_read_input_tokens": 500, "cache_creation_input_tokens": 400}
    body = {"id": "m", "type": "message", "role": "assistant", "model": "claude-3-opus", "content": []}
    return httpx2.Response(200, json={**body, "usage": usage})

said = [{"role": "user", "content": "hi"}]
fenra.init(sys.argv[2], base_url=sys.argv[1], flush_interval=0.05)
fenra.set_context(billable_customer_id="acme", feature="chat")
client = openai.OpenAI(api_key="sk-x", http_client=httpx.Client(transport=httpx.MockTransport(chat)))
client.chat.completions.create(model="gpt-4.1", messages=said)
claude = anthropic.Anthropic(api_key="sk-y", http_client=httpx2.Client(transport=httpx2.MockTransport(message)))
claude.messages.create(model="claude-3-opus", max_tokens=9, messages=said)
fenra.track("openai", "gpt-4.1-mini", 100, 50, billable_customer_id="other", feature="batch")
time.sleep(0.5)
fenra.shutdown()
"""


async def test_it_tells_of_usage_by_itself_and_by_its_hooks(house: House) -> None:
    caller = await house.caller(scopes=frozenset({"usage:write", "usage:read"}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", SCRIPT, house.url, caller.secret),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert (process.returncode, output) == (0, b"")
    records = {record.model: record for record in await house.records(caller)}
    chat, claude, tracked = (records[name] for name in ("gpt-4.1", "claude-3-opus", "gpt-4.1-mini"))
    assert len(records) == 3
    assert (chat.usage["input_tokens"], chat.usage["cached_input_tokens"], chat.usage["output_tokens"]) == (
        1000,
        200,
        500,
    )
    assert f"{chat.cost_usd:f}" == "0.0057"  # 800 at 2, 200 at 0.5, 500 at 8 USD per million
    assert (claude.usage["input_tokens"], claude.usage["cache_write_tokens"]) == (1000, 400)
    assert (chat.attribution["feature"], tracked.attribution["feature"]) == ("chat", "batch")
    assert chat.account_id == claude.account_id != tracked.account_id
    assert {record.charge_microcredits for record in records.values()} == {0}
