"""Crossings: OpenAI's chat completions in front of providers that speak another language.

crossing    how one provider's language is spoken: `Crossing`, one per provider
crossed     a request as the provider wants it, with what is needed to say its answer in the client's words
translator  one answer on its way back (`ports.Translator`); what is charged is read beside it, never from it
library     LiteLLM, whose transformation classes know the languages; loaded when a call first needs it

    provider.send    crossed = await crossing.request(call, candidate, output_cap)
                     answer = CrossedAnswer(await upstream.post(..., crossed.body), crossed)
    provider.meter   meter_for(kind, "messages", ..., translator=crossing.translator(call, answer, redact))

LiteLLM only transforms: it opens no connection, fetches no picture, counts nothing and logs nothing.
"""

from __future__ import annotations

from faregate.providers.crossing.answers import ChatTranslator
from faregate.providers.crossing.core import Crossed, CrossedAnswer, Crossing

__all__ = ["ChatTranslator", "Crossed", "CrossedAnswer", "Crossing"]
