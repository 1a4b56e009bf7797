"""Keywords about texts and numbers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from gguf_worker.schemas.formats import KNOWN, OTHER_NAMES, PATTERNS, SHAPELESS
from gguf_worker.schemas.keywords import Keywords
from gguf_worker.schemas.patterns import rewritten

_MOST_DIGITS = 100_000
"""Limit of a `multipleOf`'s digits, read as a number: it becomes an automaton of as many states."""
_MOST_NUMBER = 10**17
_MOST_INTEGER = 2**63 - 1024
_LEAST_NUMBER = 1e-12
"""Bounds beyond which the engine has no pattern for a range."""


def text_keywords(sent: Keywords) -> dict[str, Any]:
    """Return the keywords about texts; several patterns are in `allOf`."""
    result: dict[str, Any] = dict(sent.bounds("minLength", "maxLength"))
    format, pattern = sent.text("format"), sent.text("pattern")
    patterns = [] if pattern is None else _patterns(pattern, sent)
    if format is not None:
        name = OTHER_NAMES.get(format.lower(), format.lower())
        if name in KNOWN:
            result["format"] = name
        elif name in PATTERNS and pattern is None:
            patterns.append(PATTERNS[name])
        elif name not in SHAPELESS and pattern is None:
            sent.relax(f"`format` {format!r}")
    if patterns:
        result["pattern"] = patterns[0]
    if patterns[1:]:
        result["allOf"] = [{"pattern": each} for each in patterns[1:]]
    return result


def _patterns(pattern: str, sent: Keywords) -> list[str]:
    new = rewritten(pattern)
    if new.lost:
        what = ", ".join(new.lost)
        sent.relax(f"a `pattern` with {what}" if new.pattern is None else f"{what} in a `pattern`")
    return [] if new.pattern is None else [new.pattern, *new.also]


def number_keywords(sent: Keywords, *, integer: bool) -> dict[str, Any]:
    """Return the keywords about numbers; `integer`: all numbers are."""
    most = _MOST_INTEGER if integer else _MOST_NUMBER
    result: dict[str, Any] = {}
    for plain, exclusive in (
        ("minimum", "exclusiveMinimum"),
        ("maximum", "exclusiveMaximum"),
    ):
        bound, flag = sent.number(plain), sent.sent.get(exclusive)
        if isinstance(flag, bool):  # draft 4 has a flag beside the bound
            if bound is not None:
                _add_bound(exclusive if flag else plain, bound, most, sent, result)
            continue
        beyond = sent.number(exclusive)
        if bound is not None:
            _add_bound(plain, bound, most, sent, result)
        if beyond is not None:
            _add_bound(exclusive, beyond, most, sent, result)
    _drop_empty_range(sent, result)
    multiple = sent.number("multipleOf")
    if multiple is not None and multiple > 0 and _digits(multiple) < _MOST_DIGITS:
        result["multipleOf"] = multiple
    elif multiple is not None:
        sent.relax(f"`multipleOf` {multiple}")
    return result


def _add_bound(
    name: str, bound: int | float, most: int, sent: Keywords, result: dict[str, Any]
) -> None:
    outer = name.lower().endswith("maximum") == (bound > 0)
    if abs(bound) > most and outer:  # a nearer bound will do: nobody means numbers as far away
        bound = most if bound > 0 else -most
    if abs(bound) > most or 0 < abs(bound) < _LEAST_NUMBER:
        sent.relax(f"`{name}` {bound}")
        return
    result[name] = bound


def _drop_empty_range(sent: Keywords, result: dict[str, Any]) -> None:
    low = max((result[k] for k in ("minimum", "exclusiveMinimum") if k in result), default=None)
    high = min((result[k] for k in ("maximum", "exclusiveMaximum") if k in result), default=None)
    if low is not None and high is not None and low > high:
        sent.relax("a `minimum` above the `maximum`")
        for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
            result.pop(name, None)


def _digits(number: int | float) -> int:
    """Return the digits of a number, without the zeros around them, as a whole number."""
    digits = Decimal(str(number)).normalize().as_tuple().digits
    return int("".join(map(str, digits[:9])) if len(digits) <= 9 else _MOST_DIGITS)
