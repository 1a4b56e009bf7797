"""The model of a worker that has one: before its start, after it, and after a start that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gguf_worker.config import Settings
from gguf_worker.errors import DownloadFailed, EngineUnavailable, StartError
from gguf_worker.providers import ModelCard, Provider
from gguf_worker.serving.loaded_model import LoadedModel
from gguf_worker.serving.single import SingleModel
from tests.fakes import ScriptedProvider
from tests.tiny_gguf import write_tiny


def new_model(settings: Settings, on_dead: Callable[[str], None]) -> LoadedModel:
    return LoadedModel(
        settings, {}, observe=lambda event: None, on_download=lambda progress: None, on_dead=on_dead
    )


class FakeModel(LoadedModel):
    """A model that needs no file and no engine. `error`: of its start."""

    def __init__(self, on_dead: Callable[[str], None], error: StartError | None = None) -> None:
        super().__init__(
            Settings(model="a.gguf"),
            {},
            observe=lambda event: None,
            on_download=lambda progress: None,
        )
        self.lose = on_dead
        self.error = error
        self.calls: list[str] = []
        self.lost: str | None = None

    def fetch(self) -> None:
        self.calls.append("fetch")
        if self.error is not None:
            raise self.error

    def open(self, others: Sequence[LoadedModel] | None = None) -> bool:
        self.calls.append("open")
        self.sequences, self.max_queue = 4, 16
        return True

    def close(self) -> None:
        self.calls.append("close")

    @property
    def is_open(self) -> bool:
        return "open" in self.calls

    @property
    def card(self) -> ModelCard:
        return ModelCard("sea")

    @property
    def provider(self) -> Provider:
        return ScriptedProvider()

    @property
    def dead(self) -> str | None:
        return self.lost


def test_before_the_start_it_serves_nothing_and_says_so() -> None:
    single = SingleModel(FakeModel)
    for ask in (single.cards, lambda: single.provider("sea")):
        with pytest.raises(EngineUnavailable, match="still being loaded") as refused:
            ask()
        assert refused.value.retry_after == 5.0
    assert single.capacity == 3
    assert not single.dead
    single.close()


def test_after_the_start_the_model_is_there_for_every_request() -> None:
    single = SingleModel(FakeModel)
    single.start(lambda reason: None)
    assert [card.name for card in single.cards()] == ["sea"]
    assert isinstance(single.provider("any"), ScriptedProvider)
    assert single.load_phases("sea") is None
    assert single.facts() == {}
    assert single.capacity == 4 + 2


def test_a_start_that_failed_may_be_tried_again_and_leaves_nothing() -> None:
    made: list[FakeModel] = []

    def make(on_dead: Callable[[str], None]) -> LoadedModel:
        made.append(FakeModel(on_dead, None if made else DownloadFailed("a hiccup")))
        return made[-1]

    single = SingleModel(make)
    with pytest.raises(DownloadFailed):
        single.start(lambda reason: None)
    single.start(lambda reason: None)
    assert [model.calls for model in made] == [["fetch", "close"], ["fetch", "open"]]


def test_the_loss_of_its_engine_is_reported_and_is_the_end() -> None:
    made: list[FakeModel] = []
    reasons: list[str] = []

    def make(on_dead: Callable[[str], None]) -> LoadedModel:
        made.append(FakeModel(on_dead))
        return made[-1]

    single = SingleModel(make)
    single.start(reasons.append)
    made[0].lost = "it died five times"
    made[0].lose(made[0].lost)
    assert reasons == ["it died five times"]
    assert single.dead


@pytest.mark.llama
@pytest.mark.parametrize(("max_queue", "capacity"), [(0, 8), (1, 9), (None, 10)])
def test_no_more_jobs_are_taken_than_may_wait(
    max_queue: int | None, capacity: int, tmp_path: Path
) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf")
    settings = Settings(model=str(tiny), ctx_size=512, max_queue=max_queue)
    single = SingleModel(lambda on_dead: new_model(settings, on_dead))
    single.start(lambda reason: None)
    single.close()
    assert single.capacity == capacity
