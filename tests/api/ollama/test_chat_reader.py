"""Bodies of /api/chat, read as a chat completion's: each field's sense, and its refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gguf_worker.api.ollama import read_ollama_chat
from gguf_worker.api.reading import GenerationCall
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Sampling

HI = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def read(*messages: Mapping[str, Any], **body: Any) -> GenerationCall:
    return read_ollama_chat({"messages": list(messages) or [HI], **body}, id="r1", deadline=None)


def turns(*messages: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(read(*messages).request.messages or ())


def fault(*messages: Mapping[str, Any], **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(*messages, **body)
    return caught.value


@pytest.mark.parametrize("body", [{}, {"stream": None}, {"stream": True}])
def test_an_answer_is_streamed_unless_the_caller_wants_it_whole(body: dict[str, Any]) -> None:
    assert read(**body).stream
    assert not read(**body | {"stream": False}).stream


def test_a_chat_keeps_its_turns() -> None:
    system, user = {"role": "system", "content": "Be brief."}, HI
    answer = {"role": "assistant", "content": "Yes.", "thinking": "Hm"}
    assert turns(system, user, answer, user) == [
        system,
        user,
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm"},
        user,
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5, "top_k": 3, "seed": 7, "repeat_penalty": 1.1, "mirostat": 1},
        {"temperature": 0, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9, "repeat_last_n": -1},
    ],
)
def test_the_options_of_the_sampler_are_its_settings(options: dict[str, Any]) -> None:
    assert read(options=options).request.sampling == Sampling(**options)


@pytest.mark.parametrize(("sent", "limit"), [(5, 5), (-1, None), (-2, None), (None, None)])
def test_an_answers_length_is_an_option(sent: int | None, limit: int | None) -> None:
    assert read(options={"num_predict": sent}).request.max_tokens == limit


@pytest.mark.parametrize("stop", ["a", ["a", "b"]])
def test_stop_strings_are_an_option(stop: Any) -> None:
    assert "a" in read(options={"stop": stop}).request.stop


@pytest.mark.parametrize(
    "hint",
    [
        *({"options": {name: 1}} for name in ("num_ctx", "num_gpu", "num_thread", "num_keep")),
        *({"options": {"use_mmap": each}} for each in (True, None)),
        *({"keep_alive": each} for each in ("5m", -1, 0, 300, None)),
        *({"truncate": each} for each in (True, False, None)),
        *({"shift": each} for each in (True, False, None)),
        {"format": None}, {"format": ""}, {"tools": None}, {"tools": []}, {"think": None},
        {"options": None}, {"options": {}}, {"options": {"stop": None, "temperature": None}},
    ],
)  # fmt: skip
def test_a_hint_and_null_change_nothing(hint: dict[str, Any]) -> None:
    plain, hinted = read(), read(**hint)
    assert hinted.request == plain.request
    assert hinted.warnings == ()


def test_unknown_fields_and_options_are_named_in_warnings() -> None:
    call = read(options={"banana": 1, "tfs_z": 1.0, "apple": None}, cherry=2)
    assert call.warnings == (
        "unknown field 'cherry' was ignored",
        "unknown option 'banana' was ignored",
        "unknown option 'tfs_z' was ignored",
    )


def test_many_unknown_options_are_counted() -> None:
    warnings = read(options={f"a{number}": 1 for number in range(20)}).warnings
    assert len(warnings) == 17
    assert warnings[-1] == "4 more unknown options were ignored"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": 11}}, "options.temperature"),
        ({"options": {"num_predict": "many"}}, "options.num_predict"),
        ({"options": {"stop": [1]}}, "options.stop[0]"),
        ({"options": {"seed": 0.5}}, "options.seed"),
        ({"options": {"top_k": []}}, "options.top_k"),
        ({"options": "fast"}, "options"),
        ({"options": {"a": "x" * 70_000}}, "options"),
        ({"format": "xml"}, "format"),
        ({"format": 1}, "format"),
        ({"think": "hard"}, "think"),
        ({"think": 1}, "think"),
        ({"stream": "yes"}, "stream"),
        ({"model": 1}, "model"),
        ({"tools": {}}, "tools"),
        ({"tools": [{}]}, "tools[0].function"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "nobody", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    ],
)
def test_a_wrong_field_is_named_in_the_callers_words(body: dict[str, Any], param: str) -> None:
    error = fault(**body)
    assert error.param == param
    assert f"`{param}`" in error.message


def test_json_is_any_object() -> None:
    grammar = read(format="json").request.grammar
    assert grammar is not None
    assert (grammar.kind, "object" in grammar.text) == ("json_schema", True)


def test_a_format_that_is_a_schema_holds_the_answer_to_it() -> None:
    call = read(format={"type": "object", "properties": {"city": {"type": "string"}}})
    assert call.request.grammar is not None
    assert "city" in call.request.grammar.text
    assert call.grammar_field == "format"


@pytest.mark.parametrize(
    ("think", "options"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
    ],
)
def test_whether_to_think_reaches_the_template(think: Any, options: dict[str, Any]) -> None:
    assert options.items() <= dict(read(think=think).request.template_options).items()


def test_logprobs_are_asked_for_as_in_a_chat_completion() -> None:
    assert read().request.logprobs is None
    assert read(logprobs=True).request.logprobs == 0
    assert read(logprobs=True, top_logprobs=3).request.logprobs == 3


def test_tools_are_those_of_a_chat_completion() -> None:
    assert read(tools=[WEATHER]).request.tools == (WEATHER,)


def called(*names: str, **more: Any) -> dict[str, Any]:
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in names]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


def result(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": text, **more}


def paired(*messages: Mapping[str, Any]) -> dict[str, str]:
    """The names of the calls that have a result, each with its text."""
    read = turns(HI, *messages)
    names = {
        call["id"]: call["function"]["name"] for each in read for call in each.get("tool_calls", [])
    }
    return {names[each["tool_call_id"]]: each["content"] for each in read if each["role"] == "tool"}


@pytest.mark.parametrize(
    "results",
    [
        [result("rain"), result("noon")],
        [result("noon", tool_name="time"), result("rain", tool_name="weather")],
        [result("noon", name="time"), result("rain", name="weather")],
        [result("noon", tool_name="time"), result("rain")],
        [result("rain", tool_name=None), result("noon", tool_name="another")],
    ],
)
def test_results_belong_to_calls_by_name_or_else_by_order(results: list[dict[str, Any]]) -> None:
    assert paired(called("weather", "time"), *results) == {"weather": "rain", "time": "noon"}


def test_ids_that_were_sent_pair_results_with_calls() -> None:
    calls = [{"id": id, "function": {"name": name}} for id, name in (("x", "a"), ("y", "b"))]
    answer = {"role": "assistant", "tool_calls": calls}
    assert paired(answer, result("2", tool_call_id="y"), result("1")) == {"a": "1", "b": "2"}


def test_calls_of_several_turns_have_ids_of_their_own() -> None:
    read = turns(HI, called("a"), result("1"), called("a"), result("2"))
    ids = [call["id"] for each in read for call in each.get("tool_calls", [])]
    answered = [each["tool_call_id"] for each in read if each["role"] == "tool"]
    assert ids == answered
    assert len(set(ids)) == 2


def test_a_result_without_a_call_is_kept() -> None:
    (_, turn) = turns(HI, result("rain", tool_name="weather"))
    assert (turn["content"], turn["name"]) == ("rain", "weather")


@pytest.mark.parametrize("arguments", [None, {}, "{}"])
def test_a_call_may_have_no_arguments(arguments: Any) -> None:
    calls = [{"function": {"name": "a", "arguments": arguments}}]
    (_, turn, _) = turns(HI, {"role": "assistant", "tool_calls": calls}, HI)
    assert turn["tool_calls"][0]["function"]["arguments"] in ({}, "{}")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
        ({"tool_calls": [{"function": {}}]}, "messages[0].tool_calls[0].function.name"),
        ({"tool_calls": [1]}, "messages[0].tool_calls[0]"),
        ({"tool_calls": {}}, "messages[0].tool_calls"),
        ({"thinking": 1}, "messages[0].thinking"),
        ({"images": "x"}, "messages[0].images"),
    ],
)
def test_a_wrong_part_of_a_message_is_named(message: dict[str, Any], param: str) -> None:
    error = fault({"role": "assistant", "content": "", **message}, HI)
    assert error.param is not None
    assert error.param == param or param.startswith(error.param)


@pytest.mark.parametrize("name", ["content", "thinking", "images", "tool_calls", "tool_name"])
def test_null_in_a_message_is_absent(name: str) -> None:
    message = {"role": "assistant", "content": "Yes."}
    without = {key: value for key, value in message.items() if key != name}
    assert turns(HI, message | {name: None}, HI) == turns(HI, without, HI)


def test_a_picture_is_refused_where_it_is_asked_about() -> None:
    error = fault(HI | {"images": ["aGk="]})
    assert error.param == "messages[0].images"
    assert "reads text only" in error.message


def test_pictures_of_earlier_turns_become_placeholders_with_a_warning() -> None:
    call = read(HI | {"images": ["aGk=", "aGk="]}, {"role": "assistant", "content": "Yes."}, HI)
    assert call.request.messages is not None
    assert call.request.messages[0]["content"] == "[image]\n[image]\nHi"
    assert call.warnings == ("messages[0].images were replaced by a placeholder",)


def test_no_pictures_are_no_pictures() -> None:
    assert turns(HI | {"images": []}) == [HI]


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": None}])
def test_without_messages_the_model_is_only_asked_to_be_there(body: dict[str, Any]) -> None:
    call = read_ollama_chat({"model": "demo", **body}, id="r1", deadline=None)
    assert call.request.max_tokens == 1
