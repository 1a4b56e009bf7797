"""The policy's record of one model: its times, its requests, and its failures."""

from __future__ import annotations

import math

import pytest

from gguf_worker.errors import (
    DiskFull,
    DownloadFailed,
    EngineUnavailable,
    ModelCorrupt,
    WorkerError,
)
from gguf_worker.serving.model_record import (
    LINGER,
    RETRY_PAUSES,
    TIME_SLICE,
    ModelPolicy,
    ModelRecord,
    ModelState,
    WaitingRequest,
)

NOW = 1000.0


def record(keep_alive: float | None = None) -> ModelRecord:
    """A model that took ten seconds to open, is in memory since NOW, and holds four requests."""
    found = ModelRecord(ModelPolicy("a", keep_alive), load_seconds=10.0, max_requests=4)
    found.enter(ModelState.RESIDENT, NOW)
    found.used_at = NOW
    return found


def test_a_time_slice_lasts_as_many_times_what_opening_took() -> None:
    assert record().slice_ends == NOW + TIME_SLICE * 10


def test_an_unused_model_may_be_evicted_a_moment_after_its_last_request() -> None:
    model = record()
    model.used_at = NOW + 3
    assert model.evictable_at == NOW + 3 + LINGER * 10
    model.used_at = model.slice_ends
    assert model.evictable_at == model.slice_ends, "and at the latest when its slice is over"


def test_keep_alive_counts_from_the_last_use_and_none_is_for_ever() -> None:
    assert record(keep_alive=30.0).keep_alive_ends == NOW + 30
    assert record().keep_alive_ends == math.inf


def test_an_admitted_request_counts_with_its_weight() -> None:
    model = record()
    model.waiting = {1: WaitingRequest(NOW, math.inf, 3, False)}
    model.admit(1, NOW + 5)
    assert (model.running, model.waiting, model.used_at) == ({1: 3}, {}, NOW + 5)
    assert model.holds(1)
    assert not model.holds(2)


def test_evicting_costs_the_less_the_longer_nobody_has_used_the_model() -> None:
    model = record()
    assert model.eviction_cost(NOW + 1) > model.eviction_cost(NOW + 2) > 0
    assert model.eviction_cost(NOW) < math.inf


@pytest.mark.parametrize(
    ("error", "pauses"),
    [
        (DownloadFailed("a hiccup"), RETRY_PAUSES[:2]),
        (DiskFull("no room"), RETRY_PAUSES[:2]),
        (ModelCorrupt("cut"), (RETRY_PAUSES[-1],) * 2),
    ],
)
def test_pauses_grow_with_failures_that_may_pass(
    error: WorkerError, pauses: tuple[float, ...]
) -> None:
    model = record()
    assert tuple(model.fail(error, NOW) for _ in pauses) == pauses
    assert model.is_paused(NOW + pauses[-1] - 1)
    assert not model.is_paused(NOW + pauses[-1])


def test_a_server_that_asks_for_a_longer_pause_is_obeyed() -> None:
    model = record()
    assert model.fail(DownloadFailed("limited", retry_after=244.0), NOW) == 244.0
    assert model.retry_seconds(NOW) == 244.0
    assert model.fail(DownloadFailed("limited", retry_after=2.0), NOW) == RETRY_PAUSES[1]
    assert model.fail(DownloadFailed("limited", retry_after=1e9), NOW) == 3600.0


def test_a_permanent_error_keeps_its_type_and_gets_the_models_name() -> None:
    model = record()
    error = ModelCorrupt("It is cut.", param="MODEL")
    model.fail(error, NOW)
    assert isinstance(model.error, ModelCorrupt)
    assert str(model.error) == "The model 'a' cannot be served: It is cut."
    assert model.error.param == "MODEL"
    assert error.message == "It is cut.", "the original is left alone"


def test_a_passing_error_is_one_that_a_client_may_retry() -> None:
    model = record()
    model.fail(DownloadFailed("a hiccup"), NOW)
    assert isinstance(model.error, EngineUnavailable)
    assert model.error.message == "The model 'a' cannot be served now: a hiccup"


def test_the_facts_have_the_error_as_long_as_it_counts() -> None:
    model = record()
    model.fail(ModelCorrupt("cut"), NOW)
    facts = model.facts(NOW + 0.04)
    assert (facts["state"], facts["retry_seconds"]) == ("failed", 300.0)
    assert "error" in facts
    assert "error" not in model.facts(NOW + RETRY_PAUSES[-1])
    assert model.retry_seconds(NOW + RETRY_PAUSES[-1]) == 0.0
