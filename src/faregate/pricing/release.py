"""Newer prices than the shipped ones, from files: a release of genai-prices, or a prices file. Nothing is fetched.

A release is its published JSON (`data.json`, `data_slim.json`), a wheel, or the directory it is installed in. Wheels
and directories hold Python source (`data.py`): read as a syntax tree of constructor calls and literals, never run.
"""

from __future__ import annotations

import ast
import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal, InvalidOperation
from pathlib import Path

from faregate.errors import ConfigError
from faregate.pricing import file as price_file
from faregate.pricing import genai_model

_MOST_BYTES = 64 * 1024 * 1024
_DATA = "genai_prices/data.py"

Raw = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a source has: models of genai-prices by seller, or cards of a prices file."""

    source: str
    """What the cards will say they are from: genai-prices 0.3.1."""
    models: Mapping[str, tuple[Raw, ...]]
    cards: tuple[Raw, ...] = ()


def read(path: Path) -> Release:
    """Raises ConfigError saying what is wrong, and with what."""
    try:
        if path.is_dir():
            return _directory(path)
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: larger than {_MOST_BYTES} bytes")
        if path.suffix == ".whl":
            return _wheel(path)
        if path.suffix == ".json":
            return _json(path)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return Release(source=f"update:{path.name}", models={}, cards=price_file.read_fields(path))


# Where it is --------------------------------------------------------------------------------------------


def _json(path: Path) -> Release:
    raw = path.read_bytes()
    try:
        document = json.loads(raw.decode("utf-8"), parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise ConfigError(f"{path}: not JSON: {str(error) or 'nested too deep'}") from None
    name = f"genai-prices {path.name} {hashlib.sha256(raw).hexdigest()[:8]}"
    return Release(source=name, models=_sellers(document, path))


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _wheel(path: Path) -> Release:
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        metadata = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
        if _DATA not in names or metadata is None or wheel.getinfo(_DATA).file_size > _MOST_BYTES:
            raise ConfigError(f"{path}: no wheel of genai-prices: there is no {_DATA}")
        with wheel.open(metadata) as file:
            version = _version(file.read(65_536).decode(errors="replace"))
        with wheel.open(_DATA) as file:
            return _python(file.read(_MOST_BYTES), path, version)


def _directory(path: Path) -> Release:
    package = path if path.name == "genai_prices" else path / "genai_prices"
    data = package / "data.py"
    if not data.is_file() or data.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{path}: genai-prices is not installed there: there is no {_DATA}")
    found = sorted(package.parent.glob("genai_prices-*.dist-info/METADATA"))
    version = _version(found[-1].read_text(encoding="utf-8", errors="replace")) if found else None
    return _python(data.read_bytes(), path, version)


def _version(metadata: str) -> str | None:
    lines = (line.partition(":") for line in metadata.splitlines())
    return next((value.strip()[:32] for name, _, value in lines if name.lower() == "version"), None)


def _python(source: bytes, path: Path, version: str | None) -> Release:
    label = version or hashlib.sha256(source).hexdigest()[:8]
    try:
        tree = ast.parse(source)
        assigned = [node for node in tree.body if isinstance(node, ast.AnnAssign | ast.Assign)]
        values = [node.value for node in assigned if _name_of(node) == "providers" and node.value is not None]
        document = _plain(values[-1]) if values else None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: {_DATA} is not as expected: {error}") from None
    return Release(source=f"genai-prices {label}", models=_sellers(document, path))


def _name_of(node: ast.AnnAssign | ast.Assign) -> str:
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def _sellers(document: object, path: Path) -> dict[str, tuple[Raw, ...]]:
    if not isinstance(document, list) or not document:
        raise ConfigError(f"{path}: genai-prices data is a list of providers")
    found: dict[str, tuple[Raw, ...]] = {}
    for at, provider in enumerate(document):
        name = provider.get("id") if isinstance(provider, Mapping) else None
        models = provider.get("models") if isinstance(provider, Mapping) else None
        if not isinstance(name, str) or not 0 < len(name) <= 100 or not isinstance(models, list):
            raise ConfigError(f"{path}: [{at}] is no provider with id and models")
        if not all(isinstance(each, Mapping) for each in models):
            raise ConfigError(f"{path}: [{at}].models must be a list of objects")
        found[name] = tuple({key: each[key] for key in genai_model.KEPT if key in each} for each in models)
    return found


# A syntax tree as plain data ----------------------------------------------------------------------------


def _plain(node: ast.expr) -> object:
    """Constructor calls as mappings of their keywords; decimals, dates and times as texts."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, float) else node.value
    if isinstance(node, ast.List):
        return [_plain(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_plain(key)): _plain(value) for key, value in pairs if key is not None}
    if isinstance(node, ast.Call):
        return _call(node)
    raise ValueError(f"line {node.lineno}: neither a literal nor a constructor")


def _call(node: ast.Call) -> object:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    numbers = [_plain(each) for each in node.args]
    if name == "Decimal" and len(numbers) == 1:
        return str(numbers[0])
    if name in ("date", "time"):
        whole = [number for number in numbers if isinstance(number, int)]
        if not 2 <= len(whole) <= 3:
            raise ValueError(f"line {node.lineno}: {name} with {len(whole)} numbers")
        return date(*whole).isoformat() if name == "date" else _time(whole) + _zone(node)
    if numbers:
        raise ValueError(f"line {node.lineno}: {name} with positional arguments")
    return {_field(each): _plain(each.value) for each in node.keywords if each.arg is not None}


def _field(keyword: ast.keyword) -> str:
    return {"or_": "or", "and_": "and"}.get(keyword.arg or "", keyword.arg or "")


def _time(parts: list[int]) -> str:
    hour, minute, second = [*parts, 0][:3]
    return time(hour, minute, second).isoformat()


def _zone(node: ast.Call) -> str:
    zones = [each.value for each in node.keywords if each.arg == "tzinfo"]
    if not zones:
        return ""
    if isinstance(zones[0], ast.Attribute) and zones[0].attr in ("UTC", "utc"):
        return "Z"
    raise ValueError(f"line {node.lineno}: a time zone other than UTC")
