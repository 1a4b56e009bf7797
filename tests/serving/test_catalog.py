"""A worker with a catalog: tiny real models in real engine processes, on a machine with memory for
one."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gguf_worker.app import App
from gguf_worker.config import Machine, load_settings, probe
from gguf_worker.engine import EngineClient, EngineInfo
from gguf_worker.errors import EngineStartFailed, ModelUnavailable
from gguf_worker.events import Event, ModelFailed, ModelReady, ModelUnloaded, PhaseDone
from gguf_worker.models.store import Inventory
from tests.fake_hub import FakeHub
from tests.local_server import Status
from tests.tiny_gguf import write_encoder, write_tiny
from tests.waiting import until_async

pytestmark = pytest.mark.llama

MIB = 1 << 20
ENGINE = 500 * MIB
"""The memory of an engine on the fake machine; a tiny one, and what is left free, need less."""


def engines() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the machine one with memory for so many engines, less those that run."""

    def set_memory(count: int) -> None:
        def small(environ: Mapping[str, str]) -> Machine:
            free = (count - len(engines())) * ENGINE
            return replace(probe(environ), memory_available=free, gpus=())

        monkeypatch.setattr("gguf_worker.serving.loaded_model.probe", small)

    return set_memory


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> dict[str, EngineClient]:
    """The engines that were made, by the names of their models; a lost one is back soon."""
    made: dict[str, EngineClient] = {}

    def make(*given: Any, name: str, **options: Any) -> EngineClient:
        made[name] = EngineClient(*given, name=name, backoff=(0.0,), **options)
        return made[name]

    monkeypatch.setattr("gguf_worker.serving.loaded_model.EngineClient", make)
    return made


async def lose(engine: EngineClient) -> None:
    """Kill every process of the engine until it is given up."""

    def given_up() -> bool:
        if (pid := engine.pid) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return engine.dead is not None

    await until_async(given_up)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def make(tmp_path: Path, events: list[Event]) -> Iterator[Callable[..., App]]:
    """Makes a worker with the models `a` and `b`, or those of the catalog, not yet started."""
    apps: list[App] = []

    def make(
        catalog: str | None = None, on_dead: Callable[[], None] = lambda: None, **variables: str
    ) -> App:
        for seed, name in enumerate("ab"):
            write_tiny(tmp_path / f"{name}.gguf", seed=seed)
        write_encoder(tmp_path / "encoder.gguf")
        file = tmp_path / "models.yaml"
        file.write_text(
            catalog
            or f"models: {{a: {{model: {tmp_path}/a.gguf, aliases: [first]}}, "
            f"b: {{model: {tmp_path}/b.gguf}}}}"
        )
        settings = load_settings(
            {"MODELS_FILE": str(file), "CTX_SIZE": "512", "MAX_CONCURRENCY": "4", **variables}
        )
        apps.append(App(settings, environ={}, watch=events.append, on_dead=on_dead))
        return apps[-1]

    yield make
    for app in apps:
        app.close()
    assert engines() == []


async def items(app: App, input: dict[str, Any]) -> list[Any]:
    return [item async for item in app.handle({"id": "job", "input": input})]


async def call(app: App, route: str, **body: Any) -> Any:
    (item,) = await items(app, {"openai_route": route, "openai_input": body})
    if isinstance(item, dict) and isinstance(item.get("error"), str):
        return json.loads(item["error"])
    return item


async def complete(app: App, model: str | None = None, tokens: int = 4, **more: Any) -> Any:
    named = {} if model is None else {"model": model}
    body = {"prompt": "the sea", "max_tokens": tokens, "ignore_eos": True, **named, **more}
    return await call(app, "/v1/completions", temperature=0, **body)


def opened(events: list[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, ModelReady)]


async def test_two_models_alternating_under_load_with_memory_for_one(
    make: Callable[..., App], memory_for: Callable[[int], None], events: list[Event]
) -> None:
    """Grouped swaps, every request answered with its own model's words, and memory back to the
    start."""
    memory_for(1)
    app = make()
    app.start()
    alone = {name: (await complete(app, name))["choices"][0]["text"] for name in "ab"}
    assert alone["a"] != alone["b"]
    await complete(app, "a")
    gc.collect()
    before, loads = psutil.Process().memory_info().rss, len(opened(events))
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(engines()))
            await asyncio.sleep(0.02)

    async def client(number: int) -> list[tuple[str, str, str]]:
        answers = []
        for turn in range(15):
            name = "ab"[(number + turn) % 2]
            answer = await complete(app, name)
            answers.append((name, answer["model"], answer["choices"][0]["text"]))
        return answers

    watching = asyncio.ensure_future(watch())
    found = await asyncio.gather(*map(client, range(8)))
    watching.cancel()
    answers = [answer for each in found for answer in each]
    assert answers == [(name, name, alone[name]) for name, _, _ in answers]
    assert len(answers) == 120
    assert most == 1, "never two where there is memory for one"
    swaps = len(opened(events)) - loads
    assert swaps <= 30, "eight clients that alternate are served together, not 120 times one by one"
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 16 * MIB
    app.close()
    assert engines() == []


async def test_a_stream_is_never_cut_by_a_swap(
    make: Callable[..., App], memory_for: Callable[[int], None], events: list[Event]
) -> None:
    memory_for(1)
    app = make()
    app.start()
    body = {"prompt": "the sea", "max_tokens": 400, "ignore_eos": True, "stream": True}
    job = {"openai_route": "/v1/completions", "openai_input": {"model": "a", **body}}
    async with aclosing(app.handle({"id": "job", "input": job})) as stream:
        first = await anext(stream)
        other = asyncio.ensure_future(complete(app, "b"))
        late = asyncio.ensure_future(complete(app, "a"))
        rest = [item async for item in stream]
        assert opened(events) == ["a"], "no other was opened while it ran"
    text = "".join([first, *rest])
    assert text.rstrip().endswith("data: [DONE]")
    assert '"finish_reason":"length"' in text
    assert (await other)["model"] == "b"
    assert (await late)["model"] == "a"


async def test_where_there_is_memory_both_stay(
    make: Callable[..., App], memory_for: Callable[[int], None], events: list[Event]
) -> None:
    memory_for(2)
    app = make()
    app.start()
    for _ in range(3):
        await asyncio.gather(complete(app, "a"), complete(app, "b"))
    assert opened(events) == ["a", "b"]
    assert len(engines()) == 2
    (health,) = await items(app, {"task": "health"})
    assert {name: each["state"] for name, each in health["models"].items()} == {
        "a": "resident",
        "b": "resident",
    }
    (metrics,) = await items(app, {"task": "metrics"})
    assert metrics["metrics"].count("gguf_worker_model_info{") == 2


async def test_models_are_chosen_by_name_and_alias_and_the_default_serves_the_others(
    make: Callable[..., App],
) -> None:
    app = make(MODEL="b")
    app.start()
    assert (await complete(app))["model"] == "b"
    assert (await complete(app, "first"))["model"] == "a"
    error = await complete(app, "c")
    assert error["code"] == "model_not_found"
    assert error["message"] == "There is no model 'c' here; this worker serves 'b', 'a'."


async def test_the_list_has_all_models_and_of_each_what_is_known(make: Callable[..., App]) -> None:
    app = make()
    app.start()

    async def listed() -> dict[str, int | None]:
        found = await call(app, "/v1/models")
        return {each["id"]: each["max_model_len"] for each in found["data"]}

    assert await listed() == {"a": 512, "b": None}
    assert (await call(app, "/v1/models/b"))["meta"]["parameters"] is None
    counted = await call(app, "/tokenize", model="b", prompt="the sea")
    assert counted["max_model_len"] == 512, "it is known by now"
    assert await listed() == {"a": 512, "b": 512}
    assert (await call(app, "/v1/models/first"))["id"] == "a"


async def test_every_route_works_by_model(make: Callable[..., App], tmp_path: Path) -> None:
    app = make(
        f"models: {{chat: {{model: {tmp_path}/a.gguf}}, "
        f"embed: {{model: {tmp_path}/encoder.gguf}}}}",
        CTX_SIZE="auto",
    )
    app.start()
    found = await call(app, "/v1/embeddings", model="embed", input="the sea")
    assert (found["model"], len(found["data"])) == ("embed", 1)
    refused = await call(app, "/v1/embeddings", model="chat", input="the sea")
    assert refused["code"] == "invalid_request"
    messages = [{"role": "user", "content": "Hi"}]
    chat = {"model": "chat", "messages": messages}
    answer = await call(app, "/v1/messages", max_tokens=4, **chat)
    assert (answer["type"], answer["model"]) == ("message", "chat")
    assert (await call(app, "/v1/messages/count_tokens", **chat))["input_tokens"] > 0
    answer = await call(app, "/v1/responses", model="chat", input="Hi", max_output_tokens=16)
    assert answer["model"] == "chat"
    assert (await call(app, "/detokenize", model="chat", tokens=[100]))["prompt"]


async def test_an_answer_that_waited_for_its_model_is_cold_and_says_how_long_that_took(
    make: Callable[..., App], events: list[Event]
) -> None:
    app = make()
    app.start()
    ask = {"prompt": "the", "max_tokens": 1}
    answers = [(await items(app, {**ask, "model": name}))[0]["metrics"] for name in "aabb"]
    assert [each["cold"] for each in answers] == [True, False, True, False]
    assert "total" in answers[0]["cold_start_seconds"]
    assert set(answers[2]["cold_start_seconds"]) == {"resolve", "engine", "load", "warmup"}
    assert answers[2]["queue_ms"] >= 1000 * answers[2]["cold_start_seconds"]["load"]
    phases = [event.phase for event in events if isinstance(event, PhaseDone)]
    assert phases.count("load") == 1, "the metrics are those of the worker's start"


async def test_the_first_answer_of_all_is_cold_by_the_model_that_it_names(
    make: Callable[..., App],
) -> None:
    app = make()
    app.start()
    ask = {"prompt": "the", "max_tokens": 1}
    answers = [(await items(app, {**ask, "model": name}))[0]["metrics"] for name in "ba"]
    assert set(answers[0]["cold_start_seconds"]) == {"resolve", "engine", "load", "warmup"}
    assert answers[1]["cold"] is False, "by then the worker's start is over"


async def test_a_request_for_what_a_model_cannot_do_swaps_no_model(
    make: Callable[..., App], memory_for: Callable[[int], None], events: list[Event]
) -> None:
    memory_for(1)
    app = make()
    app.start()
    await complete(app, "b")
    loads = len(opened(events))
    error = await call(app, "/v1/embeddings", model="a", input="the sea")
    assert "gives no embeddings" in error["message"]
    error = await complete(app, "a", prompt=["the", "sea"], n=16)
    assert "more than this worker can hold" in error["message"]
    assert len(opened(events)) == loads


async def test_a_model_that_nobody_asks_for_leaves_after_its_keep_alive(
    make: Callable[..., App], events: list[Event], tmp_path: Path
) -> None:
    app = make(
        f"models: {{a: {{model: {tmp_path}/a.gguf}}, "
        f"b: {{model: {tmp_path}/b.gguf, keep_alive: 0.2, preload: true}}}}"
    )
    app.start()
    assert opened(events) == ["a", "b"]
    await until_async(lambda: ModelUnloaded("b", "keep_alive") in events)
    assert len(engines()) == 1
    assert (await complete(app, "b"))["model"] == "b"


async def test_a_preloaded_model_evicts_none(
    make: Callable[..., App], memory_for: Callable[[int], None], events: list[Event], tmp_path: Path
) -> None:
    memory_for(1)
    app = make(
        f"models: {{a: {{model: {tmp_path}/a.gguf}}, b: {{model: {tmp_path}/b.gguf, preload: 1}}}}"
    )
    app.start()
    assert opened(events) == ["a"]
    assert (await complete(app, "b"))["model"] == "b"


async def test_a_model_that_cannot_be_opened_fails_its_own_requests_only(
    make: Callable[..., App], events: list[Event], tmp_path: Path
) -> None:
    app = make(
        f"models: {{a: {{model: {tmp_path}/a.gguf}}, gone: {{model: {tmp_path}/none.gguf}}}}"
    )
    app.start()
    for _ in range(2):
        error = await complete(app, "gone")
        assert error["code"] == "model_unavailable"
    assert (await complete(app, "a"))["model"] == "a"
    assert len([each for each in events if isinstance(each, ModelFailed)]) == 1
    (health,) = await items(app, {"task": "health"})
    assert (health["state"], health["models"]["gone"]["state"]) == ("degraded", "failed")
    assert not app.dead


async def test_where_the_default_cannot_be_opened_the_next_is(
    make: Callable[..., App], events: list[Event], tmp_path: Path
) -> None:
    app = make(
        f"models: {{gone: {{model: {tmp_path}/none.gguf}}, a: {{model: {tmp_path}/a.gguf}}}}"
    )
    app.start()
    assert opened(events) == ["a"]
    assert (await complete(app))["code"] == "model_unavailable", "it stays the default"


def test_where_none_can_be_opened_there_is_no_start(
    make: Callable[..., App], tmp_path: Path
) -> None:
    app = make(f"models: {{x: {{model: {tmp_path}/x.gguf}}, y: {{model: {tmp_path}/y.gguf}}}}")
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match=r"x\.gguf"):
            app.start()


def test_where_one_may_be_had_later_the_start_has_not_failed_for_good(
    make: Callable[..., App], tmp_path: Path
) -> None:
    with FakeHub() as hub:
        hub.misbehave("info", Status(451), Status(451))
        (tmp_path / "volume").mkdir()
        app = make(
            f"models: {{gone: {{model: {tmp_path}/none.gguf}}, a: {{model: org/later}}}}",
            HF_ENDPOINT=hub.url,
            VOLUME_PATH=str(tmp_path / "volume"),
        )
        with pytest.raises(EngineStartFailed, match="status 451") as failed:
            app.start()
    assert not failed.value.permanent


async def test_an_engine_that_dies_for_good_takes_its_own_model_out(
    make: Callable[..., App], events: list[Event], clients: dict[str, EngineClient]
) -> None:
    dead: list[str] = []
    app = make(on_dead=lambda: dead.append("dead"))
    app.start()
    await asyncio.gather(complete(app, "a"), complete(app, "b"))
    await lose(clients["b"])
    await until_async(lambda: ModelUnloaded("b", "lost") in events)
    error = await complete(app, "b")
    assert (error["code"], dead) == ("engine_unavailable", [])
    assert (await complete(app, "a"))["model"] == "a"
    assert not app.dead
    await lose(clients["a"])
    await until_async(lambda: dead == ["dead"])
    assert app.dead


async def test_a_start_that_fails_for_want_of_memory_is_tried_again_when_another_has_left(
    make: Callable[..., App], events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make()
    app.start()
    await complete(app, "a")
    start = EngineClient.start
    tries: list[int] = []

    def failing(self: EngineClient) -> EngineInfo:
        tries.append(len(engines()))
        if tries == [1]:
            raise EngineStartFailed("out of memory")
        return start(self)

    monkeypatch.setattr(EngineClient, "start", failing)
    assert (await complete(app, "b"))["model"] == "b"
    assert tries == [1, 0]
    assert ModelUnloaded("a", "room") in events


async def test_a_stored_model_is_in_use_as_long_as_it_is_in_memory_and_found_again_without_the_hub(
    make: Callable[..., App], memory_for: Callable[[int], None], tmp_path: Path
) -> None:
    memory_for(1)
    with FakeHub() as hub:
        hub.add("org/c", "c.gguf", write_tiny(tmp_path / "c.gguf").read_bytes())
        app = make(
            f"models: {{a: {{model: {tmp_path}/a.gguf}}, c: {{model: org/c/c.gguf}}}}",
            HF_ENDPOINT=hub.url,
            VOLUME_PATH=str(tmp_path),
        )
        app.start()

        def in_use() -> list[bool]:
            return [each.in_use for each in Inventory(tmp_path / "gguf-worker").models()]

        assert (await complete(app, "c"))["model"] == "c"
        assert in_use() == [True]
        await complete(app, "a")
        assert in_use() == [False]
    # The Hub is gone, and nobody has to wait for an answer from it.
    assert (await complete(app, "c"))["model"] == "c"


def test_a_start_that_a_rate_limit_ends_says_when_to_try_again(
    make: Callable[..., App], tmp_path: Path
) -> None:
    with FakeHub() as hub:
        hub.misbehave("info", Status(429, {"RateLimit": '"api";r=0;t=243'}))
        app = make(
            "models: {c: {model: org/c/c.gguf}}", HF_ENDPOINT=hub.url, VOLUME_PATH=str(tmp_path)
        )
        with pytest.raises(EngineStartFailed, match="come again in 244 seconds") as refused:
            app.start()
    assert not refused.value.permanent
    assert refused.value.retry_after == 244


async def test_capacity_keeps_one_model_busy_and_some_waiting_for_another(
    make: Callable[..., App],
) -> None:
    app = make()
    assert app.capacity == 4
    app.start()
    assert app.capacity == 2 * 4 + 2


async def test_before_the_start_and_while_it_fails_jobs_get_a_retryable_error(
    make: Callable[..., App],
) -> None:
    assert (await complete(make()))["code"] == "engine_unavailable"
