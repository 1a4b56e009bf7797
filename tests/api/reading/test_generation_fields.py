"""Prompts, lengths, counts and logprobs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gguf_worker.api.anthropic import read_messages
from gguf_worker.api.openai import read_responses
from gguf_worker.generation import TokenRules
from gguf_worker.providers import Priority
from tests.api.readers import ReadBody, body_fault, chat, completion, fault, native


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "0.5"),
        ("temperature", True),
        ("temperature", -0.1),
        ("temperature", 11),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 10**400),
        ("temperature", [1]),
        ("temperature", {"a": 1}),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_k", 2**31),
        ("top_k", -2),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("typical_p", 2),
        ("xtc_probability", 1.5),
        ("dry_base", 0.5),
        ("dry_sequence_breakers", "abc"),
        ("repeat_penalty", 0),
        ("repeat_penalty", 1e-46),
        ("repeat_penalty", 1e-38),
        ("mirostat", 3),
        ("mirostat", True),
        ("seed", 1.5),
        ("seed", "1"),
        ("max_tokens", -2),
        ("max_tokens", "10"),
        ("max_tokens", 2**31),
        ("stop", 3),
        ("stop", "x" * 257),
        ("stop", ["x"] * 65),
        ("include_stop_str_in_output", 1),
        ("min_tokens", -1),
        ("min_tokens", "1"),
        ("stop_token_ids", 5),
        ("stop_token_ids", [1] * 1025),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [1] * (2**16 + 1)),
        ("bad_words", 3),
        ("bad_words", ["x"] * 65),
        ("bad_words", "x" * 257),
        ("skip_special_tokens", "no"),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", 21),
        ("prompt_logprobs", True),
        ("stream", "true"),
        ("stream", 1),
        ("ignore_eos", 0),
        ("model", 5),
        ("n", 0),
        ("n", 17),
        ("n", "1"),
        ("n", 1.5),
        ("n", True),
        ("best_of", "1"),
        ("best_of", True),
        ("priority", 2),
        ("priority", "HIGH"),
        ("priority", ["high"]),
        ("user", 5),
        ("user", "x" * 257),
        ("safety_identifier", 5),
        ("safety_identifier", "x" * 257),
        ("logit_bias", [[1, 2]]),
        ("logit_bias", {str(token): 1 for token in range(1025)}),
    ],
)
@pytest.mark.parametrize("read", [native, chat, completion])
def test_a_wrong_type_or_range_is_refused_naming_the_field(
    read: ReadBody, field: str, value: Any
) -> None:
    error = fault(read, **{field: value})
    assert error.param == field
    assert f"`{field}`" in error.message
    assert error.status == 400


@pytest.mark.parametrize("read", [native, chat, completion])
def test_several_answers_can_be_asked_for_on_every_route(
    read: ReadBody,
) -> None:
    assert read().request.n == 1
    assert read(n=16).request.n == 16
    assert read(n=3, best_of=3) == read(n=3)
    assert read(n=2, temperature=0).request.n == 2


@pytest.mark.parametrize("read", [native, chat, completion])
@pytest.mark.parametrize("name", ["low", "normal", "high"])
def test_a_priority_is_one_of_three_words_on_every_route(read: ReadBody, name: str) -> None:
    assert read(priority=name).request.priority is Priority[name.upper()]
    assert read().request.priority is Priority.NORMAL


@pytest.mark.parametrize("read", [native, chat, completion])
def test_a_user_may_be_named_on_every_route_under_either_name(
    read: ReadBody,
) -> None:
    assert read().request.user == ""
    assert read(user="x" * 256).request.user == "x" * 256
    assert read(safety_identifier="ayşe").request.user == "ayşe"
    assert read(user="ayşe", safety_identifier="f00").request.user == "ayşe"


def test_openais_service_tier_is_no_priority() -> None:
    assert chat(service_tier="priority").warnings == ("unknown field 'service_tier' was ignored",)


def test_minus_one_tokens_are_as_many_as_fit() -> None:
    assert native(max_tokens=-1).request.max_tokens is None


@pytest.mark.parametrize("read", [native, chat, completion])
def test_llamas_name_for_the_most_tokens_is_read_too(read: ReadBody) -> None:
    for most in (-1, 0, 7):
        assert read(n_predict=most) == read(max_tokens=most)
    assert fault(read, n_predict=5, max_tokens=6).param == "max_tokens"


@pytest.mark.parametrize("read", [native, chat, completion])
def test_no_token_at_all_may_be_asked_for(read: ReadBody) -> None:
    assert read(max_tokens=0).request.max_tokens == 0


@pytest.mark.parametrize("read", [native, chat, completion])
@pytest.mark.parametrize("field", ["stop", "bad_words"])
@pytest.mark.parametrize(
    ("sent", "texts"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ([""], ()),
        ("a", ("a",)),
        (["", "a", "", "b"], ("a", "b")),
        ([""] * 100 + ["a"] * 64, ("a",) * 64),
    ],
    ids=lambda each: str(each)[:20],
)
def test_empty_texts_stand_for_nothing(
    read: ReadBody, field: str, sent: Any, texts: tuple[str, ...]
) -> None:
    request = read(**{field: sent}).request
    assert (request.stop if field == "stop" else request.rules.bad_words) == texts


@pytest.mark.parametrize("read", [native, chat, completion])
def test_rules_about_tokens_are_read_on_every_route(read: ReadBody) -> None:
    call = read(
        min_tokens=3,
        stop_token_ids=[5, 6],
        allowed_token_ids=[1, 5],
        bad_words=["no"],
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        truncate_prompt_tokens=-1,
    )
    request = call.request
    assert request.rules == TokenRules(3, (5, 6), (1, 5), ("no",))
    assert (request.show_stop, request.show_special, request.truncate) == (True, True, -1)
    assert call.warnings == ()


@pytest.mark.parametrize("read", [native, chat, completion])
def test_what_changes_nothing_is_as_if_it_was_not_sent(read: ReadBody) -> None:
    assert read() == read(
        min_tokens=0, stop_token_ids=[], bad_words=[], skip_special_tokens=True,
        include_stop_str_in_output=False,
    )  # fmt: skip


@pytest.mark.parametrize("more", [{"echo": True}, {"suffix": "end"}])
def test_a_prompt_that_is_needed_whole_is_not_cut(more: dict[str, Any]) -> None:
    assert fault(completion, truncate_prompt_tokens=5, **more).param == "truncate_prompt_tokens"
    assert completion(truncate_prompt_tokens=5, echo=False, suffix="").request.truncate == 5


@pytest.mark.parametrize("read", [native, chat, completion])
def test_an_answer_cannot_have_to_be_longer_than_it_may_be(read: ReadBody) -> None:
    assert read(min_tokens=5, max_tokens=5).request.rules.least == 5
    assert fault(read, min_tokens=6, max_tokens=5).param == "min_tokens"


@pytest.mark.parametrize("read", [native, chat, completion])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ignore_eos", True),
        ("min_tokens", 2),
        ("allowed_token_ids", [5]),
        ("bad_words", ["x"]),
    ],
)
def test_a_rule_that_a_format_could_break_is_refused_beside_one(
    read: ReadBody, field: str, value: Any
) -> None:
    error = fault(read, **{field: value}, guided_regex="a+")
    assert error.param == field
    assert "`guided_regex`" in error.message


def test_a_rule_is_refused_beside_a_demanded_call() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    error = fault(chat, tools=[tool], tool_choice="required", min_tokens=2)
    assert error.param == "min_tokens"
    assert chat(tools=[tool], min_tokens=2).request.rules.least == 2


def test_a_list_of_one_prompt_is_a_prompt() -> None:
    assert completion(prompt=["Hi"]) == completion()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [3]], ("a", (3,))),
    ],
)
def test_prompts_may_be_several_and_token_ids(prompt: Any, prompts: tuple[Any, ...]) -> None:
    assert completion(prompt=prompt).request.prompts == prompts
    assert completion(prompt=prompt, n=2).request.answers == 2 * len(prompts)


@pytest.mark.parametrize(
    "prompt",
    ["", 5, [], [""], [[]], [[[1]]], [1.5], [True], [-1], [2**31], [1, "a"], ["a"] * 129, {}],
    ids=str,
)
def test_other_prompts_are_refused_clearly(prompt: Any) -> None:
    error = fault(completion, prompt=prompt)
    assert error.param == "prompt"
    assert "`prompt` should" in error.message


def test_all_answers_to_all_prompts_are_bounded_together() -> None:
    assert completion(prompt=["a"] * 128).request.answers == 128
    assert fault(completion, prompt=["a"] * 65, n=2).param == "n"


@pytest.mark.parametrize(
    ("read", "body", "logprobs"),
    [
        (chat, {}, None),
        (chat, {"logprobs": False}, None),
        (chat, {"logprobs": True}, 0),
        (chat, {"logprobs": True, "top_logprobs": 20}, 20),
        (native, {"logprobs": True, "top_logprobs": 3}, 3),
        (completion, {"logprobs": 0}, 0),
        (completion, {"logprobs": 20}, 20),
    ],
)
def test_logprobs_are_counted_as_each_route_counts_them(
    read: ReadBody, body: dict[str, Any], logprobs: int | None
) -> None:
    assert read(**body).request.logprobs == logprobs


@pytest.mark.parametrize(
    ("read", "body", "param"),
    [
        (chat, {"logprobs": 3}, "logprobs"),
        (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (chat, {"top_logprobs": 2}, "top_logprobs"),
        (completion, {"logprobs": True}, "logprobs"),
        (completion, {"logprobs": 21}, "logprobs"),
        (completion, {"logprobs": 1, "echo": True, "prompt_logprobs": 2}, "prompt_logprobs"),
        (completion, {"prompt_logprobs": 2, "stream": True}, "prompt_logprobs"),
        (chat, {"prompt_logprobs": 2, "stream": True}, "prompt_logprobs"),
        (chat, {"echo": True}, "echo"),
    ],
)
def test_logprobs_that_cannot_be_had_are_refused(
    read: ReadBody, body: dict[str, Any], param: str
) -> None:
    assert fault(read, **body).param == param


def test_a_completion_may_have_a_suffix_behind_its_text() -> None:
    assert completion(suffix="end").request.suffix == "end"
    assert completion(suffix="").request.suffix == completion().request.suffix == ""
    assert fault(completion, prompt=[1, 2], suffix="end").param == "suffix"
    assert fault(chat, suffix="end").param == "suffix"
    assert fault(completion, suffix=5).param == "suffix"


def test_a_completion_may_repeat_its_prompt() -> None:
    assert completion(echo=True).request.echo
    assert not completion().request.echo


@pytest.mark.parametrize(
    ("read", "body", "likeliest", "shown"),
    [
        (completion, {"logprobs": 1}, None, False),
        (completion, {"echo": True}, None, False),
        (completion, {"echo": True, "logprobs": 0}, 0, False),
        (completion, {"echo": True, "logprobs": 5, "max_tokens": 0}, 5, False),
        (completion, {"echo": True, "logprobs": 5, "stream": True}, 5, False),
        (completion, {"echo": True, "logprobs": 2, "prompt_logprobs": 2}, 2, True),
        (completion, {"logprobs": 1, "prompt_logprobs": 2}, 2, True),
        (native, {"echo": True, "logprobs": True, "top_logprobs": 3}, 3, False),
        (native, {"prompt_logprobs": 0}, 0, True),
        (chat, {"prompt_logprobs": 4}, 4, True),
    ],
)
def test_the_logprobs_of_a_prompt_come_with_its_echo_or_by_themselves(
    read: ReadBody, body: dict[str, Any], likeliest: int | None, shown: bool
) -> None:
    call = read(**body)
    assert (call.request.prompt_logprobs, call.shows_prompt_logprobs) == (likeliest, shown)


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (read_responses, {"input": "Hi"}),
        (read_messages, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}),
    ],
)
def test_an_answer_that_cannot_carry_the_prompts_logprobs_refuses_them(
    read: ReadBody, body: dict[str, Any]
) -> None:
    assert body_fault({**body, "prompt_logprobs": 1}, read).param == "prompt_logprobs"
