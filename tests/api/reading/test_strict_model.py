"""The base of the models that check bodies: what a fault says to the caller."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.openai import read_chat
from gguf_worker.errors import InvalidRequest
from tests.api_doors import MESSAGES


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": MESSAGES, "stream_options": [1]}, "stream_options"),
        ({"messages": MESSAGES, "tools": [3]}, "tools[0]"),
        (
            {"messages": MESSAGES, "tools": [{"type": "function", "function": "f"}]},
            "tools[0].function",
        ),
    ],
)
def test_what_should_be_an_object_is_told_so_without_a_class_of_ours(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(body, id="r", deadline=None)
    assert caught.value.param == param
    assert caught.value.message == f"`{param}` should be an object."
