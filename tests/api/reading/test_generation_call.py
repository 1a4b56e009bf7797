"""A call for generated text, put together from all its fields."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.native import read_native
from gguf_worker.api.openai import read_chat, read_completion
from gguf_worker.generation import Sampling
from tests.api.readers import ReadBody, body_fault, chat


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
    read: ReadBody, body: dict[str, Any], param: str
) -> None:
    assert body_fault(body, read).param == param


@pytest.mark.parametrize("include", [True, False, None])
def test_usage_comes_when_asked_for(include: bool | None) -> None:
    options = {"include_usage": include, "include_obfuscation": False}
    assert chat(stream=True, stream_options=options).include_usage is bool(include)
