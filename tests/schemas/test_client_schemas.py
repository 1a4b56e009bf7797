"""Schemas as clients make them: none is refused, and answers match them but for what is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gguf_worker.engine.drawing.grammars.translation import as_llguidance
from gguf_worker.generation import Grammar
from gguf_worker.schemas import translated, translated_arguments
from tests.schemas.client_schemas import SCHEMAS
from tests.schemas.random_answers import drawn, matchers
from tests.schemas.validity import matches

_ANSWERS = 4


def test_there_are_two_hundred_of_them_and_no_two_are_alike() -> None:
    assert len({json.dumps(each, sort_keys=True) for each in SCHEMAS.values()}) >= 200


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_matches_the_schema_or_a_warning_says_why_not(name: str) -> None:
    schema = SCHEMAS[name]
    result = translated(schema)
    new = matchers(as_llguidance(Grammar("json_schema", result.text)))
    answers = [drawn(next(new), seed) for seed in range(_ANSWERS)]
    ended = [json.loads(each) for each in answers if each is not None]
    assert len(ended) >= _ANSWERS // 2
    for answer in ended:
        assert result.relaxed or matches(schema, answer), answer


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_can_be_that_of_a_tools_arguments(name: str) -> None:
    (result,) = translated_arguments([SCHEMAS[name]])
    new = matchers(as_llguidance(Grammar("json_schema", result.text)))
    answers = [drawn(next(new), 0) or drawn(next(new), 1)]
    assert all(isinstance(json.loads(each), dict) for each in answers if each is not None)
    assert any(answers)


@pytest.mark.parametrize("name", SCHEMAS)
def test_in_a_translated_schema_nothing_is_left_to_relax(name: str) -> None:
    once: Any = translated(SCHEMAS[name])
    twice = translated(once.schema)
    assert not twice.relaxed or once.relaxed
