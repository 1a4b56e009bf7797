"""Gemma's own notation of a call: JSON without quotes around keys, texts between special marks.

A call is read as a whole, not as it arrives: it is short, and its braces are not JSON's.
"""

from __future__ import annotations

import json
import re
from typing import Any

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed, Marks
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.json_calls import objects
from gguf_worker.chat.output.notation import Notation, begin_cut_call, skip_end, whole_call

_MAX_DEPTH = 64
_HEAD = re.compile(r"\s*call:([\w.-]+)\s*(?=\{)")
_KEY = re.compile(r"\s*([^:{}\[\],]*?)\s*:\s*")
_WORD = re.compile(r"\s*([^,{}\[\]]*?)\s*(?=[,}\]])")


def gemma_call(quote: str, end: str) -> Notation:
    """Return the notation `call:name{key:value,…}`, with texts between `quote`s, up to `end`.

    FunctionGemma and Gemma 4 write it, or a JSON object if they are held to a schema.
    """

    def read(
        reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
    ) -> Incremental[None]:
        yield from reader.skip_space()
        if (yield from reader.need()) == "{":
            yield from objects(reader, writer)
            yield from skip_end(reader, end)
            return
        parts: list[str] = []
        try:
            yield from reader.until(Marks((end,)), parts.append)
        except Malformed:
            head = _HEAD.match("".join(parts))
            if head is None or not reader.cut:
                raise
            begin_cut_call(reader, writer, head[1])
            raise
        name, arguments = parse_call("".join(parts), quote)
        whole_call(reader, writer, name, arguments)

    return read


def parse_call(text: str, quote: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of `call:name{…}`; raises Malformed."""
    head = _HEAD.match(text)
    if head is None:
        raise Malformed
    values = _GemmaValues(text, head.end(), quote)
    arguments = values.mapping(_MAX_DEPTH)
    if text[values.at :].strip():
        raise Malformed
    return head[1], arguments


class _GemmaValues:
    """Reads values from `text`, each from the offset `at`, where the one before ended."""

    def __init__(self, text: str, at: int, quote: str) -> None:
        self._text = text
        self.at = at
        self._quote = quote

    def mapping(self, depth: int) -> dict[str, Any]:
        self._expect("{")
        read: dict[str, Any] = {}
        while not self._accept("}"):
            if read:
                self._expect(",")
            key = self._quoted() if self._accept(self._quote) else None
            found = _KEY.match(self._text, self.at)
            if found is None:
                raise Malformed
            self.at = found.end()
            read[found[1] if key is None else key] = self._value(depth - 1)
        return read

    def _sequence(self, depth: int) -> list[Any]:
        self._expect("[")
        read: list[Any] = []
        while not self._accept("]"):
            if read:
                self._expect(",")
            read.append(self._value(depth - 1))
        return read

    def _value(self, depth: int) -> Any:
        if depth == 0:
            raise Malformed
        self._space()
        if self._text.startswith("{", self.at):
            return self.mapping(depth)
        if self._text.startswith("[", self.at):
            return self._sequence(depth)
        if self._accept(self._quote):
            return self._quoted()
        return self._word()

    def _word(self) -> Any:
        """Read a number, true, false or null; anything else is a text without its quotes."""
        found = _WORD.match(self._text, self.at)
        if found is None:
            raise Malformed
        self.at = found.end()
        try:
            return json.loads(found[1])
        except (ValueError, RecursionError):
            return found[1]

    def _quoted(self) -> str:
        start, end = self.at, self._text.find(self._quote, self.at)
        if end < 0:
            raise Malformed
        self.at = end + len(self._quote)
        return self._text[start:end]

    def _space(self) -> None:
        while self._text[self.at : self.at + 1].isspace():
            self.at += 1

    def _accept(self, word: str) -> bool:
        self._space()
        if not self._text.startswith(word, self.at):
            return False
        self.at += len(word)
        return True

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise Malformed
