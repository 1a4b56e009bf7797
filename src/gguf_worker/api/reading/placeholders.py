"""What stands in a prompt for content that this model cannot be shown, and what is said about it.

Other servers have tools, files and pictures of their own, and clients replay what these gave them.
What of it is text is kept; a placeholder stands for the rest, and a warning tells the caller.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gguf_worker.api.reading.bounds import MAX_NAME, MAX_WARNINGS

_OPAQUE = frozenset(
    {
        *("id", "call_id", "tool_use_id", "status", "cache_control", "caller"),
        *("encrypted_content", "encrypted_index", "encrypted_stdout", "signature", "fingerprint"),
        *("annotations", "citations", "acknowledged_safety_checks", "pending_safety_checks"),
    }
)
"""Fields that say nothing to a reader; nor does the type of the whole."""

_DATA = re.compile(r"data:|[A-Za-z0-9+/=_-]{1024}")
"""The beginning of a file in base64, or of an address that holds one."""

_TEXTUAL = frozenset({"json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "sql", "csv"})


class Placeholders:
    """Counts what was replaced or left out of one body, kind by kind, for its warnings."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def text(self, kind: str, value: Any = None) -> str:
        """Return the text that stands for content of a kind; `value` is shown if it is text."""
        self._counts[kind[:MAX_NAME], "replaced by a placeholder"] += 1
        shown = readable_text(value)
        return f"[{kind[:MAX_NAME]}: {shown}]" if shown else f"[{kind[:MAX_NAME]}]"

    def left_out(self, kind: str) -> None:
        """Note that something of this kind was left out."""
        self._counts[kind[:MAX_NAME], "left out"] += 1

    def warnings(self) -> list[str]:
        """Return a sentence for each of the first MAX_WARNINGS kinds, and one for all others."""
        found = list(self._counts.items())
        said = [_sentence(kind, fate, count) for (kind, fate), count in found[:MAX_WARNINGS]]
        more = sum(count for _, count in found[MAX_WARNINGS:])
        return [*said, f"{more} more parts were not read as sent"] if more else said


def _sentence(kind: str, fate: str, count: int) -> str:
    parts = "one part" if count == 1 else f"{count} parts"
    return f"{parts} of the kind {kind!r} {'was' if count == 1 else 'were'} {fate}"


def readable_text(value: Any) -> str:
    """Return what a reader can make of a value: its text, else its telling fields as JSON."""
    if isinstance(value, str):
        return "" if _is_data(value) else value
    kept = _readable(value)
    if isinstance(kept, dict):
        kept.pop("type", None)
    return msgspec.json.encode(kept).decode() if kept not in (None, {}, []) else ""


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _readable(each)
            for name, each in value.items()
            if name not in _OPAQUE and each is not None and not _is_data(each)
        }
    if isinstance(value, list):
        return [_readable(each) for each in value if not _is_data(each)]
    return value


def _is_data(value: Any) -> bool:
    return isinstance(value, str) and _DATA.match(value) is not None


def text_of_file(data: Any, kind: Any) -> str | None:
    """Return the text of a file in base64, or in a `data:` address; None if it is no text.

    `kind`: its media type; an address has its own.
    """
    if not isinstance(data, str):
        return None
    if data.startswith("data:"):
        head, comma, data = data.partition(",")
        kind = head.removeprefix("data:").partition(";")[0] if comma else None
    if not isinstance(kind, str) or not _is_textual(kind):
        return None
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _is_textual(kind: str) -> bool:
    main, _, sub = kind.lower().partition(";")[0].strip().partition("/")
    return main == "text" or sub in _TEXTUAL or sub.endswith(("+json", "+xml"))


def titled(text: str, *titles: Any) -> str:
    """Return a document's text below those of its titles that there are, a line each."""
    return "\n".join((*_texts(titles), text))


def _texts(values: tuple[Any, ...]) -> Iterator[str]:
    return (each for each in values if isinstance(each, str) and each)
