from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import SecretStr

from faregate.errors import ConfigError
from faregate.settings import (
    IMPLEMENTED_KINDS,
    PROVIDERS,
    AzureProvider,
    Settings,
    example,
    json_schema,
    load,
)

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config" / "faregate.yaml"

Load = Callable[..., Settings]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    def run(text: str, environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
        path = tmp_path / "f.yaml"
        path.write_text(text)
        return load(path, environ or {}, {key.replace("__", "."): value for key, value in overrides.items()})

    return run


def message(caught: pytest.ExceptionInfo[ConfigError]) -> str:
    """The message without the directory of the file."""
    return re.sub(r"^\S*/f\.yaml", "f.yaml", caught.value.message)


# Defaults and the example


def test_defaults_without_file_or_environment() -> None:
    settings = load(None, {})
    assert (settings.server.host, settings.server.port, settings.server.workers) == ("127.0.0.1", 8080, 1)
    assert (settings.redis_url, settings.database_url, settings.admin_key) == (None, None, None)
    assert (settings.providers, settings.models, settings.prices) == ({}, {}, None)
    assert (settings.credits.per_usd, settings.credits.share_permille) == (Decimal(1000), 250)
    assert (settings.timing.heartbeat_s, settings.timing.deadline_s, settings.timing.sweep_s) == (5.0, 15.0, 5.0)


def test_the_example_loads_as_is_and_says_the_defaults() -> None:
    documented, defaults = load(EXAMPLE, {}), load(None, {})
    assert documented.model_copy(update={"providers": {}}) == defaults
    assert set(documented.providers) == {"openai", "sandbox"}


def test_the_example_names_every_key() -> None:
    document: dict[str, dict[str, object]] = yaml.safe_load(EXAMPLE.read_text())
    assert set(document) == set(Settings.model_fields) - {"admin_key"}
    for name in ("server", "credits", "timing", "journal", "replay", "auth", "stripe"):
        assert set(document[name]) == set(type(getattr(Settings(), name)).model_fields), name
    openai = document["providers"]["openai"]
    assert isinstance(openai, dict)
    assert set(openai) == set(PROVIDERS["openai"].model_fields)


def test_init_ships_the_example() -> None:
    assert example() == EXAMPLE.read_text()


def test_the_schema_file_is_up_to_date() -> None:
    written = json.loads((ROOT / "config" / "faregate.schema.json").read_text())
    assert written == json_schema(), "run scripts/schema"


def test_the_example_fits_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(yaml.safe_load(EXAMPLE.read_text()), json_schema())


def test_the_schema_refuses_unknown_keys_and_the_admin_key() -> None:
    bad: list[dict[str, object]] = [{"servr": {}}, {"server": {"prt": 1}}, {"admin_key": "x" * 32}]
    for document in bad:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, json_schema())


def test_the_prices_example_is_read_as_a_list_of_cards() -> None:
    cards = yaml.safe_load((ROOT / "config" / "prices.yaml").read_text())
    assert [card["model"] for card in cards] == ["my-model", "free-*"]


# The file


def test_the_file_of_the_contract_loads(load_text: Load) -> None:
    settings = load_text(
        """
providers:
  openai:  {kind: openai, api_key: "${OPENAI_API_KEY}"}
  azure-2: {kind: azure, base_url: https://x.openai.azure.com/, api_version: 2024-10-21, deployments: {gpt-5: my-gpt5}}
  bedrock: {kind: bedrock, region: us-east-1}
  my-llm:  {kind: openai, base_url: http://10.0.0.7:8000/v1}
models:
  fast: [openai/gpt-4.1-mini, azure-2/gpt-5-mini]
""",
        {"OPENAI_API_KEY": "sk-1"},
    )
    azure = settings.providers["azure-2"]
    assert isinstance(azure, AzureProvider)
    assert (azure.base_url, azure.api_version) == ("https://x.openai.azure.com", "2024-10-21")
    assert azure.deployments == {"gpt-5": "my-gpt5"}
    assert settings.models == {"fast": ("openai/gpt-4.1-mini", "azure-2/gpt-5-mini")}


def test_rates_are_exact(load_text: Load) -> None:
    credits = load_text("credits: {per_usd: 1000.000000000000000001, share: 0.1}").credits
    assert (credits.per_usd, credits.share) == (Decimal("1000.000000000000000001"), Decimal("0.1"))


def test_a_key_without_a_value_keeps_its_default(load_text: Load) -> None:
    settings = load_text("redis_url:\nserver:\n  port:\ncredits:\nproviders:\n  openai: {kind: openai, timeout_s: }\n")
    assert (settings.redis_url, settings.server.port, settings.credits.share) == (None, 8080, Decimal("0.25"))
    assert settings.providers["openai"].timeout_s == 600.0


def test_provider_time_outs_have_short_defaults(load_text: Load) -> None:
    provider = load_text("providers: {openai: {}}").providers["openai"]
    assert (provider.timeout_s, provider.connect_timeout_s, provider.idle_timeout_s) == (600.0, 5.0, 120.0)


def test_an_empty_api_key_is_none(load_text: Load) -> None:
    text = 'providers: {openai: {kind: openai, api_key: "${OPENAI_API_KEY:-}"}}'
    assert load_text(text).providers["openai"].api_key is None


def test_prices_are_found_beside_the_file_and_data_where_one_stands(load_text: Load, tmp_path: Path) -> None:
    settings = load_text("prices: ./prices.yaml\ndata_dir: ./data")
    assert settings.prices == tmp_path / "prices.yaml"
    assert settings.data_dir == Path.cwd() / "data"


def test_the_book_is_in_the_data_directory_unless_said_otherwise(load_text: Load) -> None:
    assert load_text("data_dir: /d").book_url == "sqlite:////d/faregate.db"
    assert load_text("database_url: sqlite:////e/f.db").book_url == "sqlite:////e/f.db"


# Mistakes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "server:\n  port: 1\n  prot: 2\n",
            "f.yaml:3: server.prot: unknown key; did you mean port? "
            "allowed: host, log_format, log_level, max_body_bytes, port, workers",
        ),
        ("data_dir: x\nserevr: {}\n", "f.yaml:2: serevr: unknown key; did you mean server? allowed: "),
        ("\ncredits:\n  on_low_credit: crash\n", "f.yaml:3: credits.on_low_credit: must be one of 'cap', 'refuse'"),
        ("server: {port: http}", "f.yaml:1: server.port: must be a valid integer"),
        ("server: {port: 70000}", "f.yaml:1: server.port: must be less than or equal to 65535"),
        ("server: 8080", "f.yaml:1: server: must be a mapping of keys to values"),
        ("credits: {share: 0}", "f.yaml:1: credits.share: must be greater than or equal to 0.001"),
        ("credits: {share: .nan}", "f.yaml:1: credits.share: must be a"),
        ("credits: {per_usd: -1}", "f.yaml:1: credits.per_usd: must be greater than 0"),
        ("timing: {heartbeat_s: inf}", "f.yaml:1: timing.heartbeat_s: must be"),
        ("redis_url: http://h", "f.yaml:1: redis_url: must be a URL that begins with one of redis://"),
        ("database_url: mysql://h/d", "f.yaml:1: database_url: must be a URL that begins with one of sqlite://"),
        ("providers:\n  Azure: {kind: azure}", "f.yaml:2: providers.Azure: provider names are lower-case"),
        ("providers:\n  p: {kind: opnai}", "f.yaml:2: providers.p.kind: must be one of openai, azure, "),
        ("providers:\n  p: {timeout_s: 1}", "f.yaml:2: providers.p.kind: must be one of openai, azure, "),
        ("providers:\n  p: {kind: azure}", "f.yaml:2: providers.p.base_url: is missing"),
        ("providers:\n  p: true", "f.yaml:2: providers.p: must be a mapping of keys to values"),
        ("providers:\n  p:", "f.yaml:2: providers.p: must be a mapping of keys to values"),
        (
            "providers:\n  p:\n    kind: openai\n    regoin: x",
            "f.yaml:4: providers.p.regoin: unknown key; allowed: api_key, base_url, connect_timeout_s, ",
        ),
        (
            "providers:\n  p: {kind: openai, base_url: http://user:pw@h/v1}",
            "f.yaml:2: providers.p.base_url: must not hold a user or password",
        ),
        ("providers:\n  p: {kind: openai, base_url: file:///etc}", "f.yaml:2: providers.p.base_url: must be a URL"),
        ("providers:\n  p: {kind: openai, base_url: http://h:x}", "f.yaml:2: providers.p.base_url: must be a URL"),
        ('providers:\n  p: {kind: openai, api_key: "a\\nb"}', "f.yaml:2: providers.p.api_key: must be printable"),
        (
            "providers: {p: {kind: sandbox}}\nmodels:\n  fast:\n    - p/a\n    - q/b\n",
            "f.yaml:5: models.fast.1: no provider is called q; configured: p",
        ),
        ("models: {fast: [gpt]}", 'f.yaml:1: models.fast.0: must be "provider/model"'),
        ("models: {fast: gpt}", "f.yaml:1: models.fast: must be a list"),
        ("models: {fast: []}", "f.yaml:1: models.fast: "),
        ("admin_key: " + "x" * 40, "f.yaml:1: admin_key: is read from FAREGATE_ADMIN_KEY only"),
        ("server:\n  port: x\n  prot: 1\n", "f.yaml:2: server.port: must be a valid integer, unable to parse"),
    ],
)
def test_mistakes_name_line_key_and_what_is_allowed(load_text: Load, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert message(caught).startswith(expected)
    assert "\n" not in caught.value.message


def test_further_mistakes_are_counted(load_text: Load) -> None:
    with pytest.raises(ConfigError, match=r"\(and 2 more\)$"):
        load_text("server: {port: x, workers: 0, prot: 1}")


@pytest.mark.parametrize(
    "text",
    [
        'redis_url: "http://:hunter2@h"',
        'database_url: "mysql://u:hunter2@h/d"',
        "providers: {p: {kind: openai, base_url: 'http://u:hunter2@h'}}",
        'providers: {p: {kind: openai, api_key: "hunter2\\n\\u00e9"}}',
        "credits: {share: hunter2}",
        "stripe: {api_key: [hunter2]}",
    ],
)
def test_a_mistake_never_shows_the_value(load_text: Load, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert "hunter2" not in caught.value.message
    assert caught.value.__cause__ is None


# The environment


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(load_text: Load) -> None:
    environ = {"FAREGATE_SERVER__PORT": "9001", "FAREGATE_SERVER__WORKERS": "3"}
    settings = load_text("server: {port: 9000, host: 0.0.0.0}", environ, server__port=9002, server__host=None)
    assert (settings.server.port, settings.server.workers, settings.server.host) == (9002, 3, "0.0.0.0")


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("server: {port: 9000}")
    assert load(None, {"FAREGATE_CONFIG": str(tmp_path / "f.yaml")}).server.port == 9000


def test_top_level_keys_come_from_the_environment() -> None:
    environ = {"FAREGATE_DATA_DIR": "/d", "FAREGATE_REDIS_URL": "unix:///r.sock", "FAREGATE_CREDITS__SHARE": "0.5"}
    settings = load(None, environ)
    assert settings.data_dir == Path("/d")
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "unix:///r.sock"
    assert settings.credits.share == Decimal("0.5")


def test_an_empty_variable_unsets_a_url(load_text: Load) -> None:
    assert load_text("redis_url: redis://h", {"FAREGATE_REDIS_URL": ""}).redis_url is None


def test_one_variable_configures_a_provider() -> None:
    provider = load(None, {"FAREGATE_PROVIDERS__OPENAI__API_KEY": "sk-2"}).providers["openai"]
    assert provider.kind == "openai"
    assert provider.api_key is not None
    assert provider.api_key.get_secret_value() == "sk-2"


def test_a_variable_reaches_a_provider_whose_name_it_cannot_spell(load_text: Load) -> None:
    text = "providers: {azure-2: {kind: azure, base_url: https://h}}"
    provider = load_text(text, {"FAREGATE_PROVIDERS__AZURE_2__RETRIES": "7"}).providers["azure-2"]
    assert provider.retries == 7


def test_lists_and_mappings_come_as_json() -> None:
    environ = {
        "FAREGATE_PROVIDERS": '{"p": {"kind": "sandbox", "timeout_s": 1.5}}',
        "FAREGATE_PROVIDERS__A__KIND": "azure",
        "FAREGATE_PROVIDERS__A__BASE_URL": "https://h",
        "FAREGATE_PROVIDERS__A__DEPLOYMENTS": '{"GPT-5": "d"}',
        "FAREGATE_MODELS__FAST": '["p/a"]',
    }
    settings = load(None, environ)
    assert settings.providers["p"].timeout_s == 1.5
    assert settings.models == {"fast": ("p/a",)}
    assert isinstance(azure := settings.providers["a"], AzureProvider)
    assert azure.deployments == {"GPT-5": "d"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("FAREGATE_SERVER__PROT", "1", "FAREGATE_SERVER__PROT: server.prot: unknown key; did you mean port?"),
        ("FAREGATE_SERVR__PORT", "1", "FAREGATE_SERVR__PORT: servr: unknown key; did you mean server?"),
        ("FAREGATE_SERVER__PORT", "x", "FAREGATE_SERVER__PORT: server.port: must be a valid integer"),
        ("FAREGATE_MODELS", "[", "FAREGATE_MODELS: must be JSON"),
        ("FAREGATE_DATA_DIR__X", "1", "FAREGATE_DATA_DIR__X: data_dir: must be"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(name: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {name: value})
    assert caught.value.message.startswith(expected)


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_left_alone() -> None:
    environ = {"FAREGATE_PORT": "tcp://10.0.0.1:80", "FAREGATE_SERVICE_HOST": "10.0.0.1"}
    assert load(None, environ) == load(None, {})


def test_a_mistake_on_the_command_line_says_so() -> None:
    with pytest.raises(ConfigError, match=r"^command line, --port: server.port: "):
        load(None, {}, {"server.port": "x"})


# Providers found


def test_openai_is_found_from_its_usual_variables() -> None:
    environ = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1/"}
    provider = load(None, environ).providers["openai"]
    assert (provider.kind, provider.base_url) == ("openai", "http://127.0.0.1:9/v1")


def test_only_implemented_kinds_are_found() -> None:
    names = ("ANTHROPIC_API_KEY", "GEMINI_API_KEY", "DEEPSEEK_API_KEY", "XAI_API_KEY", "AZURE_OPENAI_API_KEY")
    environ = dict.fromkeys((*names, "OPENAI_API_KEY"), "k") | {"AZURE_OPENAI_ENDPOINT": "https://h"}
    kinds = {"openai", "anthropic", "gemini", "deepseek", "xai", "azure"}
    assert set(load(None, environ).providers) == kinds & IMPLEMENTED_KINDS


@pytest.mark.parametrize(
    ("kind", "variable"), [("deepseek", "DEEPSEEK_API_KEY"), ("gemini", "GEMINI_API_KEY"), ("xai", "XAI_API_KEY")]
)
def test_a_key_alone_configures_a_provider(kind: str, variable: str) -> None:
    (provider,) = load(None, {variable: " k \n"}).providers.values()
    assert (provider.kind, provider.api_key) == (kind, SecretStr("k"))


def test_azure_is_found_from_its_usual_variables() -> None:
    environ = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://h/", "OPENAI_API_VERSION": "2025-01-01"}
    azure = load(None, environ).providers["azure"]
    assert isinstance(azure, AzureProvider)
    assert (azure.base_url, azure.api_version) == ("https://h", "2025-01-01")


@pytest.mark.parametrize("version", ["latest", "2024-10", "v2", "2024-10-21-Preview!"])
def test_an_api_version_is_a_date_or_v1(version: str, load_text: Load) -> None:
    with pytest.raises(ConfigError, match="must be v1 or a date"):
        load_text(f"providers: {{a: {{kind: azure, base_url: https://h, api_version: {version}}}}}")


def test_nothing_is_found_when_there_is_a_file(load_text: Load) -> None:
    assert load_text("server: {}", {"OPENAI_API_KEY": "sk-1"}).providers == {}


# Secrets


def test_the_admin_key_needs_32_characters() -> None:
    with pytest.raises(ConfigError, match=r"^FAREGATE_ADMIN_KEY: must have 32 "):
        load(None, {"FAREGATE_ADMIN_KEY": "x" * 31})
    admin_key = load(None, {"FAREGATE_ADMIN_KEY": "x" * 32}).admin_key
    assert admin_key is not None
    assert admin_key.get_secret_value() == "x" * 32


def test_no_secret_is_shown(load_text: Load) -> None:
    settings = load_text(
        "redis_url: redis://:hunter2@h\ndatabase_url: postgresql://u:hunter2@h/d\nstripe: {api_key: hunter2}\n"
        "providers: {openai: {kind: openai, api_key: hunter2}}",
        {"FAREGATE_ADMIN_KEY": "hunter2" * 6},
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_only_settings_reads_the_environment() -> None:
    reads = re.compile(r"\bos\.(environb?(?!\.update)|getenvb?)\b|from os import .*\b(environ|getenv)")
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*.py") if reads.search(path.read_text())}
    assert found == {"src/faregate/settings.py"}
