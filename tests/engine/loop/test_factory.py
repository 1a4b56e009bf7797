"""The scheduler that fits an opened model."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gguf_worker.engine.cells.partitioned import PartitionedCells
from gguf_worker.engine.cells.unified import UnifiedCells
from gguf_worker.engine.loop.factory import embedder_for, scheduler_for
from gguf_worker.engine.loop.scheduler import Scheduler
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.messages import Embed, EngineInfo, EngineSpec
from tests.fake_backend import FakeBackend, FakePooler, FakeTokenizers, drawl

SPEC = EngineSpec(path="model.gguf", context=64, sequences=3)


def opened(spec: EngineSpec = SPEC, **more: Any) -> Scheduler:
    return scheduler_for(spec, info(**more))


def info(**more: Any) -> EngineInfo:
    settings: dict[str, Any] = {"sequences": 3, "context": 64, "batch_size": 16, "idle": 2}
    return FakeBackend(drawl, **(settings | more)).info


def step(scheduler: Scheduler) -> dict[int, int]:
    """The rows of each request in one step, after which each has a token more."""
    plan = scheduler.plan(0.0)
    scheduler.commit(plan)
    for chunk in plan.chunks:
        if chunk.output:
            scheduler.advance(chunk.sequence, 7)
    return {chunk.sequence.id: chunk.rows for chunk in plan.chunks}


def test_the_sizes_are_those_that_llama_cpp_settled_on() -> None:
    scheduler = opened(replace(SPEC, sequences=9, max_queue=5))
    assert (scheduler.slots, scheduler.cells.free_slots) == (3, 3)
    assert (scheduler.context, scheduler.budget, scheduler.max_waiting) == (64, 16, 5)
    assert scheduler.cells.total == 64 * 3
    assert scheduler.idle


@pytest.mark.parametrize(
    ("unified", "kind"),
    [(True, UnifiedCells), (False, PartitionedCells)],
    ids=["unified", "streams"],
)
def test_sequences_share_cells_where_they_are_in_one_pool(unified: bool, kind: type) -> None:
    assert isinstance(opened(unified=unified).cells, kind)


@pytest.mark.parametrize(("rollback", "shared"), [(True, 9), (False, 0)])
def test_a_prefix_can_be_taken_over_as_the_memory_allows(rollback: bool, shared: int) -> None:
    cells = opened(rollback=rollback).cells
    prompt = list(range(20))
    slot = cells.claim(prompt, cells.look_up(prompt))
    cells.take(slot, prompt)
    assert cells.look_up([*prompt[:9], 99, 99]).ready.length == shared


def test_as_many_ended_requests_are_kept_as_there_are_idle_ids() -> None:
    cells = opened(idle=1).cells
    for prompt in ([1, 2, 3], [4, 5, 6]):
        slot = cells.claim(prompt, cells.look_up(prompt))
        cells.take(slot, prompt)
        cells.retire(slot)
    assert cells.used == 3


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [("mixed", [{1: 1, 2: 7}, {1: 1, 2: 7}]), ("alternate", [{2: 8}, {1: 1}])],
)
def test_prompts_are_read_in_the_chunks_and_the_steps_that_were_asked_for(
    mixing: str, expected: list[dict[int, int]]
) -> None:
    scheduler = opened(replace(SPEC, prefill_chunk=8, mixing=mixing))
    scheduler.add(Sequence.of(1, [1, 2], 50))
    step(scheduler)
    scheduler.add(Sequence.of(2, list(range(10, 50)), 50))
    assert [step(scheduler), step(scheduler)] == expected


def test_a_chunk_is_a_whole_step_where_nothing_else_was_asked_for() -> None:
    scheduler = opened()
    scheduler.add(Sequence.of(1, [1, 2], 50))
    step(scheduler)
    scheduler.add(Sequence.of(2, list(range(10, 50)), 50))
    assert step(scheduler) == {1: 1, 2: 15}


def test_where_nothing_is_generated_there_are_no_cells() -> None:
    scheduler = opened(generates=False)
    assert (scheduler.cells.total, scheduler.context, scheduler.idle) == (0, 0, True)
    assert not step(scheduler)


def test_as_many_requests_for_texts_are_open_as_may_run_and_wait() -> None:
    spec = replace(SPEC, max_queue=1)
    embedder = embedder_for(spec, info(), FakePooler(), FakeTokenizers())
    refused = [embedder.add(Embed(id, ("a",))) for id in range(5)]
    assert [failure and failure.code for failure in refused] == [None] * 4 + ["overloaded"]
