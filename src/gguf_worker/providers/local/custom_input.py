"""The text of a custom tool's input, taken out of the JSON of a call's arguments as it comes.

The model writes `{"input": "…"}`; the caller gets the text between the quotes.
"""

from __future__ import annotations

import json
import re

from gguf_worker.providers.request import TEXT_PARAMETER

_BEGINNING = re.compile(rf'\s*\{{\s*"{TEXT_PARAMETER}"\s*:\s*"')
_PLAIN = re.compile(r'[^"\\]*')
_HEX = "[0-9a-fA-F]"
_ESCAPE = re.compile(
    rf"\\(?:u[dD][89abAB]{_HEX}{{2}}\\u{_HEX}{{4}}|u(?![dD][89abAB]){_HEX}{{4}}|[^u])"
)
"""An escape of JSON; two of them together are one character."""
_LONGEST_ESCAPE = 12


class CustomInput:
    """Takes the input's text out of the arguments of one call."""

    def __init__(self) -> None:
        self._text = ""
        self._begun = False
        self._ended = False

    def feed(self, arguments: str) -> str:
        """Return the text that is certain after more of the arguments."""
        self._text += arguments
        if not self._begun and not self._begin():
            return ""
        parts: list[str] = []
        at = 0
        while not self._ended:
            plain = _PLAIN.match(self._text, at)
            assert plain is not None
            parts.append(plain[0])
            at = plain.end()
            if self._text[at : at + 1] == '"':
                self._ended = True
            elif (escape := _ESCAPE.match(self._text, at)) is not None:
                parts.append(_decoded(escape[0]))
                at = escape.end()
            elif len(self._text) - at >= _LONGEST_ESCAPE:
                parts.append(self._text[at])  # no escape that JSON knows
                at += 1
            else:
                break
        self._text = "" if self._ended else self._text[at:]
        return "".join(parts)

    def end(self) -> str:
        """Return the rest at the end of the call: arguments of another form are the text."""
        return "" if self._begun else self._other()

    def _begin(self) -> bool:
        found = _BEGINNING.match(self._text)
        if found is None:
            return False
        self._text, self._begun = self._text[found.end() :], True
        return True

    def _other(self) -> str:
        """Return the text of arguments that are not of the form asked for."""
        try:
            value = json.loads(self._text)
        except (ValueError, RecursionError):
            return self._text
        values = list(value.values()) if isinstance(value, dict) else [value]
        if len(values) == 1 and isinstance(values[0], str):
            return values[0]
        named = value.get(TEXT_PARAMETER) if isinstance(value, dict) else None
        return named if isinstance(named, str) else self._text


def _decoded(escape: str) -> str:
    try:
        text = str(json.loads(f'"{escape}"'))
    except ValueError:
        return escape
    return "\ufffd" if any("\ud800" <= char <= "\udfff" for char in text) else text
