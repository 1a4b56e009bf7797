"""The tools of a request as this worker's model is offered them: functions with names it can write.

Clients name tools as they like (`mcp:server/tool`, `List[int]`), and offer some that take a plain
text. A template, a grammar and a notation need functions whose names are words. What is offered
otherwise is rewritten here, in the history too, and what the model calls is told by its own name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gguf_worker.providers.request import TEXT_PARAMETER, ToolChoice, text_parameters

_WORD = re.compile(r"[\w.-]{1,128}", re.ASCII)
_IDENTIFIER = re.compile(r"[^\W\d]\w{0,127}", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_LONGEST = 64


class OfferedTools:
    """The `tools` of a request, as OpenAI writes them; `python_names`: they are written in Python.

    `functions` are the same tools as functions that the model can call.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], *, python_names: bool = False) -> None:
        self._fitting = _IDENTIFIER if python_names else _WORD
        self._names: dict[str, str] = {}
        self._originals: dict[str, str] = {}
        self._custom = frozenset(_name(tool) for tool in tools if tool["type"] == "custom")
        given = [_name(tool) for tool in tools]
        for name in sorted(given, key=lambda each: not self._fits(each)):  # those that fit stay
            self._add(name)
        self.functions = tuple(self._function(tool) for tool in tools)

    def callable(self, choice: ToolChoice) -> tuple[Mapping[str, Any], ...]:
        """Return the functions that an answer may call."""
        return tuple(
            function
            for function in self.functions
            if choice.may_call(self.original(function["function"]["name"])[0])
        )

    def original(self, name: str) -> tuple[str, bool]:
        """Return the caller's name for the function that was called, and if it is a custom tool."""
        original = self._originals.get(name, name)
        return original, original in self._custom

    def in_history(self, messages: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        """Return the messages with calls of the functions that the model knows."""
        return tuple(map(self._message, messages))

    def _message(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        changed: dict[str, Any] = {}
        if isinstance(calls := message.get("tool_calls"), Sequence):
            changed["tool_calls"] = [self._call(call) for call in calls]
        if message.get("role") == "tool" and isinstance(name := message.get("name"), str):
            changed["name"] = self._mapped(name)
        return {**message, **changed} if changed else message

    def _call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = call.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return call
        return {**call, "function": {**function, "name": self._mapped(function["name"])}}

    def _function(self, tool: Mapping[str, Any]) -> Mapping[str, Any]:
        name = self._names[_name(tool)]
        if tool["type"] == "custom":
            return _function_of_text(tool["custom"], name)
        return {**tool, "function": {**tool["function"], "name": name}}

    def _mapped(self, name: str) -> str:
        """Return the name that the model knows; one of a tool that is no longer offered is new."""
        return self._names.get(name) or (name if self._fits(name) else _word(name))

    def _add(self, name: str) -> None:
        word = name if self._fits(name) else _word(name)
        if word in self._originals:
            digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
            word = f"{word[: _LONGEST - 9]}_{digest}"
        self._names[name], self._originals[word] = word, name

    def _fits(self, name: str) -> bool:
        return self._fitting.fullmatch(name) is not None


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool[tool["type"]]["name"])


def _word(name: str) -> str:
    """Return a name as a word, the same for the same name."""
    word = _UNSAFE.sub("_", name).strip("_")[:_LONGEST] or "tool"
    return f"_{word}" if word[0].isdigit() else word


def _function_of_text(custom: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a tool that takes a text as a function with one parameter."""
    format = custom.get("format") or {}
    grammar = format.get("grammar") or {}
    regex = grammar["definition"] if grammar.get("syntax") == "regex" else None
    function: dict[str, Any] = {"name": name, "parameters": text_parameters(regex)}
    if described := "\n\n".join(_description(custom, grammar)):
        function["description"] = described
    if regex is not None:
        function["strict"] = True
    return {"type": "function", "function": function}


def _description(custom: Mapping[str, Any], grammar: Mapping[str, Any]) -> Iterator[str]:
    if custom.get("description"):
        yield str(custom["description"])
    if grammar:
        kind = "regular expression" if grammar["syntax"] == "regex" else "Lark grammar"
        yield f"`{TEXT_PARAMETER}` has to match this {kind}:\n{grammar['definition']}"
