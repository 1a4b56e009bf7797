"""Which models are in memory, and whose turn it is: decided from what is told, without clock, thread or engine.

A request for a model in memory goes on at once. The others wait, by model, and the model that has waited
longest is opened next: beside the others where there is room, which whoever opens it finds out, else in place
of one that nobody uses, else when the turn of one that is used is over. A turn is at least so long that,
under load, opening takes no more than a third of the time; after it new requests wait for the next one, and
those that run end first. Whoever told of the actions (`plan`) carries them out and tells what came of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gguf_worker.errors import (
    DeadlineExceeded,
    DiskFull,
    EngineStartFailed,
    EngineUnavailable,
    Overloaded,
    StartError,
    WorkerError,
)

TURN = 2.0
"""A turn lasts so many times what opening the model took, if others wait and it is used."""
LINGER = 0.1
"""For so much of what opening it took, a model whose turn is not over waits for the next request of whoever
asks one after the other, before it makes way."""
PAUSES = (5.0, 20.0, 60.0, 300.0)
"""Seconds before a model that could not be opened, or was lost, is tried again; by how often that came."""
_GIVEN_UP = 3
"""A model that failed so many times in a row, with pauses between, is not counted on any more."""
_SOUND_SECONDS = 600.0
"""A model that was in memory for so long and is lost has not failed again: it has failed anew."""


class State(StrEnum):
    ABSENT = "absent"
    FETCHING = "fetching"
    """It is being looked for, perhaps downloaded; that needs no room in memory."""
    FETCHED = "fetched"
    """It is on this machine, and waits for room in memory."""
    OPENING = "opening"
    RESIDENT = "resident"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Then tell `fetched` or `failed`."""

    model: str


@dataclass(frozen=True, slots=True)
class Open:
    """Then tell `opened`, `crowded` or `failed`. `alone`: no other is in memory."""

    model: str
    alone: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Then tell `closed`. `cause`: room, keep_alive, unwanted or lost."""

    model: str
    cause: str


@dataclass(frozen=True, slots=True)
class Admit:
    """The request may go on until `leave`."""

    id: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request ends with this error."""

    id: int
    error: WorkerError


Action = Fetch | Open | Close | Admit | Refuse


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """`keep_alive`: seconds without a request after which the model leaves; None: when others need room."""

    name: str
    keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class _Waiter:
    arrived: float
    deadline: float
    weight: int
    modest: bool


@dataclass(slots=True)
class _Model:
    terms: ModelPolicy
    state: State = State.ABSENT
    since: float = 0.0
    """When its state began."""
    cost: float = 0.0
    """Seconds that opening it took the last time; 0 before the first."""
    used_at: float = 0.0
    places: int = 0
    running: dict[int, int] = field(default_factory=dict)
    """Requests that were admitted, and how many places each takes."""
    waiting: dict[int, _Waiter] = field(default_factory=dict)
    crowded: bool = False
    """There was no room for it, and it has not been opened since."""
    blocked: bool = False
    """Nor has anybody left since."""
    seen_leave: int = 0
    """How many had left when it was last tried."""
    yielding: bool = False
    """Its turn is over, and it leaves when its last request has ended: new ones wait for its next turn."""
    tried: bool = False
    """It was put off once, because its start had failed beside others."""
    unsound: bool = False
    """Its start has failed with nobody beside it, and it has not been open since."""
    failures: int = 0
    given_up: bool = False
    """It was lost, or what was wrong the last time will not pass."""
    error: WorkerError | None = None
    retry_at: float = -math.inf

    @property
    def name(self) -> str:
        return self.terms.name

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def kept_until(self) -> float:
        """When it leaves, as long as nobody uses it, though nobody needs its room."""
        keep_alive = self.terms.keep_alive
        return math.inf if keep_alive is None else self.used_at + keep_alive

    @property
    def turn_ends(self) -> float:
        return self.since + TURN * self.cost

    @property
    def first_arrival(self) -> float:
        return min(waiter.arrived for waiter in self.waiting.values())

    def turn(self, state: State, now: float) -> None:
        self.state, self.since = state, now

    def paused(self, now: float) -> bool:
        return self.error is not None and now < self.retry_at

    def hopeless(self, now: float) -> bool:
        return self.paused(now) and (self.given_up or self.failures >= _GIVEN_UP)

    def has_place(self, weight: int) -> bool:
        taken = sum(self.running.values())
        return taken == 0 or taken + weight <= self.places

    def worth(self, now: float) -> float:
        """What opening it again would cost, the less the longer nobody has asked for it."""
        return self.cost / max(now - self.used_at, 1e-3)

    @property
    def makes_way_at(self) -> float:
        """When it may leave, as long as nobody uses it."""
        return min(self.turn_ends, self.used_at + LINGER * self.cost)


class SwapPolicy:
    """The turns of the models in `terms`. Times are seconds of one monotonic clock; not thread-safe.

    `most_waiting`: so many requests may wait at once, for all models together.
    """

    def __init__(self, terms: Iterable[ModelPolicy], *, most_waiting: int) -> None:
        self._models = {each.name: _Model(each) for each in terms}
        self._most_waiting = most_waiting
        self._asked: dict[int, _Model] = {}
        """Requests that wait or run."""
        self._refused: list[Refuse] = []
        self._closing: list[Close] = []
        """Of models that were lost."""
        self._left = 0
        """How many times a model has left."""

    # What is told

    def ask(
        self,
        id: int,
        model: str,
        now: float,
        *,
        deadline: float = math.inf,
        weight: int = 1,
        modest: bool = False,
    ) -> None:
        """A request has come; `plan` says what becomes of it. `weight`: the places that it takes. `modest`:
        nobody makes way for it."""
        asked = self._models[model]
        expected = self._expected(asked, now)
        if asked.error is not None and asked.paused(now):
            self._refuse(id, _told_again(asked.error, asked.retry_at - now))
        elif not self._goes_on(asked, weight) and self._waiting() >= self._most_waiting:
            self._refuse(
                id,
                Overloaded(
                    f"{self._waiting()} requests wait for a model already (MAX_QUEUE).",
                    retry_after=max(1.0, expected),
                ),
            )
        elif now + expected > deadline:
            self._refuse(
                id,
                Overloaded(
                    f"The model {model!r} is not in memory, and will not be for {expected:.0f} seconds at the "
                    "least: longer than this request has.",
                    retry_after=max(1.0, expected),
                ),
            )
        else:
            self._asked[id] = asked
            asked.waiting[id] = _Waiter(now, deadline, weight, modest)

    def leave(self, id: int, now: float) -> None:
        """The request has ended or was given up, if it is there at all."""
        asked = self._asked.pop(id, None)
        if asked is None:
            return
        asked.waiting.pop(id, None)
        if asked.running.pop(id, None) is not None:
            asked.used_at = now

    def fetched(self, model: str, now: float) -> None:
        self._models[model].turn(State.FETCHED, now)

    def crowded(self, model: str, now: float) -> None:
        """There was no room beside the others."""
        found = self._models[model]
        found.turn(State.FETCHED, now)
        found.crowded = True
        found.blocked = found.seen_leave == self._left  # else there may be room by now
        for id, waiter in list(found.waiting.items()):
            if waiter.modest:
                self._refuse(id, Overloaded(f"There is no room for {model!r} beside the others."))

    def opened(self, model: str, now: float, *, places: int) -> None:
        """It answers; so many requests may run and wait in it at once."""
        found = self._models[model]
        found.cost = now - found.since
        found.turn(State.RESIDENT, now)
        found.used_at, found.places = now, places
        found.crowded = found.blocked = found.tried = found.unsound = False
        found.error = None

    def failed(self, model: str, now: float, error: WorkerError) -> None:
        """It was not found, or not opened. A start that failed beside others may have been for want of memory
        that was planned with: once, the model then waits until one of them has left. Not if it failed alone:
        a model that cannot be started would have another leave at every try."""
        found = self._models[model]
        if found.state is State.OPENING and not self._others_are_resident():
            found.unsound = True
        elif self._may_lack_memory(found, error):
            found.tried = True
            self.crowded(model, now)
            return
        found.turn(State.ABSENT, now)
        self._fail(found, now, error)

    def lost(self, model: str, now: float, reason: str) -> None:
        """It was in memory, and will not answer any more."""
        found = self._models[model]
        if found.state is not State.RESIDENT:
            return
        if now - found.since > _SOUND_SECONDS:
            found.failures = 0
        found.turn(State.CLOSING, now)
        self._fail(found, now, EngineUnavailable(reason))
        found.given_up = True
        self._closing.append(Close(model, "lost"))

    def closed(self, model: str, now: float) -> None:
        """Its memory is free again."""
        found = self._models[model]
        found.turn(State.ABSENT, now)
        found.crowded = found.yielding = False
        self._left += 1
        for each in self._models.values():
            each.blocked = False

    # What follows

    def plan(self, now: float) -> list[Action]:
        """What is to be done now, each once; to be asked after all that is told, and when `due` says."""
        self._expire(now)
        actions: list[Action] = [*self._closing]
        self._closing.clear()
        actions += self._come_and_go(now)
        actions += self._make_room(now)
        for each in self._models.values():
            if each.state is State.RESIDENT and not each.yielding:
                actions += self._admissions(each, now)
        actions += self._refused
        self._refused.clear()
        return actions

    def due(self, now: float) -> float | None:
        """When `plan` may have something to do though nothing was told; None: never."""
        times = [w.deadline for each in self._models.values() for w in each.waiting.values()]
        resident = [each for each in self._models.values() if each.state is State.RESIDENT]
        times += [each.kept_until for each in resident if each.idle]
        claimant = self._claimant()
        if claimant is not None and claimant.blocked:
            ends = [each.makes_way_at if each.idle else each.turn_ends for each in resident]
            times += [end for end in ends if end > now]
        return min((time for time in times if time < math.inf), default=None)

    def hopeless(self, now: float) -> bool:
        """No model is in memory, or will be: each waits for its next try, and was lost, or failed for good or
        several times in a row. What failed once may have been the network's hiccup."""
        return all(each.hopeless(now) for each in self._models.values())

    def facts(self, now: float) -> Mapping[str, dict[str, object]]:
        """Of each model: its state, how many requests run and wait, and why it failed where it did."""
        return {name: _facts(each, now) for name, each in self._models.items()}

    def resident(self, model: str) -> bool:
        return self._models[model].state is State.RESIDENT

    def admits(self, model: str) -> bool:
        """Is it in memory, and not about to leave? Then a new request need not wait until it is opened."""
        return self.resident(model) and not self._models[model].yielding

    # Parts

    def _come_and_go(self, now: float) -> Iterator[Action]:
        for each in self._models.values():
            if each.state is State.ABSENT and each.waiting:
                each.turn(State.FETCHING, now)
                yield Fetch(each.name)
            elif each.state is State.FETCHED and not each.waiting:
                each.turn(State.CLOSING, now)
                yield Close(each.name, "unwanted")
            elif each.state is State.RESIDENT and each.idle and now >= each.kept_until:
                yield self._close(each, "keep_alive", now)

    def _make_room(self, now: float) -> Iterator[Action]:
        if self._crowded_out() is None:
            for each in self._models.values():
                each.yielding = False
        claimant = self._claimant()
        if claimant is None:
            return
        if not claimant.blocked:
            claimant.turn(State.OPENING, now)
            claimant.seen_leave = self._left
            yield Open(claimant.name, alone=not self._others_are_resident())
        elif (leaving := self._leaving(now)) is None:
            return
        elif leaving.running:
            leaving.yielding = True
        else:
            yield self._close(leaving, "room", now)

    def _close(self, model: _Model, cause: str, now: float) -> Close:
        model.turn(State.CLOSING, now)
        model.failures = 0
        return Close(model.name, cause)

    def _claimant(self) -> _Model | None:
        """Whose turn it is to be opened, while no other comes or goes: that whose request came first."""
        states = {each.state for each in self._models.values()}
        if states & {State.OPENING, State.CLOSING}:
            return None
        ready = [each for each in self._models.values() if each.state is State.FETCHED]
        return min(
            (each for each in ready if each.waiting), key=lambda m: m.first_arrival, default=None
        )

    def _crowded_out(self) -> _Model | None:
        """The model that needs another to leave, or is tried again since one has."""
        out = [each for each in self._models.values() if each.crowded and each.waiting]
        return min(out, key=lambda each: each.first_arrival, default=None)

    def _leaving(self, now: float) -> _Model | None:
        """Who makes way: the least worth of those that nobody uses, else whose turn has been over longest."""
        resident = [each for each in self._models.values() if each.state is State.RESIDENT]
        idle = [each for each in resident if each.idle]
        if idle:
            ready = [each for each in idle if each.makes_way_at <= now]
            return min(ready, key=lambda each: each.worth(now), default=None)
        over = [each for each in resident if each.turn_ends <= now]
        return min(over, key=lambda each: each.turn_ends, default=None)

    def _admissions(self, model: _Model, now: float) -> Iterator[Admit]:
        for id, waiter in list(model.waiting.items()):
            if not model.has_place(waiter.weight):
                return
            del model.waiting[id]
            model.running[id] = waiter.weight
            model.used_at = now
            yield Admit(id)

    def _goes_on(self, model: _Model, weight: int) -> bool:
        """Would a request be admitted at once?"""
        if model.state is not State.RESIDENT or model.waiting or not model.has_place(weight):
            return False
        return not model.yielding

    def _expected(self, model: _Model, now: float) -> float:
        """Seconds that a new request has to wait at the least, as far as that is known."""
        out = self._crowded_out()
        if model.state is State.RESIDENT:
            if out is None or not model.yielding:
                return 0.0
            return out.cost * (1 + TURN) + model.cost
        if model.state is State.OPENING:
            return max(0.0, model.cost - (now - model.since))
        if out is None:
            return model.cost
        ends = [each.turn_ends for each in self._models.values() if each.state is State.RESIDENT]
        return model.cost + max(0.0, min(ends, default=now) - now)

    def _expire(self, now: float) -> None:
        for each in self._models.values():
            for id, waiter in list(each.waiting.items()):
                if waiter.deadline <= now:
                    self._refuse(
                        id,
                        DeadlineExceeded(
                            f"The time for this request was over while it waited for the model {each.name!r}."
                        ),
                    )

    def _may_lack_memory(self, model: _Model, error: WorkerError) -> bool:
        start = isinstance(error, EngineStartFailed) and not error.permanent
        opening = model.state is State.OPENING
        return opening and start and not model.tried and not model.unsound

    def _others_are_resident(self) -> bool:
        """Beside a model that is being opened, or is about to be."""
        return any(each.state is State.RESIDENT for each in self._models.values())

    def _fail(self, model: _Model, now: float, error: WorkerError) -> None:
        """End those who wait for it, and let nobody try again at once."""
        lasting = _lasting(error)
        model.given_up = lasting
        pause = PAUSES[-1] if lasting else PAUSES[min(model.failures, len(PAUSES) - 1)]
        model.failures += 1
        model.retry_at = now + pause
        model.crowded = model.blocked = model.tried = False
        model.error = _public(model.name, error)
        for id in list(model.waiting):
            self._refuse(id, _told_again(model.error, pause))

    def _refuse(self, id: int, error: WorkerError) -> None:
        self.leave(id, math.nan)
        self._refused.append(Refuse(id, error))

    def _waiting(self) -> int:
        return sum(len(each.waiting) for each in self._models.values())


def _public(name: str, error: WorkerError) -> WorkerError:
    """What those hear who ask for a model that failed."""
    if isinstance(error, StartError) and error.permanent:
        told = copy.copy(error)
        told.message = f"The model {name!r} cannot be served: {error.message}"
        told.args = (told.message,)
        return told
    return EngineUnavailable(f"The model {name!r} cannot be served now: {error.message}")


def _lasting(error: WorkerError) -> bool:
    """Will it be so the next time too? A disk that is full may not be, when other models have left it."""
    return isinstance(error, StartError) and error.permanent and not isinstance(error, DiskFull)


def _told_again(error: WorkerError, retry_after: float) -> WorkerError:
    """A copy for one more caller."""
    told = copy.copy(error)
    told.retry_after = max(1.0, retry_after)
    return told


def _facts(model: _Model, now: float) -> dict[str, object]:
    facts: dict[str, object] = {
        "state": "failed" if model.paused(now) else model.state.value,
        "running": len(model.running),
        "waiting": len(model.waiting),
    }
    if model.error is not None and model.paused(now):
        facts |= {"error": model.error.message, "retry_seconds": round(model.retry_at - now, 1)}
    return facts
