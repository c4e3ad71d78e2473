"""Gemini native: thoughts and tool-use prompts stand beside candidates and prompt; keys at 0 are left out.

`usageMetadata` comes with every chunk and is cumulative: merged per field by the larger value, since a later one can
be thinner. The end is a finishReason (or a blocked prompt); there is no [DONE].
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from faregate.core.usage import Reading, Usage
from faregate.meter.dialects.openai_usage import anomaly
from faregate.meter.reader import FINAL, LAST, PASS, STRING, USAGE, Reader, Source
from faregate.meter.values import Counts, add, child, count, items, load_object, raw_json, says_something, text

_DETAILS = ("promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails", "responseTokensDetails")
_PER_QUERY = re.compile(r"gemini-(?:[3-9]|\d\d)")
"""From Gemini 3 on each search query has a fee; before, each prompt that searched has one."""


class GeminiReader(Reader):
    """generateContent, streamGenerateContent, Live, embedContent."""

    TEXT = re.compile(rb'"text"\s*:\s*' + STRING)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.usage: dict[str, object] = {}
        self._finished: set[object] = set()
        self._queries = 0
        self._retrieved = False
        self._fetches_pages = False
        self._runs_code = False

    @property
    def usage_present(self) -> bool:
        return says_something(self.usage)

    def event(self, name: str, data: bytes) -> int:
        obj = load_object(data)
        if obj is None:
            return PASS
        self.note_error(obj)
        self.answer(obj)
        fate = USAGE if obj.get("usageMetadata") else PASS
        ended = [each.get("index", 0) for each in items(obj.get("candidates")) if each.get("finishReason")]
        if ended:
            self._finished.update(ended)
            fate |= FINAL
        if child(obj, "promptFeedback").get("blockReason") or len(self._finished) >= _candidates(self.source.request):
            fate |= LAST | FINAL
        self.complete = self.complete or bool(fate & FINAL)
        return fate

    def answer(self, obj: Mapping[str, object]) -> None:
        self.note_model(obj.get("modelVersion"))
        self._note_usage(child(obj, "usageMetadata"))
        for candidate in items(obj.get("candidates")):
            self._note_grounding(candidate)

    def _note_usage(self, new: Mapping[str, object]) -> None:
        for key, value in new.items():
            if key in _DETAILS:
                self._note_details(key, value)
            elif value is not None and not _is_smaller(value, self.usage.get(key)):
                self.usage[key] = value

    def _note_details(self, key: str, value: object) -> None:
        """Modality lists become objects, so that they merge like everything else."""
        known = dict(child(self.usage, key))
        for item in items(value):
            modality = text(item.get("modality"))
            if modality and not _is_smaller(item.get("tokenCount"), known.get(modality)):
                known[modality] = item.get("tokenCount")
        self.usage[key] = known

    def _note_grounding(self, candidate: Mapping[str, object]) -> None:
        grounding = child(candidate, "groundingMetadata")
        queries = grounding.get("webSearchQueries")
        self._queries = max(self._queries, sum(map(bool, queries)) if isinstance(queries, list) else 0)
        self._retrieved = self._retrieved or bool(items(grounding.get("groundingChunks")))
        self._fetches_pages = self._fetches_pages or bool(candidate.get("urlContextMetadata"))
        parts = items(child(candidate, "content").get("parts"))
        self._runs_code = self._runs_code or any("executableCode" in part for part in parts)

    def reading(self, status: int, headers: Mapping[str, str]) -> Reading:
        """What is known so far."""
        self.settle_error(status, headers)
        counts = Counts(self.usage)
        usage = self._normalise(counts) if self.usage_present else None
        return Reading(
            usage=usage,
            complete=self.complete,
            billable=self.usage_present or status < 400,
            error=self.error,
            anomaly=anomaly(usage, negative=counts.negative) if usage is not None else None,
            service_tier=(text(self.usage.get("serviceTier")) or headers.get("x-gemini-service-tier", "")).lower()
            or None,
            model=self.model,
            delivered_tokens=self.delivered_tokens,
            raw_usage=raw_json(self.usage) if self.usage else b"",
        )

    def _normalise(self, counts: Counts) -> Usage:
        prompt, tools = counts("promptTokenCount"), counts("toolUsePromptTokenCount")
        thoughts = counts("thoughtsTokenCount")
        billable = self._tool_use_is_billable()
        audio = counts("candidatesTokensDetails.AUDIO", "responseTokensDetails.AUDIO")
        return Usage(
            input_tokens=add((prompt, tools if billable else None)),
            output_tokens=self._output(counts, prompt, tools, thoughts),
            cached_input_tokens=counts("cachedContentTokenCount"),
            audio_input_tokens=counts("promptTokensDetails.AUDIO"),
            image_input_tokens=counts("promptTokensDetails.IMAGE"),
            cached_audio_input_tokens=counts("cacheTokensDetails.AUDIO"),
            cached_image_input_tokens=counts("cacheTokensDetails.IMAGE"),
            tool_use_input_tokens=tools,
            tool_use_billable=billable,
            reasoning_tokens=thoughts,
            audio_output_tokens=audio,
            image_output_tokens=counts("candidatesTokensDetails.IMAGE", "responseTokensDetails.IMAGE"),
            web_search_requests=self._searches(),
        )

    def _output(self, counts: Counts, prompt: int | None, tools: int | None, thoughts: int | None) -> int | None:
        """Candidates plus thoughts, unless the total says that the thoughts are inside already."""
        shown, total = counts("candidatesTokenCount", "responseTokenCount"), counts("totalTokenCount")
        if shown is not None:
            inside = bool(thoughts) and total == (prompt or 0) + shown + (tools or 0)
            return shown if inside else shown + (thoughts or 0)
        if thoughts is None and prompt is None:
            return None
        if self.source.stream and not self.complete and self.deltas:
            return None  # text came, its count did not, and the stream was cut: unknown
        return thoughts or 0

    def _searches(self) -> int | None:
        if not self._queries:
            return None
        return self._queries if _PER_QUERY.search(self.source.model or self.model or "") else 1

    def _tool_use_is_billable(self) -> bool:
        """What a search or a map retrieved is paid by query; pages fetched and code run are paid as input."""
        searched = self._queries > 0 or self._retrieved
        return not searched or self._fetches_pages or self._runs_code


def _candidates(request: Mapping[str, object]) -> int:
    """How many answers were asked for: the last of them to end is the end."""
    config = child(request, "generationConfig") or child(request, "generation_config")
    return count(config.get("candidateCount", config.get("candidate_count"))) or 1


def _is_smaller(new: object, old: object) -> bool:
    known = count(old)
    return known is not None and (count(new) or 0) < known
