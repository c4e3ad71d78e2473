"""Azure's paths at the front door, so that its SDK's client works with nothing but its endpoint and key changed.

`/openai/deployments/{model}/chat/completions?api-version=…`: what Azure calls a deployment is the model's public name
here. The version is not looked at, and the answer is OpenAI's.
"""

from __future__ import annotations

from dataclasses import replace

import orjson

from faregate.core.call import Call, Principal
from faregate.errors import FaregateError
from faregate.gateway.common import model_of, parse_object
from faregate.gateway.multipart import is_form
from faregate.ports import Dialect, Inbound

PREFIX = "/openai/deployments/"


class DeploymentDialect:
    """`ports.Dialect` around another's: the path names the model, whatever the body says."""

    def __init__(self, inner: Dialect, suffix: str) -> None:
        self._inner = inner
        self._suffix = suffix

    def read(self, inbound: Inbound, principal: Principal, account_id: str, call_id: str) -> Call:
        model = model_of({"model": inbound.path.removeprefix(PREFIX).removesuffix(self._suffix)})
        if not is_form(inbound.headers.get("content-type", "")):
            body = parse_object(inbound.body)
            if body.get("model") is None:
                inbound = replace(inbound, body=orjson.dumps({**body, "model": model}))
        return replace(self._inner.read(inbound, principal, account_id, call_id), model=model)

    def error(self, error: FaregateError) -> tuple[dict[str, str], bytes]:
        return self._inner.error(error)

    def refusal(self, status: int, body: bytes) -> bytes:
        return self._inner.refusal(status, body)

    def error_event(self, error: Exception) -> bytes:
        return self._inner.error_event(error)
