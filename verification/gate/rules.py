"""Whether JSON facts are of the form that a rule says; for files that anybody may have made.

A rule is a type, a pattern of a text, a pair (least, most) of a number, a tuple of texts to choose from, [rule] for a
list, {name: rule} for exactly those names (an Absent(rule) may be missing), Each(names, rule) for any of those, or
Maybe(rule), which is null or that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


class Unusable(ValueError):
    """Why a file is no recording that could be judged."""


@dataclass(frozen=True)
class Each:
    names: re.Pattern[str]
    rule: Any


@dataclass(frozen=True)
class Maybe:
    rule: Any


@dataclass(frozen=True)
class Absent:
    rule: Any


def match(value: Any, rule: Any, where: str) -> None:
    """Raises Unusable when `value` is not what `rule` says; `where` it stands is in the message."""
    if isinstance(rule, Maybe):
        if value is not None:
            match(value, rule.rule, where)
    elif isinstance(rule, (dict, Each)):
        if not isinstance(value, dict):
            raise Unusable(f"{where} is no mapping.")
        named = rule if isinstance(rule, dict) else dict.fromkeys(filter(rule.names.fullmatch, value), rule.rule)
        unknown = [key for key in value if key not in named]
        if unknown:
            raise Unusable(f"{where} holds {unknown[0]!r:.60}, which is not known.")
        for key, inner in named.items():
            if key in value:
                match(value[key], inner.rule if isinstance(inner, Absent) else inner, f"{where}: {key}")
            elif not isinstance(inner, Absent):
                raise Unusable(f"{where} lack {key}.")
    elif isinstance(rule, list):
        if not isinstance(value, list):
            raise Unusable(f"{where} is no list.")
        for inner in value:
            match(inner, rule[0], where)
    elif not _is(value, rule):
        raise Unusable(f"{where} is {value!r:.60}.")


def _is(value: Any, rule: Any) -> bool:
    if isinstance(rule, re.Pattern):
        return isinstance(value, str) and rule.fullmatch(value) is not None
    if isinstance(rule, tuple) and isinstance(rule[0], str):
        return value in rule if isinstance(value, str) else False
    if isinstance(rule, tuple):
        kinds: tuple[type, ...] = (int,) if isinstance(rule[0], int) else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and rule[0] <= value <= rule[1]
    return type(value) is rule
