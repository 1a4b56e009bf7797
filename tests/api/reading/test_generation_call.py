from __future__ import annotations

import math
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gguf_worker.api.anthropic import read_messages
from gguf_worker.api.native import read_native
from gguf_worker.api.openai import read_chat, read_completion, read_responses
from gguf_worker.api.reading import CommonFields, GenerationCall, SamplerFields
from gguf_worker.api.reading.bounds import MAX_FIELDS
from gguf_worker.api.reading.sent_fields import UNSUPPORTED
from gguf_worker.api.reading.strict_model import TOO_NESTED
from gguf_worker.api.tokens import read_detokenize
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Sampling
from gguf_worker.providers import Priority

BodyReader = Callable[..., GenerationCall]


def native(**body: Any) -> GenerationCall:
    return read_native({"prompt": "Hi", **body}, id="r1", deadline=None)


def chat(**body: Any) -> GenerationCall:
    messages = [{"role": "user", "content": "Hi"}]
    return read_chat({"messages": messages, **body}, id="r1", deadline=None)


def completion(**body: Any) -> GenerationCall:
    return read_completion({"prompt": "Hi", **body}, id="r1", deadline=None)


def fault(read: Callable[..., GenerationCall], **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    assert caught.value.__context__ is None or "Hi" not in str(caught.value.__context__)
    return caught.value


def body_fault(body: Mapping[str, Any], read: BodyReader = read_native) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(body, id="r1", deadline=None)
    return caught.value


def content_of(content: Any, role: str = "user") -> Any:
    request = chat(messages=[{"role": role, "content": content}]).request
    assert request.messages is not None
    return request.messages[0]["content"]


def test_every_sampler_setting_of_the_engine_can_be_sent_and_no_other() -> None:
    assert set(SamplerFields.model_fields) == set(Sampling.__struct_fields__)


def test_what_is_not_sent_keeps_the_engines_default() -> None:
    assert native().request.sampling == Sampling()


def test_a_request_carries_what_was_sent() -> None:
    call = read_native(
        {
            "prompt": "Once",
            "temperature": 1,
            "top_k": -1,
            "dry_sequence_breakers": ["\n"],
            "logit_bias": {"15": -100, "3": 2.5},
            "seed": 7,
            "max_tokens": 5,
            "stop": ["a", "b"],
            "ignore_eos": True,
            "stream": True,
        },
        id="r9",
        deadline=12.5,
    )
    request = call.request
    assert (request.id, request.prompts, request.messages, request.deadline) == (
        "r9",
        ("Once",),
        None,
        12.5,
    )
    assert (request.max_tokens, request.stop, request.ignore_eos) == (5, ("a", "b"), True)
    assert call.stream
    assert request.sampling == Sampling(
        temperature=1.0,
        top_k=-1,
        dry_sequence_breakers=("\n",),
        logit_bias=((3, 2.5), (15, -100.0)),
        seed=7,
    )
    assert isinstance(request.sampling.temperature, float)


@pytest.mark.parametrize("read", [native, chat, completion])
def test_null_means_the_default_everywhere(read: Callable[..., GenerationCall]) -> None:
    names = set(SamplerFields.model_fields) | set(CommonFields.model_fields)
    names |= set(UNSUPPORTED) | {"max_completion_tokens", "chat_template_kwargs"}
    assert read(**dict.fromkeys(names)) == read()


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
        ("mirostat", 3),
        ("mirostat", True),
        ("seed", 1.0),
        ("seed", "1"),
        ("max_tokens", 0),
        ("max_tokens", -2),
        ("max_tokens", "10"),
        ("max_tokens", 2**31),
        ("stop", 3),
        ("stop", ""),
        ("stop", "x" * 257),
        ("stop", ["x"] * 17),
        ("stream", "true"),
        ("stream", 1),
        ("ignore_eos", 0),
        ("model", 5),
        ("n", 0),
        ("n", 17),
        ("n", "1"),
        ("n", 1.0),
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
    read: Callable[..., GenerationCall], field: str, value: Any
) -> None:
    error = fault(read, **{field: value})
    assert error.param == field
    assert f"`{field}`" in error.message
    assert error.status == 400


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"stop": ["ok", ""]}, "stop[1]"),
        ({"dry_sequence_breakers": ["\n", "x" * 41]}, "dry_sequence_breakers[1]"),
        ({"logit_bias": {"12": 101}}, "logit_bias.12"),
        ({"logit_bias": {"hello": 1}}, "logit_bias.hello"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"5": 1, "6": 1, "05": 1}}, "logit_bias"),
        ({"logit_bias": {"12": True}}, "logit_bias.12"),
        ({"logit_bias": {"x" * 80: 1}}, "logit_bias." + "x" * 64),
        ({"logit_bias": {"1" * 80: 1}}, "logit_bias." + "1" * 64),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"sampling_params": {"top_p": 7}}, "sampling_params.top_p"),
        ({"sampling_params": {"repetition_penalty": 0}}, "sampling_params.repetition_penalty"),
        ({"sampling_params": {"n": 17}}, "sampling_params.n"),
        ({"sampling_params": {"best_of": 2}}, "sampling_params.best_of"),
        ({"sampling_params": 3}, "sampling_params"),
        ({"repetition_penalty": "x"}, "repetition_penalty"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "60"}, "timeout"),
        ({"timeout": 8 * 24 * 3600}, "timeout"),
    ],
)
def test_the_path_of_a_fault_is_in_the_callers_words(body: dict[str, Any], path: str) -> None:
    assert fault(native, **body).param == path


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1].content"),
        ({"role": "system", "content": None}, "messages[1].content"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "user", "content": {"type": "text"}}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": ["text"]}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}] * 1025},
            "messages[1].content",
        ),
        ({"role": "wizard", "content": "x"}, "messages[1].role"),
        ({"role": ["user"], "content": "x"}, "messages[1].role"),
        ({"content": "x"}, "messages[1].role"),
        ("hello", "messages[1]"),
        (None, "messages[1]"),
    ],
)
def test_a_bad_message_is_named_by_its_place(message: Any, path: str) -> None:
    error = fault(chat, messages=[{"role": "user", "content": "Hi"}, message])
    assert error.param == path
    assert f"`{path}`" in error.message


@pytest.mark.parametrize(
    "messages",
    [[], "hello", {"role": "user", "content": "x"}, [{"role": "user", "content": "x"}] * 4097],
)
def test_messages_are_a_list_of_sane_length(messages: Any) -> None:
    assert fault(chat, messages=messages).param == "messages"


def test_an_image_is_refused_rather_than_overlooked() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    error = fault(
        chat, messages=[{"role": "user", "content": [{"type": "text", "text": "See"}, image]}]
    )
    assert error.param == "messages[0].content"
    assert "'image_url'" in error.message
    assert "not supported by this version" in error.message


def test_text_parts_are_joined_by_line() -> None:
    assert content_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "a\nb"


def test_an_assistant_may_have_said_nothing() -> None:
    assert content_of(None, role="assistant") == ""


def test_an_assistant_that_called_a_tool_keeps_its_missing_content() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turn = {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None}
    request = chat(messages=[turn, {"role": "tool", "tool_call_id": "c1", "content": "5"}]).request
    assert request.messages == (
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    )


def test_a_developer_message_is_a_system_message() -> None:
    request = chat(messages=[{"role": "developer", "content": "x"}]).request
    assert request.messages == ({"role": "system", "content": "x"},)


def test_template_options_are_passed_on() -> None:
    request = chat(chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low").request
    assert request.template_options == {"enable_thinking": False, "reasoning_effort": "low"}


def test_whether_to_think_may_be_said_beside_the_messages() -> None:
    asked = chat(enable_thinking=False)
    assert (asked.request.template_options, asked.unknown) == ({"enable_thinking": False}, ())
    assert chat(enable_thinking=None).request.template_options == {}
    assert fault(chat, enable_thinking="no").param == "enable_thinking"


def test_template_options_are_bounded() -> None:
    error = fault(chat, chat_template_kwargs={"x": "y" * 70_000})
    assert error.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"best_of": 3}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"stop_token_ids": [2]}, "stop_token_ids"),
    ],
)
@pytest.mark.parametrize("read", [native, chat, completion])
def test_what_would_change_the_answer_is_never_silently_ignored(
    read: Callable[..., GenerationCall], body: dict[str, Any], param: str
) -> None:
    error = fault(read, **body)
    assert error.param == param
    assert "not supported by this version" in error.message


def test_unsupported_fields_with_harmless_values_pass() -> None:
    harmless = {name: values[0] for name, values in UNSUPPORTED.items() if values}
    call = chat(**harmless)
    assert call == chat()


def test_unknown_fields_are_reported_by_path_and_have_no_effect() -> None:
    call = native(sampling_params={"skip_special_tokens": True}, banana=1, temprature=2)
    assert call.unknown == ("sampling_params.skip_special_tokens", "banana", "temprature")
    assert call.warnings[0] == "unknown field 'sampling_params.skip_special_tokens' was ignored"
    assert call.request == native().request


def test_a_flood_of_unknown_fields_gives_few_and_short_warnings() -> None:
    warnings = native(**{f"{n:05}" + "x" * 1000: n for n in range(5000)}).warnings
    assert len(warnings) == 17
    assert warnings[-1] == "4984 more unknown fields were ignored"
    assert sum(map(len, warnings)) < 3000


def test_known_fields_give_no_warning() -> None:
    assert native(timeout=5, stream=False, max_completion_tokens=3, typ_p=0.5).warnings == ()


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("repetition_penalty", "repeat_penalty", 1.1),
        ("typ_p", "typical_p", 0.5),
    ],
)
def test_an_alias_sets_the_same_thing(alias: str, name: str, value: float) -> None:
    assert getattr(native(**{alias: value}).request.sampling, name) == value


def test_two_names_for_one_thing_may_agree_but_not_differ() -> None:
    assert native(max_tokens=5, max_completion_tokens=5).request.max_tokens == 5
    assert fault(native, max_tokens=5, max_completion_tokens=6).param == "max_completion_tokens"
    assert fault(native, top_p=0.5, sampling_params={"top_p": 0.6}).param == "sampling_params.top_p"


def test_nested_sampling_params_are_those_of_the_top() -> None:
    nested = native(sampling_params={"top_p": 0.5, "max_tokens": 9, "stop": "x"})
    assert nested == native(top_p=0.5, max_tokens=9, stop="x")


def test_sampling_params_are_not_for_openai_bodies() -> None:
    assert chat(sampling_params={"top_p": 0.5}).unknown == ("sampling_params",)


@pytest.mark.parametrize(
    ("seed", "kept"),
    [
        (0, 0),
        (7, 7),
        (-1, None),
        (-(10**30), None),
        (2**32 - 2, 2**32 - 2),
        (2**32 - 1, 0),
        (2**40, 256),
    ],
)
def test_a_seed_fits_32_bits_and_a_negative_one_is_drawn(seed: int, kept: int | None) -> None:
    assert native(seed=seed).request.sampling.seed == kept


@pytest.mark.parametrize("read", [native, chat, completion])
def test_several_answers_can_be_asked_for_on_every_route(
    read: Callable[..., GenerationCall],
) -> None:
    assert read().request.n == 1
    assert read(n=16).request.n == 16
    assert read(n=3, best_of=3) == read(n=3)
    assert read(n=2, temperature=0).request.n == 2


@pytest.mark.parametrize("read", [native, chat, completion])
@pytest.mark.parametrize("name", ["low", "normal", "high"])
def test_a_priority_is_one_of_three_words_on_every_route(
    read: Callable[..., GenerationCall], name: str
) -> None:
    assert read(priority=name).request.priority is Priority[name.upper()]
    assert read().request.priority is Priority.NORMAL


@pytest.mark.parametrize("read", [native, chat, completion])
def test_a_user_may_be_named_on_every_route_under_either_name(
    read: Callable[..., GenerationCall],
) -> None:
    assert read().request.user == ""
    assert read(user="x" * 256).request.user == "x" * 256
    assert read(safety_identifier="ayşe").request.user == "ayşe"
    assert read(user="ayşe", safety_identifier="f00").request.user == "ayşe"


def test_openais_service_tier_is_no_priority() -> None:
    assert chat(service_tier="priority").unknown == ("service_tier",)


def test_minus_one_tokens_are_as_many_as_fit() -> None:
    assert native(max_tokens=-1).request.max_tokens is None


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


# Log probabilities


@pytest.mark.parametrize(
    ("read", "body", "logprobs"),
    [
        (chat, {}, None),
        (chat, {"logprobs": False}, None),
        (chat, {"logprobs": True}, 0),
        (chat, {"logprobs": True, "top_logprobs": 20}, 20),
        (native, {"logprobs": True, "top_logprobs": 3}, 3),
        (completion, {"logprobs": 0}, 0),
        (completion, {"logprobs": 5}, 5),
    ],
)
def test_logprobs_are_counted_as_each_route_counts_them(
    read: Callable[..., GenerationCall], body: dict[str, Any], logprobs: int | None
) -> None:
    assert read(**body).request.logprobs == logprobs


@pytest.mark.parametrize(
    ("read", "body", "param"),
    [
        (chat, {"logprobs": 3}, "logprobs"),
        (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (chat, {"top_logprobs": 2}, "top_logprobs"),
        (completion, {"logprobs": True}, "logprobs"),
        (completion, {"logprobs": 6}, "logprobs"),
        (completion, {"logprobs": 1, "echo": True}, "echo"),
        (chat, {"echo": True}, "echo"),
    ],
)
def test_logprobs_that_cannot_be_had_are_refused(
    read: Callable[..., GenerationCall], body: dict[str, Any], param: str
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


# Calls in the history


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (
            {"function": {"name": "f", "arguments": 5}},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"function": {"arguments": "{}"}}, "messages[0].tool_calls[0].function.name"),
        ({"type": "custom", "function": {"name": "f"}}, "messages[0].tool_calls[0].type"),
        ({}, "messages[0].tool_calls[0].function"),
        ("f", "messages[0].tool_calls[0]"),
    ],
)
def test_a_call_in_the_history_has_a_name_and_arguments(call: Any, path: str) -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    error = fault(chat, messages=[turn])
    assert error.param is not None
    assert error.param.startswith(path)


@pytest.mark.parametrize(
    ("read", "body", "param"),
    [
        (read_native, {"temperature": 1}, "prompt"),
        (read_native, {"prompt": None}, "prompt"),
        (read_native, {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "messages"),
        (read_chat, {}, "messages"),
        (read_chat, {"messages": None}, "messages"),
        (read_chat, {"prompt": "x"}, "prompt"),
        (read_completion, {}, "prompt"),
        (read_completion, {"prompt": "x", "messages": []}, "messages"),
    ],
)
def test_exactly_what_the_route_answers_to_must_be_there(
    read: BodyReader, body: dict[str, Any], param: str
) -> None:
    assert body_fault(body, read).param == param


@pytest.mark.parametrize("include", [True, False, None])
def test_usage_comes_when_asked_for(include: bool | None) -> None:
    options = {"include_usage": include, "include_obfuscation": False}
    assert chat(stream=True, stream_options=options).include_usage is bool(include)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "\ud800"},
        {"messages": [{"role": "user", "content": "a\udc00"}]},
        {"messages": [{"role": "user", "content": "a", "\ud800": 1}]},
        {"prompt": "a", "stop": ["\ud800"]},
        {"prompt": "a", "\ud800": 1},
        {"prompt": "a", "sampling_params": {"x": "\ud800"}},
    ],
)
def test_text_that_is_no_unicode_is_refused(body: dict[str, Any]) -> None:
    error = body_fault(body)
    assert "Unicode" in error.message
    assert str(error.param).isascii()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": []}, "tool_choice"),
        ({"tool_choice": {"type": "x"}}, "tool_choice"),
        ({"structured_outputs": {"json": [1]}}, "structured_outputs.json"),
        ({"guided_json": [1]}, "guided_json"),
        ({"response_format": []}, "response_format"),
    ],
)
def test_a_fault_in_a_field_of_several_kinds_has_a_path_too(
    body: dict[str, Any], param: str
) -> None:
    path = fault(chat, **body).param
    assert path is not None
    assert path.startswith(param)
    assert all(part.isidentifier() for part in path.split("."))


@pytest.mark.parametrize("one", [False, 0.0])
def test_two_names_of_a_field_differ_if_only_their_types_do(one: Any) -> None:
    assert fault(native, typical_p=0, typ_p=one).param == "typ_p"


def test_the_parts_of_all_messages_together_are_bounded() -> None:
    parts = [{"type": "text", "text": ""}] * 1000
    messages = [{"role": "user", "content": parts}] * 17
    assert chat(messages=messages[:16]).request.messages
    error = fault(chat, messages=messages)
    assert error.param == "messages"
    assert "16384 content parts" in error.message


def test_bottomless_nesting_is_refused() -> None:
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    assert fault(native, banana=deep).param == "banana"


def test_of_objects_without_number_none_is_looked_into() -> None:
    many: list[dict[str, Any]] = [{}] * 1_000_000
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        error = fault(chat, unknown=many)
    finally:
        sys.setprofile(None)
    assert (error.param, error.message) == ("unknown", f"`unknown` {TOO_NESTED}.")
    assert calls < 2_100_000, "a call and its return, to see what each is"


def test_a_fault_does_not_repeat_what_the_caller_wrote() -> None:
    error = fault(chat, messages=[{"role": "my secret", "content": "another secret"}])
    assert "secret" not in error.message


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("depth", [250, *range(900, 1000, 4)])
def test_what_is_nested_deeper_than_the_limit_is_refused_long_before_python_gives_up(
    depth: int,
) -> None:
    for field in ("json_schema", "chat_template_kwargs", "functions", "unknown"):
        error = fault(chat, **{field: nested(depth)})
        assert (error.param, error.message) == (field, f"`{field}` {TOO_NESTED}.")
    text = '{"a":' * depth + "1" + "}" * depth
    assert fault(chat, guided_json=text).param == "guided_json"


def test_what_is_nested_as_deep_as_people_do_is_taken() -> None:
    assert chat(json_schema=nested(100)).request.grammar is not None
    assert chat(json_schema={"anyOf": [nested(3)] * 300}).request.grammar is not None


def test_a_schema_as_text_is_measured_before_it_is_read_and_has_to_be_unicode() -> None:
    assert "larger" in fault(chat, guided_json='"' + "x" * 300_000).message
    assert fault(chat, guided_json='{"a": "\\ud800"}').param == "guided_json"


def test_a_body_has_a_bounded_number_of_fields() -> None:
    many = {f"x{number}": 1 for number in range(MAX_FIELDS)}
    assert "fields" in fault(native, **many).message
    assert "fields" in fault(native, sampling_params=many | {"y": 1}).message


def test_of_many_faults_only_few_are_looked_for() -> None:
    """Each costs about a kilobyte and a few microseconds, and only the first is told."""
    call = {"function": {"name": ""}}
    many = {"role": "assistant", "tool_calls": [call] * 100}
    wrong: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (chat, {"logit_bias": {f"x{number}": 1 for number in range(100_000)}}),
        (read_chat_of, {"messages": [many] * 1000}),
        (detokenize, {"tokens": ["x"] * 100_000}),
        (messages, {"stop_sequences": [1] * 100_000}),
        (responses, {"metadata": {f"x{number}": 1 for number in range(100_000)}}),
    ]
    for read, body in wrong:
        tracemalloc.start()
        try:
            fault(read, **body)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 12 * 2**20, read


def read_chat_of(**body: Any) -> GenerationCall:
    return read_chat(body, id="r1", deadline=None)


def detokenize(**body: Any) -> Any:
    return read_detokenize(body, id="r1", deadline=None)


def messages(**body: Any) -> GenerationCall:
    said = [{"role": "user", "content": "Hi"}]
    return read_messages({"messages": said, "max_tokens": 1, **body}, id="r1", deadline=None)


def responses(**body: Any) -> GenerationCall:
    return read_responses({"input": "Hi", **body}, id="r1", deadline=None)
