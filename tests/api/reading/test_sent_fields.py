"""Fields as they were sent: names, paths of faults, and the bounds of a body."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from gguf_worker.api.anthropic import read_messages
from gguf_worker.api.openai import read_chat, read_responses
from gguf_worker.api.reading import CommonFields, GenerationCall, SamplerFields
from gguf_worker.api.reading.bounds import MAX_FIELDS
from gguf_worker.api.reading.sent_fields import UNSUPPORTED
from gguf_worker.api.reading.strict_model import TOO_NESTED
from gguf_worker.api.tokens import read_detokenize
from tests.api.readers import ReadBody, body_fault, chat, completion, fault, native


@pytest.mark.parametrize("read", [native, chat, completion])
def test_null_means_the_default_everywhere(read: ReadBody) -> None:
    names = set(SamplerFields.model_fields) | set(CommonFields.model_fields)
    names |= set(UNSUPPORTED) | {"max_completion_tokens", "chat_template_kwargs"}
    assert read(**dict.fromkeys(names)) == read()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"stop": ["ok", 5]}, "stop[1]"),
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
    ("body", "param"),
    [
        ({"best_of": 3}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
@pytest.mark.parametrize("read", [native, chat, completion])
def test_what_would_change_the_answer_is_never_silently_ignored(
    read: ReadBody, body: dict[str, Any], param: str
) -> None:
    error = fault(read, **body)
    assert error.param == param
    assert "not supported by this version" in error.message


def test_unsupported_fields_with_harmless_values_pass() -> None:
    harmless = {name: values[0] for name, values in UNSUPPORTED.items() if values}
    call = chat(**harmless)
    assert call == chat()


def test_unknown_fields_are_reported_by_path_and_have_no_effect() -> None:
    call = native(sampling_params={"output_kind": 0}, banana=1, temprature=2)
    names = "sampling_params.output_kind", "banana", "temprature"
    assert call.warnings == tuple(f"unknown field {name!r} was ignored" for name in names)
    assert call.warnings[0] == "unknown field 'sampling_params.output_kind' was ignored"
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
    assert chat(sampling_params={"top_p": 0.5}).warnings == (
        "unknown field 'sampling_params' was ignored",
    )


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
