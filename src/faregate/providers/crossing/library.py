"""LiteLLM, loaded when a call first needs it: seconds of work and some 80 MB that most gateways can do without.

It is an optional extra. It is told to keep to itself: its own copy of its model map, no telemetry, no .env files, no
downloads of pictures (a client's URL must not make the gateway fetch anything).
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from faregate.errors import InvalidRequest

_KEEP_TO_YOURSELF: Mapping[str, str] = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "0",
}
_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")
_loading = threading.Lock()
_loaded: list[Any] = []


def is_installed() -> bool:
    """Whether the extra is there; nothing is loaded."""
    return find_spec("litellm") is not None


def load() -> Any:
    """The module `litellm`. Blocking: call it in a thread. Raises InvalidRequest when the extra is missing."""
    with _loading:
        if not _loaded:
            if not is_installed():
                raise InvalidRequest(
                    "this model cannot be called at this endpoint: the gateway was installed without the extra litellm "
                    "(pip install 'faregate[litellm]')"
                )
            os.environ.update(_KEEP_TO_YOURSELF)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own making, and nobody here can mend them
                litellm: Any = import_module("litellm")
                _warm_up(litellm)
            for name in _LOGGERS:
                logging.getLogger(name).disabled = True  # it quotes requests
            _fetch_nothing()
            litellm.telemetry = False
            litellm.suppress_debug_info = True
            _loaded.append(litellm)
    return _loaded[0]


def _fetch_nothing() -> None:
    """Bedrock's pictures are fetched by a way of their own, which the size limit does not bound."""

    def refuse(image_url: object) -> NoReturn:
        raise ValueError("pictures are taken as data: URLs only")

    factory = import_module("litellm.litellm_core_utils.prompt_templates.factory")
    for name in ("get_image_details", "get_image_details_async"):
        setattr(factory.BedrockImageProcessor, name, staticmethod(refuse))


def _warm_up(litellm: Any) -> None:
    """Its models are compiled when they are first used: now, not on the event loop."""
    types = import_module("litellm.types.utils")
    delta = types.Delta(content="", thinking_blocks=[{"type": "thinking", "thinking": ""}])
    types.ModelResponseStream(choices=[types.StreamingChoices(delta=delta)]).model_dump()
    message = types.Message(content="", thinking_blocks=[{"type": "thinking", "thinking": ""}])
    litellm.ModelResponse(choices=[types.Choices(message=message)]).model_dump()


def chat_config(provider: str, model: str) -> Any:
    """LiteLLM's transformation class for one of its providers and a model. Blocking."""
    litellm = load()
    utils = import_module("litellm.utils")
    config = utils.ProviderConfigManager.get_provider_chat_config(model=model, provider=litellm.LlmProviders(provider))
    if config is None:
        raise InvalidRequest(f"no translation for {provider} is known", param="model")
    return config
