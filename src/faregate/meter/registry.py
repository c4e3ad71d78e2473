"""Which reader and which framing go with a provider kind and an endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from faregate.meter.aws import AwsFraming
from faregate.meter.binary import BinaryMeter
from faregate.meter.dialects.anthropic import AnthropicReader
from faregate.meter.dialects.bedrock import ConverseReader, InvokeReader
from faregate.meter.dialects.cohere import CohereReader
from faregate.meter.dialects.gemini import GeminiReader
from faregate.meter.dialects.ollama import OllamaReader
from faregate.meter.dialects.openai import OpenAIReader
from faregate.meter.dialects.openai_audio import SpeechReader, TranscriptionReader
from faregate.meter.dialects.openai_images import FreeReader, ImagesReader
from faregate.meter.dialects.openai_realtime import RealtimeReader
from faregate.meter.dialects.openai_responses import ResponsesReader
from faregate.meter.framing import Framing, JsonArrayFraming, MessageFraming, NdJsonFraming, SseFraming
from faregate.meter.plain import PlainMeter
from faregate.meter.reader import Reader, Source
from faregate.meter.sse import MAX_EVENT_BYTES
from faregate.meter.stream import StreamMeter
from faregate.meter.translated import TranslatedMeter
from faregate.ports import Translator

ReaderFactory = Callable[[Source], Reader]

_READERS: Mapping[str, ReaderFactory] = {
    "chat.completions": OpenAIReader,
    "completions": OpenAIReader,
    "embeddings": OpenAIReader,
    "responses": ResponsesReader,
    "audio.transcriptions": TranscriptionReader,
    "audio.translations": TranscriptionReader,
    "audio.speech": SpeechReader,
    "images.generations": ImagesReader,
    "images.edits": ImagesReader,
    "images.variations": ImagesReader,
    "moderations": FreeReader,
    "realtime": RealtimeReader,
    "messages": AnthropicReader,
    "messages.count_tokens": FreeReader,
    "generatecontent": GeminiReader,
    "streamgeneratecontent": GeminiReader,
    "live": GeminiReader,
    "embedcontent": GeminiReader,
    "batchembedcontents": GeminiReader,
    "counttokens": FreeReader,
    "converse": ConverseReader,
    "converse-stream": ConverseReader,
    "invoke": InvokeReader,
    "invoke-with-response-stream": InvokeReader,
}
_OLLAMA = frozenset({"chat", "generate", "embed", "embeddings"})
_AWS = (ConverseReader, InvokeReader)
MAX_PICTURE_BYTES = 64 << 20
MAX_PLAIN_BYTES = 64 << 20
"""A plain answer over it passes without being kept whole, and unread: its charge is estimated."""
_NUMBERED = re.compile(r"-\d+$")


@lru_cache(maxsize=256)
def kind_of(provider: str) -> str:
    """`azure-2` is an `azure`."""
    return _NUMBERED.sub("", provider)


@lru_cache(maxsize=256)
def normal_endpoint(endpoint: str) -> str:
    """`openai-compat/chat.completions`, `/v1/chat/completions` and `chat.completions` are one."""
    path = endpoint.strip("/").lower().removeprefix("openai-compat/").removeprefix("v1/")
    dotted = path.replace("/", ".")
    if dotted in _READERS or path.startswith("api/"):
        return path if path.startswith("api/") else dotted
    known = [name for name in _READERS if dotted.endswith(f".{name}")]
    return max(known, key=len, default=path)


def reader_for(source: Source) -> Reader:
    """The dialect's reader. OpenAI's is the default: it is what compatible servers speak."""
    if source.kind == "ollama" and source.endpoint.startswith("api/") and source.endpoint[4:] in _OLLAMA:
        return OllamaReader(source)
    if source.kind == "cohere" and source.endpoint != "chat.completions":
        return CohereReader(source)
    return _READERS.get(source.endpoint, OpenAIReader)(source)


def framing_for(reader: Reader, framing: str | None = None) -> Framing:
    """The framing a dialect streams in; `json-array` for Gemini without alt=sse has to be named."""
    if framing == "json-array":
        return JsonArrayFraming()
    if isinstance(reader, _AWS):
        return AwsFraming()
    if isinstance(reader, OllamaReader):
        return NdJsonFraming()
    if isinstance(reader, RealtimeReader):
        return MessageFraming()
    return SseFraming(event_bytes_of(reader))


def event_bytes_of(reader: Reader) -> int:
    """The longest event: an image of many megapixels comes in one."""
    return MAX_PICTURE_BYTES if isinstance(reader, ImagesReader) else MAX_EVENT_BYTES


def meter_for(
    kind: str,
    endpoint: str,
    *,
    stream: bool,
    drop_usage_chunk: bool = False,
    wants_cost: bool = False,
    model: str = "",
    request: Mapping[str, object] | None = None,
    framing: str | None = None,
    translator: Translator | None = None,
) -> StreamMeter | PlainMeter | TranslatedMeter | BinaryMeter:
    """A fresh meter for one answer; implements ports.Meter.

    `drop_usage_chunk`: we asked for the usage chunk, the client did not. `wants_cost`: the client finds its cost in
    the usage chunk (which then is never dropped). `model` (as asked upstream) and `request` (the body) help where
    the answer alone cannot tell; `framing="json-array"` is Gemini's stream without alt=sse, "binary" is sound.
    With a `translator` the client gets its own dialect; what is metered are the provider's own bytes all the same.
    """
    source = source_for(kind, endpoint, stream=stream, model=model, request=request)
    if translator is not None:
        native = native_meter(source, framing)
        return TranslatedMeter(native, framing_for(native.reader, framing) if stream else None, translator)
    if framing == "binary":
        return BinaryMeter(reader_for(source))
    return native_meter(source, framing, drop_usage_chunk=drop_usage_chunk, wants_cost=wants_cost)


def source_for(
    kind: str, endpoint: str, *, stream: bool, model: str = "", request: Mapping[str, object] | None = None
) -> Source:
    """Whose answer it is, by its normal names."""
    endpoint = normal_endpoint(endpoint)
    return Source(kind=kind_of(kind), endpoint=endpoint, stream=stream, model=model, request=request or {})


def native_meter(
    source: Source, framing: str | None = None, *, drop_usage_chunk: bool = False, wants_cost: bool = False
) -> StreamMeter | PlainMeter:
    """For a client that speaks the provider's language."""
    reader = reader_for(source)
    if not source.stream:
        return PlainMeter(reader, MAX_PLAIN_BYTES)
    return StreamMeter(
        reader,
        framing_for(reader, framing),
        drop_usage_chunk=drop_usage_chunk,
        wants_cost=wants_cost,
        max_held_bytes=event_bytes_of(reader),
    )
