"""A reranker over HTTP and on the queue."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fake_runpod import FakeRunPod, Worker
from tests.http_worker import Served, http_worker
from tests.tiny_gguf import write_encoder

pytestmark = pytest.mark.e2e

QUERY = "deep sea"
DOCUMENTS = ["the sea is deep", "red fish", "the fish swim in the cold blue sea", "q"]
ASK: dict[str, Any] = {"model": "judge", "query": QUERY, "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("judge") / "judge.gguf", pooling=4, head=True)


@pytest.fixture(scope="module")
def judge(model: Path) -> Iterator[Served]:
    with http_worker(model, model.with_suffix(".log"), SERVED_MODEL_NAME="judge") as served:
        yield served


@pytest.fixture
def client(judge: Served) -> Iterator[openai.OpenAI]:
    with judge.client() as client:
        yield client


def rank(client: openai.OpenAI, **more: Any) -> dict[str, Any]:
    answer = client.post("/rerank", body={**ASK, **more}, cast_to=object)
    assert isinstance(answer, dict)
    return answer


def test_documents_come_back_best_first(client: openai.OpenAI) -> None:
    answer = rank(client)
    results = answer["results"]
    scores = [each["relevance_score"] for each in results]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(DOCUMENTS)
    assert all(0 < score < 1 for score in scores)
    assert sorted(each["index"] for each in results) == [0, 1, 2, 3]
    for each in results:
        assert each["document"] == {"text": DOCUMENTS[each["index"]]}
    assert (answer["object"], answer["model"]) == ("list", "judge")
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0


def test_only_the_best_come_where_so_few_are_wanted(client: openai.OpenAI) -> None:
    best = [each["index"] for each in rank(client)["results"]]
    results = rank(client, top_n=2, return_documents=False)["results"]
    assert [each["index"] for each in results] == best[:2]
    assert all(set(each) == {"index", "relevance_score"} for each in results)


def test_a_document_has_the_score_that_it_has_alone(client: openai.OpenAI) -> None:
    for each in rank(client)["results"]:
        (alone,) = rank(client, documents=[each["document"]])["results"]
        assert alone["relevance_score"] == pytest.approx(each["relevance_score"], abs=1e-4)


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"documents": []}, "invalid_request", "documents"),
        ({"query": ""}, "invalid_request", "query"),
        ({"top_n": 0}, "invalid_request", "top_n"),
        ({"documents": ["fish", 7]}, "invalid_request", "documents[1]"),
        ({"documents": ["fish", "fish " * 200]}, "context_length_exceeded", "documents"),
    ],
)
def test_documents_that_cannot_be_ranked_are_a_bad_request(
    client: openai.OpenAI, more: Any, code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        rank(client, **more)
    assert (refused.value.code, refused.value.param) == (code, param)


@pytest.mark.parametrize("route", ["chat", "completion", "response", "embedding"])
def test_a_reranker_refuses_every_other_route_and_names_its_purpose(
    client: openai.OpenAI, route: str
) -> None:
    asks: dict[str, Callable[[], Any]] = {
        "chat": lambda: client.chat.completions.create(
            model="judge", messages=[{"role": "user", "content": "Hi"}]
        ),
        "completion": lambda: client.completions.create(model="judge", prompt="Hi", stream=True),
        "response": lambda: client.responses.create(model="judge", input="Hi"),
        "embedding": lambda: client.embeddings.create(model="judge", input="Hi"),
    }
    with pytest.raises(openai.BadRequestError, match="scores of documents") as refused:
        asks[route]()
    assert (refused.value.code, refused.value.param) == ("invalid_request", "model")


def test_a_model_that_writes_text_ranks_nothing(served: Served) -> None:
    with served.client() as client, pytest.raises(openai.BadRequestError, match="rerank") as error:
        rank(client, model="demo")
    assert (error.value.code, error.value.param) == ("invalid_request", "model")


def test_it_is_among_the_models(judge: Served, client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list().data] == ["judge"]
    found: Any = judge.health()["model"]
    assert found["pooling"] == "rank"


def test_the_queue_ranks_as_http_does(
    worker: Callable[..., Worker], runpod_api: FakeRunPod, model: Path, client: openai.OpenAI
) -> None:
    worker(MODEL=str(model), SERVED_MODEL_NAME="judge")

    def answer(route: str, body: dict[str, Any]) -> dict[str, Any]:
        return runpod_api.wait_done(runpod_api.submit({"route": route, "body": body}))

    for route, more in (("/v1/rerank", {}), ("/v2/rerank", {"top_n": 2}), ("/rerank", {})):
        (item,), wanted = answer(route, {**ASK, **more})["output"], rank(client, **more)
        assert {**item, "id": wanted["id"]} == wanted
    refused = answer("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
    error = json.loads(refused["error"])
    assert (error["code"], error["param"]) == ("invalid_request", "model")
