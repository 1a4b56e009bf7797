"""The pool: the policy's decisions are carried out by real threads, on fake models."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from gguf_worker.errors import (
    DeadlineExceeded,
    EngineStartFailed,
    EngineUnavailable,
    ModelCorrupt,
    Overloaded,
    WorkerError,
)
from gguf_worker.events import Event, ModelFailed, ModelUnloaded
from gguf_worker.serving import pool as module
from gguf_worker.serving.pool import Pool
from gguf_worker.serving.swap_policy import Action, SwapPolicy
from tests.waiting import PATIENCE, until, until_async


@dataclass
class FakeMachine:
    """A machine with memory for so many models, which says how each of them behaves."""

    memory: int = 1
    open_seconds: float = 0.0
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """A model is fetched when its gate is open."""
    lost_at_once: bool = False
    """Models are lost as soon as they are opened, before that is reported."""
    made: list[FakeModel] = field(default_factory=list)
    inside: int = 0
    most_inside: int = 0
    opened: list[str] = field(default_factory=list)

    def make(self, name: str, on_dead: Callable[[str], None]) -> FakeModel:
        model = FakeModel(name, self, on_dead)
        self.made.append(model)
        return model

    def newest(self, name: str) -> FakeModel:
        return [each for each in self.made if each.name == name][-1]


class FakeModel:
    def __init__(self, name: str, machine: FakeMachine, on_dead: Callable[[str], None]) -> None:
        self.name = name
        self.machine = machine
        self.on_dead = on_dead
        self.max_requests = 4
        self.dead: str | None = None
        self.fetching = False
        self.inside = False
        self.closed = 0

    def fetch(self) -> None:
        self.fetching = True
        if self.name in self.machine.gates:
            assert self.machine.gates[self.name].wait(PATIENCE)

    def open(self, others: Sequence[FakeModel]) -> bool:
        assert all(other.inside for other in others)
        if self.machine.inside >= self.machine.memory:
            assert others
            return False
        if errors := self.machine.errors.get(self.name):
            raise errors.pop(0)
        time.sleep(self.machine.open_seconds)
        self.inside = True
        self.machine.inside += 1
        self.machine.most_inside = max(self.machine.most_inside, self.machine.inside)
        self.machine.opened.append(self.name)
        if self.machine.lost_at_once:
            self.dead = "it died at once"
            self.on_dead(self.dead)
        return True

    def close(self) -> None:
        self.closed += 1
        if self.inside:
            self.inside = False
            self.machine.inside -= 1


@dataclass
class Bench:
    pool: Pool[FakeModel]
    machine: FakeMachine
    events: list[Event]
    unservable: list[str]

    async def ask(self, name: str, seconds: float = 0.0, **more: Any) -> str:
        async with self.pool.acquire(name, **more) as model:
            assert model.inside
            await asyncio.sleep(seconds)
            assert model.inside, "a swap under a running request"
        return model.name


@contextmanager
def pool_of(
    *names: str,
    machine: FakeMachine | None = None,
    keep_alive: dict[str, float | None] | None = None,
    **given: Any,
) -> Iterator[Bench]:
    machine = machine or FakeMachine()
    events: list[Event] = []
    unservable: list[str] = []
    pool = Pool(
        dict.fromkeys(names) | (keep_alive or {}),
        machine.make,
        observe=events.append,
        on_unservable=unservable.append,
        **{"max_waiting": 100, **given},
    )
    try:
        yield Bench(pool, machine, events, unservable)
    finally:
        pool.close()
        assert machine.inside == 0
        for gate in machine.gates.values():
            gate.set()
        for thread in threading.enumerate():
            if thread.name.startswith("pool"):
                thread.join(PATIENCE)
        assert machine.inside == 0


async def test_two_models_take_turns_where_there_is_memory_for_one() -> None:
    with pool_of("a", "b", machine=FakeMachine(open_seconds=0.02)) as bench:
        asks = [bench.ask("ab"[number % 2], 0.005) for number in range(40)]
        names = await asyncio.gather(*asks)
    assert names == ["ab"[number % 2] for number in range(40)]
    assert bench.machine.most_inside == 1
    assert len(bench.machine.opened) <= 6, "those who wait for one model are served together"
    left = [each for each in bench.events if isinstance(each, ModelUnloaded)]
    assert {each.cause for each in left} == {"room"}


@pytest.mark.slow
async def test_under_a_load_that_lasts_there_are_few_swaps() -> None:
    with pool_of("a", "b", machine=FakeMachine(open_seconds=0.05)) as bench:

        async def client(name: str) -> int:
            end = time.monotonic() + 1.5
            served = 0
            while time.monotonic() < end:
                await bench.ask(name, 0.002)
                served += 1
            return served

        served = await asyncio.gather(*map(client, "aabb"))
    assert all(count > 20 for count in served)
    assert 4 <= len(bench.machine.opened) <= 14


async def test_a_model_in_memory_is_acquired_without_waiting_for_a_thread() -> None:
    with pool_of("a") as bench:
        await bench.ask("a")
        async with bench.pool.acquire("a") as first, bench.pool.acquire("a") as second:
            assert first is second


async def test_a_download_delays_no_other_model() -> None:
    gate = threading.Event()
    with pool_of("a", "b", machine=FakeMachine(memory=2, gates={"b": gate})) as bench:
        await bench.ask("a")
        waiting = asyncio.ensure_future(bench.ask("b"))
        for _ in range(5):
            assert await bench.ask("a") == "a"
        assert bench.pool.facts()["b"]["state"] == "fetching"
        gate.set()
        assert await waiting == "b"
        assert bench.pool.admits("a")


async def test_a_cancelled_wait_leaves_the_queue_and_the_model_that_comes_stays_unopened() -> None:
    gate = threading.Event()
    with pool_of("a", machine=FakeMachine(gates={"a": gate})) as bench:
        waiting = asyncio.ensure_future(bench.ask("a"))
        await until_async(lambda: bench.pool.facts()["a"]["waiting"] == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        await until_async(lambda: bench.pool.facts()["a"]["state"] == "absent")
    assert bench.machine.opened == []
    assert bench.events == [], "what was not in memory has not left it"


def admitted_or_over(bench: Bench, waiting: asyncio.Future[str]) -> bool:
    return bench.pool.facts()["a"]["running"] != 0 or waiting.done()


async def test_a_wait_that_is_cancelled_as_it_is_admitted_counts_no_more() -> None:
    with pool_of("a", "b") as bench:
        for _ in range(20):
            waiting = asyncio.ensure_future(bench.ask("a"))
            await asyncio.sleep(0)
            # The event loop stands still meanwhile, so the task does not know yet.
            until(partial(admitted_or_over, bench, waiting), pause=0.0005)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert bench.pool.facts()["a"]["running"] == 0
            await bench.ask("b")


class Hesitant(threading.Condition):
    """A lock that the main thread releases slowly, so that other threads go first."""

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.0005)


@pytest.mark.slow
async def test_waits_that_end_just_as_they_are_admitted_leave_no_request_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Many requests give up at any moment; other threads run between any two steps of the pool."""
    chance = random.Random(7)
    threads = SimpleNamespace(Condition=Hesitant, Thread=threading.Thread)
    monkeypatch.setattr(module, "threading", threads)
    with pool_of("a", "b", machine=FakeMachine(open_seconds=0.003), max_waiting=5000) as bench:

        async def impatient() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * 0.1):
                    await bench.ask(chance.choice("ab"), deadline=time.monotonic() + PATIENCE)

        for _ in range(20):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(impatient() for _ in range(60)))
        facts = bench.pool.facts().values()
        assert [(each["running"], each["waiting"]) for each in facts] == [(0, 0)] * 2
        assert await bench.ask("a") == "a"
    assert caplog.text == ""


async def test_a_model_that_cannot_be_made_fails_like_one_that_is_not_found() -> None:
    class Unmade(FakeMachine):
        def make(self, name: str, on_dead: Callable[[str], None]) -> FakeModel:
            if name == "b":
                raise RuntimeError("a bug")
            return super().make(name, on_dead)

    with pool_of("a", "b", machine=Unmade()) as bench:
        with pytest.raises(EngineUnavailable, match="log says why"):
            await bench.ask("b")
        assert await bench.ask("a") == "a"


async def test_a_deadline_ends_a_wait() -> None:
    gate = threading.Event()
    with pool_of("a", machine=FakeMachine(gates={"a": gate})) as bench:
        with pytest.raises(DeadlineExceeded):
            await bench.ask("a", deadline=time.monotonic() + 0.05)
        gate.set()


async def test_without_a_deadline_a_wait_has_an_end_too() -> None:
    gate = threading.Event()
    with pool_of("a", machine=FakeMachine(gates={"a": gate}), max_wait=0.05) as bench:
        with pytest.raises(DeadlineExceeded):
            await bench.ask("a")
        gate.set()


async def test_no_more_requests_wait_than_may() -> None:
    gate = threading.Event()
    with pool_of("a", machine=FakeMachine(gates={"a": gate}), max_waiting=1) as bench:
        waiting = asyncio.ensure_future(bench.ask("a"))
        await until_async(lambda: bench.pool.facts()["a"]["waiting"] == 1)
        with pytest.raises(Overloaded):
            await bench.ask("a")
        gate.set()
        assert await waiting == "a"


async def test_a_model_that_nobody_uses_leaves_by_itself() -> None:
    with pool_of("a", keep_alive={"a": 0.05}) as bench:
        await bench.ask("a")
        await until_async(lambda: bench.events == [ModelUnloaded("a", "keep_alive")])
        assert bench.machine.inside == 0
        assert await bench.ask("a") == "a"


@pytest.mark.parametrize(
    ("problem", "raised", "code"),
    [
        (ModelCorrupt("It is cut."), ModelCorrupt, "model_corrupt"),
        (EngineStartFailed("no"), EngineUnavailable, "engine_start_failed"),
        (RuntimeError("a bug"), EngineUnavailable, "internal_error"),
    ],
)
async def test_a_model_that_cannot_be_opened_fails_those_who_wait_and_the_others_go_on(
    problem: Exception, raised: type[WorkerError], code: str
) -> None:
    with pool_of("a", "b", machine=FakeMachine(errors={"b": [problem]})) as bench:
        answers = await asyncio.gather(
            bench.ask("b"), bench.ask("b"), bench.ask("a"), return_exceptions=True
        )
        assert [type(each) for each in answers] == [raised, raised, str]
        with pytest.raises(raised) as again:
            await bench.ask("b")
        assert again.value.retry_after is not None
        assert bench.pool.facts()["b"]["state"] == "failed"
        await until_async(lambda: any(isinstance(each, ModelFailed) for each in bench.events))
        (event,) = [each for each in bench.events if isinstance(each, ModelFailed)]
        assert (event.name, event.code) == ("b", code)
        assert event.retry_seconds > 1
        assert bench.unservable == []
        await until_async(lambda: bench.machine.newest("b").closed == 1)


async def test_a_start_that_failed_beside_another_is_tried_again_alone() -> None:
    machine = FakeMachine(memory=2, errors={"b": [EngineStartFailed("out of memory")]})
    with pool_of("a", "b", machine=machine) as bench:
        await bench.ask("a")
        assert await bench.ask("b") == "b"
    assert bench.machine.opened == ["a", "b"]
    assert ModelUnloaded("a", "room") in bench.events


async def test_an_engine_that_is_lost_takes_its_model_out_and_only_that() -> None:
    with pool_of("a", "b", machine=FakeMachine(memory=2)) as bench:
        await asyncio.gather(bench.ask("a"), bench.ask("b"))
        bench.machine.newest("a").on_dead("it died five times")
        await until_async(lambda: bench.machine.inside == 1)
        with pytest.raises(EngineUnavailable, match="it died five times"):
            await bench.ask("a")
        assert await bench.ask("b") == "b"
        await until_async(lambda: ModelUnloaded("a", "lost") in bench.events)
        assert bench.unservable == []
        bench.machine.newest("a").on_dead("reported late")
        bench.machine.newest("b").on_dead("it died too")
        await until_async(lambda: bench.unservable == ["it died too"])


async def test_an_engine_that_is_lost_before_anybody_knows_it_is_taken_out_too() -> None:
    with pool_of("a", machine=FakeMachine(lost_at_once=True)) as bench:
        with suppress(EngineUnavailable):  # either may be first
            async with bench.pool.acquire("a"):
                pass
        await until_async(lambda: bench.pool.facts()["a"]["state"] == "failed")
        with pytest.raises(EngineUnavailable, match="it died at once"):
            await bench.ask("a")
        await until_async(lambda: bench.unservable == ["it died at once"])


def test_a_model_can_be_loaded_before_there_is_any_request() -> None:
    with pool_of("a", "b", machine=FakeMachine(errors={"b": [ModelCorrupt("cut")]})) as bench:
        bench.pool.load("a")
        assert bench.pool.admits("a")
        with pytest.raises(Overloaded, match="no room"):
            bench.pool.load("b", no_evict=True)
        assert bench.pool.admits("a")


async def test_closing_ends_those_who_wait_and_those_who_come() -> None:
    gate = threading.Event()
    with pool_of("a", "b", machine=FakeMachine(gates={"b": gate})) as bench:
        await bench.ask("a")
        waiting = asyncio.ensure_future(bench.ask("b"))
        await until_async(lambda: len(bench.machine.made) == 2 and bench.machine.made[-1].fetching)
        bench.pool.close()
        for ask in (waiting, bench.ask("a")):
            with pytest.raises(EngineUnavailable, match="shut down"):
                await ask
        bench.pool.close()
        gate.set()
        await until_async(lambda: bench.machine.newest("b").closed > 0)


async def test_closing_while_a_model_is_being_opened_leaves_none() -> None:
    with pool_of("a", machine=FakeMachine(open_seconds=0.1)) as bench:
        waiting = asyncio.ensure_future(bench.ask("a"))
        await until_async(lambda: bench.pool.facts()["a"]["state"] == "opening")
        bench.pool.close()
        with pytest.raises(EngineUnavailable):
            await waiting
        assert bench.machine.inside == 0


async def test_a_bug_of_the_timer_is_logged_and_the_timer_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan, bugs = SwapPolicy.plan, [RuntimeError("a bug")]

    def faulty(policy: SwapPolicy, now: float) -> list[Action]:
        if threading.current_thread().name == "pool" and bugs:
            raise bugs.pop()
        return plan(policy, now)

    monkeypatch.setattr(SwapPolicy, "plan", faulty)
    monkeypatch.setattr(module, "_AFTER_BUG_SECONDS", 0.01)
    with pool_of("a", keep_alive={"a": 0.02}) as bench:
        await bench.ask("a")
        await until_async(lambda: bench.events == [ModelUnloaded("a", "keep_alive")])
    assert not bugs
    assert "not carried on" in caplog.text


async def test_a_model_that_closes_badly_delays_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with pool_of("a", "b") as bench:
        await bench.ask("a")
        model = bench.machine.newest("a")

        def close() -> None:
            FakeModel.close(model)
            raise RuntimeError("a bug")

        model.close = close  # type: ignore[method-assign]
        assert await bench.ask("b") == "b"
    assert "was not closed as it should be" in caplog.text


async def test_a_caller_sees_no_detail_of_an_internal_error() -> None:
    with pool_of(
        "a", "b", machine=FakeMachine(errors={"a": [RuntimeError("/secret/path")]})
    ) as bench:
        with pytest.raises(EngineUnavailable) as caught:
            await bench.ask("a")
        assert "secret" not in caught.value.message
