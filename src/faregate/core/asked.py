"""What each endpoint's requests are read by: its output bound and its input's upper bound. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from faregate.core.asks.anthropic import counting, messages_input, messages_output
from faregate.core.asks.bedrock import converse_input, converse_output, invoke_input, invoke_output
from faregate.core.asks.gemini import embed_input, generate_input, generate_output
from faregate.core.asks.media import (
    drawing_input,
    drawing_output,
    speech_input,
    speech_output,
    transcription_input,
    transcription_output,
)
from faregate.core.asks.openai import chat_input, chat_output, completions_output, listed_input
from faregate.core.asks.realtime import realtime_input, realtime_output
from faregate.core.asks.responses import responses_input, responses_output
from faregate.core.asks.shape import Allowances, Ask, Asked, Input, no_output, text_alone
from faregate.core.call import Call

ASKS: Mapping[str, Ask] = {
    "chat.completions": Ask(chat_output, chat_input),
    "completions": Ask(completions_output, listed_input),
    "embeddings": Ask(no_output, listed_input),
    "generatecontent": Ask(generate_output, generate_input),
    "embedcontent": Ask(no_output, embed_input),
    "batchembedcontents": Ask(no_output, embed_input),
    "counttokens": Ask(no_output, counting),
    "realtime": Ask(realtime_output, realtime_input),
    "responses": Ask(responses_output, responses_input),
    "messages": Ask(messages_output, messages_input),
    "messages.count_tokens": Ask(no_output, counting),
    "converse": Ask(converse_output, converse_input),
    "invoke": Ask(invoke_output, invoke_input),
    "audio.transcriptions": Ask(transcription_output, transcription_input),
    "audio.translations": Ask(transcription_output, transcription_input),
    "audio.speech": Ask(speech_output, speech_input),
    "images.generations": Ask(drawing_output, drawing_input),
    "images.edits": Ask(drawing_output, drawing_input),
}
"""By endpoint; what is not listed is text without output."""

_OTHER = Ask(no_output, text_alone)


def asked_output(call: Call) -> Asked:
    """The output bound of a request. Raises InvalidRequest naming the field that cannot be meant."""
    return ASKS.get(call.endpoint, _OTHER).output(call)


def measure(call: Call, allow: Allowances) -> Input:
    """The most a request can bring. Raises InvalidRequest naming the field that cannot be meant."""
    return ASKS.get(call.endpoint, _OTHER).input(call, allow)
