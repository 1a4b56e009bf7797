"""Notations in Python: `name(key="value")`, or a list of such calls.

Calls are parsed, never run: all values have to be literals.
"""

from __future__ import annotations

import ast
import re
import warnings
from contextlib import suppress
from typing import Any

from gguf_worker.chat.output import json_calls
from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed, Marks
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.json_calls import objects, rest_of_list
from gguf_worker.chat.output.notation import Notation, begin_cut_call, skip_end, whole_call

_DOTTED = re.compile(r"[\w.]*")
_MAX_ENDS = 16
"""Brackets of a cut text of which one may be the end of a whole call, from the last one on."""

_MAX_PYTHON = 16 * 1024
"""Characters; for some texts the time of Python's parser grows with the square of their length."""


def list_until(end: str, *, declared_only: bool = False) -> Notation:
    """Return the notation `[name(key="value"), …]`, or calls as JSON, up to `end`.

    LFM2 and Llama 4 write it. `declared_only`: other Python is content.
    """

    def read(
        reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
    ) -> Incremental[None]:
        yield from reader.skip_space()
        text = "[" if (yield from reader.accept("[")) else ""
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            yield from _python(reader, writer, declared if declared_only else None, text, end)
        elif text:
            yield from rest_of_list(reader, writer)
            yield from skip_end(reader, end)
        else:
            yield from objects(reader, writer)
            yield from skip_end(reader, end)

    return read


def unmarked(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Llama 3's and 4's calls that no mark shows to be some: JSON, or a list in Python.

    A list is read if it begins with a call of a declared tool; it is the rest of the answer then.
    """
    if (yield from reader.need()) == "{":
        yield from json_calls.unmarked(reader, writer, declared)
        return
    yield from reader.expect("[")
    yield from _python(reader, writer, declared, "[")


def python_tag(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Llama 3.1's calls after `<|python_tag|>`: a JSON object, or `name.call(key="value")`.

    The latter is a built-in tool's. Other Python, which is meant for an interpreter, is content.
    """
    yield from reader.skip_space()
    if (yield from reader.need()) == "{":
        yield from objects(reader, writer)
        return
    text = "[" if (yield from reader.accept("[")) else ""
    yield from _python(reader, writer, declared, text)


def tool_code(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Gemma 3's calls after "```tool_code": `name(key="value")`, or a list of them.

    Other Python is content.
    """
    yield from reader.skip_space()
    text = "[" if (yield from reader.accept("[")) else ""
    yield from _python(reader, writer, declared, text, "```")


def _python(
    reader: AnswerReader,
    writer: EventWriter,
    declared: DeclaredTools | None,
    text: str,
    end: str = "",
) -> Incremental[None]:
    """Read calls that begin with `text`, which has been read, up to `end` or the answer's own.

    Raises Malformed as soon as the first call is none of a `declared` tool, if these are given.
    """
    yield from reader.skip_space()
    name = yield from reader.run(_DOTTED)
    yield from reader.skip_space()
    if (yield from reader.need()) != "(" or not _known(name, declared):
        raise Malformed
    parts = [text, name]
    with suppress(Malformed):  # without an end, or after too much of it
        yield from reader.until(Marks((end,) if end else ()), parts.append)
    text = "".join(parts).strip()
    if reader.cut:
        return _write_cut(reader, writer, name, text)
    calls = _python_calls(text)
    if not all(_known(name, declared) for name, _ in calls):
        raise Malformed
    for name, arguments in calls:
        whole_call(reader, writer, name, arguments)
    return None


def _known(name: str, declared: DeclaredTools | None) -> bool:
    return declared is None or name.removesuffix(".call") in declared


def _write_cut(reader: AnswerReader, writer: EventWriter, name: str, text: str) -> None:
    """Write the calls that are whole, or the first one as cut; raises Malformed in that case."""
    for found in list(re.finditer(r"\)", text))[-_MAX_ENDS:][::-1]:
        with suppress(Malformed):
            calls = _python_calls(text[: found.end()] + "]" * text.startswith("["))
            for each, arguments in calls:
                whole_call(reader, writer, each, arguments)
            return
    begin_cut_call(reader, writer, name.removesuffix(".call"))
    raise Malformed


def _python_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Parse `name(key=value)`, or a list of them; values are Python's literals, or JSON's words."""
    if len(text) > _MAX_PYTHON:
        raise Malformed
    try:
        with warnings.catch_warnings(action="ignore"):  # about oddities in the model's Python
            tree = ast.parse(text, mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        read = [_python_call(call) for call in calls]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as exc:
        raise Malformed from exc
    if not read:
        raise Malformed
    return read


def _python_call(call: ast.expr) -> tuple[str, dict[str, Any]]:
    if (
        not isinstance(call, ast.Call)
        or call.args
        or any(keyword.arg is None for keyword in call.keywords)
    ):
        raise ValueError("not a call by keywords")
    return ast.unparse(call.func).removesuffix(".call"), {
        str(keyword.arg): ast.literal_eval(_JsonWords().visit(keyword.value))
        for keyword in call.keywords
    }


class _JsonWords(ast.NodeTransformer):
    """Replaces JSON's words (`true`, `false`, `null`) with their values."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        words = {"true": True, "false": False, "null": None}
        return ast.Constant(words[node.id]) if node.id in words else node
