"""What can be set: the sections of faregate.yaml as frozen models. `faregate.settings` loads and exports them.

The docstring of each key is its description in config/faregate.schema.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

IMPLEMENTED_KINDS: Final = frozenset(
    {"anthropic", "azure", "bedrock", "deepseek", "gemini", "litellm", "openai", "sandbox", "xai"}
)
"""What the provider registry of this release can build; the other kinds are known names, and parse."""

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
DATABASE_SCHEMES: Final = ("sqlite", "sqlite+aiosqlite", "postgresql", "postgresql+asyncpg", "postgres")


# Types --------------------------------------------------------------------------------------------------


def _url(value: str, schemes: Sequence[str], *, host: bool) -> str:
    """The checks every URL shares; messages name schemes, never the URL, which may hold a password."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or (host and not parts.hostname) or not _has_good_port(parts):
        raise ValueError(f"must be a URL that begins with one of {', '.join(f'{name}://' for name in schemes)}")
    return value


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _http_url(value: str) -> str:
    parts = urlsplit(_url(value, ("https", "http"), host=True))
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password; credentials have keys of their own")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return value.rstrip("/")


def _redis_url(value: SecretStr) -> SecretStr:
    """Clusters and sentinels may be named by several hosts, with commas between them."""
    url = value.get_secret_value()
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    for place in places.split(","):
        _url(parts._replace(netloc=f"{login}@{place}" if login else place).geturl(), REDIS_SCHEMES, host=False)
    if parts.scheme.endswith("+sentinel") and not parts.path.strip("/"):
        raise ValueError("must name the service that Sentinel watches: redis+sentinel://host:26379/service")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    return SecretStr(_url(value.get_secret_value(), DATABASE_SCHEMES, host=False))


def _header_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be printable ASCII, as it is sent in a header")
    return SecretStr(text)


def _empty_is_unset(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Millis = Annotated[int, Field(ge=0, le=600_000)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
ApiKey = Annotated[SecretStr, AfterValidator(_header_secret)]
OptionalApiKey = Annotated[ApiKey | None, BeforeValidator(_empty_is_unset)]
OptionalRedisUrl = Annotated[Annotated[SecretStr, AfterValidator(_redis_url)] | None, BeforeValidator(_empty_is_unset)]
OptionalDatabaseUrl = Annotated[
    Annotated[SecretStr, AfterValidator(_database_url)] | None, BeforeValidator(_empty_is_unset)
]
OptionalHttpUrl = Annotated[HttpUrl | None, BeforeValidator(_empty_is_unset)]
OptionalPath = Annotated[Path | None, BeforeValidator(_empty_is_unset)]
ProviderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
ModelName = Annotated[str, StringConstraints(pattern=r"^\S+$", max_length=200)]
Target = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*/\S+$", max_length=300)]


class Section(BaseModel):
    """What all sections share: frozen, no unknown key, no value in an error message."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )


# Sections -----------------------------------------------------------------------------------------------


class Server(Section):
    """Where Faregate listens."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """The address to listen on; 0.0.0.0 is every one."""
    port: int = Field(default=8080, ge=0, le=65_535)
    """The TCP port; 0 lets the system choose."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that serve; all share one gate and one book."""
    max_body_bytes: int = Field(default=33_554_432, ge=1_024)
    """The longest request body; over it is 413."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged. No level shows keys, headers or bodies."""
    log_format: Literal["text", "json"] = "text"
    """text for people, json for machines: one object per line."""


class Credits(Section):
    """What a credit is, and how holds are sized."""

    per_usd: Decimal = Field(default=Decimal(1000), gt=0, le=1_000_000_000)
    """Credits per US dollar of a new organization; fixed for it from then on."""
    settle_wait_ms: Millis = 250
    """How long the last byte waits for SQL; after it the journal vouches for the charge."""
    share: Decimal = Field(default=Decimal("0.25"), ge=Decimal("0.001"), le=1)
    """The part of what is available that one call may hold."""
    min_output_tokens: int = Field(default=64, ge=1)
    """The least output worth admitting a call for."""
    default_max_output_tokens: int = Field(default=32_768, ge=1)
    """The output bound assumed when neither the client nor the price card names one."""
    bytes_per_token: Decimal = Field(default=Decimal("2.0"), ge=Decimal("0.25"), le=16)
    """Request bytes counted as one input token in estimates; 1.0 is strict."""
    on_low_credit: Literal["cap", "refuse"] = "cap"
    """cap lowers the output bound to what the balance covers; refuse answers 402 instead."""
    unpriced: Literal["refuse", "free"] = "refuse"
    """What happens to a model without a price."""
    on_unconfirmed: Literal["progress", "estimate", "release"] = "progress"
    """What a call costs whose owner and its disk are lost: input and output so far, the estimate, nothing."""

    @property
    def share_permille(self) -> int:
        """`share` in thousandths, rounded down: what `reserve` is told."""
        return int(self.share * 1000)


class Timing(Section):
    """The protocol's clockwork; shortened together in tests, left alone otherwise."""

    heartbeat_s: Seconds = 5.0
    """How often a worker extends its holds; a hold's deadline is three of them, a sweep passes every one."""
    hold_wait_ms: Annotated[int, Field(ge=1, le=60_000)] = 250
    """How long a call to Redis may go unanswered before it counts as lost."""
    grace_patience_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 20.0
    """How long a new call waits for a gate that is being rebuilt, before it gets 503."""
    shutdown_s: Seconds = 30.0
    """How long open calls may take to finish when the server is stopped."""

    @property
    def deadline_s(self) -> float:
        """When a hold without a heartbeat is due."""
        return 3 * self.heartbeat_s

    @property
    def sweep_s(self) -> float:
        """How often the sweeper passes."""
        return self.heartbeat_s


class Journal(Section):
    """The append-only file of each worker."""

    max_bytes: int = Field(default=1_073_741_824, ge=1_048_576)
    """The most a worker journals while SQL is away; at it, new calls get 503."""


class Replay(Section):
    """Answers kept for repeats of an Idempotency-Key on the data plane."""

    ttl_s: int = Field(default=0, ge=0, le=2_592_000)
    """How long a finished plain answer is kept; 0: none is."""
    max_bytes: int = Field(default=1_048_576, ge=0, le=67_108_864)
    """The longest answer that is kept."""


class Auth(Section):
    """The identity provider whose JWTs are accepted."""

    jwks_url: OptionalHttpUrl = None
    """Its keys; unset: only our own tokens."""
    audience: str = ""
    """The `aud` a token must have."""
    roles_claim: str = ""
    """The claim that holds the roles, a name or a path with dots; empty: the memberships alone count."""
    issuer: str = ""
    """The `iss` a token must have; empty: any, its keys vouch for it."""

    @model_validator(mode="after")
    def _tokens_are_meant_for_us(self) -> Auth:
        if self.jwks_url is not None and not self.audience:
            raise ValueError("audience is needed with jwks_url: the provider's tokens for others are not for us")
        return self


class Stripe(Section):
    """Where billed usage is metered, for organizations with a Stripe customer."""

    api_key: OptionalApiKey = None
    """Unset: nothing is sent to Stripe."""
    base_url: HttpUrl = "https://api.stripe.com"
    """Stripe's API, or a stand-in for tests."""
    event_name: str = Field(default="llm_usage", min_length=1, max_length=100)
    """The meter's event name."""
    meter: Literal["external", "all"] = "external"
    """external: usage of services outside; all: every charge of credits that has a usage record, too."""

    @property
    def metered(self) -> Literal["off", "external", "all"]:
        """Which usage is metered."""
        return "off" if self.api_key is None else self.meter


# Providers ----------------------------------------------------------------------------------------------


class BaseProvider(Section):
    """What every provider takes."""

    base_url: OptionalHttpUrl = None
    """Where its API begins; unset: the provider's own address."""
    api_key: OptionalApiKey = None
    """Its key; unset: none is sent."""
    timeout_s: Seconds = 600.0
    """Until the first byte of an answer."""
    connect_timeout_s: Seconds = 5.0
    """Until a connection stands."""
    idle_timeout_s: Seconds = 120.0
    """The longest silence between two events of an answer."""
    retries: int = Field(default=2, ge=0, le=10)
    """More tries at this provider before the next candidate."""
    on_disconnect: Literal["drain", "cancel"] = "drain"
    """The client left: drain reads on for exact usage, cancel hangs up (where that stops the billing)."""

    @property
    def own(self) -> Mapping[str, object]:
        """What only this kind has, by key."""
        shared = {"kind", *BaseProvider.model_fields}
        return {name: getattr(self, name) for name in type(self).model_fields if name not in shared}


class OpenAIProvider(BaseProvider):
    """OpenAI, or any server that speaks its API."""

    kind: Literal["openai"]
    base_url: HttpUrl = "https://api.openai.com/v1"
    """Up to and including /v1."""


class AzureProvider(BaseProvider):
    """One Azure OpenAI resource; several are several providers (azure, azure-2)."""

    kind: Literal["azure"]
    base_url: HttpUrl
    """https://<resource>.openai.azure.com; with /openai/v1 at its end, api_version is v1."""
    api_version: str = Field(default="2024-10-21", pattern=r"^(v1|[0-9]{4}-[0-9]{2}-[0-9]{2}(-[a-z0-9]+)?)$")
    """The `api-version` of every request; v1: the URLs that need none, with the deployment as the body's model."""
    deployments: Mapping[ModelName, Annotated[str, Field(min_length=1)]] = {}
    """Deployment by model; a model not listed is its own deployment's name."""
    deployment_type: Literal["global", "datazone", "regional"] = "global"
    """What the deployments were created as: the price depends on it, and no answer tells."""
    entra_token: OptionalApiKey = None
    """A Microsoft Entra token, sent as Bearer instead of the key; it is not renewed."""
    entra: bool = False
    """Sign in with Microsoft Entra ID by azure-identity's own chain (extra `azure`); tokens are renewed."""
    entra_scope: str = Field(default="https://cognitiveservices.azure.com/.default", min_length=1)
    """What such a token is asked for."""

    @model_validator(mode="after")
    def _one_credential(self) -> AzureProvider:
        named = {"api_key": self.api_key, "entra_token": self.entra_token, "entra": self.entra or None}
        if len(given := [name for name, value in named.items() if value is not None]) > 1:
            raise ValueError(f"{' and '.join(given)} exclude one another")
        return self


class GeminiProvider(BaseProvider):
    """Google's Gemini API."""

    kind: Literal["gemini"]


class DeepSeekProvider(BaseProvider):
    """DeepSeek."""

    kind: Literal["deepseek"]


class XAIProvider(BaseProvider):
    """xAI."""

    kind: Literal["xai"]


class AnthropicProvider(BaseProvider):
    """Anthropic: its own messages, and chat completions by translation (extra `litellm`)."""

    kind: Literal["anthropic"]
    base_url: HttpUrl = "https://api.anthropic.com"
    """Without /v1."""


class BedrockProvider(BaseProvider):
    """Amazon Bedrock. Its key is a Bedrock API key; without one requests are signed with AWS credentials."""

    kind: Literal["bedrock"]
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]+$")
    """The AWS region."""
    access_key_id: OptionalApiKey = None
    """An AWS access key; unset: credentials come from AWS's own chain."""
    secret_access_key: OptionalApiKey = None
    """Its secret."""
    session_token: OptionalApiKey = None
    """Its session token, if it is a temporary one."""
    profile: Annotated[str | None, BeforeValidator(_empty_is_unset)] = None
    """A profile of AWS's own configuration files."""
    chat: Literal["auto", "converse", "openai"] = "auto"
    """How chat completions go out: converse translates, openai uses Bedrock's own /openai/v1; auto: by the model."""

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> BedrockProvider:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id and secret_access_key")
        named = {"api_key": self.api_key, "access_key_id": self.access_key_id, "profile": self.profile}
        if len(given := [name for name, value in named.items() if value is not None]) > 1:
            raise ValueError(f"{' and '.join(given)} exclude one another")
        return self


_LITELLMS_NOT_SET: Final = frozenset(
    {"model", "messages", "input", "stream", "timeout", "num_retries", "max_retries", "caching", "fallbacks"}
    | {"api_key", "api_base", "base_url", "callbacks", "success_callback", "failure_callback", "mock_response"}
)
"""Arguments that have keys of their own, that a call brings, or that would make the library do more than call."""


class LiteLLMProvider(BaseProvider):
    """Any provider LiteLLM's library speaks (extra `litellm`); models are named as LiteLLM names them."""

    kind: Literal["litellm"]
    params: Mapping[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], ApiKey] = {}
    """More of LiteLLM's own arguments, as text: api_version, vertex_project, aws_region_name, ..."""
    vendors: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")], ...] = ()
    """Which of LiteLLM's providers may be called, by the first part of a model's name; empty: all."""

    @model_validator(mode="after")
    def _a_key_has_an_owner(self) -> LiteLLMProvider:
        if ours := sorted(self.params.keys() & _LITELLMS_NOT_SET):
            raise ValueError(f"params: {', '.join(ours)} cannot be set here")
        if self.api_key is not None and self.base_url is None and not self.vendors:
            raise ValueError("vendors must say whose key api_key is, as in vendors: [mistral]")
        return self


class SandboxProvider(BaseProvider):
    """The built-in pretend model, with honest usage."""

    kind: Literal["sandbox"]


PROVIDERS: Final[Mapping[str, type[BaseProvider]]] = {
    "openai": OpenAIProvider,
    "azure": AzureProvider,
    "gemini": GeminiProvider,
    "deepseek": DeepSeekProvider,
    "xai": XAIProvider,
    "anthropic": AnthropicProvider,
    "bedrock": BedrockProvider,
    "litellm": LiteLLMProvider,
    "sandbox": SandboxProvider,
}
"""Every kind there is a name for."""

ProviderConfig = Annotated[
    OpenAIProvider
    | AzureProvider
    | GeminiProvider
    | DeepSeekProvider
    | XAIProvider
    | AnthropicProvider
    | BedrockProvider
    | LiteLLMProvider
    | SandboxProvider,
    Field(discriminator="kind"),
]


# The whole ----------------------------------------------------------------------------------------------


class Settings(Section):
    """Everything an operator can set. Paths are absolute."""

    server: Server = Server()
    data_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Path("faregate-data")
    """Book, journals and the embedded Valkey's socket; relative to where the command is run."""
    redis_url: OptionalRedisUrl = None
    """Unset: an embedded Valkey."""
    database_url: OptionalDatabaseUrl = None
    """Unset: SQLite in data_dir."""
    credits: Credits = Credits()
    timing: Timing = Timing()
    journal: Journal = Journal()
    providers: Mapping[ProviderName, ProviderConfig] = {}
    """Where calls may go, by a name of the operator's choice."""
    models: Mapping[ModelName, Annotated[tuple[Target, ...], Field(min_length=1)]] = {}
    """Public model names, each with "provider/model" candidates in order of preference."""
    prices: OptionalPath = None
    """A file of price overrides; relative to the configuration file."""
    replay: Replay = Replay()
    auth: Auth = Auth()
    stripe: Stripe = Stripe()
    admin_key: SkipJsonSchema[SecretStr | None] = Field(default=None, exclude=True)
    """The bootstrap admin key, from FAREGATE_ADMIN_KEY only; None: one is made on first start."""

    @model_validator(mode="after")
    def _models_name_providers(self) -> Settings:
        for name, targets in self.models.items():
            for index, target in enumerate(targets):
                provider = target.partition("/")[0]
                if provider not in self.providers:
                    known = ", ".join(sorted(self.providers)) or "none"
                    context = {"path": ("models", name, index), "provider": provider, "known": known}
                    message = "no provider is called {provider}; configured: {known}"
                    raise PydanticCustomError("unknown_provider", message, context)
        return self

    @property
    def book_url(self) -> str:
        """The database URL, with the default filled in. It may hold a password: not for logs."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'faregate.db'}"
