"""Whether a clause of genai-prices means this very model.

Its matches by prefix or part would price `gpt-5-nano-audio` as `gpt-5-nano`: what is no exact name counts only when
what is left of the name is a date, a version or a region.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from genai_prices import types

_HARMLESS = re.compile(
    r"([-@:](latest|preview|exp|beta|v\d{1,2}|\d{8}|\d{4}-\d{2}-\d{2}|\d{2}-\d{4}|\d{2}-\d{2}|\d{3,4}|(?<=:)\d))*"
)
"""What may follow a model's name without meaning another model. `-5`, `.1` would be a version: not harmless."""

_REGION = re.compile(r"((us|eu|apac|au|jp|in|ca|sa|us-gov|global)\.|anthropic/|openai/|google/|models/)?")


def spellings(model: str) -> tuple[str, ...]:
    """The name as given, and with its date in dashes."""
    return tuple(dict.fromkeys((model, re.sub(r"-(20\d\d)(\d\d)(\d\d)$", r"-\1-\2-\3", model))))


def clauses(match: types.MatchLogic) -> Iterator[types.MatchLogic]:
    """Its alternatives."""
    if isinstance(match, types.ClauseOr):
        for clause in match.or_:
            yield from clauses(clause)
    else:
        yield match


def certain(clause: types.MatchLogic, model: str) -> bool:
    """Whether a clause means this very model: what it leaves of the name is a date, a version or a region."""
    if not clause.is_match(model):
        return False
    if isinstance(clause, types.ClauseAnd):
        return any(certain(part, model) for part in clause.and_ if not isinstance(part, types.ClauseRegex))
    if isinstance(clause, types.ClauseRegex):
        return clause.regex.startswith("^") and clause.regex.endswith("$")
    if isinstance(clause, types.ClauseEquals):
        return True
    return _only_decorated(next(iter(vars(clause).values())).lower(), model)


def _only_decorated(name: str, model: str) -> bool:
    before, _, after = model.partition(name)
    if model.startswith("ft:"):
        after = after.partition(":")[0]
    cut = re.search(r"[-@:]\d{0,4}$", name)
    if cut is not None and after[:1].isdigit():
        after = cut.group() + after
    return bool(_REGION.fullmatch(before) and _HARMLESS.fullmatch(after))
