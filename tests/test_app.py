"""The composition root, with a tiny real model in a real engine process."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gguf_worker.app import App
from gguf_worker.config import Settings
from gguf_worker.errors import EngineUnavailable, ModelCorrupt, ModelUnavailable, StartError
from gguf_worker.events import Event, ModelReady, PhaseDone, RequestDone
from gguf_worker.models.store.entry import StoreEntry
from tests.tiny_gguf import write_encoder, write_tiny

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


async def test_the_model_answers_to_its_name_and_to_what_was_set(app: App, tiny: Path) -> None:
    for name in ("tiny-model", str(tiny)):
        body = {"model": name, "prompt": "the", "max_tokens": 1}
        job = {"id": "j", "input": {"openai_route": "/v1/completions", "openai_input": body}}
        (answer,) = await run(app, job)
        assert answer["model"] == "tiny-model"


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


async def test_metrics_and_health_show_the_requests(app: App) -> None:
    await run(app, ask(ignore_eos=True))
    (metrics,) = await run(app, {"id": "m", "input": {"task": "metrics"}})
    assert "gguf_worker_generation_tokens_total 4.0" in metrics["metrics"]
    (health,) = await run(app, {"id": "h", "input": {"task": "health"}})
    assert (health["state"], health["running"], health["kv_used"]) == ("ready", 0, 0)


async def test_a_model_from_an_address_is_named_by_its_file_and_shows_no_query(
    tmp_path: Path,
) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf").read_bytes()
    sha256 = hashlib.sha256(tiny).hexdigest()
    entry = StoreEntry(tmp_path / "gguf-worker/models/+url/sha256", sha256, "sea.gguf")
    entry.path.parent.mkdir(parents=True)
    entry.sidecar(".part").write_bytes(tiny)
    entry.publish({"size": len(tiny), "sha256": sha256})
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
    (health,) = await run(app, {"id": "h", "input": {"task": "health"}})
    app.close()
    assert (ready.context, ready.kv_cells, ready.pooling) == (128, 0, "mean")
    assert app.capacity == 10
    error = json.loads(refused["error"])
    assert (error["code"], error["param"]) == ("invalid_request", "model")
    assert "served for embeddings" in error["message"]
    assert (health["state"], health["kv_total"], health["running"]) == ("ready", 0, 0)
    assert health["model"]["pooling"] == "mean"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "starting the worker failed: Too many"),
        (MemoryError(), "the log says where: MemoryError"),
        (RuntimeError("can't start new thread"), "the log says where: RuntimeError"),
        (EngineUnavailable("closed"), "the log says where: EngineUnavailable"),
    ],
    ids=str,
)
def test_whatever_ends_a_start_is_a_start_error_that_may_pass(
    raised: Exception, said: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody foresaw it, so nobody can say that it is so on every host."""

    def fails(*_: object) -> None:
        raise raised

    monkeypatch.setattr("gguf_worker.serving.single.SingleModel.start", fails)
    app = App(Settings(model=str(tiny)), environ={})
    with pytest.raises(StartError, match=said) as failed:
        app.start()
    app.close()
    assert not failed.value.permanent
