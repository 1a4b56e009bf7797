"""Warnings: each route names what it did not take as it was sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gguf_worker.api.routes import GENERATE, ROUTES, Route
from gguf_worker.api.writing import Body, EventText, Item
from tests.api_doors import Bench, call, sse
from tests.fakes import USAGE, ScriptedProvider, text_deltas
from tests.fakes import stop as ending

WARNING = "unknown field 'banana' was ignored"
WITH_BODY = [each for each in ROUTES if each.document is not None or each.path == GENERATE]
GENERATING = [each for each in WITH_BODY if each.generates]


def body(route: Route, **more: Any) -> dict[str, Any]:
    example = {"prompt": "Hi"} if route.document is None else route.document.example
    return {**example, "stream": False, **more} if route.generates else {**example, **more}


def provider(route: Route) -> ScriptedProvider:
    return ScriptedProvider(text_deltas("a")) if route.generates else ScriptedProvider()


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.path)
async def test_every_route_names_the_fields_that_it_does_not_know(route: Route) -> None:
    (reply,) = await Bench(provider(route)).ask(call(route.path, body(route, banana=1)))
    assert isinstance(reply, Body)
    assert reply.data["warnings"] == [WARNING]


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.path)
async def test_an_answer_without_warnings_has_no_field_for_them(route: Route) -> None:
    (reply,) = await Bench(provider(route)).ask(call(route.path, body(route, banana=None)))
    assert isinstance(reply, Body)
    assert "warnings" not in reply.data


@pytest.mark.parametrize("route", GENERATING, ids=lambda route: route.path)
async def test_a_stream_has_its_warnings_once_at_the_end(route: Route) -> None:
    replies = await Bench(provider(route)).ask(call(route.path, body(route, banana=1, stream=True)))
    last = replies[-1]
    text = json.dumps(last.data) if isinstance(last, Item) else sse(replies)
    assert isinstance(last, Item | EventText)
    assert text.count(WARNING) == 1


async def test_warnings_of_the_provider_stand_beside_those_of_the_reader() -> None:
    script = [*text_deltas("a")[:-1], ending(USAGE, warnings=("one thing was not done",))]
    (reply,) = await Bench(ScriptedProvider(script)).ask(call(GENERATE, {"prompt": "H", "x": 1}))
    assert isinstance(reply, Body)
    assert reply.data["warnings"] == ["unknown field 'x' was ignored", "one thing was not done"]
