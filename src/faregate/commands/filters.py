"""`faregate meter` and `faregate price`: JSON lines in, JSON lines out, in constant memory.

Numbers are read exactly: a price with a binary float in it would be another price.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Annotated, Any, BinaryIO, TextIO

import typer

from faregate.commands.catalog import configured_catalog
from faregate.commands.options import Config
from faregate.errors import ConfigError
from faregate.meter.filter import meter_line
from faregate.pricing.catalog import default_catalog
from faregate.pricing.filter import price_line
from faregate.settings import load

Source = Annotated[str, typer.Argument(metavar="[FILE|-]", help="A file of JSON lines; - is standard input.")]


def meter(source: Source = "-", config: Config = None) -> None:
    """Normalise usage: JSON lines in, JSON lines out.

    Each line is what a provider answered: {id, provider, endpoint, stream, body | events | chunks_b64}. Its
    answer is the usage as Faregate counts it, on the standard output, or {"id", "error"}.
    """
    with _opened(source) as lines:
        translate(lines, sys.stdout, meter_line)


def price(source: Source = "-", config: Config = None) -> None:
    """Price usage: JSON lines in, JSON lines out.

    Each line is {id, provider, model, usage, options, prices?}; its answer has the exact price in USD, the
    credits, and a line for each class of usage with quantity, rate and amount. Rates come from the line's own
    `prices`, else from the catalogue (with --config, the operator's prices file on top).
    """
    catalog = default_catalog() if config is None else configured_catalog(load(config))
    with _opened(source) as lines:
        translate(lines, sys.stdout, lambda line: price_line(line, catalog))


def translate(lines: BinaryIO, out: TextIO, answer: Callable[[Any], Mapping[str, object]]) -> None:
    """One line of output for each line of input that is not blank."""
    for line in lines:
        if line.strip():
            out.write(_answer(line, answer) + "\n")
            out.flush()


def _answer(line: bytes, answer: Callable[[Any], Mapping[str, object]]) -> str:
    try:
        request = json.loads(line.decode("utf-8-sig"), parse_float=Decimal, parse_constant=_no_constant)
        return json.dumps(answer(request), default=_number)
    except (ValueError, RecursionError) as error:
        return json.dumps({"id": None, "error": f"not JSON: {str(error).partition(' (char')[0]}"})


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _number(value: object) -> float:
    """An id may be any JSON."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(type(value).__name__)


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from None
    with open(fd, "rb") as file:
        yield file
