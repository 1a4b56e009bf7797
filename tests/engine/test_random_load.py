"""Random requests over shared prefixes: the scheduler and its cache against what llama.cpp would hold.

Everything is checked at every step: the fake refuses what llama.cpp would refuse, and holds under each id
exactly the tokens that the cache believes to be there. Prompts are drawn so that all that can happen to a
prefix does happen, which is counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from gguf_worker.engine.kv import Copy, KvCache, Operation
from gguf_worker.engine.scheduler import Alternate, Cache, Mixed, Mixing, Plan, Scheduler
from gguf_worker.engine.sequence import NO_SLOT, Sequence
from gguf_worker.engine.streams import KvStreams
from tests.fake_backend import FakeBackend

ALPHABET = 12
"""Different tokens: few, so that prompts agree by chance as well."""
FAMILIES = 4
"""Families of prompts that begin alike."""


def next_token(tokens: list[int]) -> int:
    """What the model says: determined by the tokens, so that equal prompts get equal answers."""
    return (sum(tokens[-5:]) + len(tokens)) % ALPHABET


@dataclass(frozen=True)
class Setting:
    """A size and kind of cache, and how hard it is used."""

    kind: str
    slots: int = 4
    resting: int = 4
    cells: int = 220
    context: int = 100
    budget: int = 24
    mixing: Callable[[], Mixing] | None = None
    arrivals: float = 0.4

    @property
    def rollback(self) -> bool:
        return self.kind != "snapshots"

    def cache(self) -> Cache:
        if self.kind == "streams":
            return KvStreams(self.slots * self.context, self.slots)
        return KvCache(self.cells, self.slots, self.resting, rollback=self.rollback)

    def scheduler(self) -> Scheduler:
        return Scheduler(
            self.cache(),
            slots=self.slots,
            context=self.context,
            budget=self.budget,
            max_waiting=12,
            mixing=self.mixing and self.mixing(),
        )

    def backend(self) -> FakeBackend:
        return FakeBackend(
            next_token,
            sequences=self.slots,
            context=self.context,
            cells=self.cells,
            batch_size=self.budget,
            idle=0 if self.kind == "streams" else self.resting,
            rollback=self.rollback,
            unified=self.kind != "streams",
        )


class Prompts:
    """Draws prompts that share beginnings: with a family, with those that run, with those that ended."""

    def __init__(self, random: random.Random, longest: int) -> None:
        self._random = random
        self._longest = longest
        self._stems = [self._tokens(random.choice([9, 20, 40, 70])) for _ in range(FAMILIES)]
        self._ended: list[list[int]] = []

    def ended(self, tokens: list[int]) -> None:
        self._ended = [*self._ended[-5:], list(tokens)]

    def draw(self, running: list[Sequence]) -> list[int]:
        """A prompt of at least one token."""
        kinds = [self._of_a_family, self._of_a_family, self._alone, self._continued]
        if running:
            kinds += [self._like, self._within, self._exactly]
        kind = self._random.choice(kinds)
        return kind(running)[: self._longest] or self._tokens(1)

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(ALPHABET) for _ in range(count)]

    def _tail(self) -> list[int]:
        return self._tokens(self._random.choice([0, 1, 2, 12, 30]))

    def _of_a_family(self, _: list[Sequence]) -> list[int]:
        stem = self._random.choice(self._stems)
        if self._random.random() < 0.3:  # branches off early
            stem = stem[: self._random.randrange(len(stem))]
        return stem + self._tail()

    def _alone(self, _: list[Sequence]) -> list[int]:
        return self._tokens(self._random.choice([1, 1, 2, 30, self._longest]))

    def _continued(self, _: list[Sequence]) -> list[int]:
        """The next turn of a conversation."""
        return (self._random.choice(self._ended) if self._ended else []) + self._tail()

    def _like(self, running: list[Sequence]) -> list[int]:
        """What another one asks, with or without its answer so far."""
        other = self._random.choice(running)
        return other.tokens[: self._random.choice([other.prompt_length, len(other.tokens)])]

    def _within(self, running: list[Sequence]) -> list[int]:
        """A beginning of what another one knows."""
        tokens = self._random.choice(running).tokens
        return tokens[: self._random.randrange(len(tokens)) + 1]

    def _exactly(self, running: list[Sequence]) -> list[int]:
        """What another one has computed, and one or more tokens of its own."""
        other = self._random.choice(running)
        return other.tokens[: other.computed] + self._tokens(self._random.choice([1, 9]))


class Load:
    """One run over a random load. `met` counts what happened, `ended` says how each request ended."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.random = random.Random(seed)
        self.setting = setting
        self.scheduler = setting.scheduler()
        self.backend = setting.backend()
        self.prompts = Prompts(self.random, setting.context - 1)
        self.now = 0.0
        self.limit: int | None = None
        self.next_id = 0
        self.alive: dict[int, Sequence] = {}
        self.ended: dict[int, str] = {}
        self.met: Counter[str] = Counter()

    def run(self, steps: int) -> None:
        """`steps` with arrivals, cancels and refused steps, and then what it takes to end them all."""
        for _ in range(steps):
            while self.random.random() < self.setting.arrivals:
                self.arrive(self.random.choice([1, 1, 1, 3]))
            if self.alive and self.random.random() < 0.04:
                self.end(self.random.choice(list(self.alive)), "cancelled")
            self.step(refused=self.random.random() < 0.03)
        for _ in range(5000):
            if self.scheduler.idle:
                break
            self.step(refused=False)
        self.finish()

    def arrive(self, copies: int) -> None:
        """A new request, or several of the same prompt at once."""
        running = [each for each in self.alive.values() if each.slot != NO_SLOT]
        prompt = self.prompts.draw(running)
        size = len(prompt)
        odd = self.random.choice([(), (0,), (size,), (size + 7,), (1, size - 1), (size // 2,)])
        for _ in range(copies):
            if not self.scheduler.can_queue():
                return
            self.next_id += 1
            self.alive[self.next_id] = Sequence.of(
                self.next_id,
                prompt,
                self.random.choice([1, 2, 15, 40, 10**6]),
                priority=self.random.randrange(3),
                user=self.random.choice(["", "ann", "bob"]),
                arrived=self.now,
                borders=(9, *odd),
            )
            self.scheduler.add(self.alive[self.next_id])

    def end(self, id: int, how: str) -> None:
        assert id not in self.ended
        self.ended[id] = how
        self.prompts.ended(self.alive.pop(id).tokens)
        self.scheduler.remove(id)

    def step(self, *, refused: bool) -> None:
        """As the server does it."""
        self.now += self.random.choice([0.01, 4.0])
        plan = self.planned()
        if not plan.chunks:
            assert self.scheduler.idle, "work to do, and nothing done"
            return
        self.backend.codes.append(1 if refused else 0)
        code, _ = self.backend.decode(plan.chunks)
        assert code == refused, "more cells than there are"
        if refused:
            self.put_off(plan)
            return
        self.limit = None
        self.scheduler.commit(plan)
        self.check_running()
        for chunk in plan.chunks:
            token = next_token(self.backend.held[chunk.slot])
            if chunk.output and self.scheduler.advance(chunk.sequence, token):
                self.end(chunk.sequence.id, "length")
        self.scheduler.check()

    def put_off(self, plan: Plan) -> None:
        self.met["refused"] += 1
        if self.scheduler.retreat():
            self.scheduler.check()
            return
        self.limit = plan.rows // 2
        if self.limit == 0:
            self.end(plan.chunks[0].sequence.id, "refused")

    def planned(self) -> Plan:
        """The next plan, checked, with its operations done."""
        before = {each.id: each for each in self.alive.values() if each.slot == NO_SLOT}
        plan = self.scheduler.plan(self.now, self.limit)
        assert plan.rows <= min(self.setting.budget, self.limit or self.setting.budget)
        for operation in plan.operations:
            self.meet(operation)
            self.backend.arrange([operation])
        self.met["preempted"] += plan.preempted
        for id in before:
            self.met_a_newcomer(self.alive[id])
        self.scheduler.check()
        self.check_running()
        self.check_resting()
        return plan

    def meet(self, operation: Operation) -> None:
        """Count what an operation says about what has happened."""
        slots = self.setting.slots
        if isinstance(operation, Copy):
            held = len(self.backend.held[operation.source])
            self.met["shared"] += operation.target < slots
            self.met["shared with one that runs"] += max(operation.source, operation.target) < slots
            self.met["split"] += operation.length < held
            self.met["rested"] += operation.target >= slots
            sources = [s.slot for s in self.alive.values()]
            self.met["snapshot"] += operation.target >= slots and operation.source in sources
        elif operation.id >= slots:
            self.met["shortened"] += operation.length > 0
            self.met["let go"] += operation.length == 0

    def met_a_newcomer(self, sequence: Sequence) -> None:
        """Count how one that was waiting before this plan was treated by it."""
        if sequence.slot == NO_SLOT:
            free = self.scheduler.kv.free_slots > 0
            hit = self.scheduler.kv.look_up(sequence.tokens)
            self.met["waited for another"] += free and hit.gain >= 8
            return
        known = any(
            each.tokens[: sequence.computed] == sequence.tokens[: sequence.computed]
            for each in self.alive.values()
            if each is not sequence and each.slot != NO_SLOT
        )
        self.met["started from what rests"] += sequence.computed > 0 and not known
        self.met["went on after making room"] += sequence.begun and sequence.computed > 0

    def check_running(self) -> None:
        for each in self.alive.values():
            if each.slot != NO_SLOT:
                assert self.backend.held[each.slot] == each.tokens[: each.computed]

    def check_resting(self) -> None:
        """The fake holds, under every id, as much as the cache says, and what it finds there."""
        kv = self.scheduler.kv
        running = {each.slot for each in self.alive.values()}
        assert kv.used == self.backend.used
        for id, tokens in self.backend.held.items():
            assert kv.held(id) == len(tokens)
            if tokens and id not in running:
                assert kv.look_up([*tokens, 0]).ready.length >= len(tokens)

    def finish(self) -> None:
        assert self.scheduler.idle, "no progress"
        self.planned()
        assert set(self.ended) == set(range(1, self.next_id + 1))
        assert self.scheduler.kv.pinned == 0
        assert self.scheduler.kv.free_slots == self.setting.slots
        while self.scheduler.kv.release_one():
            self.scheduler.check()
        self.planned()
        assert self.scheduler.kv.used == self.backend.used == 0


ROOMY = Setting("cells", cells=400)
SETTINGS = {
    "cells": Setting("cells"),
    "cells, roomy": Setting("cells", cells=400, resting=8),
    "cells, few ids": Setting("cells", resting=1),
    "cells, no id rests": Setting("cells", resting=0),
    "cells, tight": Setting("cells", cells=100),
    "cells, one slot": Setting("cells", slots=1, cells=100),
    "cells, alternate": Setting("cells", mixing=lambda: Alternate(10)),
    "cells, small chunks": Setting("cells", mixing=lambda: Mixed(3)),
    "snapshots": Setting("snapshots"),
    "snapshots, roomy": Setting("snapshots", cells=400, resting=8),
    "snapshots, few ids": Setting("snapshots", resting=1),
    "snapshots, no id rests": Setting("snapshots", resting=0),
    "snapshots, tight": Setting("snapshots", cells=100),
    "snapshots, one slot": Setting("snapshots", slots=1, cells=100),
    "snapshots, alternate": Setting("snapshots", mixing=lambda: Alternate(10)),
    "streams": Setting("streams"),
    "streams, one slot": Setting("streams", slots=1),
    "streams, alternate": Setting("streams", slots=6, mixing=lambda: Alternate(10)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SETTINGS)
def test_a_random_load_keeps_every_promise(name: str, seed: int) -> None:
    load = Load(SETTINGS[name], seed)
    load.run(250)
    print(load.met)
