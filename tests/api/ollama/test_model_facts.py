"""The models as Ollama lists and shows them; what would change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gguf_worker.api.ollama import loaded_models
from gguf_worker.api.routes import no_route
from gguf_worker.api.writing import Body, Failed
from gguf_worker.providers import Capabilities, ModelCard
from tests.api_doors import CARD, Bench, call
from tests.fakes import ScriptedProvider

LLAMA = ModelCard(
    "small",
    aliases=("SmolLM2",),
    created=1_700_000_000,
    context=2048,
    parameters=134_515_008,
    quantisation="Q4_1",
    architecture="llama",
    bytes=91_000_000,
    capabilities=Capabilities(infill=True),
    thinks=True,
)
VECTORS = ModelCard("vectors:v1", capabilities=Capabilities(generates=False, pooling="mean"))
SCORES = ModelCard("scores", capabilities=Capabilities(generates=False, pooling="rank"))


async def ask(
    route: str, body: dict[str, Any] | None = None, cards: Sequence[ModelCard] = (LLAMA, VECTORS)
) -> Any:
    bench = Bench(ScriptedProvider(), cards=cards)
    (reply,) = await bench.ask(call(route, body))
    assert bench.reached == []
    return reply


async def data(route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    reply = await ask(route, body)
    assert isinstance(reply, Body), reply
    return reply.data


async def test_the_list_has_every_model_and_each_name_has_a_tag() -> None:
    small, vectors = (await data("/api/tags"))["models"]
    assert small["name"] == small["model"] == "small:latest"
    assert small["size"] == 91_000_000
    assert small["modified_at"] == "2023-11-14T22:13:20Z"
    assert small["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "134.52M",
        "quantization_level": "Q4_1",
    }
    assert vectors["name"] == "vectors:v1"
    assert small["digest"] != vectors["digest"]
    assert len(small["digest"]) == 64


async def test_a_model_with_several_names_is_listed_under_each() -> None:
    reply = await ask("/api/tags", cards=[ModelCard("a", aliases=("b",), listed=("a", "b"))])
    assert [each["name"] for each in reply.data["models"]] == ["a:latest", "b:latest"]


def test_a_model_of_billions_says_so() -> None:
    (large,) = loaded_models([ModelCard("large", parameters=8_030_000_000)], {})["models"]
    assert large["details"]["parameter_size"] == "8.0B"


async def test_a_single_model_is_always_in_memory() -> None:
    names = [each["name"] for each in (await data("/api/ps"))["models"]]
    assert names == ["small:latest", "vectors:v1"]


def test_of_a_catalog_those_are_in_memory_that_its_health_calls_resident() -> None:
    health = {"models": {"small": {"state": "resident"}, "vectors:v1": {"state": "opening"}}}
    (only,) = loaded_models([LLAMA, VECTORS], health)["models"]
    assert (only["name"], only["context_length"]) == ("small:latest", 2048)


@pytest.mark.parametrize("name", ["small", "small:latest", "SmolLM2", "SmolLM2:latest"])
@pytest.mark.parametrize("field", ["model", "name"])
async def test_a_model_is_shown_by_any_of_its_names(name: str, field: str) -> None:
    shown = await data("/api/show", {field: name})
    assert shown["details"]["family"] == "llama"
    assert shown["model_info"] == {
        "general.architecture": "llama",
        "general.basename": "small",
        "general.parameter_count": 134_515_008,
        "llama.context_length": 2048,
    }
    assert shown["capabilities"] == ["completion", "tools", "thinking", "insert"]


@pytest.mark.parametrize(
    ("card", "capabilities"),
    [
        (VECTORS, ["embedding"]),
        (SCORES, []),
        (CARD, ["completion", "tools"]),
        (ModelCard("both", capabilities=Capabilities(pooling="mean")), None),
    ],
)
async def test_capabilities_are_what_the_model_can(
    card: ModelCard, capabilities: list[str] | None
) -> None:
    reply = await ask("/api/show", {}, [card])
    expected = ["completion", "tools", "embedding"] if capabilities is None else capabilities
    assert reply.data["capabilities"] == expected


async def test_a_pull_of_a_served_model_succeeds_at_once() -> None:
    assert await data("/api/pull", {"model": "small"}) == {"status": "success"}


@pytest.mark.parametrize("route", ["/api/show", "/api/pull"])
async def test_another_model_is_not_found(route: str) -> None:
    reply = await ask(route, {"model": "llama3"})
    assert isinstance(reply, Failed)
    assert reply.error.code == "model_not_found"
    assert "'small'" in reply.error.message


@pytest.mark.parametrize("body", [{"model": 1}, {"name": []}, {"verbose": "yes"}])
async def test_a_wrong_field_is_named(body: dict[str, Any]) -> None:
    reply = await ask("/api/show", body)
    assert isinstance(reply, Failed)
    assert reply.error.param == next(iter(body))


@pytest.mark.parametrize("path", ["/api/create", "/api/copy", "/api/delete", "/api/push"])
async def test_what_would_change_the_models_is_refused_in_words(path: str) -> None:
    assert "MODELS_FILE" in no_route(path).message
    reply = await ask(path, {"model": "small"})
    assert isinstance(reply, Failed)
    assert reply.error.code == "unknown_route"


async def test_the_version_is_one_that_clients_accept() -> None:
    version = (await data("/api/version"))["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
