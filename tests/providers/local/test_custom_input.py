from __future__ import annotations

import json

import pytest

from gguf_worker.providers.local.custom_input import CustomInput

TEXTS = ("", "a", 'line\n"quoted" \\ back', "é 🦙 \u2028", "\x00\x1f", "\\u0041", "{}[]")


def read(arguments: str, size: int) -> str:
    input = CustomInput()
    cut = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    return "".join(map(input.feed, cut)) + input.end()


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_the_text_is_the_same_wherever_the_arguments_are_cut(text: str, ascii: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii)
    for size in range(1, len(arguments) + 1):
        assert read(arguments, size) == text


def test_text_comes_as_soon_as_it_is_certain() -> None:
    input = CustomInput()
    assert [input.feed(each) for each in ('{"input": "a', "b\\", "nc", '"}')] == [
        "a",
        "b",
        "\nc",
        "",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"patch": "x"}', "x"),
        ('{"a": 1, "input": "x"}', "x"),
        ('"x"', "x"),
        ("{}", "{}"),
        ('{"a": "x", "b": "y"}', '{"a": "x", "b": "y"}'),
        ("plain", "plain"),
        ('{"input": "cut', "cut"),
        ('{"input": "half \\ud83d"}', 'half \\ud83d"}'),
    ],
)
def test_arguments_of_another_form_lose_no_text(arguments: str, text: str) -> None:
    assert read(arguments, 3).startswith(text[:4])
    assert read(arguments, 3) == read(arguments, 100)
