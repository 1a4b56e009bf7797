from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.chat.output.answer_reader import Malformed
from gguf_worker.chat.output.gemma_calls import parse_call


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("{}", {}),
        ("{a:''}", {"a": ""}),
        ("{a:'x, {y}: [z]'}", {"a": "x, {y}: [z]"}),
        ("{a:1,b:-2.5,c:true,d:null}", {"a": 1, "b": -2.5, "c": True, "d": None}),
        ("{ a : 1 , b : [ 1 , 'x' ] }", {"a": 1, "b": [1, "x"]}),
        ("{'a b':{c:{}}}", {"a b": {"c": {}}}),
        ("{a:[[],[[1]]]}", {"a": [[], [[1]]]}),
        ("{a:left out}", {"a": "left out"}),
    ],
)
def test_a_call_is_read(text: str, arguments: dict[str, Any]) -> None:
    assert parse_call(f" call:f.g-h{text} ", "'") == ("f.g-h", arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{a}",
        "{a:}x",
        "{a:1",
        "{a:'x}",
        "{a:1 b:[2]}",
        "{a:[1}",
        "{a:1}}",
        "{" + "a:{" * 100,
    ],
)
def test_a_text_that_is_not_complete_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_call(f"call:f{text}", "'")


@pytest.mark.parametrize("text", ["f{}", "call:{}", "call: f{}", "call:f"])
def test_a_text_that_names_no_tool_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_call(text, "'")
