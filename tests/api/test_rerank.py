from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from gguf_worker.api import answer_job
from gguf_worker.api.reading import MAX_CHARACTERS
from gguf_worker.api.rerank import MAX_DOCUMENTS, ranking_object, read_rerank
from gguf_worker.api.writing import Body, Failed
from gguf_worker.errors import GenerationFailed, InvalidRequest
from gguf_worker.events import Outcome
from gguf_worker.providers import Ranking, RankingRequest
from tests.api_doors import Bench, call
from tests.fakes import ScriptedProvider
from tests.http_door import application, client, posted, served

BODY = {"query": "q", "documents": ["four", "longer", "a"]}
RERANK = "/v1/rerank"
ROUTES = ("/v1/rerank", "/rerank", "/v2/rerank")


def bench(*script: Any) -> Bench:
    return Bench(ScriptedProvider(*script))


def read(**body: Any) -> Any:
    return read_rerank({**BODY, **body}, id="r1", deadline=None)


async def answer(route: str = RERANK, **more: Any) -> Any:
    (reply,) = await bench().ask(call(route, {**BODY, **more}))
    assert isinstance(reply, Body)
    return reply.data


def scored(*scores: float, **more: Any) -> list[Any]:
    asked = read(documents=["x"] * len(scores), **more)
    results: list[Any] = ranking_object(Ranking(scores, 1), asked, "demo")["results"]
    return results


async def test_the_best_is_first_and_scores_are_between_0_and_1() -> None:
    data = await answer()
    assert [each["index"] for each in data["results"]] == [1, 0, 2]
    assert [each["document"]["text"] for each in data["results"]] == ["longer", "four", "a"]
    scores = [each["relevance_score"] for each in data["results"]]
    assert scores == [1 / (1 + math.exp(-2)), 0.5, pytest.approx(1 / (1 + math.exp(3)))]
    assert (data["id"], data["object"], data["model"]) == ("rerank-r1", "list", "demo")
    assert data["usage"] == {"prompt_tokens": 14, "total_tokens": 14}


def test_a_score_of_any_size_is_a_number_between_0_and_1() -> None:
    results = scored(-1e30, 1e30, 0.0, -math.inf, math.inf)
    assert [each["relevance_score"] for each in results] == [1, 1, 0.5, 0, 0]


def test_of_equals_the_earlier_is_first() -> None:
    assert [each["index"] for each in scored(0.5, 1.0, 0.5, 1.0)] == [1, 3, 0, 2]


def test_a_score_that_is_no_number_is_a_failure_with_a_name() -> None:
    with pytest.raises(GenerationFailed, match=r"documents\[1\]"):
        scored(0.5, math.nan)


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (99, 3), (None, 3)])
async def test_only_the_best_are_in_the_answer_where_so_many_are_wanted(
    top_n: int | None, count: int
) -> None:
    data = await answer(top_n=top_n)
    assert [each["index"] for each in data["results"]] == [1, 0, 2][:count]


async def test_documents_need_not_come_back() -> None:
    data = await answer(return_documents=False)
    assert {key for each in data["results"] for key in each} == {"index", "relevance_score"}


def test_a_document_may_be_an_object_with_text() -> None:
    asked = read(documents=[{"text": "a", "id": 7}, "b", ""])
    assert asked.request == RankingRequest("r1", "q", ("a", "b", ""))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": 5}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a"] * (MAX_DOCUMENTS + 1)}, "documents"),
        ({"documents": ["a", 5]}, "documents[1]"),
        ({"documents": ["a", {"title": "x"}]}, "documents[1].text"),
        ({"documents": ["x" * MAX_CHARACTERS]}, "documents"),
        ({"query": "q" * (MAX_CHARACTERS // 3 + 1)}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
        ({"max_tokens_per_doc": 512}, "max_tokens_per_doc"),
        ({"rank_fields": ["title"]}, "rank_fields"),
        ({"raw_scores": True}, "raw_scores"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    ],
)
def test_a_wrong_field_is_named(more: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**more)
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message


@pytest.mark.parametrize("route", ROUTES)
async def test_every_path_of_it_is_the_same_route(route: str) -> None:
    worker = bench()
    (reply,) = await worker.ask(call(route, BODY, deadline=7.0))
    assert reply == Body(await answer())
    assert worker.provider.ranked[0].deadline == 7.0
    done = worker.done
    assert (done.route, done.outcome, done.prompt_tokens) == (RERANK, Outcome.STOP, 14)


@pytest.mark.parametrize("route", ROUTES)
async def test_the_queue_gives_the_same_object(route: str) -> None:
    async with client(application(bench())) as http:
        over_http = (await http.post(route, json=BODY)).json()
    for given in ({"openai_route": route, "openai_input": BODY}, {"route": route, "body": BODY}):
        job = answer_job(bench().gateway, {"id": "j", "input": given}, default_timeout=60)
        (item,) = [item async for item in job]
        assert {**json.loads(json.dumps(item)), "id": ""} == {**over_http, "id": ""}


async def test_a_model_that_does_not_rank_is_refused_in_the_one_shape() -> None:
    error = InvalidRequest("This model does not rank.", param="model")
    (reply,) = await bench(error).ask(call(RERANK, BODY))
    assert isinstance(reply, Failed)
    assert reply.error is error


def test_a_client_that_leaves_cancels() -> None:
    worker = bench(asyncio.Event())
    with served(application(worker)) as port:
        with posted(port, BODY, RERANK):
            assert worker.provider.parked.wait(5)
        assert worker.provider.ended.wait(5)
    assert worker.done.outcome is Outcome.CANCELLED
