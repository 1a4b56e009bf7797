"""The composition root, with a tiny real model in a real engine process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gguf_worker.app import App
from gguf_worker.config import Settings
from gguf_worker.engine import EngineClient
from gguf_worker.errors import (
    ConfigError,
    EngineStartFailed,
    ModelCorrupt,
    ModelUnavailable,
    ModelUnsupported,
    StartError,
)
from gguf_worker.events import Event, ModelReady, PhaseDone, RequestDone
from gguf_worker.models.store import Inventory
from gguf_worker.models.store.entry import StoreEntry
from gguf_worker.providers import EmbeddingRequest, RankingRequest
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Status
from tests.tiny_gguf import write_adapter, write_encoder, write_tiny

pytestmark = pytest.mark.llama


def ask(**given: Any) -> dict[str, Any]:
    return {"id": "job", "input": {"prompt": "the sea", "max_tokens": 4, **given}}


async def run(app: App, job: dict[str, Any]) -> list[Any]:
    return [item async for item in app.handle(job)]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny-model.gguf")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def app(tiny: Path, events: list[Event]) -> Iterator[App]:
    app = App(Settings(model=str(tiny), ctx_size=512), environ={}, watch=events.append)
    app.start()
    yield app
    app.close()


async def test_the_first_answer_is_cold_and_the_next_is_warm(app: App) -> None:
    (first,) = await run(app, ask(ignore_eos=True))
    (second,) = await run(app, ask(ignore_eos=True))
    assert (first["metrics"]["cold"], second["metrics"]["cold"]) == (True, False)
    assert first["usage"]["completion_tokens"] == 4
    phases = ["interpreter", "imports", "resolve", "engine", "load", "warmup", "total"]
    assert list(first["metrics"]["cold_start_seconds"]) == phases
    assert "cold_start_seconds" not in second["metrics"]


async def test_a_start_reports_its_phases_and_the_model(app: App, events: list[Event]) -> None:
    phases = [event.phase for event in events if isinstance(event, PhaseDone)]
    assert phases == ["interpreter", "imports", "resolve", "engine", "load", "warmup", "total"]
    (ready,) = [event for event in events if isinstance(event, ModelReady)]
    assert (ready.name, ready.context, ready.sequences) == ("tiny-model", 512, 8)
    assert app.capacity > ready.sequences


@pytest.mark.parametrize(("max_queue", "capacity"), [(0, 8), (1, 9), (None, 10)])
def test_no_more_jobs_are_taken_than_may_wait(
    max_queue: int | None, capacity: int, tiny: Path
) -> None:
    app = App(Settings(model=str(tiny), ctx_size=512, max_queue=max_queue), environ={})
    app.start()
    app.close()
    assert app.capacity == capacity


async def test_the_model_answers_to_its_name_and_to_what_was_set(app: App, tiny: Path) -> None:
    for name in ("tiny-model", str(tiny)):
        body = {"model": name, "prompt": "the", "max_tokens": 1}
        job = {"id": "j", "input": {"openai_route": "/v1/completions", "openai_input": body}}
        (answer,) = await run(app, job)
        assert answer["model"] == "tiny-model"


async def test_a_served_name_replaces_the_models_own(tiny: Path) -> None:
    app = App(Settings(model=str(tiny), served_model_name="sea"), environ={})
    app.start()
    job = {"id": "j", "input": {"openai_route": "/v1/models", "openai_input": {}}}
    (models,) = await run(app, job)
    app.close()
    assert [model["id"] for model in models["data"]] == ["sea"]


async def test_before_the_model_is_there_a_job_gets_a_retryable_error(tiny: Path) -> None:
    app = App(Settings(model=str(tiny)), environ={})
    (item,) = await run(app, ask())
    app.close()
    assert json.loads(item["error"])["code"] == "engine_unavailable"


async def test_a_refusing_worker_gives_every_job_the_reason(tiny: Path) -> None:
    app = App(Settings(model=str(tiny)), environ={})
    app.refuse(ModelCorrupt("The file is cut."))
    for _ in range(2):
        (item,) = await run(app, ask())
        assert json.loads(item["error"]) == {
            "message": "The file is cut.",
            "type": "server_error",
            "param": None,
            "code": "model_corrupt",
        }
    (health,) = await run(app, {"id": "h", "input": {"task": "health"}})
    app.close()
    assert (health["state"], health["reason"]) == ("dead", "The file is cut.")


def test_a_missing_model_is_a_permanent_start_error(tmp_path: Path) -> None:
    app = App(Settings(model=str(tmp_path / "none.gguf")), environ={})
    with pytest.raises(ModelUnavailable) as error:
        app.start()
    app.close()
    assert error.value.permanent


def test_a_model_that_llama_cpp_cannot_open_leaves_no_process(tmp_path: Path) -> None:
    """The header is sound, a tensor's shape is not: only llama.cpp can tell."""
    model = write_tiny(tmp_path / "odd.gguf", metadata={"llama.attention.head_count": 3})
    app = App(Settings(model=str(model)), environ={})
    with pytest.raises(StartError, match=r"llama\.cpp cannot load"):
        app.start()
    assert psutil.Process().children() == []
    app.close()


async def test_an_observer_that_fails_does_not_end_the_request(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> None:
        if isinstance(event, RequestDone):
            raise RuntimeError("a bug")

    app = App(Settings(model=str(tiny)), environ={}, watch=broken)
    app.start()
    with caplog.at_level(logging.ERROR, "gguf_worker"):
        (answer,) = await run(app, ask())
    app.close()
    assert answer["finish_reason"] in ("stop", "length")
    assert "an observer failed on RequestDone" in caplog.text


async def test_metrics_and_health_tell_of_the_requests(app: App) -> None:
    await run(app, ask(ignore_eos=True))
    (metrics,) = await run(app, {"id": "m", "input": {"task": "metrics"}})
    assert "gguf_worker_generation_tokens_total 4.0" in metrics["metrics"]
    (health,) = await run(app, {"id": "h", "input": {"task": "health"}})
    assert (health["state"], health["running"], health["kv_used"]) == ("ready", 0, 0)


def test_a_stored_model_is_in_use_until_the_worker_is_closed(tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", write_tiny(tmp_path / "tiny.gguf").read_bytes())
        settings = Settings(
            model="org/tiny/tiny.gguf",
            ctx_size=512,
            hf_endpoint=hub.url,
            volume_path=tmp_path,
            volume_max_gb=1,
        )
        app = App(settings, environ={})
        app.start()
    inventory = Inventory(tmp_path / "gguf-worker")
    assert [model.in_use for model in inventory.models()] == [True]
    app.close()
    assert [model.in_use for model in inventory.models()] == [False]


async def test_a_model_from_an_address_is_named_by_its_file_and_shows_no_query(
    tmp_path: Path,
) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf").read_bytes()
    sha256 = hashlib.sha256(tiny).hexdigest()
    place = StoreEntry(tmp_path / "gguf-worker/models/+url/sha256", sha256, "sea.gguf")
    place.path.parent.mkdir(parents=True)
    place.sidecar(".part").write_bytes(tiny)
    place.publish({"size": len(tiny), "sha256": sha256})
    url = "https://models.test/sea.gguf?signature=secret"
    app = App(
        Settings(model=url, model_sha256=sha256, ctx_size=512, volume_path=tmp_path), environ={}
    )
    app.start()
    job = {"id": "j", "input": {"openai_route": "/v1/models", "openai_input": {}}}
    (models,) = await run(app, job)
    app.close()
    assert [model["id"] for model in models["data"]] == ["sea"]
    assert "secret" not in json.dumps(models)


def test_close_is_safe_before_and_after_a_start(tiny: Path) -> None:
    app = App(Settings(model=str(tiny)), environ={})
    app.close()
    started = App(Settings(model=str(tiny)), environ={})
    started.start()
    started.close()
    started.close()
    assert psutil.Process().children() == []


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder.gguf")


async def test_a_model_for_embeddings_is_served_without_a_cache_and_refuses_text(
    encoder: Path,
) -> None:
    events: list[Event] = []
    app = App(Settings(model=str(encoder)), environ={}, watch=events.append)
    app.start()
    (ready,) = [event for event in events if isinstance(event, ModelReady)]
    (refused,) = await run(app, ask())
    found = await app._provider("").embed(EmbeddingRequest("e", ("the sea", "blue")))
    (health,) = await run(app, {"id": "h", "input": {"task": "health"}})
    app.close()
    assert (ready.context, ready.kv_cells, ready.pooling) == (128, 0, "mean")
    assert app.capacity == 10
    error = json.loads(refused["error"])
    assert (error["code"], error["param"]) == ("invalid_request", "model")
    assert "served for embeddings" in error["message"]
    assert [len(vector) for vector in found.vectors] == [4 * 64] * 2
    assert (health["state"], health["kv_total"], health["running"]) == ("ready", 0, 0)
    assert health["model"]["pooling"] == "mean"


async def test_where_pooling_is_set_a_chat_model_gives_text_and_embeddings(tiny: Path) -> None:
    app = App(Settings(model=str(tiny), ctx_size=512, pooling="last"), environ={})
    app.start()
    (answer,) = await run(app, ask(ignore_eos=True))
    found = await app._provider("").embed(EmbeddingRequest("e", ("the sea", (5, 6, 7))))
    app.close()
    assert answer["usage"]["completion_tokens"] == 4
    assert len(found.vectors) == 2


async def test_a_reranker_gives_scores(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "r.gguf", pooling=4, head=True)
    app = App(Settings(model=str(path), max_concurrency=2), environ={})
    app.start()
    found = await app._provider("").rank(RankingRequest("r", "sea", ("blue", "the sea")))
    (refused,) = await run(app, ask())
    app.close()
    assert len(set(found.scores)) == 2
    assert app.capacity == 4
    assert "served for scores of documents" in json.loads(refused["error"])["message"]


def test_a_pooling_that_the_model_cannot_follow_is_a_start_error(tiny: Path) -> None:
    app = App(Settings(model=str(tiny), pooling="rank"), environ={})
    with pytest.raises(ConfigError, match="no head that makes scores"):
        app.start()
    app.close()


async def test_a_set_template_writes_the_chats_down(tiny: Path, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    job = {"id": "j", "input": {"messages": [{"role": "user", "content": "sea"}], "max_tokens": 1}}
    tokens = []
    for chosen in (None, str(template)):
        app = App(Settings(model=str(tiny), ctx_size=512, chat_template=chosen), environ={})
        app.start()
        (answer,) = await run(app, job)
        app.close()
        tokens.append(answer["usage"]["prompt_tokens"])
    assert tokens[1] < tokens[0]


async def test_set_adapters_are_fetched_and_applied(tiny: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, tiny, ["output.weight", "blk.0.attn_q.weight"], alpha=64.0)
    texts = []
    with FakeHub() as hub:
        hub.add("org/lora", "a.gguf", adapter.read_bytes())
        for chosen in (None, "org/lora/a.gguf scale=0", "org/lora/a.gguf"):
            settings = Settings(
                model=str(tiny),
                ctx_size=512,
                lora_adapters=chosen,
                hf_endpoint=hub.url,
                volume_path=tmp_path,
            )
            app = App(settings, environ={})
            app.start()
            (answer,) = await run(app, ask(temperature=0, max_tokens=16, ignore_eos=True))
            app.close()
            texts.append(answer["text"])
        assert len(hub.downloads()) == 1
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "wrong", [{"chat_template": "/nowhere.jinja"}, {"lora_adapters": "org/lora/a.gguf weight=1"}]
)
def test_what_cannot_go_with_a_model_is_told_before_the_download(
    tiny: Path, tmp_path: Path, wrong: dict[str, str]
) -> None:
    with FakeHub() as hub:
        hub.add("org/Tiny-GGUF", "tiny.gguf", tiny.read_bytes())
        app = App(
            Settings(model="org/Tiny-GGUF", hf_endpoint=hub.url, volume_path=tmp_path, **wrong),
            environ={},
        )
        with pytest.raises(ConfigError):
            app.start()
        app.close()
        assert hub.requests == []


class Kept:
    """A model that a hub has and a volume too, and workers that read every byte of it."""

    def __init__(self, hub: FakeHub, volume: Path, content: bytes) -> None:
        hub.add("org/Tiny-GGUF", "tiny.gguf", content)
        self.hub = hub
        self.content = content
        self.path = volume / "gguf-worker" / "models" / "org/Tiny-GGUF" / COMMIT / "tiny.gguf"
        self.events: list[Event] = []
        self._settings = Settings(
            model="org/Tiny-GGUF",
            ctx_size=512,
            verify="full",
            hf_endpoint=hub.url,
            volume_path=volume,
        )
        fetching = self.app()
        fetching.start()
        fetching.close()
        self.events.clear()
        hub.requests.clear()

    def app(self) -> App:
        return App(self._settings, environ={}, watch=self.events.append)

    def phases(self) -> list[str]:
        return [event.phase for event in self.events if isinstance(event, PhaseDone)]

    def damage(self, at: int) -> None:
        """Change a byte, and leave no trace in the file's times."""
        times = self.path.stat()
        data = bytearray(self.content)
        data[at] ^= 1
        self.path.write_bytes(data)
        os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def kept(tiny: Path, tmp_path: Path) -> Iterator[Kept]:
    with FakeHub() as hub:
        yield Kept(hub, tmp_path, tiny.read_bytes())


async def test_a_stored_model_is_read_in_full_while_it_is_loaded(kept: Kept) -> None:
    app = kept.app()
    app.start()
    (answer,) = await run(app, ask())
    app.close()
    assert answer["usage"]["completion_tokens"] > 0
    before, after = ["interpreter", "imports", "resolve"], ["engine", "load", "warmup", "total"]
    assert kept.phases() == [*before, "verify", *after]
    assert kept.hub.downloads() == []


async def test_a_stored_model_with_a_hash_is_read_before_the_engine_opens_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.damage(-1)
    sha256 = hashlib.sha256(kept.content).hexdigest()
    kept._settings = kept._settings.model_copy(update={"model_sha256": sha256})
    opened: list[bytes] = []
    start = EngineClient.start

    def starting(self: EngineClient) -> Any:
        opened.append(kept.path.read_bytes())
        return start(self)

    monkeypatch.setattr(EngineClient, "start", starting)
    app = kept.app()
    app.start()
    app.close()
    assert opened == [kept.content]
    assert "verify" not in kept.phases()


async def test_no_job_is_answered_before_the_last_byte_was_read(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    verify = StoreEntry.verify

    def slowly(place: StoreEntry, tell: Any) -> str:
        go_on.wait(30)
        return verify(place, tell)

    monkeypatch.setattr(StoreEntry, "verify", slowly)
    app = kept.app()
    starting = threading.Thread(target=app.start)
    starting.start()
    while (
        (model := app._models._model) is None or model._engine is None or model._engine.info is None
    ):
        await asyncio.sleep(0.01)
    (item,) = await run(app, ask())
    assert json.loads(item["error"])["code"] == "engine_unavailable"
    assert not any(isinstance(event, ModelReady) for event in kept.events)
    go_on.set()
    starting.join()
    (answer,) = await run(app, ask())
    app.close()
    assert answer["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (EngineStartFailed("no memory", lacking=True), False),
        (ModelUnsupported("an encoder"), False),
        (EngineStartFailed("it crashed"), True),
        (EngineStartFailed("cannot load", permanent=True), True),
    ],
)
def test_a_start_that_failed_is_told_at_once_where_damage_cannot_be_why(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, error: StartError, waits: bool
) -> None:
    read, all_read = threading.Event(), []
    verify = StoreEntry.verify

    def slowly(place: StoreEntry, tell: Any) -> str:
        while not read.wait(0.01):
            tell(0)
        all_read.append(True)
        return verify(place, tell)

    def failing(engine: EngineClient) -> None:
        if waits:
            threading.Timer(0.1, read.set).start()
        raise error

    monkeypatch.setattr(StoreEntry, "verify", slowly)
    monkeypatch.setattr(EngineClient, "start", failing)
    app = kept.app()
    with pytest.raises(type(error), match=error.message):
        app.start()
    app.close()
    assert bool(all_read) is waits


@pytest.mark.parametrize("where", ["weights", "a name that llama.cpp needs"])
async def test_a_stored_model_found_wrong_while_it_is_loaded_is_fetched_again_once(
    kept: Kept, where: str
) -> None:
    kept.damage(-1 if where == "weights" else kept.content.index(b"output_norm.weight"))
    app = kept.app()
    app.start()
    (answer,) = await run(app, ask())
    app.close()
    assert answer["usage"]["completion_tokens"] > 0
    assert kept.path.read_bytes() == kept.content
    assert kept.path.with_name("tiny.gguf.bad").read_bytes() != kept.content
    assert len(kept.hub.downloads()) == 1
    assert [event for event in kept.events if isinstance(event, ModelReady)] != []


def test_a_stored_model_that_is_wrong_and_cannot_be_fetched_is_not_served(kept: Kept) -> None:
    kept.damage(-1)
    kept.hub.misbehave("file", *[Status(404)] * 3)
    app = kept.app()
    with pytest.raises(ModelUnavailable):
        app.start()
    app.close()
    assert not any(isinstance(event, ModelReady) for event in kept.events)
    assert not kept.path.exists()


def test_a_template_that_does_not_work_is_a_permanent_start_error(
    tiny: Path, tmp_path: Path
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[")
    app = App(Settings(model=str(tiny), chat_template=str(template)), environ={})
    with pytest.raises(ConfigError, match=r"does not compile: .*line 1") as refused:
        app.start()
    app.close()
    assert refused.value.permanent
