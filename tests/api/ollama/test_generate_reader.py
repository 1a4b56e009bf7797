"""Bodies of /api/generate: a chat of one turn, or a prompt that is continued as it stands."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.ollama import read_ollama_generate
from gguf_worker.api.reading import GenerationCall
from gguf_worker.errors import InvalidRequest


def read(**body: Any) -> GenerationCall:
    return read_ollama_generate({"prompt": "Hi", **body}, id="r1", deadline=None)


def fault(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    return caught.value


def test_a_prompt_is_the_users_turn_of_a_chat() -> None:
    user = {"role": "user", "content": "Hi"}
    assert read().request.messages == (user,)
    system = {"role": "system", "content": "Be brief."}
    assert read(system="Be brief.").request.messages == (system, user)


def test_a_raw_prompt_is_continued_as_it_stands() -> None:
    request = read(raw=True, options={"num_predict": 3}).request
    assert (request.prompts, request.messages, request.max_tokens) == (("Hi",), None, 3)


def test_a_suffix_is_what_follows_the_answer() -> None:
    request = read(suffix="there").request
    assert (request.prompts, request.suffix) == (("Hi",), "there")


@pytest.mark.parametrize("name", ["suffix", "system", "template", "raw", "context", "images"])
def test_null_and_the_empty_value_are_as_if_not_sent(name: str) -> None:
    empty: Any = {"raw": False, "context": [], "images": []}.get(name, "")
    assert read(**{name: None}) == read(**{name: empty}) == read()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"images": ["aGk="]}, "images"),
        ({"system": "Be brief.", "raw": True}, "system"),
        ({"system": "Be brief.", "suffix": "there"}, "system"),
        ({"prompt": "", "suffix": "there"}, "suffix"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_changes_the_answer_and_cannot_be_done_is_refused_by_name(
    body: dict[str, Any], param: str, stream: bool
) -> None:
    error = fault(**body, stream=stream)
    assert error.param == param
    assert error.message.startswith(f"`{param}`")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": 1}, "prompt"),
        ({"raw": "yes"}, "raw"),
        ({"suffix": []}, "suffix"),
        ({"context": "x"}, "context"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"raw": True, "options": {"temperature": "hot"}}, "options.temperature"),
        ({"raw": True, "options": {"num_predict": "many"}}, "options.num_predict"),
        ({"format": "xml", "raw": True}, "format"),
    ],
)
def test_a_wrong_field_is_named_in_the_callers_words(body: dict[str, Any], param: str) -> None:
    error = fault(**body)
    assert error.param == param
    assert f"`{param}`" in error.message


def test_a_raw_prompt_may_have_a_format_and_logprobs() -> None:
    call = read(raw=True, format="json", logprobs=True, top_logprobs=9)
    assert call.grammar_field == "format"
    assert call.request.grammar is not None
    assert call.request.logprobs == 9


def test_a_raw_prompt_is_not_thought_about() -> None:
    assert read(raw=True, think=True).warnings == (
        "`think` has no effect on a prompt that is read as it stands",
    )
    assert read(raw=True, think=False).warnings == ()


@pytest.mark.parametrize("body", [{"prompt": ""}, {"prompt": None}, {"prompt": "", "raw": True}])
def test_without_a_prompt_the_model_is_only_asked_to_be_there(body: dict[str, Any]) -> None:
    assert read(**body).request.max_tokens == 1
