"""The policy of swaps: each rule alone, and all of them under a random load."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from functools import partial

import pytest

from gguf_worker.errors import (
    DeadlineExceeded,
    DiskFull,
    DownloadFailed,
    EngineStartFailed,
    EngineUnavailable,
    ModelCorrupt,
    Overloaded,
    WorkerError,
)
from gguf_worker.serving.model_record import RETRY_PAUSES, TIME_SLICE, ModelPolicy
from gguf_worker.serving.swap_policy import (
    Action,
    Admit,
    Close,
    Fetch,
    Open,
    Refuse,
    SwapPolicy,
)

LOAD_SECONDS = 10.0
"""The seconds of opening a model in these tests."""


class Desk:
    """A policy, a clock, and the actions of its plans so far."""

    def __init__(self, *policies: ModelPolicy, max_waiting: int = 100) -> None:
        self.policy = SwapPolicy(policies, max_waiting=max_waiting)
        self.now = 1000.0
        self.actions: list[Action] = []
        self._ids = itertools.count(1)

    def plan(self) -> list[Action]:
        fresh = self.policy.plan(self.now)
        self.actions += fresh
        return fresh

    def ask(
        self, model: str, *, seconds: float = math.inf, weight: int = 1, no_evict: bool = False
    ) -> int:
        id = next(self._ids)
        self.policy.request_arrived(
            id, model, self.now, deadline=self.now + seconds, weight=weight, no_evict=no_evict
        )
        return id

    def last(self) -> Action:
        return self.actions[-1]

    def leave(self, *ids: int) -> None:
        for id in ids:
            self.policy.request_ended(id, self.now)

    def open(self, model: str, *, max_requests: int = 8, seconds: float = LOAD_SECONDS) -> None:
        """Open a requested model: it is found at once, fits, and takes `seconds` to open."""
        self.found(model)
        self.now += seconds
        self.policy.opened(model, self.now, max_requests=max_requests)
        self.plan()

    def found(self, model: str) -> None:
        assert Fetch(model) in self.plan()
        self.policy.fetched(model, self.now)
        self.plan()

    def find_no_memory(self, model: str) -> None:
        self.found(model)
        self.policy.out_of_memory(model, self.now)
        self.plan()

    def closed(self, model: str) -> None:
        self.policy.closed(model, self.now)
        self.plan()

    def later(self, seconds: float) -> list[Action]:
        self.now += seconds
        return self.plan()

    def error_of(self, id: int) -> WorkerError:
        (error,) = [
            each.error for each in self.actions if isinstance(each, Refuse) and each.id == id
        ]
        return error

    def admitted(self, *ids: int) -> bool:
        return all(Admit(id) in self.actions for id in ids)


@pytest.fixture
def desk() -> Desk:
    return Desk(ModelPolicy("a"), ModelPolicy("b"), ModelPolicy("c"))


@pytest.fixture
def busy(desk: Desk) -> tuple[Desk, int]:
    """`a` is in memory and has a request that runs; its time slice has just begun."""
    running = desk.ask("a")
    desk.open("a")
    return desk, running


def test_a_model_is_found_and_then_opened_for_all_that_have_asked(desk: Desk) -> None:
    ids = [desk.ask("a"), desk.ask("a")]
    assert desk.plan() == [Fetch("a")]
    assert desk.plan() == []
    ids.append(desk.ask("a"))
    desk.policy.fetched("a", desk.now)
    assert desk.plan() == [Open("a", alone=True)]
    desk.policy.opened("a", desk.now, max_requests=8)
    assert desk.plan() == [Admit(id) for id in ids]


def test_a_request_for_a_model_in_memory_goes_on_at_once(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    id = desk.ask("a")
    assert desk.plan() == [Admit(id)]
    assert desk.policy.due_at(desk.now) is None


def test_while_a_model_is_fetched_and_opened_the_others_go_on(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    desk.ask("b")
    assert desk.plan() == [Fetch("b")]
    desk.now += 1000
    first = desk.ask("a")
    assert desk.plan() == [Admit(first)]
    desk.policy.fetched("b", desk.now)
    assert desk.plan() == [Open("b", alone=False)]
    second = desk.ask("a")
    assert desk.plan() == [Admit(second)]


def test_where_there_is_memory_no_model_is_evicted(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    id = desk.ask("b")
    desk.open("b")
    assert desk.admitted(id)
    assert not any(isinstance(each, Close) for each in desk.actions)


def test_models_are_opened_one_after_the_other_and_the_first_that_was_asked_for_first(
    desk: Desk,
) -> None:
    desk.ask("b")
    desk.now += 1
    desk.ask("a")
    desk.plan()
    for model in "ab":
        desk.policy.fetched(model, desk.now)
    assert desk.plan() == [Open("b", alone=True)]
    desk.policy.opened("b", desk.now, max_requests=1)
    assert Open("a", alone=False) in desk.plan()


def test_an_idle_model_is_evicted_at_once_when_its_time_slice_is_over(desk: Desk) -> None:
    id = desk.ask("a")
    desk.open("a")
    desk.leave(id)
    desk.now += TIME_SLICE * LOAD_SECONDS
    desk.ask("b")
    desk.find_no_memory("b")
    assert desk.last() == Close("a", "room")
    desk.closed("a")
    assert desk.last() == Open("b", alone=True)


def test_of_idle_models_the_one_with_the_lowest_cost_is_evicted(desk: Desk) -> None:
    """The cost is what opening it again takes, for each second in which nobody has used it."""
    for model, seconds in (("a", 60.0), ("b", 5.0)):
        id = desk.ask(model)
        desk.open(model, seconds=seconds)
        desk.leave(id)
    desk.now += 10_000
    desk.ask("c")
    desk.find_no_memory("c")
    assert desk.last() == Close("b", "room")


def test_a_model_that_was_not_used_for_long_is_evicted_before_one_that_opens_somewhat_sooner(
    desk: Desk,
) -> None:
    old = desk.ask("a")
    desk.open("a", seconds=10)
    desk.leave(old)
    desk.now += 3600
    new = desk.ask("b")
    desk.open("b", seconds=5)
    desk.leave(new)
    desk.now += 60
    desk.ask("c")
    desk.find_no_memory("c")
    assert desk.last() == Close("a", "room")


def test_a_time_slice_lasts_twice_the_time_that_opening_took(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    desk.ask("b")
    desk.find_no_memory("b")
    desk.later(TIME_SLICE * LOAD_SECONDS - 0.1)
    inside = desk.ask("a")
    assert desk.plan() == [Admit(inside)]
    assert desk.policy.due_at(desk.now) == pytest.approx(desk.now + 0.1)
    desk.later(0.1)
    outside = desk.ask("a")
    assert desk.plan() == []
    assert not desk.admitted(outside)


def test_requests_that_run_when_a_time_slice_ends_end_before_the_model_leaves(
    busy: tuple[Desk, int],
) -> None:
    desk, running = busy
    desk.ask("b")
    desk.find_no_memory("b")
    desk.later(TIME_SLICE * LOAD_SECONDS)
    assert desk.policy.is_resident("a")
    assert not desk.policy.admits("a")
    late = desk.ask("a")
    assert desk.later(1e6) == []
    desk.leave(running)
    assert desk.plan() == [Close("a", "room")]
    desk.closed("a")
    assert desk.actions[-2:] == [Fetch("a"), Open("b", alone=True)]
    assert not desk.admitted(late)


def test_a_draining_model_goes_on_when_nobody_waits_for_another_any_more(
    busy: tuple[Desk, int],
) -> None:
    desk, _ = busy
    waiting = desk.ask("b")
    desk.find_no_memory("b")
    desk.later(TIME_SLICE * LOAD_SECONDS)
    late = desk.ask("a")
    assert desk.plan() == []
    desk.leave(waiting)
    assert desk.plan() == [Close("b", "unwanted"), Admit(late)]


def test_a_draining_model_goes_on_draining_while_another_one_needs_memory(desk: Desk) -> None:
    """Else a busy model would stay for ever where more than one has to leave."""
    ids = {}
    for model in "ab":
        ids[model] = desk.ask(model)
        desk.open(model)
    desk.now += 10 * LOAD_SECONDS
    desk.ask("c")
    desk.find_no_memory("c")
    late = desk.ask("a")
    assert desk.plan() == [], "a has had its time slice"
    desk.leave(ids["b"])
    assert desk.plan() == [Close("b", "room")]
    desk.closed("b")
    assert desk.last() == Open("c", alone=False)
    desk.policy.out_of_memory("c", desk.now)
    desk.leave(ids["a"])
    assert desk.plan() == [Close("a", "room")]
    assert not desk.admitted(late)


def test_a_model_that_left_while_another_was_opened_is_not_waited_for() -> None:
    desk = Desk(ModelPolicy("a", keep_alive=5.0), ModelPolicy("b"))
    id = desk.ask("a")
    desk.open("a")
    desk.leave(id)
    waiting = desk.ask("b")
    desk.found("b")
    assert Close("a", "keep_alive") in desk.later(5.0)
    desk.closed("a")
    desk.policy.out_of_memory("b", desk.now)
    assert desk.plan() == [Open("b", alone=True)]
    desk.policy.opened("b", desk.now, max_requests=1)
    assert desk.plan() == [Admit(waiting)]


def test_a_caller_who_asks_one_after_the_other_is_waited_for_a_moment(
    busy: tuple[Desk, int],
) -> None:
    desk, first = busy
    desk.ask("b")
    desk.find_no_memory("b")
    desk.leave(first)
    assert desk.plan() == []
    desk.now += 0.09 * LOAD_SECONDS
    second = desk.ask("a")
    assert desk.plan() == [Admit(second)]
    desk.leave(second)
    desk.plan()
    assert desk.policy.due_at(desk.now) == pytest.approx(desk.now + 0.1 * LOAD_SECONDS)
    assert desk.later(0.1 * LOAD_SECONDS) == [Close("a", "room")]


def test_a_model_leaves_after_its_keep_alive(desk: Desk) -> None:
    desk = Desk(ModelPolicy("a", keep_alive=30.0))
    id = desk.ask("a")
    desk.open("a")
    desk.now += 100
    desk.leave(id)
    assert desk.plan() == []
    assert desk.policy.due_at(desk.now) == desk.now + 30
    assert desk.later(29.9) == []
    assert desk.later(0.1) == [Close("a", "keep_alive")]
    desk.closed("a")
    desk.ask("a")
    assert desk.plan() == [Fetch("a")]


def test_no_more_requests_run_than_a_model_can_hold(desk: Desk) -> None:
    ids = [desk.ask("a"), desk.ask("a", weight=2), desk.ask("a")]
    desk.open("a", max_requests=3)
    assert desk.admitted(*ids[:2])
    assert not desk.admitted(ids[2])
    desk.leave(ids[0])
    assert desk.plan() == [Admit(ids[2])]
    large = desk.ask("a", weight=50)
    desk.leave(*ids[1:])
    assert desk.plan() == [Admit(large)], "alone it may try, and the engine says what is wrong"


def test_more_than_may_wait_are_refused_and_requests_that_need_not_wait_are_not() -> None:
    desk = Desk(ModelPolicy("a"), ModelPolicy("b"), max_waiting=2)
    running = desk.ask("a")
    desk.open("a")
    desk.ask("b")
    desk.ask("b")
    refused = desk.ask("b")
    more = desk.ask("a")
    desk.plan()
    assert isinstance(desk.error_of(refused), Overloaded)
    assert desk.error_of(refused).retry_after == 1.0
    assert desk.admitted(running, more)


def test_a_request_that_waits_until_its_deadline_is_ended(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    id = desk.ask("b", seconds=3)
    desk.find_no_memory("b")
    assert desk.policy.due_at(desk.now) == desk.now + 3
    desk.later(3)
    assert isinstance(desk.error_of(id), DeadlineExceeded)


def test_a_request_that_cannot_be_served_in_time_is_refused_at_once(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    first = desk.ask("b")
    desk.open("b")
    desk.leave(first)
    desk.later(TIME_SLICE * LOAD_SECONDS)
    desk.ask("c")
    desk.find_no_memory("c")
    desk.closed("b")  # now it is known how long opening it takes
    hasty = desk.ask("b", seconds=LOAD_SECONDS - 1)
    patient = desk.ask("b", seconds=LOAD_SECONDS + 1)
    desk.plan()
    error = desk.error_of(hasty)
    assert isinstance(error, Overloaded)
    assert error.retryable
    assert error.retry_after == LOAD_SECONDS
    assert not any(isinstance(each, Refuse) and each.id == patient for each in desk.actions)


def test_a_refusal_for_a_draining_model_says_when_its_next_time_slice_may_come(
    busy: tuple[Desk, int],
) -> None:
    desk, _ = busy
    desk.ask("b")
    desk.find_no_memory("b")
    desk.later(TIME_SLICE * LOAD_SECONDS)
    hasty = desk.ask("a", seconds=LOAD_SECONDS - 1)
    desk.plan()
    assert desk.error_of(hasty).retry_after == LOAD_SECONDS


def test_a_request_that_is_given_up_leaves_the_queue(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    gone, stays = desk.ask("b"), desk.ask("b")
    desk.leave(gone)
    desk.open("b")
    assert desk.admitted(stays)
    assert not desk.admitted(gone)
    desk.leave(gone)


def test_a_model_that_fails_ends_those_who_wait_for_it_and_no_others(
    busy: tuple[Desk, int],
) -> None:
    desk, _ = busy
    ids = [desk.ask("b"), desk.ask("b")]
    other = desk.ask("c")
    desk.plan()
    desk.policy.failed("b", desk.now, ModelCorrupt("It is cut."))
    desk.plan()
    errors = [desk.error_of(id) for id in ids]
    assert [type(error) for error in errors] == [ModelCorrupt, ModelCorrupt]
    assert errors[0] is not errors[1], "each is raised by a task of its own"
    assert str(errors[0]) == errors[0].message == "The model 'b' cannot be served: It is cut."
    desk.policy.fetched("c", desk.now)
    assert desk.plan() == [Open("c", alone=False)]
    assert not desk.admitted(other)


def test_a_model_that_failed_is_not_tried_again_at_once_and_later_ever_more_seldom(
    desk: Desk,
) -> None:
    for pause in (*RETRY_PAUSES, RETRY_PAUSES[-1]):
        id = desk.ask("a")
        assert desk.plan() == [Fetch("a")]
        desk.policy.failed("a", desk.now, EngineStartFailed("no"))
        desk.plan()
        assert desk.error_of(id).retry_after == pause
        desk.now += pause - 1
        again = desk.ask("a")
        desk.plan()
        error = desk.error_of(again)
        assert isinstance(error, EngineUnavailable)
        assert "'a' cannot be served now: no" in error.message
        assert (error.retryable, error.retry_after) == (True, 1.0)
        desk.now += 1
    desk.ask("a")
    assert desk.plan() == [Fetch("a")]


def test_a_lasting_failure_is_tried_again_most_seldom(desk: Desk) -> None:
    desk.ask("a")
    desk.plan()
    desk.policy.failed("a", desk.now, ModelCorrupt("It is cut."))
    id = desk.ask("a")
    desk.plan()
    assert desk.error_of(id).retry_after == RETRY_PAUSES[-1]


def test_a_start_that_fails_beside_others_is_tried_once_more_when_one_has_left(
    busy: tuple[Desk, int],
) -> None:
    desk, running = busy
    id = desk.ask("b")
    desk.found("b")
    desk.policy.failed("b", desk.now, EngineStartFailed("out of memory"))
    desk.plan()
    desk.leave(running)
    assert desk.later(TIME_SLICE * LOAD_SECONDS) == [Close("a", "room")]
    desk.closed("a")
    assert desk.last() == Open("b", alone=True)
    desk.policy.failed("b", desk.now, EngineStartFailed("out of memory"))
    desk.plan()
    assert isinstance(desk.error_of(id), EngineUnavailable)


def test_a_model_that_failed_alone_evicts_no_model_until_it_was_open(
    busy: tuple[Desk, int],
) -> None:
    desk, running = busy
    desk.ask("b")
    desk.found("b")
    desk.policy.failed("b", desk.now, EngineStartFailed("killed"))
    desk.leave(running)
    desk.later(TIME_SLICE * LOAD_SECONDS)
    desk.closed("a")
    desk.policy.failed("b", desk.now, EngineStartFailed("killed"))  # alone
    desk.plan()
    desk.ask("a")
    desk.open("a")
    for pause in RETRY_PAUSES:
        desk.now += pause
        again = desk.ask("b")
        desk.found("b")
        desk.policy.failed("b", desk.now, EngineStartFailed("killed"))
        desk.plan()
        assert isinstance(desk.error_of(again), EngineUnavailable)
    assert [each for each in desk.actions if isinstance(each, Close)] == [Close("a", "room")]
    desk.now += RETRY_PAUSES[-1]
    served = desk.ask("b")
    desk.open("b")
    assert desk.admitted(served)


def test_a_start_that_cannot_succeed_evicts_no_model(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    id = desk.ask("b")
    desk.found("b")
    desk.policy.failed("b", desk.now, EngineStartFailed("unknown tensor", permanent=True))
    desk.plan()
    assert isinstance(desk.error_of(id), EngineStartFailed)


def test_a_lost_engine_takes_its_own_model_out_and_no_other(busy: tuple[Desk, int]) -> None:
    desk, running = busy
    desk.ask("b")
    desk.open("b")
    desk.policy.lost("a", desk.now, "it died five times")
    assert desk.plan() == [Close("a", "lost")]
    desk.closed("a")
    desk.leave(running)
    refused, fine = desk.ask("a"), desk.ask("b")
    desk.plan()
    assert "it died five times" in desk.error_of(refused).message
    assert desk.admitted(fine)
    assert not desk.policy.is_unservable(desk.now)
    assert desk.policy.facts(desk.now)["a"]["state"] == "failed"


def test_a_loss_soon_after_another_counts_with_it_and_one_after_long_does_not(desk: Desk) -> None:
    for lived, pause in ((10, RETRY_PAUSES[0]), (10, RETRY_PAUSES[1]), (700, RETRY_PAUSES[0])):
        desk.ask("a")
        desk.open("a")
        desk.now += lived
        desk.policy.lost("a", desk.now, "it died")
        desk.plan()
        desk.closed("a")
        refused = desk.ask("a")
        desk.plan()
        assert desk.error_of(refused).retry_after == pause
        desk.now += pause


def test_a_model_that_is_lost_again_while_it_closes_is_lost_once(desk: Desk) -> None:
    desk.ask("a")
    desk.open("a")
    for _ in range(2):
        desk.policy.lost("a", desk.now, "it died")
    assert desk.plan() == [Close("a", "lost")]


def fail(desk: Desk, model: str, error: WorkerError) -> None:
    desk.ask(model)
    desk.plan()
    desk.policy.failed(model, desk.now, error)
    desk.plan()


def test_if_every_model_has_failed_for_good_nothing_is_servable_until_one_is_tried_again() -> None:
    desk = Desk(ModelPolicy("a"), ModelPolicy("b"))
    for model in "ab":
        assert not desk.policy.is_unservable(desk.now)
        fail(desk, model, ModelCorrupt("It is cut."))
    assert desk.policy.is_unservable(desk.now)
    assert not desk.policy.is_unservable(desk.now + RETRY_PAUSES[-1])


def test_a_passing_failure_leaves_a_model_servable_until_it_came_several_times_in_a_row() -> None:
    desk = Desk(ModelPolicy("a"), ModelPolicy("b"))
    fail(desk, "b", ModelCorrupt("It is cut."))
    for pause in RETRY_PAUSES[:2]:
        fail(desk, "a", DownloadFailed("The network had a hiccup."))
        assert not desk.policy.is_unservable(desk.now)
        desk.now += pause
    fail(desk, "a", DownloadFailed("The network had a hiccup."))
    assert desk.policy.is_unservable(desk.now)


def test_a_passing_failure_does_not_count_with_those_before_the_model_was_open() -> None:
    desk = Desk(ModelPolicy("a", keep_alive=0.0))
    for _ in range(5):
        fail(desk, "a", DownloadFailed("The network had a hiccup."))
        assert not desk.policy.is_unservable(desk.now)
        desk.now += RETRY_PAUSES[0]
        id = desk.ask("a")
        desk.open("a")
        desk.leave(id)
        desk.plan()
        desk.closed("a")


def test_a_full_disk_is_tried_again_soon(desk: Desk) -> None:
    fail(desk, "a", DiskFull("There is no room."))
    refused = desk.ask("a")
    desk.plan()
    assert desk.error_of(refused).retry_after == RETRY_PAUSES[0]


def test_a_request_with_no_evict_evicts_no_model(desk: Desk) -> None:
    id = desk.ask("a")
    desk.open("a")
    desk.leave(id)
    desk.now += 1000
    refused = desk.ask("b", no_evict=True)
    desk.find_no_memory("b")
    assert desk.error_of(refused).message == "There is no room for 'b' beside the others."
    assert [each for each in desk.actions if isinstance(each, Close)] == [Close("b", "unwanted")]
    assert desk.policy.is_resident("a")


def test_the_facts_have_the_running_and_waiting_requests(busy: tuple[Desk, int]) -> None:
    desk, _ = busy
    desk.ask("b")
    desk.ask("b")
    desk.plan()
    assert desk.policy.facts(desk.now) == {
        "a": {"state": "resident", "running": 1, "waiting": 0},
        "b": {"state": "fetching", "running": 0, "waiting": 2},
        "c": {"state": "absent", "running": 0, "waiting": 0},
    }


class World:
    """Carries out the plans with so much memory, and checks every rule at every moment."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        count = self.random.randint(2, 5)
        self.sizes = {f"m{i}": self.random.randint(1, 6) for i in range(count)}
        self.memory = max(self.sizes.values()) + self.random.randint(0, 5)
        self.costs = {name: self.random.uniform(0.5, 20) for name in self.sizes}
        self.patience = 3000.0
        self.faulty = self.random.choice((0.0, 0.1))
        policies = [
            ModelPolicy(name, self.random.choice((None, None, self.random.uniform(1, 60))))
            for name in self.sizes
        ]
        self.policy = SwapPolicy(policies, max_waiting=60)
        self.now = 0.0
        self.held: set[str] = set()
        self.lost: set[str] = set()
        self.model_of: dict[int, str] = {}
        self.asked_at: dict[int, float] = {}
        self.running: dict[int, str] = {}
        self.ended: dict[int, str] = {}
        self.opens = 0
        self.opening_seconds = 0.0
        self.longest_wait = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), do))

    def run(self, requests: int) -> None:
        moment = 0.0
        for id in range(requests):
            moment += self.random.expovariate(1 / self.random.choice((0.2, 1.0, 8.0)))
            self.after(moment, partial(self.ask, id))
        self.settle(60 * requests)

    def settle(self, most_steps: int) -> None:
        for step in itertools.count():
            assert step < most_steps, "it does not come to rest"
            due = self.policy.due_at(self.now)
            event = self._events[0][0] if self._events else math.inf
            if event == math.inf and due is None:
                return
            if due is not None and due < event:
                self.now = max(self.now, due)
            else:
                self.now, _, do = heapq.heappop(self._events)
                do()
            for action in self.policy.plan(self.now):
                self.carry_out(action)
            assert sum(self.sizes[name] for name in self.held) <= self.memory

    def ask(self, id: int) -> None:
        model = self.random.choice(list(self.sizes))
        self.model_of[id], self.asked_at[id] = model, self.now
        patience = self.patience if self.random.random() < 0.9 else self.random.uniform(0, 30)
        self.policy.request_arrived(id, model, self.now, deadline=self.now + patience)
        if self.random.random() < 0.1:
            self.after(self.random.uniform(0, 60), lambda: self.give_up(id))

    def give_up(self, id: int) -> None:
        if id not in self.ended:
            self.end(id, "gave up")

    def end(self, id: int, how: str) -> None:
        if id in self.ended:
            assert self.ended[id] in ("gave up", "interrupted")
            return
        self.ended[id] = how
        self.running.pop(id, None)
        self.policy.request_ended(id, self.now)

    def carry_out(self, action: Action) -> None:
        match action:
            case Fetch(model):
                self.after(self.random.uniform(0, 5), lambda: self.fetched(model))
            case Open(model, alone):
                assert alone == (not self.held)
                self.try_to_open(model)
            case Close(model, cause):
                running = model in self.running.values()
                assert cause == "lost" or not running, "a swap under a running request"
                self.after(self.random.uniform(0, 1), lambda: self.close(model))
            case Admit(id):
                assert id not in self.ended
                assert self.model_of[id] in self.held - self.lost
                self.longest_wait = max(self.longest_wait, self.now - self.asked_at[id])
                self.running[id] = self.model_of[id]
                self.after(self.random.expovariate(1 / 4), lambda: self.end(id, "served"))
            case Refuse(id, error):
                assert id not in self.running
                self.end(id, error.code)

    def fetched(self, model: str) -> None:
        if self.random.random() < self.faulty:
            self.policy.failed(model, self.now, ModelCorrupt("cut"))
        else:
            self.policy.fetched(model, self.now)

    def try_to_open(self, model: str) -> None:
        if sum(self.sizes[name] for name in self.held) + self.sizes[model] > self.memory:
            self.after(0.01, lambda: self.policy.out_of_memory(model, self.now))
            return
        self.held.add(model)
        self.after(self.costs[model], lambda: self.opened(model))

    def opened(self, model: str) -> None:
        if self.random.random() < self.faulty:
            self.held.discard(model)
            self.policy.failed(model, self.now, EngineStartFailed("no memory"))
            return
        self.opens += 1
        self.opening_seconds += self.costs[model]
        self.policy.opened(model, self.now, max_requests=self.random.randint(1, 12))
        if self.random.random() < self.faulty:
            self.after(self.random.uniform(0, 30), lambda: self.lose(model))

    def lose(self, model: str) -> None:
        if self.policy.is_resident(model):
            self.lost.add(model)
            self.policy.lost(model, self.now, "it died")

    def close(self, model: str) -> None:
        if model in self.lost:
            for id in [id for id, name in self.running.items() if name == model]:
                self.end(id, "interrupted")
        self.held.discard(model)
        self.lost.discard(model)
        self.policy.closed(model, self.now)


@pytest.mark.parametrize("seed", range(60))
def test_under_a_random_load_every_rule_holds(seed: int) -> None:
    """Never more than fits into memory, no swap under a running request, and an end for each
    request in bounded time."""
    world = World(seed)
    world.run(400)
    assert set(world.ended) == set(range(400))
    assert not world.running
    slowest = max(world.costs.values())
    others = len(world.sizes)
    # A round: each of the others is opened, has its time slice, and lets its last requests end.
    assert world.longest_wait < 4 * others * (slowest * (1 + TIME_SLICE) + 40)
    if world.faulty == 0.0:
        served = sum(how == "served" for how in world.ended.values())
        assert served > 200


def test_two_models_that_are_both_always_wanted_swap_for_a_third_of_the_time_at_most() -> None:
    world = World(3)
    world.sizes, world.costs = {"m0": 2, "m1": 2}, {"m0": 6.0, "m1": 10.0}
    world.memory, world.faulty = 3, 0.0
    world.policy = SwapPolicy([ModelPolicy("m0"), ModelPolicy("m1")], max_waiting=10_000)
    world.patience = math.inf
    for id in range(4000):
        world.after(id * 0.25, partial(world.ask, id))
    world.settle(40_000)
    assert world.opens > 20
    assert world.opening_seconds / world.now < 0.36
    assert len(world.ended) == 4000
