"""The switches and budgets of thoughts, in every spelling and on every route."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from gguf_worker.api.anthropic import read_messages
from gguf_worker.api.native import read_native
from gguf_worker.api.openai.chat_reader import read_chat
from gguf_worker.api.openai.completions_reader import read_completion
from gguf_worker.api.openai.responses_reader import read_responses
from gguf_worker.api.reading import GenerationCall
from gguf_worker.errors import InvalidRequest

Body = dict[str, Any]

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def chat(body: Body) -> GenerationCall:
    return read_chat(CHAT | body, id="r", deadline=None)


def native(body: Body) -> GenerationCall:
    return read_native(CHAT | body, id="r", deadline=None)


def nested(body: Body) -> GenerationCall:
    return read_native({**CHAT, "sampling_params": body}, id="r", deadline=None)


def messages(body: Body) -> GenerationCall:
    return read_messages(CHAT | {"max_tokens": 9} | body, id="r", deadline=None)


def responses(body: Body) -> GenerationCall:
    return read_responses({"input": "Hi"} | body, id="r", deadline=None)


CHATS: Mapping[str, Callable[[Body], GenerationCall]] = {
    "chat": chat,
    "native": native,
    "nested": nested,
}

OFF: list[Body] = [
    {"reasoning_effort": "none"},
    {"enable_thinking": False},
    {"thinking": {"type": "disabled"}},
    {"thinking": {"type": "disabled", "budget_tokens": 100}},
    {"thinking": False},
    {"thinking": {"budget_tokens": 0}},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False}},
    {"reasoning": {"max_tokens": 0}},
    {"thinking_budget": 0},
    {"reasoning_budget": 0},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"chat_template_kwargs": {"thinking": False}},
    {"chat_template_kwargs": {"reasoning_effort": "none"}},
]
ON: list[Body] = [
    {"enable_thinking": True},
    {"thinking": {"type": "enabled"}},
    {"thinking": {"type": "enabled", "budget_tokens": 100}},
    {"thinking": True},
    {"reasoning": {"enabled": True}},
    {"chat_template_kwargs": {"enable_thinking": True}},
    {"chat_template_kwargs": {"thinking": True}},
]
LEFT: list[Body] = [
    {},
    {"reasoning_effort": "high"},
    {"thinking": {"type": "adaptive"}},
    {"thinking": {"type": "auto"}},
    {"thinking": {}},
    {"reasoning": {}},
    {"reasoning": {"effort": "low"}},
    {"thinking_budget": 5},
    {"thinking_budget": -1},
    {"chat_template_kwargs": {"thinking": "deep"}},
]
BUDGETS: list[Body] = [
    {"thinking_budget": 7},
    {"reasoning_budget": 7},
    {"reasoning_budget_tokens": 7},
    {"thinking_budget_tokens": 7},
    {"thinking_token_budget": 7},
    {"thinking_budget": 7, "reasoning_budget": 7},
    {"thinking": {"type": "enabled", "budget_tokens": 7}},
    {"thinking": {"type": "adaptive", "budget_tokens": 7}},
    {"reasoning": {"max_tokens": 7}},
    {"reasoning": {"max_tokens": 7}, "thinking_budget": 7},
]


def with_nulls(body: Body) -> Iterator[Body]:
    """Yield the body, and it with each other member null, beside it and within."""
    others = ("reasoning_effort", "enable_thinking", "thinking", "reasoning", "thinking_budget")
    yield body
    yield {**dict.fromkeys(others), **body}
    for name, value in body.items():
        if isinstance(value, dict) and name != "chat_template_kwargs":
            members = ("type", "budget_tokens") if name == "thinking" else ("effort", "enabled")
            yield {**body, name: {**dict.fromkeys(members), **value}}


@pytest.mark.parametrize("read", CHATS.values(), ids=list(CHATS))
@pytest.mark.parametrize(
    ("bodies", "thinks"), [(OFF, False), (ON, True), (LEFT, None)], ids=["off", "on", "left"]
)
def test_every_spelling_switches_thoughts(
    read: Callable[[Body], GenerationCall], bodies: list[Body], thinks: bool | None
) -> None:
    for body in bodies:
        for variant in with_nulls(body):
            call = read(variant)
            assert (call.request.thinking, call.warnings) == (thinks, ()), variant


@pytest.mark.parametrize("read", CHATS.values(), ids=list(CHATS))
def test_every_spelling_sets_the_budget(read: Callable[[Body], GenerationCall]) -> None:
    for body in BUDGETS:
        for variant in with_nulls(body):
            assert read(variant).request.thinking_budget == 7, variant
    for body in ({}, {"thinking_budget": -1}, {"thinking": {"type": "enabled"}}):
        assert read(body).request.thinking_budget is None


@pytest.mark.parametrize(
    ("thinking", "thinks", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, True, 2048),
        ({"type": "disabled"}, False, None),
        ({"type": "adaptive"}, None, None),
        (None, None, None),
    ],
)
def test_messages_have_anthropics_switch(
    thinking: Any, thinks: bool | None, budget: int | None
) -> None:
    request = messages({"thinking": thinking}).request
    assert (request.thinking, request.thinking_budget) == (thinks, budget)
    assert request.template_options == {}


@pytest.mark.parametrize(
    ("reasoning", "thinks"),
    [
        ({"effort": "none"}, False),
        ({"effort": "low"}, None),
        ({"effort": None}, None),
        (None, None),
    ],
)
def test_responses_have_openais_switch(reasoning: Any, thinks: bool | None) -> None:
    assert responses({"reasoning": reasoning}).request.thinking is thinks


def test_the_templates_own_variables_go_before_other_fields() -> None:
    own = {"chat_template_kwargs": {"enable_thinking": False}}
    for body in ON[:5]:
        assert chat(own | body).request.thinking is False
    assert messages(own | {"thinking": {"type": "enabled"}}).request.thinking is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"thinking": {"type": "enabled"}, "enable_thinking": False}, "thinking.type"),
        ({"thinking": {"type": "enabled"}, "reasoning": {"enabled": False}}, "reasoning.enabled"),
        ({"thinking": True, "thinking_budget": 0}, "thinking_budget"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "none"}}, "reasoning.effort"),
        ({"thinking_budget": 5, "thinking": {"budget_tokens": 6}}, "thinking.budget_tokens"),
        ({"thinking_budget": 5, "reasoning": {"max_tokens": 6}}, "reasoning.max_tokens"),
        ({"thinking_budget": 5, "reasoning_budget": 6}, "reasoning_budget"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_name(body: Body, param: str) -> None:
    for read in (chat, native):
        with pytest.raises(InvalidRequest) as refused:
            read(body)
        assert refused.value.param == param


@pytest.mark.parametrize("name", ["thinking", "reasoning"])
@pytest.mark.parametrize("value", ["on", 1, [], ["enabled"], {"type": 1}, {"enabled": "yes"}])
def test_a_switch_of_the_wrong_type_is_refused_by_name(name: str, value: Any) -> None:
    if value in ({"type": 1}, {"enabled": "yes"}) and (name == "thinking") is ("enabled" in value):
        return  # the other one's member
    for read in CHATS.values():
        with pytest.raises(InvalidRequest) as refused:
            read({name: value})
        assert refused.value.param is not None
        assert name in refused.value.param


@pytest.mark.parametrize("value", ["7", -2, 2**40, [7], {"a": 7}, True])
def test_a_budget_of_the_wrong_type_is_refused_by_the_name_that_was_sent(value: Any) -> None:
    for body, name in (
        ({"thinking_budget": value}, "thinking_budget"),
        ({"thinking_token_budget": value}, "thinking_token_budget"),
        ({"thinking": {"budget_tokens": value}}, "thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": value}}, "reasoning.max_tokens"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            chat(body)
        assert refused.value.param == name


def test_beside_a_prompt_the_switches_have_no_effect_and_that_is_said() -> None:
    body = {"prompt": "Hi", "thinking_budget": 5, "reasoning_effort": "none"}
    for call in (
        read_native(body, id="r", deadline=None),
        read_completion(body, id="r", deadline=None),
    ):
        assert (call.request.thinking, call.request.thinking_budget) == (None, None)
        assert [warning.split()[0] for warning in call.warnings] == [
            "`reasoning_effort`",
            "`thinking_budget`",
        ]


def test_a_thought_cannot_be_left_out_of_the_answer_and_that_is_said() -> None:
    assert chat({"reasoning": {"exclude": False}}).warnings == ()
    (warning,) = chat({"reasoning": {"exclude": True}}).warnings
    assert "reasoning.exclude" in warning
