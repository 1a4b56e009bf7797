"""Random requests over shared prefixes: the scheduler and its cache against what llama.cpp would
hold.

Everything is checked at every step: the fake refuses what llama.cpp would refuse, and holds under
each id exactly the tokens that the cache believes to be there. Prompts are drawn so that all that
can happen to a prefix does happen, which is counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gguf_worker.engine.cells.partitioned import PartitionedCells
from gguf_worker.engine.cells.unified import Clear, Copy, Operation, Trim, UnifiedCells
from gguf_worker.engine.loop.mixing import Alternate, Mixed, Mixing
from gguf_worker.engine.loop.scheduler import Cells, Plan, Scheduler
from gguf_worker.engine.loop.sequence import NO_SLOT, Sequence
from tests.fake_backend import FakeBackend

ALPHABET = 12
"""Different tokens: few, so that prompts agree by chance as well."""
FAMILIES = 4
"""Families of prompts that begin alike."""


def next_token(tokens: list[int]) -> int:
    """Return the model's next token, which the tokens determine: equal prompts get equal
    answers."""
    return (sum(tokens[-5:]) + len(tokens)) % ALPHABET


@dataclass(frozen=True)
class Setting:
    """A size and kind of cache, and how hard it is used."""

    kind: str
    slots: int = 4
    idle: int = 4
    cells: int = 220
    context: int = 100
    budget: int = 24
    mixing: Callable[[], Mixing] | None = None
    arrivals: float = 0.4
    keep: int | None = None
    """Limit of idle cells, in one pool."""
    spoilt: float = 0.0
    """Probability that a step's numbers are lost."""
    alike: bool = False
    """No priorities, no users and no prefixes to wait for: first come, first served."""

    @property
    def rollback(self) -> bool:
        return self.kind != "snapshots"

    def cache(self) -> Cells:
        if self.kind == "streams":
            ids = self.slots + self.idle
            return PartitionedCells(ids * self.context, self.slots, self.idle)
        return UnifiedCells(
            self.cells, self.slots, self.idle, rollback=self.rollback, keep=self.keep
        )

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
            idle=self.idle,
            rollback=self.rollback,
            unified=self.kind != "streams",
        )


class Prompts:
    """Draws prompts that share beginnings: with a family, with those that run, with those that
    ended."""

    def __init__(self, random: random.Random, longest: int) -> None:
        self._random = random
        self._longest = longest
        self._stems = [self._tokens(random.choice([9, 20, 40, 70])) for _ in range(FAMILIES)]
        self._ended: list[list[int]] = []

    def ended(self, tokens: list[int]) -> None:
        self._ended = [*self._ended[-5:], list(tokens)]

    def draw(self, running: list[Sequence]) -> list[int]:
        """A prompt of at least one token."""
        kinds: list[Callable[[list[Sequence]], list[int]]] = [
            self._of_a_family,
            self._of_a_family,
            self._alone,
            self._continued,
        ]
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
        """Return another one's prompt, with or without its answer so far."""
        other = self._random.choice(running)
        return other.tokens[: self._random.choice([other.prompt_length, len(other.tokens)])]

    def _within(self, running: list[Sequence]) -> list[int]:
        """A beginning of what another one knows."""
        tokens = self._random.choice(running).tokens
        return tokens[: self._random.randrange(len(tokens)) + 1]

    def _exactly(self, running: list[Sequence]) -> list[int]:
        """Return what another one has computed, and one or more tokens of its own."""
        other = self._random.choice(running)
        return other.tokens[: other.computed] + self._tokens(self._random.choice([1, 9]))


class Load:
    """One run over a random load. `met` counts what happened, `ended` says how each request
    ended."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.random = random.Random(seed)
        self.setting = setting
        self.scheduler = setting.scheduler()
        self.backend = setting.backend()
        never_rest = 0 if setting.kind == "streams" else setting.slots
        self.may_rest = set(self.backend.held) - set(range(never_rest))
        self.may_run = (
            self.may_rest if setting.kind == "streams" else self.backend.held.keys() - self.may_rest
        )
        self.prompts = Prompts(self.random, setting.context - 1)
        self.now = 0.0
        self.limit: int | None = None
        self.next_id = 0
        self.alive: dict[int, Sequence] = {}
        self.ended: dict[int, str] = {}
        self.met: Counter[str] = Counter()

    def run(self, steps: int) -> None:
        """`steps` with arrivals, cancels and refused steps, and then what it takes to end them
        all."""
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
            self.alive[self.next_id] = self.request(prompt, reuse_points=(9, *odd))
            self.scheduler.add(self.alive[self.next_id])

    def request(self, prompt: list[int], reuse_points: tuple[int, ...]) -> Sequence:
        alike = self.setting.alike
        if alike:
            prompt = [ALPHABET + self.next_id % 200, *prompt[1:]]
        return Sequence.of(
            self.next_id,
            prompt,
            self.random.choice([1, 2, 15, 40, 10**6]),
            priority=1 if alike else self.random.randrange(3),
            user="" if alike else self.random.choice(["", "ann", "bob"]),
            arrived=self.now,
            reuse_points=reuse_points,
        )

    def end(self, id: int, how: str) -> None:
        assert id not in self.ended
        self.ended[id] = how
        self.prompts.ended(self.alive.pop(id).tokens)
        self.scheduler.remove(id)

    def step(self, *, refused: bool) -> None:
        """Do as the server does."""
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
        if self.random.random() < self.setting.spoilt:
            self.lose(plan)
            return
        for chunk in plan.chunks:
            token = next_token(self.backend.held[chunk.slot])
            if chunk.output and self.scheduler.advance(chunk.sequence, token):
                self.end(chunk.sequence.id, "length")
        self.scheduler.check()

    def lose(self, plan: Plan) -> None:
        """Some outputs of the step are no numbers, and the others get their tokens."""
        outputs = [chunk.sequence for chunk in plan.chunks if chunk.output]
        if not outputs:
            return
        lost = self.random.sample(outputs, self.random.randint(1, len(outputs)))
        innocent = {each.id for each in outputs if each not in lost}
        for each in outputs:
            if each not in lost and self.scheduler.advance(each, next_token(each.tokens)):
                self.end(each.id, "length")
        if self.scheduler.has_trial:
            assert lost == outputs
            self.met["convicted"] += 1
            self.end(lost[0].id, "spoils")
        else:
            self.met["started again"] += 1
            running = self.scheduler.running
            assert self.scheduler.start_again(innocent, self.now) == running
            assert self.scheduler.running == self.scheduler.cells.used == 0
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
        slots = {id: each.slot for id, each in self.alive.items()}
        order = self.order()
        plan = self.scheduler.plan(self.now, self.limit)
        assert plan.rows <= min(self.setting.budget, self.limit or self.setting.budget)
        assert plan.rows <= self.scheduler.cells.free
        assert all(chunk.slot in self.may_run for chunk in plan.chunks)
        if self.setting.alike:
            admitted = [each for each in order if each.slot != NO_SLOT]
            assert admitted == order[: len(admitted)]
            self.met["admitted in order"] += len(admitted)
        self.arranged(plan.operations)
        self.met["preempted"] += plan.preempted
        for id, slot in slots.items():
            self.met["moved into a hole"] += NO_SLOT != slot != self.alive[id].slot != NO_SLOT
            if slot == NO_SLOT:
                self.met_a_newcomer(self.alive[id])
        self.scheduler.check()
        self.check_running()
        self.check_resting()
        return plan

    def order(self) -> list[Sequence]:
        """Return those that wait, in their order if all are alike."""
        waiting = (each for each in self.alive.values() if each.slot == NO_SLOT)
        return sorted(waiting, key=lambda each: (not each.preempted, each.arrived, each.id))

    def arranged(self, operations: tuple[Operation, ...]) -> None:
        """Do the operations, and count what they say about what has happened."""
        running = {each.slot for each in self.alive.values()}
        for at, operation in enumerate(operations):
            if isinstance(operation, Clear):
                self.met["cleared"] += 1
            elif isinstance(operation, Copy):
                goes_on = Trim(operation.source, 0) not in operations[at:]
                self.met_a_copy(operation, running, goes_on=goes_on)
            elif operation.id in self.may_rest - running:
                self.met["shortened while idle"] += operation.length > 0
                taken_over = any(
                    isinstance(each, Copy) and each.source == operation.id
                    for each in operations[:at]
                )
                self.met["evicted"] += operation.length == 0 and not taken_over
            self.backend.arrange([operation])

    def met_a_copy(self, copy: Copy, running: set[int], *, goes_on: bool) -> None:
        self.met["split"] += copy.length < len(self.backend.held[copy.source])
        if copy.target in running:
            self.met["shared with one that runs"] += copy.source in running and goes_on
        else:
            self.met["snapshot"] += goes_on and copy.source in running
            self.met["kept idle"] += not goes_on

    def met_a_newcomer(self, sequence: Sequence) -> None:
        """Count how one that was waiting before this plan was treated by it."""
        if sequence.slot == NO_SLOT:
            free = self.scheduler.cells.free_slots > 0
            hit = self.scheduler.cells.look_up(sequence.tokens)
            self.met["waited for another"] += free and hit.gain >= 8
            return
        known = any(
            each.tokens[: sequence.computed] == sequence.tokens[: sequence.computed]
            for each in self.alive.values()
            if each is not sequence and each.slot != NO_SLOT
        )
        self.met["started from what is idle"] += sequence.computed > 0 and not known
        self.met["went on after making room"] += sequence.begun and sequence.computed > 0

    def check_running(self) -> None:
        for each in self.alive.values():
            if each.slot != NO_SLOT:
                assert self.backend.held[each.slot] == each.tokens[: each.computed]

    def check_resting(self) -> None:
        """The fake holds, under every id, as much as the cache says, and what it finds there."""
        cells = self.scheduler.cells
        running = {each.slot for each in self.alive.values()}
        assert cells.used == self.backend.used
        assert self.setting.keep is None or cells.used - cells.pinned <= self.setting.keep
        for id, tokens in self.backend.held.items():
            assert cells.held(id) == len(tokens)
            if tokens and id not in running:
                assert cells.look_up([*tokens, 0]).ready.length >= len(tokens)

    def finish(self) -> None:
        assert self.scheduler.idle, "no progress"
        self.planned()
        assert set(self.ended) == set(range(1, self.next_id + 1))
        assert self.scheduler.cells.pinned == 0
        assert self.scheduler.cells.free_slots == self.setting.slots
        met = self.met.copy()
        while self.scheduler.cells.evict_one():
            self.scheduler.check()
        self.planned()
        self.met = met  # who is evicted here was in nobody's way
        assert self.scheduler.cells.used == self.backend.used == 0


STEPS = 250
SETTINGS = {
    "cells": Setting("cells"),
    "cells, roomy": Setting("cells", cells=400, idle=8),
    "cells, few ids": Setting("cells", idle=1),
    "cells, no idle ids": Setting("cells", idle=0),
    "cells, tight": Setting("cells", cells=100),
    "cells, tiny": Setting("cells", cells=60, context=40, idle=3, budget=8),
    "cells, tiny, alternate": Setting(
        "cells", cells=44, context=40, idle=2, budget=8, mixing=lambda: Alternate(4)
    ),
    "cells, one slot": Setting("cells", slots=1, cells=100),
    "cells, few kept": Setting("cells", cells=400, idle=8, keep=30),
    "cells, alike": Setting("cells", cells=160, slots=6, alike=True),
    "cells, alternate": Setting("cells", mixing=lambda: Alternate(10)),
    "cells, small chunks": Setting("cells", mixing=lambda: Mixed(3)),
    "snapshots": Setting("snapshots"),
    "snapshots, roomy": Setting("snapshots", cells=400, idle=8),
    "snapshots, few ids": Setting("snapshots", idle=1),
    "snapshots, no idle ids": Setting("snapshots", idle=0),
    "snapshots, tight": Setting("snapshots", cells=100),
    "snapshots, tiny": Setting("snapshots", cells=60, context=40, idle=3, budget=8),
    "snapshots, one slot": Setting("snapshots", slots=1, cells=100),
    "snapshots, few kept": Setting("snapshots", cells=400, idle=8, keep=30),
    "snapshots, alternate": Setting("snapshots", mixing=lambda: Alternate(10)),
    "cells, spoilt": Setting("cells", spoilt=0.1),
    "snapshots, spoilt": Setting("snapshots", spoilt=0.1),
    "streams, spoilt": Setting("streams", idle=1, spoilt=0.1),
    "streams": Setting("streams", idle=1),
    "streams, roomy": Setting("streams", slots=6, idle=6),
    "streams, no idle ids": Setting("streams", idle=0),
    "streams, one slot": Setting("streams", slots=1, idle=0),
    "streams, alike": Setting("streams", slots=6, idle=1, alike=True),
    "streams, alternate": Setting("streams", slots=6, idle=1, mixing=lambda: Alternate(10)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SETTINGS)
def test_a_random_load_keeps_every_promise(name: str, seed: int) -> None:
    Load(SETTINGS[name], seed).run(STEPS)


ALWAYS = {
    "waited for another",
    "shared with one that runs",
    "started from what is idle",
    "preempted",
    "went on after making room",
    "evicted",
    "refused",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cells", {*ALWAYS, "split", "shortened while idle", "kept idle"}),
        ("cells, few kept", {"evicted", "shortened while idle", "started from what is idle"}),
        ("cells, alike", {"admitted in order", "preempted"}),
        ("snapshots", {*ALWAYS - {"shared with one that runs"}, "snapshot", "kept idle"}),
        ("snapshots, few kept", {"evicted", "snapshot", "started from what is idle"}),
        ("streams", {*ALWAYS - {"preempted"}, "split", "moved into a hole"}),
        ("streams, alike", {"admitted in order", "moved into a hole"}),
        ("cells, spoilt", {"started again", "convicted", "cleared", "kept idle"}),
        ("snapshots, spoilt", {"started again", "convicted", "cleared", "kept idle"}),
        ("streams, spoilt", {"started again", "convicted", "cleared"}),
    ],
)
def test_all_that_can_happen_to_a_prefix_happens_in_the_random_load(
    name: str, expected: set[str]
) -> None:
    met: Counter[str] = Counter()
    for seed in range(4):
        load = Load(SETTINGS[name], seed)
        load.run(STEPS)
        assert set(load.ended.values()) >= {"length", "cancelled"}
        met += load.met
    assert expected <= set(met)
