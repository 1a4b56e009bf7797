"""Keywords about lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguf_worker.schemas.keywords import Keywords, is_anything
from gguf_worker.schemas.relaxations import SchemaPath

TranslatePart = Callable[[Any, SchemaPath], Any]
"""Translates what is at a path below."""


def array_keywords(sent: Keywords, part: TranslatePart, *, whole: bool) -> dict[str, Any]:
    """Return the keywords about lists. `whole`: nothing else is said about this list elsewhere."""
    items: Any = sent.sent.get("items")
    prefix = sent.listed("prefixItems")
    under = "prefixItems"
    if isinstance(items, list):  # drafts before 2020-12 had tuples there
        items, prefix, under = sent.sent.get("additionalItems"), items, "items"
    if items is None and prefix and sent.sent.get("unevaluatedItems") is not None:
        items = sent.sent["unevaluatedItems"]
    elif not is_anything(sent.sent.get("unevaluatedItems")) and items is None:
        sent.relax("`unevaluatedItems`")
    bounds = sent.bounds("minItems", "maxItems")
    result: dict[str, Any] = {}
    if prefix:
        result["prefixItems"] = [
            part(each, sent.below(under, str(number))) for number, each in enumerate(prefix)
        ]
        if items is None and whole:
            items = False
            if not bounds:  # a tuple has all of its members
                bounds = {"minItems": len(prefix)}
    if items is not None:
        result["items"] = part(items, sent.below("items"))
    if _has_contains(sent):
        sent.relax("`contains`")
        if sent.sent.get("minContains") != 0:
            bounds = {"minItems": 1} | bounds
    if sent.sent.get("uniqueItems") is True and bounds.get("maxItems", 2) > 1:
        sent.relax("`uniqueItems`")
    return result | bounds


def _has_contains(sent: Keywords) -> bool:
    free = sent.sent.get("minContains") == 0 and "maxContains" not in sent
    return "contains" in sent and not free
