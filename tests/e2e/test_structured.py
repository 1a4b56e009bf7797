"""Answers that have to match something, by the demo model and the official `openai` client."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.e2e.schemas import all_schemas
from tests.http_worker import Served

pytestmark = pytest.mark.e2e

MESSAGES: Any = [{"role": "user", "content": "Give an example as JSON."}]
AT_ONCE = 8

FORMATS = jsonschema.FormatChecker(("ipv4", "ipv6", "uuid"))
"""Formats of the checker, with our own for dates and times.

Its own are older than RFC 3339, or need another package.
"""


def _is_date(value: object) -> bool:
    """Return True for a date of RFC 3339, or raise ValueError.

    It has a year 0000, which Python has not; that is a leap year, as 2000 is.
    """
    text = str(value)
    return bool(datetime.date.fromisoformat("2000" + text[4:] if text[:4] == "0000" else text))


def _is_time(value: object) -> bool:
    """Return whether a text is a time of RFC 3339, or raise ValueError.

    It always has an offset, and it may have a leap second, which Python has not.
    """
    text = re.sub(r"^(\d\d:\d\d):60", r"\1:59", str(value).upper())
    return datetime.time.fromisoformat(text).tzinfo is not None


def _is_moment(value: object) -> bool:
    date, _, time = str(value).upper().partition("T")
    return _is_date(date) and _is_time(time)


def _is_duration(value: object) -> bool:
    date = r"(\d+D|\d+M(\d+D)?|\d+Y(\d+M(\d+D)?)?)"
    time = r"T(\d+S|\d+M(\d+S)?|\d+H(\d+M(\d+S)?)?)"
    return re.fullmatch(rf"P(\d+W|{date}({time})?|{time})", str(value)) is not None


for name, check in {"date": _is_date, "time": _is_time, "date-time": _is_moment}.items():
    FORMATS.checks(name, raises=ValueError)(check)
FORMATS.checks("duration")(_is_duration)


def response_format(schema: dict[str, Any]) -> Any:
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


async def ask_all(served: Served, schemas: list[dict[str, Any]]) -> list[ChatCompletion]:
    gate = asyncio.Semaphore(AT_ONCE)
    async with served.async_client() as client:

        async def ask(seed: int, schema: dict[str, Any]) -> ChatCompletion:
            async with gate:
                return await client.chat.completions.create(
                    model="demo",
                    messages=MESSAGES,
                    response_format=response_format(schema),
                    max_tokens=400,
                    seed=seed,
                )

        return await asyncio.gather(*(ask(seed, schema) for seed, schema in enumerate(schemas)))


@pytest.mark.timeout(600)
def test_every_completed_answer_to_two_hundred_schemas_parses_and_validates(served: Served) -> None:
    named = all_schemas()
    assert len(named) == 200
    answers = asyncio.run(ask_all(served, [schema for _, schema in named]))
    completed = 0
    for (name, schema), answer in zip(named, answers, strict=True):
        (choice,) = answer.choices
        if choice.finish_reason != "stop":
            continue
        completed += 1
        assert choice.message.content is not None
        value = json.loads(choice.message.content)
        problems = [
            problem.message
            for problem in jsonschema.Draft202012Validator(
                schema, format_checker=FORMATS
            ).iter_errors(value)
        ]
        assert not problems, (name, problems, value)
    # The others ran to the limit of tokens: in a tree, a text or a number without end.
    assert completed >= 180


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "poem"}, "poem"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
    ],
)
def test_a_keyword_that_cannot_be_followed_is_named(
    served: Served, schema: dict[str, Any], named: str
) -> None:
    with served.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="demo", messages=MESSAGES, response_format=response_format(schema)
        )
    assert (refused.value.code, refused.value.param) == (
        "invalid_request",
        "response_format.json_schema",
    )
    assert named in refused.value.message


def test_a_streamed_answer_matches_too(served: Served) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with served.client() as client:
        stream = client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            response_format=response_format(schema | {"additionalProperties": False}),
            stream=True,
            max_tokens=100,
            seed=1,
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert isinstance(json.loads(text)["n"], int)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, r"[0-9]{3}-[a-f]{2}"),
        ({"guided_choice": ["spring", "autumn"]}, r"spring|autumn"),
        ({"guided_grammar": 'start: "a" ("b" | "c")~3'}, r"a[bc]{3}"),
        ({"grammar": 'root ::= "x" [0-9] [0-9]'}, r"x[0-9][0-9]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_regexes_choices_and_grammars_are_followed(
    served: Served, extra: dict[str, Any], pattern: str
) -> None:
    with served.client() as client:
        answer = client.completions.create(
            model="demo", prompt="The code is ", extra_body=extra, max_tokens=30, seed=3
        )
    assert re.fullmatch(pattern, answer.choices[0].text)
    assert answer.choices[0].finish_reason == "stop"


def test_constrained_and_free_answers_go_on_side_by_side(served: Served) -> None:
    async def both() -> tuple[Any, Any]:
        async with served.async_client() as client:
            ask = client.completions.create
            return await asyncio.gather(
                ask(model="demo", prompt="Once", max_tokens=40, temperature=0),
                ask(model="demo", prompt="Code:", extra_body={"guided_regex": "[0-9]{8}"}, seed=1),
            )

    free, constrained = asyncio.run(both())
    assert re.fullmatch("[0-9]{8}", constrained.choices[0].text)
    assert re.search("[a-z]", free.choices[0].text)
