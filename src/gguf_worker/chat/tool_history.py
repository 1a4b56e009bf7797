"""Rewrites the tools and calls of a chat into the form that the model's own template takes.

OpenAI writes arguments as JSON in a text and leaves the content of a call null. Templates disagree:
most print the arguments themselves and want an object, some add them to other text; some cannot add
null to text, some recognise a call by null content, some leave out the text beside one. So each
template is tried once, with small chats. What a client lost of a call (its id, its type, the end of
its arguments) is made up for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product, takewhile
from typing import Any

from gguf_worker.chat.normalise import TemplateMessage

TryTemplate = Callable[[Mapping[str, Any]], str]
"""Returns the template's text for some variables; "" if it refuses them."""

_NINE = re.compile(r"length\s*(!=|<)\s*9")
"""A condition in Mistral's templates, which refuse a call whose id has not nine characters.

The later ones take longer ids too, and write the last nine characters.
"""
_OTHER_THOUGHTS = ("thinking", "reasoning")
"""Fields in which some templates read a thought, in place of `reasoning_content`."""
_MOST_ENCODINGS = 3
"""JSON in a JSON text in a JSON text."""

_NAME, _KEY, _VALUE = "probe_tool", "probe_key", "probe_value"
_SAID, _RESULT = "probe_said", "probe_result"
_PROBE: tuple[TemplateMessage, ...] = (
    {"role": "user", "content": "A"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "probe0001",
                "type": "function",
                "function": {"name": _NAME, "arguments": json.dumps({_KEY: _VALUE})},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "probe0001", "name": _NAME, "content": _RESULT},
)
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "another",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    },
}


@dataclass(frozen=True, slots=True)
class _CallStyle:
    """The form in which a template takes arguments and missing content."""

    as_object: bool = True
    empty: str | None = ""


class ToolHistory:
    """Rewrites chats for one template, whose text is `source`; `try_template` renders it."""

    def __init__(self, try_template: TryTemplate, source: str) -> None:
        self._try = try_template
        nine = _NINE.search(source)
        self._id_lengths = {None: (0, 1 << 20), "!=": (9, 9), "<": (9, 1 << 20)}[nine and nine[1]]
        self._thoughts = [
            name
            for name in _OTHER_THOUGHTS
            if re.search(rf"message(?:\.|\[['\"]|\.get\(['\"]){name}\b", source)
        ]

    @property
    def writes_calls(self) -> bool:
        """True if the template writes calls and their results, in any style."""
        return self._style is not None

    def prepare(self) -> None:
        """Make the trials that are made when they are needed otherwise."""
        _ = self._style, self._leaves_out_text, self._leaves_out_calls

    @cached_property
    def example(self) -> Sequence[TemplateMessage]:
        """A call and its result as the template takes them; none if it writes no calls."""
        return self.rewrite(_PROBE[1:]) if self.writes_calls else ()

    def rewrite(self, messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
        """Return `messages` in the form that the template takes."""
        return [
            rewritten
            for message in _identified(messages)
            for rewritten in self._rewritten(self._with_thought(message))
        ]

    def _with_thought(self, message: TemplateMessage) -> TemplateMessage:
        """Return the message with its thought also in the field that the template reads.

        gpt-oss's template takes no thought in a message that has both calls and content.
        """
        thought = message.get("reasoning_content")
        if not self._thoughts or not thought:
            return message
        if message.get("tool_calls") and message.get("content") and "thinking" in self._thoughts:
            return message
        return {**dict.fromkeys(self._thoughts, thought), **message}

    def _rewritten(self, message: TemplateMessage) -> Sequence[TemplateMessage]:
        if message.get("tool_calls"):
            return self._called(message)
        if message.get("role") == "tool":
            id = self._id(message["tool_call_id"])
            return [{**message, "content": _text(message), "tool_call_id": id}]
        if message.get("role") == "assistant" and message.get("content") is None:
            return [{**message, "content": ""}]
        return [message]

    def _called(self, message: TemplateMessage) -> Sequence[TemplateMessage]:
        style, calls = self._style or _CallStyle(), message["tool_calls"]
        apart: list[TemplateMessage] = []
        if message.get("content") and self._leaves_out_text:
            apart = [{name: value for name, value in message.items() if name != "tool_calls"}]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
        if len(calls) == 1 or not self._leaves_out_calls:
            return [*apart, self._with_calls(message, style)]
        first, *others = ([call] for call in calls)
        apart.append(self._with_calls({**message, "tool_calls": first}, style))
        message = {"role": "assistant", "content": None}
        return apart + [self._with_calls({**message, "tool_calls": o}, style) for o in others]

    def _with_calls(self, message: TemplateMessage, style: _CallStyle) -> TemplateMessage:
        calls = [self._call(call, style) for call in message["tool_calls"]]
        content = message.get("content") or style.empty
        return {**message, "content": content, "tool_calls": calls}

    def _call(self, call: Mapping[str, Any], style: _CallStyle) -> Mapping[str, Any]:
        function = call.get("function")
        if not isinstance(function, Mapping):
            return call
        given = function.get("arguments")
        arguments = as_object(given) if style.as_object else _as_text(given)
        rewritten = {"type": "function", **call, "function": {**function, "arguments": arguments}}
        return {**rewritten, "id": self._id(call["id"])} if "id" in call else rewritten

    def _id(self, id: Any) -> Any:
        """Return an id that the template takes, the same for the same `id`."""
        least, most = self._id_lengths
        if not isinstance(id, str) or (most > 9 and len(id) >= least):
            return id
        if re.fullmatch(r"[a-zA-Z0-9]{9}", id):
            return id
        return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:9]

    @cached_property
    def _style(self) -> _CallStyle | None:
        """The first style in which the template writes a call and its arguments; None: none."""
        for as_object, empty in product((True, False), ("", None)):
            style = _CallStyle(as_object, empty)
            if self._works(style):
                return style
        return None

    @cached_property
    def _leaves_out_text(self) -> bool:
        """True if the template writes a call, but not together with the text beside it."""
        return self._style is not None and not self._works(self._style, said=_SAID)

    @cached_property
    def _leaves_out_calls(self) -> bool:
        """True if the template writes a call, but not two in one message."""
        return self._style is not None and not self._works(self._style, calls=2)

    def _works(self, style: _CallStyle, said: str | None = None, calls: int = 1) -> bool:
        user, assistant, result = _PROBE
        (call,) = assistant["tool_calls"]
        called = self._with_calls(
            {**assistant, "content": said, "tool_calls": [call] * calls}, style
        )
        text = self._try({"messages": [user, called, *[result] * calls], "tools": [_PROBE_TOOL]})
        written = all(text.count(word) >= calls for word in (_NAME, _KEY, _VALUE, _RESULT))
        return written and (said or "") in text and f"'{_KEY}'" not in text


def _identified(messages: Sequence[TemplateMessage]) -> Iterator[TemplateMessage]:
    """Yield `messages` with an id in each call, and the call's in each result.

    Results without one belong to the calls of the turn before that no other result names, in order.
    """
    invented = 0
    unanswered: deque[str] = deque()
    for at, message in enumerate(messages):
        calls = message.get("tool_calls")
        if calls:
            ids = [call.get("id") or f"c{invented + n:08d}" for n, call in enumerate(calls)]
            invented += len(ids)
            results = takewhile(lambda each: not each.get("tool_calls"), messages[at + 1 :])
            named = {each.get("tool_call_id") for each in results}
            unanswered = deque(id for id in ids if id not in named)
            pairs = zip(calls, ids, strict=True)
            yield {**message, "tool_calls": [{**call, "id": id} for call, id in pairs]}
        elif message.get("role") == "tool" and not message.get("tool_call_id"):
            id = unanswered.popleft() if unanswered else f"c{invented:08d}"
            invented += not unanswered
            yield {**message, "tool_call_id": id}
        else:
            yield message


def described(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `tool` with defaults for the fields that templates read without a check."""
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return tool
    missing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return {
        **tool,
        "function": {**function, **{k: v for k, v in missing.items() if k not in function}},
    }


def as_object(arguments: Any) -> Mapping[str, Any]:
    """Return a call's arguments as an object; what is none, such as a cut text, is held by one."""
    decoded = _decoded(arguments)
    return {"arguments": arguments} if decoded is None else decoded


def _as_text(arguments: Any) -> str:
    """Return arguments as the JSON of an object; a cut text stays as it is."""
    if isinstance(arguments, str) and _decoded(arguments) is None:
        return arguments
    return json.dumps(as_object(arguments), ensure_ascii=False)


def _decoded(arguments: Any) -> Mapping[str, Any] | None:
    for _ in range(_MOST_ENCODINGS + 1):
        if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
            return {}
        if not isinstance(arguments, str):
            break
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return arguments if isinstance(arguments, Mapping) else None


def _text(message: TemplateMessage) -> Any:
    content = message.get("content")
    return "" if content is None else content
