"""Conversations as clients replay them: every route that takes a chat reads them alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gguf_worker.api.native import read_native
from gguf_worker.api.openai import read_chat
from gguf_worker.api.tokens import read_tokenize
from gguf_worker.chat import ChatTemplate
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import GenerationRequest
from tests.chat.template_shapes import SHAPES

Read = Callable[[dict[str, Any]], GenerationRequest]

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "well", "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "result"},
    {"role": "user", "content": "thanks"},
]
MISSING = object()
LEFT_OUT = (None, MISSING, "")
VALUES: dict[str, tuple[Any, ...]] = {
    "content": (*LEFT_OUT, []),
    "reasoning_content": (*LEFT_OUT, 5, [], {}),
    "reasoning": (None, "", 5, [], {}),
    "tool_calls": (None, MISSING, []),
    "id": (*LEFT_OUT, 5, [], {}),
    "tool_call_id": (*LEFT_OUT, 5, [], {}),
    "type": LEFT_OUT,
    "arguments": (*LEFT_OUT, "null", '"{}"', '{"cut', "[1]", {}, {"a": [1]}),
    "name": (None, ""),
    "refusal": (None,),
    "index": (None, 0),
    "function_call": (None,),
}
WRONG: dict[str, tuple[Any, ...]] = {
    "content": (5, {}, [5]),
    "tool_calls": (5, "x", {}, [5]),
    "type": (5, [], "image"),
    "arguments": (5, [1], True),
}


def places(name: str) -> list[tuple[int, str]]:
    """Where a member of this name may stand: the message, and what in it holds the member."""
    return {
        "id": [(1, "call")],
        "type": [(1, "call")],
        "index": [(1, "call")],
        "arguments": [(1, "function")],
        "tool_call_id": [(2, "message")],
        "content": [(1, "message"), (2, "message")],
    }.get(name, [(1, "message")])


def variants(values: dict[str, tuple[Any, ...]]) -> Iterator[Any]:
    for name, some in values.items():
        for value in some:
            for at, holder in places(name):
                messages = copy.deepcopy(CONVERSATION)
                call = messages[1]["tool_calls"][0]
                held = {"message": messages[at], "call": call, "function": call["function"]}[holder]
                held[name] = value
                if value is MISSING:
                    del held[name]
                shown = "missing" if value is MISSING else repr(value)
                yield pytest.param(messages, id=f"{at}-{name}-{shown}")


def tokenized(body: dict[str, Any]) -> GenerationRequest:
    source = read_tokenize(body, id="r", deadline=None).source
    assert isinstance(source, GenerationRequest)
    return source


READERS: dict[str, Read] = {
    "chat": lambda body: read_chat(body, id="r", deadline=None).request,
    "native": lambda body: read_native(body, id="r", deadline=None).request,
    "tokenize": tokenized,
}
TEMPLATES = [ChatTemplate(SHAPES[name], "", "") for name in ("Mistral v0.3", "GLM", "DeepSeek R1")]


@pytest.mark.parametrize("read", list(READERS.values()), ids=list(READERS))
@pytest.mark.parametrize("messages", list(variants(VALUES)))
def test_what_a_client_lost_of_a_turn_is_read_and_written(read: Read, messages: Any) -> None:
    request = read({"messages": messages})
    assert request.messages is not None
    for template in TEMPLATES:
        text = template.render(request.messages, {}).text
        for each in messages:
            assert (each.get("content") or "question") in text
        assert "look" in text or not messages[1].get("tool_calls")


@pytest.mark.parametrize("read", list(READERS.values()), ids=list(READERS))
@pytest.mark.parametrize("messages", list(variants(WRONG)))
def test_what_is_of_the_wrong_type_is_refused_by_its_name(read: Read, messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"messages": messages})
    assert str(caught.value.param).startswith("messages[")
