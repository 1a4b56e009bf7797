"""Messages reach every published shape of template whole, in their order, whatever their roles."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import dropwhile, product
from typing import Any

import jinja2
import pytest

from gguf_worker.chat import ChatTemplate
from gguf_worker.chat.normalise import MessageRules, normalised
from gguf_worker.chat.template import _environment
from tests.chat.template_shapes import (
    CHATML,
    GEMMA2,
    GEMMA3,
    LLAMA3,
    MISTRAL_V3,
    MISTRAL_V7,
    MOVES_SYSTEMS,
    QWEN3,
    QWEN35,
    SHAPES,
    SMOLVLM,
)

Message = Mapping[str, Any]

CALLABLE = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
TEMPLATES = {name: ChatTemplate(text, "<s>", "</s>") for name, text in SHAPES.items()}


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(roles: Sequence[str]) -> list[dict[str, Any]]:
    """A chat of these roles, in which each text is a word of its own."""
    return [said(role, f"word{at}w") for at, role in enumerate(roles)]


def call(at: int, number: int = 0) -> dict[str, Any]:
    function = {"name": "look", "arguments": json.dumps({"where": f"called{at}n{number}w"})}
    return {"id": f"call{at:03d}n{number}", "type": "function", "function": function}


@cache
def compiled(shape: str) -> jinja2.Template:
    environment = _environment(datetime.now)
    environment.filters["markdown_safe"] = str
    return environment.from_string(shape)


def raw(shape: str, messages: Sequence[Message]) -> str | None:
    """What the template makes of the messages as they are; None if it refuses them."""
    given = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "add_generation_prompt": True}
    try:
        return compiled(shape).render(messages=messages, **given)
    except (jinja2.TemplateError, TypeError):
        return None


def kept(text: str, words: Sequence[str], *, ordered: bool = True) -> None:
    places = [text.find(word) for word in words]
    assert -1 not in places, (words[places.index(-1)], text)
    assert not ordered or places == sorted(places), text


ROLES = [
    roles for size in range(1, 5) for roles in product(("system", "user", "assistant"), repeat=size)
]


@pytest.mark.parametrize("name", SHAPES)
def test_no_text_is_lost_and_the_order_stays_whatever_the_roles_are(name: str) -> None:
    ordered = name not in MOVES_SYSTEMS
    for roles in ROLES:
        messages = chat(roles)
        text = TEMPLATES[name].render(messages, {}).text
        kept(text, [each["content"] for each in messages], ordered=ordered)


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_template_takes_as_it_is_stays_as_it_is(name: str) -> None:
    alike = 0
    for roles in ROLES:
        messages = chat(roles)
        text = raw(SHAPES[name], messages)
        if text is None or not all(each["content"] in text for each in messages):
            continue
        if has_later_system(roles):  # some templates let one pass as an answer
            continue
        assert TEMPLATES[name].render(messages, {}).text == text, roles
        alike += 1
    assert alike or "parts" in name or name == "SmolVLM"


def has_later_system(roles: Sequence[str]) -> bool:
    return "system" in dropwhile(lambda role: role == "system", roles)


def random_chats(seed: int, number: int) -> Iterator[list[dict[str, Any]]]:
    """Chats with calls and results in every place, some of them of a broken client."""
    draw = random.Random(seed)
    for _ in range(number):
        messages: list[dict[str, Any]] = []
        for at in range(draw.randint(1, 9)):
            role = draw.choice(["system", "user", "assistant", "assistant", "called", "tool"])
            if role != "called":
                messages.append(said(role, f"word{at}w"))
                continue
            text = draw.choice([None, "", f"word{at}w"])
            calls = [call(at, number) for number in range(draw.choice([1, 1, 2]))]
            messages.append({**said("assistant", text), "tool_calls": calls})
            for each in calls[: draw.randint(0, 2)]:
                id = draw.choice([{"tool_call_id": each["id"]}, {}])
                messages.append(said("tool", f"result{each['id']}w") | id)
        yield messages


def words_of(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if message["content"]:
            yield message["content"]
        for each in message.get("tool_calls", ()):
            yield json.loads(each["function"]["arguments"])["where"]


@pytest.mark.parametrize("name", SHAPES)
def test_calls_and_results_are_kept_as_well(name: str) -> None:
    template = TEMPLATES[name]
    for messages in random_chats(7, 150):
        for tools in ((), (CALLABLE,)):
            text = template.render(messages, {}, tools=tools).text
            if template.writes_calls:
                kept(text, list(words_of(messages)), ordered=name not in MOVES_SYSTEMS)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("last", ["word", " word ", "<b>word</b>"])
def test_a_last_message_of_the_assistant_is_gone_on_from_at_its_end(name: str, last: str) -> None:
    for roles in (("user",), ("system", "user"), ("user", "assistant", "user"), ("assistant",), ()):
        messages = [*chat(roles), said("assistant", last)]
        rendered = TEMPLATES[name].render(messages, {}, ending="inside")
        assert rendered.text.endswith(last.lstrip())
        assert (rendered.within, rendered.thinking) == ("content", False)
        kept(rendered.text, [each["content"] for each in chat(roles)], ordered=False)


def test_a_system_prompt_goes_into_the_first_question_where_there_is_no_system_role() -> None:
    text = ChatTemplate(GEMMA2, "<s>", "").render([said("system", "S"), said("user", "U")], {}).text
    assert text == "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\n"


def test_a_later_system_message_is_marked_and_goes_into_the_users_next_turn() -> None:
    template = ChatTemplate(GEMMA3, "", "")
    messages = [*chat(("system", "user", "assistant")), said("system", "Now."), said("user", "U")]
    rendered = template.render(messages, {})
    assert "user\n<system>\nNow.\n</system>\n\nU<end_of_turn>" in rendered.text
    assert len(rendered.warnings) == 1
    assert template.render(messages[:3], {}).warnings == ()


def test_a_last_system_message_goes_into_the_users_turn_before() -> None:
    text = ChatTemplate(GEMMA2, "", "").render([said("user", "U"), said("system", "S")], {}).text
    assert "user\nU\n\n<system>\nS\n</system><end_of_turn>" in text


def test_turns_of_one_role_are_joined_where_they_have_to_alternate() -> None:
    messages = [said(r, c) for r, c in (("user", "a"), ("user", "b"), ("assistant", "c"))]
    text = ChatTemplate(GEMMA2, "", "").render([*messages, messages[2], messages[0]], {}).text
    assert text.split("<end_of_turn>\n")[:2] == [
        "<start_of_turn>user\na\n\nb", "<start_of_turn>model\nc\n\nc"
    ]  # fmt: skip


def test_a_greeting_comes_after_an_empty_turn_of_the_user() -> None:
    text = (
        ChatTemplate(GEMMA2, "", "").render([said("assistant", "Hi"), said("user", "a")], {}).text
    )
    assert text.startswith("<start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\nHi<")


def test_system_messages_alone_are_asked_as_a_question_where_one_is_needed() -> None:
    text = ChatTemplate(QWEN35, "", "").render([said("system", "S")], {}).text
    assert text.startswith("<|im_start|>user\nS<|im_end|>")


def test_content_goes_in_parts_where_a_text_would_be_dropped() -> None:
    text = ChatTemplate(SMOLVLM, "", "").render(chat(("system", "user")), {}).text
    assert text == (
        "<|im_start|>System: word0w<end_of_utterance>\nUser: word1w<end_of_utterance>\nAssistant:"
    )


@pytest.mark.parametrize("shape", [MISTRAL_V3, MISTRAL_V7])
def test_mistrals_users_may_speak_right_after_a_result(shape: str) -> None:
    messages = [
        said("user", "a"),
        {**said("assistant", "I look."), "tool_calls": [call(1)]},
        {**said("tool", "sunny"), "tool_call_id": call(1)["id"]},
        said("user", "b"),
    ]
    template = ChatTemplate(shape, "", "")
    text = template.render(messages, {}, tools=[CALLABLE]).text
    assert template.writes_calls
    assert "[TOOL_CALLS]" in text
    kept(text, ["[INST]a[/INST]", "I look.", "called1n0w", "sunny", "b[/INST]"])


def test_a_template_of_one_call_gets_several_as_texts() -> None:
    messages = [
        said("user", "a"), {**said("assistant", None), "tool_calls": [call(1, 0), call(1, 1)]}
    ]  # fmt: skip
    kept(ChatTemplate(LLAMA3, "", "").render(messages, {}).text, ["called1n0w", "called1n1w"])


def test_messages_that_break_no_rule_are_the_same_objects() -> None:
    messages = chat(("system", "user", "system", "assistant", "assistant"))
    assert normalised(messages, MessageRules()) is messages
    for shape in (CHATML, QWEN3):
        assert ChatTemplate(shape, "", "")._rules == MessageRules()


def test_content_in_parts_is_joined_part_by_part() -> None:
    part = {"type": "text", "text": "a"}
    users = [said("user", [part]), said("user", "b")]
    (turn,) = normalised(users, MessageRules(repeated_users=False))
    assert turn["content"] == [part, {"type": "text", "text": "b"}]


def test_thousands_of_turns_in_a_row_are_joined_in_one_go() -> None:
    users = [said("user", "x" * 4000)] * 4096
    (turn,) = normalised(users, MessageRules().strict)
    assert len(turn["content"]) == 4096 * 4002 - 2


def test_thoughts_of_joined_turns_are_joined_too() -> None:
    turns = [{**said("assistant", t), "reasoning_content": f"think {t}"} for t in ("a", "b")]
    (turn,) = normalised(turns, MessageRules(repeated_assistants=False))
    assert (turn["content"], turn["reasoning_content"]) == ("a\n\nb", "think a\n\nthink b")


def test_a_template_that_never_ends_gets_the_messages_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gguf_worker.chat.template._LONGEST_TRIAL", 0.1)
    slow = "{% if messages[0].content.startswith('probe') %}" + (
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}{% endif %}"
    )
    template = ChatTemplate(slow + GEMMA3, "", "")
    template.prepare()
    assert template._rules == MessageRules()
    assert "word1w" in template.render(chat(("user", "user")), {}).text
