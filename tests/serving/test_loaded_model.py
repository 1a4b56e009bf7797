"""One model, from its settings to its provider: tiny real models in real engine processes."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gguf_worker.config import CatalogEntry, Gpu, Machine, Settings
from gguf_worker.engine import EngineClient, EngineInfo, EngineSpec, GpuSupport
from gguf_worker.errors import (
    ConfigError,
    EngineStartFailed,
    ModelUnavailable,
    ModelUnsupported,
    StartError,
)
from gguf_worker.events import Event, ModelReady, PhaseDone
from gguf_worker.generation import Sampling, Usage
from gguf_worker.models.store import Inventory
from gguf_worker.models.store.entry import StoreEntry
from gguf_worker.providers import (
    EmbeddingRequest,
    Finish,
    GenerationRequest,
    RankingRequest,
    TextDelta,
)
from gguf_worker.serving.companions import Adapter
from gguf_worker.serving.loaded_model import LoadedModel, engine_spec
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Status
from tests.tiny_gguf import CHATML, write_adapter, write_encoder, write_tiny
from tests.waiting import PATIENCE

pytestmark = pytest.mark.llama

NewModel = Callable[..., LoadedModel]


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def new_model(events: list[Event]) -> Iterator[NewModel]:
    """Makes a model of these settings; all are closed at the end, and leave no process."""
    models: list[LoadedModel] = []

    def new(settings: Settings, **options: Any) -> LoadedModel:
        options = {"environ": {}, "on_download": lambda progress: None, **options}
        model = LoadedModel(settings, observe=events.append, **options)
        models.append(model)
        return model

    yield new
    for model in models:
        model.close()
    assert psutil.Process().children() == []


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny-model.gguf")


def load(model: LoadedModel) -> LoadedModel:
    model.fetch()
    assert model.open()
    return model


async def answer(model: LoadedModel, tokens: int = 4, **given: Any) -> tuple[str, Usage]:
    """Generate greedily. Returns the text and the figures."""
    given = {"prompts": ("the sea",), **given}
    sampling = Sampling(temperature=0)
    request = GenerationRequest("r", sampling, max_tokens=tokens, ignore_eos=True, **given)
    parts = [part async for part in model.provider.answer(request)]
    assert isinstance(parts[-1], Finish)
    return "".join(part.text for part in parts if isinstance(part, TextDelta)), parts[-1].usage


def phases(events: list[Event]) -> list[str]:
    return [event.phase for event in events if isinstance(event, PhaseDone)]


# Its life.


async def test_a_model_is_fetched_then_opened_and_then_answers(
    new_model: NewModel, tiny: Path, events: list[Event]
) -> None:
    model = new_model(Settings(model=str(tiny), ctx_size=512))
    model.fetch()
    assert not model.is_open
    assert model.open()
    assert (model.is_open, model.dead) == (True, None)
    assert phases(events) == ["resolve", "engine", "load", "warmup"]
    (ready,) = [event for event in events if isinstance(event, ModelReady)]
    assert (ready.name, ready.context, ready.sequences) == ("tiny-model", 512, model.sequences)
    _, usage = await answer(model)
    assert usage.completion_tokens == 4


def test_close_is_safe_at_any_time_and_ends_the_engine(new_model: NewModel, tiny: Path) -> None:
    new_model(Settings(model=str(tiny))).close()
    fetched = new_model(Settings(model=str(tiny)))
    fetched.fetch()
    fetched.close()
    model = load(new_model(Settings(model=str(tiny), ctx_size=512)))
    model.close()
    model.close()
    assert psutil.Process().children() == []


@pytest.fixture
def engine_options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options that the engine was made with, its callbacks among them."""
    options: dict[str, Any] = {}

    def make(*given: Any, **more: Any) -> EngineClient:
        options.update(more)
        return EngineClient(*given, **more)

    monkeypatch.setattr("gguf_worker.serving.loaded_model.EngineClient", make)
    return options


def test_it_reports_how_much_of_it_is_loaded(
    new_model: NewModel, tiny: Path, engine_options: dict[str, Any]
) -> None:
    fractions: list[float] = []
    load(new_model(Settings(model=str(tiny), ctx_size=512), on_load=fractions.append))
    engine_options["progress"](0.25)
    assert fractions[-1] == 0.25


def test_an_engine_that_is_lost_for_good_is_reported_once_the_model_was_open(
    new_model: NewModel,
    tiny: Path,
    engine_options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reasons: list[str] = []
    model = new_model(Settings(model=str(tiny), ctx_size=512), on_dead=reasons.append)
    model.fetch()
    start = EngineClient.start

    def starting(engine: EngineClient) -> EngineInfo:
        engine_options["on_dead"]("during the start, which raises")
        return start(engine)

    monkeypatch.setattr(EngineClient, "start", starting)
    assert model.open()
    assert reasons == []
    engine_options["on_dead"]("it died five times")
    assert reasons == ["it died five times"]


def test_beside_others_without_memory_it_is_not_opened_and_may_be_later(
    new_model: NewModel, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load(new_model(Settings(model=str(tiny), ctx_size=512)))
    model = new_model(Settings(model=str(tiny), ctx_size=512))
    model.fetch()
    with monkeypatch.context() as patch:
        patch.setattr("gguf_worker.serving.loaded_model.fit_among", lambda *_, **__: None)
        assert model.open([other]) is False
    assert not model.is_open
    assert model.open([other])


def test_only_a_model_with_an_engine_has_its_file_in_memory(
    new_model: NewModel, tiny: Path
) -> None:
    model = new_model(Settings(model=str(tiny), ctx_size=512))
    model.fetch()
    assert list(model.mapped()) == []
    assert model.open()
    ((path, size),) = model.mapped()
    assert path == tiny
    assert size > 0


# Its names and sizes.


def test_the_names_are_the_files_own_and_what_was_set(new_model: NewModel, tiny: Path) -> None:
    model = load(new_model(Settings(model=str(tiny), ctx_size=512)))
    assert (model.card.name, model.card.aliases) == ("tiny-model", (str(tiny),))


def test_a_served_name_replaces_the_models_own(new_model: NewModel, tiny: Path) -> None:
    settings = Settings(model=str(tiny), ctx_size=512, served_model_name="sea")
    card = load(new_model(settings)).card
    assert (card.name, card.aliases) == ("sea", (str(tiny), "tiny-model"))


@pytest.mark.parametrize(
    ("names", "name", "listed"),
    [
        ("sea, gpt-4o,claude", "sea", ("sea", "gpt-4o", "claude")),
        ("sea,*", "sea", ("sea",)),
        ("*, sea", "sea", ("sea",)),
        ("*", "tiny-model", ()),
    ],
)
def test_several_names_may_be_served_and_any(
    new_model: NewModel, tiny: Path, names: str, name: str, listed: tuple[str, ...]
) -> None:
    card = load(new_model(Settings(model=str(tiny), ctx_size=512, served_model_name=names))).card
    assert (card.name, card.listed) == (name, listed)
    assert all(card.answers_to(each) for each in (*listed, str(tiny), "tiny-model"))
    assert card.answers_to_any is ("*" in names)


@pytest.mark.parametrize("named", ["", "{{ tools }}<think>"])
def test_a_model_has_thoughts_if_its_template_for_tools_has(
    new_model: NewModel, tmp_path: Path, named: str
) -> None:
    path = tmp_path / "model.gguf"
    write_tiny(path, metadata={"tokenizer.chat_template.tool_use": named} if named else {})
    card = load(new_model(Settings(model=str(path), ctx_size=512))).card
    assert card.thinks is bool(named)


def test_a_model_of_a_catalog_has_the_names_of_its_entry(new_model: NewModel, tiny: Path) -> None:
    settings = Settings(model=str(tiny), ctx_size=512)
    entry = CatalogEntry("small", settings, ("first", "second"))
    card = load(new_model(settings, entry=entry)).card
    assert (card.name, card.aliases) == ("small", ("first", "second"))


def test_a_model_from_an_address_is_named_by_its_file_and_shows_no_query(
    new_model: NewModel, tmp_path: Path
) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf").read_bytes()
    sha256 = hashlib.sha256(tiny).hexdigest()
    entry = StoreEntry(tmp_path / "gguf-worker/models/+url/sha256", sha256, "sea.gguf")
    entry.path.parent.mkdir(parents=True)
    entry.sidecar(".part").write_bytes(tiny)
    entry.publish({"size": len(tiny), "sha256": sha256})
    url = "https://models.test/sea.gguf?signature=secret"
    settings = Settings(model=url, model_sha256=sha256, ctx_size=512, volume_path=tmp_path)
    model = load(new_model(settings))
    assert model.card.name == "sea"
    assert "secret" not in str(model.card)
    assert model.pinned == settings


def test_its_settings_are_pinned_to_the_commit_that_was_found(
    new_model: NewModel, tiny: Path, tmp_path: Path
) -> None:
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", tiny.read_bytes())
        settings = Settings(model="org/tiny", hf_endpoint=hub.url, volume_path=tmp_path)
        model = new_model(settings)
        model.fetch()
    assert (model.pinned.model, model.pinned.model_revision) == ("org/tiny/tiny.gguf", COMMIT)
    assert model.pinned.volume_path == tmp_path


@pytest.mark.parametrize(("max_queue", "spare"), [(0, 0), (1, 1), (None, 2)])
def test_no_more_jobs_are_spare_than_may_wait(
    new_model: NewModel, tiny: Path, max_queue: int | None, spare: int
) -> None:
    model = load(new_model(Settings(model=str(tiny), ctx_size=512, max_queue=max_queue)))
    assert model.spare == spare
    assert model.max_requests == model.sequences + model.max_queue
    assert model.capabilities.most_answers == model.max_requests


def test_the_engine_gets_the_sizes_that_fit_and_the_adapters(
    new_model: NewModel, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs: list[Any] = []

    def spying(settings: Settings, path: Path, sizes: Any, adapters: tuple[Adapter, ...]) -> Any:
        specs.append((engine_spec(settings, path, sizes, adapters), sizes))
        return specs[-1][0]

    monkeypatch.setattr("gguf_worker.serving.loaded_model.engine_spec", spying)
    model = load(new_model(Settings(model=str(tiny), ctx_size=512, max_concurrency=3)))
    ((spec, sizes),) = specs
    assert (spec.path, spec.context, spec.sequences, spec.adapters) == (str(tiny), 512, 3, ())
    assert spec.kv_cells == sizes.kv_cells.value
    assert model.sequences == 3


# Machines with faults.


LOST = Machine(2, 8 << 30, 8 << 30, (), ("GPU 0 NVIDIA L4 (GPU is lost)",))


def test_a_gpu_that_cannot_be_read_is_named_in_a_warning(
    new_model: NewModel,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("gguf_worker.serving.loaded_model.probe", lambda environ: LOST)
    load(new_model(Settings(model=str(tiny), ctx_size=512)))
    assert "GPU 0 NVIDIA L4 (GPU is lost) cannot be read" in caplog.text


def test_layers_that_are_set_are_not_computed_by_the_cpu(
    new_model: NewModel, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_worker.serving.gpu_faults.built_for_gpus", lambda: True)
    monkeypatch.setattr("gguf_worker.serving.loaded_model.probe", lambda environ: LOST)
    model = new_model(Settings(model=str(tiny), gpu_layers=-1))
    model.fetch()
    with pytest.raises(EngineStartFailed, match="No GPU can be used") as failed:
        model.open()
    assert not failed.value.permanent


GPU = Machine(2, 8 << 30, 8 << 30, (Gpu(0, "NVIDIA L4", 24 << 30, 23 << 30, uuid="GPU-aa"),))
NO_DEVICE = GpuSupport("no_device", "this machine's NVIDIA driver is older than needed")
TAKING = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/"}


@pytest.fixture
def engines_without_gpu(monkeypatch: pytest.MonkeyPatch) -> list[EngineSpec]:
    """Have a GPU that llama.cpp was built for and cannot use: the specs of all engines started."""
    specs: list[EngineSpec] = []
    start = EngineClient.start

    def starting(engine: EngineClient) -> EngineInfo:
        specs.append(engine._spec)
        if engine._spec.gpu_layers == 0:
            return start(engine)
        engine._gpu_fault = NO_DEVICE
        raise EngineStartFailed("llama.cpp can use no GPU", lacking=True)

    monkeypatch.setattr(EngineClient, "start", starting)
    monkeypatch.setattr("gguf_worker.serving.gpu_faults.built_for_gpus", lambda: True)
    monkeypatch.setattr("gguf_worker.serving.loaded_model.probe", lambda environ: GPU)
    return specs


async def test_where_cuda_finds_no_gpu_a_model_is_sized_anew_for_the_cpu(
    new_model: NewModel,
    tiny: Path,
    engines_without_gpu: list[EngineSpec],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = load(new_model(Settings(model=str(tiny))))
    _, usage = await answer(model)
    assert usage.completion_tokens == 4
    assert [spec.gpu_layers for spec in engines_without_gpu] == [-1, 0]
    assert [spec.sequences for spec in engines_without_gpu] == [32, 8]
    (warning,) = [each for each in caplog.messages if "runs on the CPU" in each]
    assert NO_DEVICE.reason in warning


@pytest.mark.parametrize(("layers", "environ"), [(None, TAKING), (-1, TAKING), (-1, {})])
def test_where_cuda_finds_no_gpu_the_queue_and_a_demand_for_layers_want_another_host(
    new_model: NewModel,
    tiny: Path,
    engines_without_gpu: list[EngineSpec],
    layers: int | None,
    environ: dict[str, str],
) -> None:
    model = new_model(Settings(model=str(tiny), gpu_layers=layers), environ=environ)
    model.fetch()
    for tried in (1, 2):
        with pytest.raises(EngineStartFailed, match=r"No GPU can be used: .* driver is older"):
            model.open()
        assert len(engines_without_gpu) == tried


@pytest.mark.parametrize(("unreadable", "shown"), [((), None), (LOST.unreadable, "GPU-aa")])
def test_the_engine_sees_no_gpu_that_was_left_out(
    new_model: NewModel,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine_options: dict[str, Any],
    unreadable: tuple[str, ...],
    shown: str | None,
) -> None:
    machine = replace(GPU, unreadable=unreadable)
    monkeypatch.setattr("gguf_worker.serving.gpu_faults.built_for_gpus", lambda: True)
    monkeypatch.setattr("gguf_worker.serving.loaded_model.probe", lambda environ: machine)
    model = load(new_model(Settings(model=str(tiny), ctx_size=512)))
    assert engine_options["variables"].get("CUDA_VISIBLE_DEVICES") == shown
    assert model.is_open
    (engine,) = psutil.Process().children()
    assert engine.environ().get("CUDA_VISIBLE_DEVICES") == shown


def test_a_gpu_that_others_hold_fails_on_the_queue_unless_other_models_are_the_workers_own(
    new_model: NewModel, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_worker.serving.gpu_faults.built_for_gpus", lambda: True)
    full = Machine(2, 8 << 30, 8 << 30, (Gpu(0, "NVIDIA L4", 24 << 30, 1 << 20),))
    first = load(new_model(Settings(model=str(tiny), ctx_size=512)))
    monkeypatch.setattr("gguf_worker.serving.loaded_model.probe", lambda environ: full)
    model = new_model(Settings(model=str(tiny), ctx_size=512), environ=TAKING)
    model.fetch()
    nobody: tuple[list[LoadedModel] | None, ...] = (None, [])
    for alone in nobody:
        with pytest.raises(EngineStartFailed, match="other processes hold the rest") as failed:
            model.open(alone)
        assert not failed.value.permanent
    assert not model.open([first])


# Models that are not to be had, or cannot be loaded.


def test_a_model_that_is_missing_is_a_permanent_error(new_model: NewModel, tmp_path: Path) -> None:
    model = new_model(Settings(model=str(tmp_path / "none.gguf")))
    with pytest.raises(ModelUnavailable) as error:
        model.fetch()
    assert error.value.permanent


def test_a_model_that_llama_cpp_cannot_open_leaves_no_process(
    new_model: NewModel, tmp_path: Path
) -> None:
    """The header is sound, a tensor's shape is not: only llama.cpp can tell."""
    path = write_tiny(tmp_path / "odd.gguf", metadata={"llama.attention.head_count": 3})
    model = new_model(Settings(model=str(path)))
    model.fetch()
    with pytest.raises(StartError, match=r"llama\.cpp cannot load"):
        model.open()
    assert psutil.Process().children() == []


@pytest.mark.parametrize("kind", ["dangling", "loop", "folder", "too long", "below a file"])
def test_a_path_that_leads_to_no_file_is_a_permanent_error(
    kind: str, new_model: NewModel, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    match kind:
        case "dangling":
            path.symlink_to(tmp_path / "none.gguf")
        case "loop":
            path.symlink_to(path)
        case "folder":
            path.mkdir()
        case "too long":
            path = tmp_path / f"{'m' * 300}.gguf"
        case "below a file":
            path.write_bytes(b"GGUF")
            path = path / "m.gguf"
    with pytest.raises(ModelUnavailable) as failed:
        new_model(Settings(model=str(path))).fetch()
    assert failed.value.permanent


def publish_damaged(volume: Path, tiny: Path, damaged: Path) -> Settings:
    """Have the volume hold a model whose bytes changed later, its size and time as they were."""
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", tiny.read_bytes())
        settings = Settings(
            model="org/tiny/tiny.gguf", hf_endpoint=hub.url, volume_path=volume, ctx_size=512
        )
        model = LoadedModel(settings, {}, observe=lambda _: None, on_download=lambda progress: None)
        model.fetch()
        model.close()
    (stored,) = volume.rglob("*.gguf")
    before = stored.stat()
    assert damaged.stat().st_size == before.st_size
    stored.write_bytes(damaged.read_bytes())
    os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns))
    return settings


def test_a_stored_file_that_llama_cpp_refuses_is_fetched_again_if_it_was_damaged(
    new_model: NewModel, tiny: Path, tmp_path: Path
) -> None:
    odd = write_tiny(tmp_path / "odd.gguf", metadata={"llama.attention.head_count": 3})
    (tmp_path / "volume").mkdir()
    settings = publish_damaged(tmp_path / "volume", tiny, odd)
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", tiny.read_bytes())
        model = load(new_model(settings.model_copy(update={"hf_endpoint": hub.url})))
        assert len(hub.downloads()) == 1
    assert model.is_open


def test_a_damaged_file_of_the_image_is_fetched_to_the_volume_and_never_replaced(
    new_model: NewModel, tiny: Path, tmp_path: Path
) -> None:
    odd = write_tiny(tmp_path / "odd.gguf", metadata={"llama.attention.head_count": 3})
    image, volume = tmp_path / "image", tmp_path / "volume"
    image.mkdir()
    volume.mkdir()
    settings = publish_damaged(image, tiny, odd)
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", tiny.read_bytes())
        given = {"hf_endpoint": hub.url, "volume_path": volume, "baked_models": image}
        model = load(new_model(settings.model_copy(update=given)))
        assert len(hub.downloads()) == 1
    assert model.is_open
    assert [path.read_bytes() for path in image.rglob("*.gguf")] == [odd.read_bytes()]
    assert [path.read_bytes() for path in volume.rglob("*.gguf")] == [tiny.read_bytes()]


def test_a_sound_file_that_llama_cpp_refuses_is_refused_for_good(
    new_model: NewModel, tmp_path: Path
) -> None:
    odd = write_tiny(tmp_path / "odd.gguf", metadata={"llama.attention.head_count": 3})
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", odd.read_bytes())
        model = new_model(
            Settings(model="org/tiny/tiny.gguf", hf_endpoint=hub.url, volume_path=tmp_path)
        )
        model.fetch()
        with pytest.raises(EngineStartFailed, match=r"llama\.cpp cannot load") as failed:
            model.open()
        assert len(hub.downloads()) == 1
    assert failed.value.permanent


def test_what_the_system_refuses_while_it_is_opened_is_a_start_error(
    new_model: NewModel, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("gguf_worker.serving.loaded_model.EngineClient", fails)
    model = new_model(Settings(model=str(tiny)))
    model.fetch()
    with pytest.raises(ModelUnavailable, match="opening the model failed: Too many") as failed:
        model.open()
    assert not failed.value.permanent


class TooLarge:
    """Engines that refuse for want of memory, so many times; `cells`: what each was to have."""

    def __init__(self, times: int) -> None:
        self.cells: list[int] = []
        self._times = times
        self._start = EngineClient.start

    def __call__(self, engine: EngineClient) -> EngineInfo:
        self.cells.append(engine._spec.kv_cells)
        if len(self.cells) <= self._times:
            raise EngineStartFailed("failed to allocate", lacking=True)
        return self._start(engine)


def test_an_engine_that_finds_too_little_memory_is_tried_with_fewer_cells(
    new_model: NewModel, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = TooLarge(2)
    monkeypatch.setattr(EngineClient, "start", lambda engine: engines(engine))
    model = load(new_model(Settings(model=str(tiny))))
    assert model.is_open
    assert len(engines.cells) == 3
    assert engines.cells == sorted(set(engines.cells), reverse=True)


@pytest.mark.parametrize(("settings", "tries"), [({"kv_size": 512}, 1), ({}, 4)])
def test_sizes_that_are_set_are_not_tried_with_less_and_others_not_for_ever(
    new_model: NewModel,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, int],
    tries: int,
) -> None:
    engines = TooLarge(99)
    monkeypatch.setattr(EngineClient, "start", lambda engine: engines(engine))
    model = new_model(Settings.model_validate({"model": str(tiny), **settings}))
    model.fetch()
    with pytest.raises(EngineStartFailed, match="failed to allocate"):
        model.open()
    assert len(set(engines.cells)) == len(engines.cells) == tries


def test_an_engine_that_is_lost_before_the_model_is_open_is_a_failed_start(
    new_model: NewModel, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = EngineClient.start

    def starting(engine: EngineClient) -> EngineInfo:
        info = start(engine)
        engine._give_up("lost at once")
        return info

    monkeypatch.setattr(EngineClient, "start", starting)
    told: list[str] = []
    model = new_model(Settings(model=str(tiny), ctx_size=512), on_dead=told.append)
    model.fetch()
    with pytest.raises(EngineStartFailed, match="lost at once") as failed:
        model.open()
    assert not failed.value.permanent
    assert told == []


def test_a_pooling_that_the_model_cannot_follow_is_an_error(
    new_model: NewModel, tiny: Path
) -> None:
    model = new_model(Settings(model=str(tiny), pooling="rank"))
    model.fetch()
    with pytest.raises(ConfigError, match="no head that makes scores"):
        model.open()


def test_a_stored_model_is_in_use_until_it_is_closed(new_model: NewModel, tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", write_tiny(tmp_path / "tiny.gguf").read_bytes())
        settings = Settings(
            model="org/tiny/tiny.gguf",
            ctx_size=512,
            hf_endpoint=hub.url,
            volume_path=tmp_path,
            volume_max_gb=1,
        )
        model = load(new_model(settings))
    inventory = Inventory(tmp_path / "gguf-worker")
    assert [each.in_use for each in inventory.models()] == [True]
    model.close()
    assert [each.in_use for each in inventory.models()] == [False]


# What it is for.


async def test_a_model_for_embeddings_gives_vectors(new_model: NewModel, tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.gguf")
    model = load(new_model(Settings(model=str(path))))
    found = await model.provider.embed(EmbeddingRequest("e", ("the sea", "blue")))
    assert [len(vector) for vector in found.vectors] == [4 * 64] * 2
    assert (model.capabilities.generates, model.capabilities.pooling) == (False, "mean")


async def test_where_pooling_is_set_a_chat_model_gives_text_and_embeddings(
    new_model: NewModel, tiny: Path
) -> None:
    model = load(new_model(Settings(model=str(tiny), ctx_size=512, pooling="last")))
    _, usage = await answer(model)
    found = await model.provider.embed(EmbeddingRequest("e", ("the sea", (5, 6, 7))))
    assert usage.completion_tokens == 4
    assert len(found.vectors) == 2


async def test_a_reranker_gives_scores(new_model: NewModel, tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "r.gguf", pooling=4, head=True)
    model = load(new_model(Settings(model=str(path), max_concurrency=2)))
    found = await model.provider.rank(RankingRequest("r", "sea", ("blue", "the sea")))
    assert len(set(found.scores)) == 2
    assert (model.sequences, model.spare) == (2, 2)


# Its companions.


async def test_a_set_template_writes_the_chats_down(
    new_model: NewModel, tiny: Path, tmp_path: Path
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    messages = ({"role": "user", "content": "sea"},)
    tokens = []
    for chosen in (None, str(template)):
        model = load(new_model(Settings(model=str(tiny), ctx_size=512, chat_template=chosen)))
        _, usage = await answer(model, tokens=1, prompts=(), messages=messages)
        tokens.append(usage.prompt_tokens)
    assert tokens[1] < tokens[0]


async def test_a_chat_with_tools_is_written_by_the_files_own_template_for_them(
    new_model: NewModel, tmp_path: Path
) -> None:
    for_tools = "{% if tools %}{{ 'x' * 400 }}<tool_call>{% endif %}" + CHATML
    metadata = {"tokenizer.chat_template.tool_use": for_tools}
    path = write_tiny(tmp_path / "m.gguf", metadata=metadata)
    model = load(new_model(Settings(model=str(path), ctx_size=1024)))
    messages = ({"role": "user", "content": "sea"},)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    _, plain = await answer(model, tokens=1, prompts=(), messages=messages)
    _, with_tool = await answer(model, tokens=1, prompts=(), messages=messages, tools=(tool,))
    assert with_tool.prompt_tokens - plain.prompt_tokens > 100


async def test_set_adapters_are_fetched_and_applied(
    new_model: NewModel, tiny: Path, tmp_path: Path
) -> None:
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
            text, _ = await answer(load(new_model(settings)), tokens=16)
            texts.append(text)
        assert len(hub.downloads()) == 1
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "wrong", [{"chat_template": "/nowhere.jinja"}, {"lora_adapters": "org/lora/a.gguf weight=1"}]
)
def test_companions_that_cannot_be_used_are_refused_before_the_download(
    new_model: NewModel, tiny: Path, tmp_path: Path, wrong: dict[str, str]
) -> None:
    with FakeHub() as hub:
        hub.add("org/Tiny-GGUF", "tiny.gguf", tiny.read_bytes())
        given = {"hf_endpoint": hub.url, "volume_path": tmp_path, **wrong}
        model = new_model(Settings.model_validate({"model": "org/Tiny-GGUF", **given}))
        with pytest.raises(ConfigError):
            model.fetch()
        assert hub.requests == []


def test_a_template_that_does_not_work_is_a_permanent_error(
    new_model: NewModel, tiny: Path, tmp_path: Path
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[")
    model = new_model(Settings(model=str(tiny), chat_template=str(template)))
    with pytest.raises(ConfigError, match=r"does not compile: .*line 1") as refused:
        model.fetch()
    assert refused.value.permanent


# Stored models of which every byte is read.


class StoredTiny:
    """A model on a hub and on a volume, and the settings of a worker that reads every byte."""

    def __init__(self, hub: FakeHub, volume: Path, content: bytes, new_model: NewModel) -> None:
        hub.add("org/Tiny-GGUF", "tiny.gguf", content)
        self.hub = hub
        self.content = content
        self.path = volume / "gguf-worker" / "models" / "org/Tiny-GGUF" / COMMIT / "tiny.gguf"
        self.settings = Settings(
            model="org/Tiny-GGUF",
            ctx_size=512,
            verify="full",
            hf_endpoint=hub.url,
            volume_path=volume,
        )
        load(new_model(self.settings)).close()
        hub.requests.clear()

    def damage(self, at: int) -> None:
        """Change a byte, and leave no trace in the file's times."""
        times = self.path.stat()
        data = bytearray(self.content)
        data[at] ^= 1
        self.path.write_bytes(data)
        os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def stored(
    tiny: Path, tmp_path: Path, new_model: NewModel, events: list[Event]
) -> Iterator[StoredTiny]:
    with FakeHub() as hub:
        stored = StoredTiny(hub, tmp_path, tiny.read_bytes(), new_model)
        events.clear()
        yield stored


async def test_a_stored_model_is_read_in_full_while_it_is_loaded(
    stored: StoredTiny, new_model: NewModel, events: list[Event]
) -> None:
    _, usage = await answer(load(new_model(stored.settings)))
    assert usage.completion_tokens > 0
    assert phases(events) == ["resolve", "verify", "engine", "load", "warmup"]
    assert stored.hub.downloads() == []


def test_a_stored_model_with_a_hash_is_read_before_the_engine_opens_it(
    stored: StoredTiny,
    new_model: NewModel,
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored.damage(-1)
    sha256 = hashlib.sha256(stored.content).hexdigest()
    settings = stored.settings.model_copy(update={"model_sha256": sha256})
    opened: list[bytes] = []
    start = EngineClient.start

    def starting(engine: EngineClient) -> EngineInfo:
        opened.append(stored.path.read_bytes())
        return start(engine)

    monkeypatch.setattr(EngineClient, "start", starting)
    load(new_model(settings))
    assert opened == [stored.content]
    assert "verify" not in phases(events)


async def test_a_model_is_not_open_before_its_last_byte_was_read(
    stored: StoredTiny,
    new_model: NewModel,
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, go_on = threading.Event(), threading.Event()
    verify, start = StoreEntry.verify, EngineClient.start

    def slowly(entry: StoreEntry, tell: Callable[[int], None]) -> str:
        go_on.wait(PATIENCE)
        return verify(entry, tell)

    def starting(engine: EngineClient) -> EngineInfo:
        info = start(engine)
        started.set()
        return info

    monkeypatch.setattr(StoreEntry, "verify", slowly)
    monkeypatch.setattr(EngineClient, "start", starting)
    model = new_model(stored.settings)
    model.fetch()
    opening = threading.Thread(target=model.open)
    opening.start()
    assert started.wait(PATIENCE)
    assert not model.is_open
    assert not any(isinstance(event, ModelReady) for event in events)
    go_on.set()
    opening.join()
    _, usage = await answer(model)
    assert usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (EngineStartFailed("no memory", lacking=True), False),
        (ModelUnsupported("an encoder"), False),
        (EngineStartFailed("it crashed"), True),
        (EngineStartFailed("cannot load", permanent=True), True),
    ],
)
def test_a_start_that_failed_is_reported_at_once_where_damage_cannot_be_why(
    stored: StoredTiny,
    new_model: NewModel,
    monkeypatch: pytest.MonkeyPatch,
    error: StartError,
    waits: bool,
) -> None:
    read, all_read = threading.Event(), []
    verify = StoreEntry.verify

    def slowly(entry: StoreEntry, tell: Callable[[int], None]) -> str:
        while not read.wait(0.01):
            tell(0)
        all_read.append(True)
        return verify(entry, tell)

    def failing(engine: EngineClient) -> None:
        if waits:
            threading.Timer(0.1, read.set).start()
        raise error

    monkeypatch.setattr(StoreEntry, "verify", slowly)
    monkeypatch.setattr(EngineClient, "start", failing)
    model = new_model(stored.settings)
    model.fetch()
    with pytest.raises(type(error), match=error.message):
        model.open()
    model.close()
    assert bool(all_read) is waits


@pytest.mark.parametrize("where", ["weights", "a name that llama.cpp needs"])
async def test_a_stored_model_found_wrong_while_it_is_loaded_is_fetched_again_once(
    stored: StoredTiny, new_model: NewModel, events: list[Event], where: str
) -> None:
    stored.damage(-1 if where == "weights" else stored.content.index(b"output_norm.weight"))
    _, usage = await answer(load(new_model(stored.settings)))
    assert usage.completion_tokens > 0
    assert stored.path.read_bytes() == stored.content
    assert stored.path.with_name("tiny.gguf.bad").read_bytes() != stored.content
    assert len(stored.hub.downloads()) == 1
    assert [event for event in events if isinstance(event, ModelReady)] != []


def test_a_stored_model_that_is_wrong_and_cannot_be_fetched_is_not_served(
    stored: StoredTiny, new_model: NewModel, events: list[Event]
) -> None:
    stored.damage(-1)
    stored.hub.misbehave("file", *[Status(404, {"X-Error-Code": "EntryNotFound"})] * 3)
    model = new_model(stored.settings)
    model.fetch()
    with pytest.raises(ModelUnavailable):
        model.open()
    model.close()
    assert not any(isinstance(event, ModelReady) for event in events)
    assert not stored.path.exists()
