"""Decides which models are in memory, and which requests may use them.

It decides from events alone, and has no clock, thread or engine.

A request for a model in memory is admitted at once. Other requests wait for their model. The model
with the oldest waiting request is opened next: beside the others if there is memory for it, which
shows when it is opened; else in place of an unused model; else in place of a model whose time slice
is over. A slice is so long that, under load, opening models takes no more than a third of the time.
After it, new requests wait for the model's next slice, and running requests end before the model
leaves. The caller carries out the actions of `plan`, and reports each outcome as an event.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gguf_worker.errors import (
    DeadlineExceeded,
    EngineStartFailed,
    EngineUnavailable,
    Overloaded,
    WorkerError,
)
from gguf_worker.serving.model_record import (
    TIME_SLICE,
    ModelPolicy,
    ModelRecord,
    ModelState,
    WaitingRequest,
)

_SOUND_SECONDS = 600.0
"""Seconds in memory after which the loss of a model counts as its first failure in a row."""
_SHORTEST_RETRY = 1.0
"""The fewest seconds after which a caller is told to try again."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the model; the outcome is `fetched` or `failed`."""

    model: str


@dataclass(frozen=True, slots=True)
class Open:
    """Open the model; the outcome is `opened`, `out_of_memory` or `failed`.

    `alone`: no other model is in memory.
    """

    model: str
    alone: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Close the model; the outcome is `closed`. `cause`: room, keep_alive, unwanted or lost."""

    model: str
    cause: str


@dataclass(frozen=True, slots=True)
class Admit:
    """Let the request run, until `request_ended`."""

    id: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """End the request with this error."""

    id: int
    error: WorkerError


Action = Fetch | Open | Close | Admit | Refuse


class SwapPolicy:
    """The policy for a set of models. Times are seconds of one monotonic clock. Not thread-safe.

    `max_waiting`: requests that may wait at once, for all models together.
    """

    def __init__(self, policies: Iterable[ModelPolicy], *, max_waiting: int) -> None:
        self._models = {policy.name: ModelRecord(policy) for policy in policies}
        self._max_waiting = max_waiting
        self._requested: dict[int, ModelRecord] = {}
        """The models of the requests that wait or run, by the requests' ids."""
        self._refused: list[Refuse] = []
        self._lost: list[Close] = []
        """The closing of models whose engine was lost."""
        self._departures = 0
        """The number of times that a model has left memory."""

    # Events

    def request_arrived(
        self,
        id: int,
        name: str,
        now: float,
        *,
        deadline: float = math.inf,
        weight: int = 1,
        no_evict: bool = False,
    ) -> None:
        """Note a new request; `plan` admits or refuses it.

        `weight`: how many of the model's requests it counts as. `no_evict`: no model is evicted for
        it.
        """
        model = self._models[name]
        expected = self._expected_wait(model, now)
        if model.error is not None and model.is_paused(now):
            self._refuse(id, _for_one_caller(model.error, model.retry_at - now))
        elif not self._runs_at_once(model, weight) and self._count_waiting() >= self._max_waiting:
            self._refuse_for_now(
                id,
                f"{self._count_waiting()} requests wait for a model already (MAX_QUEUE).",
                expected,
            )
        elif now + expected > deadline:
            self._refuse_for_now(
                id,
                f"The model {name!r} is not in memory, and will not be for {expected:.0f} seconds "
                "at the least: longer than this request has.",
                expected,
            )
        else:
            self._requested[id] = model
            model.waiting[id] = WaitingRequest(now, deadline, weight, no_evict)

    def request_ended(self, id: int, now: float) -> None:
        """Forget a request that has ended or was given up, if it is there at all."""
        model = self._requested.pop(id, None)
        if model is None:
            return
        model.waiting.pop(id, None)
        if model.running.pop(id, None) is not None:
            model.used_at = now

    def fetched(self, name: str, now: float) -> None:
        """Note that the model is on this machine."""
        self._models[name].enter(ModelState.FETCHED, now)

    def out_of_memory(self, name: str, now: float) -> None:
        """Note that there was no memory for the model beside the others."""
        model = self._models[name]
        model.enter(ModelState.FETCHED, now)
        model.out_of_memory = True
        # A model that has left meanwhile may have made room: then it is tried again at once.
        model.awaits_departure = model.departures_seen == self._departures
        for id, request in list(model.waiting.items()):
            if request.no_evict:
                self._refuse(id, Overloaded(f"There is no room for {name!r} beside the others."))

    def opened(self, name: str, now: float, *, max_requests: int) -> None:
        """Note that the model answers. `max_requests`: how many may run and wait in it at once."""
        model = self._models[name]
        model.load_seconds = now - model.since
        model.enter(ModelState.RESIDENT, now)
        model.used_at, model.max_requests = now, max_requests
        model.out_of_memory = model.awaits_departure = False
        model.postponed = model.failed_alone = False
        model.error = None

    def failed(self, name: str, now: float, error: WorkerError) -> None:
        """Note that the model was not found, or not opened.

        A start that failed beside other models may have found less memory than planned. The model
        then waits, once, until one of them has left. A model whose start failed alone does not: it
        would evict another one at every try.
        """
        model = self._models[name]
        if model.state is ModelState.OPENING and not self._any_resident():
            model.failed_alone = True
        elif _may_lack_memory(model, error):
            model.postponed = True
            self.out_of_memory(name, now)
            return
        model.enter(ModelState.ABSENT, now)
        self._fail(model, now, error)

    def lost(self, name: str, now: float, reason: str) -> None:
        """Note that the model was in memory, and will not answer any more."""
        model = self._models[name]
        if not model.is_resident:
            return
        if now - model.since > _SOUND_SECONDS:
            model.failures = 0
        model.enter(ModelState.CLOSING, now)
        self._fail(model, now, EngineUnavailable(reason))
        model.failed_for_good = True
        self._lost.append(Close(name, "lost"))

    def closed(self, name: str, now: float) -> None:
        """Note that the model's memory is free again."""
        model = self._models[name]
        model.enter(ModelState.ABSENT, now)
        model.out_of_memory = model.draining = False
        self._departures += 1
        for each in self._models.values():
            each.awaits_departure = False

    # Decisions

    def plan(self, now: float) -> list[Action]:
        """Return the actions that are due, each once. Call it after every event and when due."""
        self._expire(now)
        actions: list[Action] = [*self._lost]
        self._lost.clear()
        actions += self._come_and_go(now)
        actions += self._make_room(now)
        for model in self._models.values():
            if model.is_resident and not model.draining:
                actions += self._admit(model, now)
        actions += self._refused
        self._refused.clear()
        return actions

    def due_at(self, now: float) -> float | None:
        """Return the time at which `plan` may have actions without any event; None: never."""
        models = self._models.values()
        times = [request.deadline for model in models for request in model.waiting.values()]
        resident = self._resident()
        times += [model.keep_alive_ends for model in resident if model.is_idle]
        claimant = self._next_to_open()
        if claimant is not None and claimant.awaits_departure:
            ends = [model.evictable_at if model.is_idle else model.slice_ends for model in resident]
            times += [end for end in ends if end > now]
        return min((time for time in times if time < math.inf), default=None)

    def is_unservable(self, now: float) -> bool:
        """Tell whether no model is in memory, or likely to be soon.

        That is so if each waits for its next try, and was lost, or failed for good, or several
        times in a row: a single failure may be a hiccup of the network.
        """
        return all(model.is_unservable(now) for model in self._models.values())

    def retry_seconds(self, name: str, now: float) -> float:
        """Return the seconds until the next try of a model that has failed; else 0."""
        return self._models[name].retry_seconds(now)

    def has_failed(self, name: str, now: float) -> bool:
        """Tell whether the model has failed, and is not to be tried again yet."""
        return self._models[name].is_paused(now)

    def facts(self, now: float) -> Mapping[str, dict[str, object]]:
        """Return the models' states and numbers of requests, with the errors of failed ones."""
        return {name: model.facts(now) for name, model in self._models.items()}

    def is_resident(self, name: str) -> bool:
        return self._models[name].is_resident

    def admits(self, name: str) -> bool:
        """Tell whether a new request may use the model at once: in memory, and not draining."""
        return self.is_resident(name) and not self._models[name].draining

    # Parts of a plan

    def _come_and_go(self, now: float) -> Iterator[Action]:
        for model in self._models.values():
            if model.state is ModelState.ABSENT and model.waiting:
                model.enter(ModelState.FETCHING, now)
                yield Fetch(model.name)
            elif model.state is ModelState.FETCHED and not model.waiting:
                model.enter(ModelState.CLOSING, now)
                yield Close(model.name, "unwanted")
            elif model.is_resident and model.is_idle and now >= model.keep_alive_ends:
                yield self._evict(model, "keep_alive", now)

    def _make_room(self, now: float) -> Iterator[Action]:
        """Open the next model, or evict one for it."""
        if self._first_out_of_memory() is None:
            for model in self._models.values():
                model.draining = False
        claimant = self._next_to_open()
        if claimant is None:
            return
        if not claimant.awaits_departure:
            claimant.enter(ModelState.OPENING, now)
            claimant.departures_seen = self._departures
            yield Open(claimant.name, alone=not self._any_resident())
        elif (victim := self._victim(now)) is None:
            return
        elif victim.running:
            victim.draining = True
        else:
            yield self._evict(victim, "room", now)

    def _evict(self, model: ModelRecord, cause: str, now: float) -> Close:
        model.enter(ModelState.CLOSING, now)
        model.failures = 0
        return Close(model.name, cause)

    def _next_to_open(self) -> ModelRecord | None:
        """Return the fetched model with the oldest request; None while another opens or closes."""
        states = {model.state for model in self._models.values()}
        if states & {ModelState.OPENING, ModelState.CLOSING}:
            return None
        return _oldest(m for m in self._models.values() if m.state is ModelState.FETCHED)

    def _first_out_of_memory(self) -> ModelRecord | None:
        """Return the model with the oldest request, of those that have found no memory."""
        return _oldest(model for model in self._models.values() if model.out_of_memory)

    def _victim(self, now: float) -> ModelRecord | None:
        """Return the model to evict: the idle one of lowest cost, else one whose slice is over.

        Of several slices the one that ended first counts. None: each model is still within its
        slice, or may get its next request in a moment.
        """
        resident = self._resident()
        idle = [model for model in resident if model.is_idle]
        if idle:
            ready = [model for model in idle if model.evictable_at <= now]
            return min(ready, key=lambda model: model.eviction_cost(now), default=None)
        over = [model for model in resident if model.slice_ends <= now]
        return min(over, key=lambda model: model.slice_ends, default=None)

    def _admit(self, model: ModelRecord, now: float) -> Iterator[Admit]:
        for id, request in list(model.waiting.items()):
            if not model.holds(request.weight):
                return
            model.admit(id, now)
            yield Admit(id)

    def _runs_at_once(self, model: ModelRecord, weight: int) -> bool:
        """Tell whether a new request would be admitted by the next plan."""
        if not model.is_resident or model.waiting or not model.holds(weight):
            return False
        return not model.draining

    def _expected_wait(self, model: ModelRecord, now: float) -> float:
        """Return a lower bound of the seconds that a new request has to wait."""
        claimant = self._first_out_of_memory()
        if model.is_resident:
            if claimant is None or not model.draining:
                return 0.0
            return claimant.load_seconds * (1 + TIME_SLICE) + model.load_seconds
        if model.state is ModelState.OPENING:
            return max(0.0, model.load_seconds - (now - model.since))
        if claimant is None:
            return model.load_seconds
        ends = [each.slice_ends for each in self._resident()]
        return model.load_seconds + max(0.0, min(ends, default=now) - now)

    def _expire(self, now: float) -> None:
        for model in self._models.values():
            for id, request in list(model.waiting.items()):
                if request.deadline <= now:
                    self._refuse(
                        id,
                        DeadlineExceeded(
                            "The time for this request was over while it waited for the model "
                            f"{model.name!r}."
                        ),
                    )

    def _resident(self) -> list[ModelRecord]:
        return [model for model in self._models.values() if model.is_resident]

    def _any_resident(self) -> bool:
        return any(model.is_resident for model in self._models.values())

    def _fail(self, model: ModelRecord, now: float, error: WorkerError) -> None:
        """Note the failure, and refuse the requests that wait for the model."""
        pause = model.fail(error, now)
        assert model.error is not None
        for id in list(model.waiting):
            self._refuse(id, _for_one_caller(model.error, pause))

    def _refuse(self, id: int, error: WorkerError) -> None:
        """End a request that is new or waits."""
        model = self._requested.pop(id, None)
        if model is not None:
            del model.waiting[id]
        self._refused.append(Refuse(id, error))

    def _refuse_for_now(self, id: int, message: str, retry_after: float) -> None:
        error = Overloaded(message, retry_after=max(_SHORTEST_RETRY, retry_after))
        self._refuse(id, error)

    def _count_waiting(self) -> int:
        return sum(len(model.waiting) for model in self._models.values())


def _oldest(models: Iterable[ModelRecord]) -> ModelRecord | None:
    """Return the model whose first waiting request is the oldest; None if none waits."""
    wanted = (model for model in models if model.waiting)
    return min(wanted, key=lambda model: model.first_arrival, default=None)


def _may_lack_memory(model: ModelRecord, error: WorkerError) -> bool:
    """Tell whether a start may have failed for lack of memory, and has a second chance."""
    passing = isinstance(error, EngineStartFailed) and not error.permanent
    opening = model.state is ModelState.OPENING
    return opening and passing and not model.postponed and not model.failed_alone


def _for_one_caller(error: WorkerError, retry_after: float) -> WorkerError:
    """Return a copy of the error: each one is raised by a task of its own."""
    return error.replaced(retry_after=max(_SHORTEST_RETRY, retry_after))
