"""Notations in Python: `name(key="value")`, or a list of such calls.

Calls are parsed, never run: all values have to be literals.
"""

from __future__ import annotations

import ast
import warnings
from typing import Any

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.json_calls import objects
from gguf_worker.chat.output.notation import whole_call

_MAX_PYTHON = 16 * 1024
"""Characters; for some texts the time of Python's parser grows with the square of their length."""


def python_list(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read LFM2's calls after `<|tool_call_start|>`: `[name(key="value"), …]`."""
    text = yield from reader.before("<|tool_call_end|>")
    for name, arguments in _python_calls(text.strip()):
        whole_call(reader, writer, name, arguments)


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
    _declared_calls(reader, writer, declared, (yield from reader.rest()))


def tool_code(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Gemma 3's calls after "```tool_code": `name(key="value")`, or a list of them.

    Other Python is content.
    """
    _declared_calls(reader, writer, declared, (yield from reader.before("```")))


def _declared_calls(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools, text: str
) -> None:
    """Write the calls of `text`; raises Malformed if one is of an undeclared tool."""
    calls = _python_calls(text.strip())
    if any(name not in declared for name, _ in calls):
        raise Malformed
    for name, arguments in calls:
        whole_call(reader, writer, name, arguments)


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
