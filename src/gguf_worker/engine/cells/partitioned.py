"""Which sequence ids hold which tokens where each id has KV cells of its own (a stream).

Attention then looks at the cells of one sequence only, and tokens at rest cost nothing. In return a shared
prefix has to be copied, stream by stream, there are few more ids than may run, and llama.cpp computes rows
together only if their ids are neighbours. A newcomer goes on where its own past rests, or else takes the id
that is empty or was used the longest ago; where that tears the running ids apart for many steps, the last of
them moves into the hole.

Pure bookkeeping with the same front as `kv.UnifiedCells`; only for memories that can be rolled back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from gguf_worker.engine.cells.radix import RadixTree, Run
from gguf_worker.engine.cells.unified import Copy, Hit, Operation, Trim

WORTH_COPYING = 32
"""Tokens of a prefix from which on copying a whole stream is cheaper than computing them again."""
PATIENCE = 16
"""Passes over the model, beyond one a step, that cost about as much as the copy that saves further ones."""


class PartitionedCells:
    """`slots` ids that may run and `spare` ones to rest in, each with an equal part of `cells` tokens."""

    def __init__(self, cells: int, slots: int, spare: int = 0) -> None:
        self.total = cells
        self._slots = slots
        self._ids = slots + spare
        self._tree = RadixTree()
        self._runs: dict[int, Run] = {}  # every id that holds something: one run from the root each
        self._operations: list[Operation] = []
        self._clock = 0  # counts retirements
        self._running: set[int] = set()
        self.pinned = 0
        """Cells that running sequences hold."""
        self._torn = 0  # passes that holes among the running ids have cost since one was filled

    @property
    def used(self) -> int:
        return sum(run.computed for run in self._runs.values())

    @property
    def free(self) -> int:
        """Cells that no running sequence holds: who rests is never in the way."""
        return self.total - self.pinned

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._running)

    def held(self, slot: int) -> int:
        """Tokens that an id has in the cache."""
        run = self._runs.get(slot)
        return run.computed if run is not None else 0

    def operations(self) -> tuple[Operation, ...]:
        """What has to be done before the next step, since the last time this was asked."""
        operations, self._operations = tuple(self._operations), []
        return operations

    def look_up(self, tokens: list[int]) -> Hit:
        """What is known of `tokens`; the last one always has to be computed."""
        limit = len(tokens) - 1
        ready, awaited = self._tree.computed(tokens, limit), self._tree.promised(tokens, limit)
        return Hit(ready, 0, awaited if awaited.length >= WORTH_COPYING else ready)

    def claim(self, tokens: list[int], hit: Hit, reuse_points: Iterable[int] = ()) -> int:
        """A sequence id for `tokens`, with a prefix of them; `hit` is fresh, `reuse_points` need nothing here."""
        length, donor = hit.ready.length, self._id_of(hit.ready.run)
        if donor is not None and self._goes_on(self._runs[donor], length):
            slot = donor
            if length < self._runs[slot].computed:
                self._operations.append(Trim(slot, length))
            self._forget(slot)
        else:
            donor = donor if length >= WORTH_COPYING else None
            slot = self._place(donor)
            length = self._take_over(donor, slot, length)
        run = self._tree.grow(self._tree.root, list(tokens))
        run.computed, run.owner, run.running = length, slot, 1
        self._runs[slot] = run
        self._running.add(slot)
        self.pinned += length
        return slot

    def wait_for(self, hit: Hit) -> None:
        """Nothing to prepare: a prefix can be copied up to any token."""

    def until_border(self, slot: int) -> int | None:
        """There are no reuse_points."""
        return None

    def take(self, slot: int, tokens: list[int]) -> None:
        """`tokens` of `slot` were computed."""
        run = self._runs[slot]
        run.computed += len(tokens)
        self.pinned += len(tokens)
        if (unforeseen := run.computed - len(run.tokens)) > 0:
            run.tokens += tokens[-unforeseen:]

    def settle(self) -> list[tuple[int, int]]:
        """Fill a hole among the running ids that has cost enough; which of them moved, from and to."""
        if not self._running or max(self._running) - min(self._running) < len(self._running):
            self._torn = 0
            return []
        running = sorted(self._running)
        holes = sum(after - before > 1 for before, after in itertools.pairwise(running))
        self._torn += holes
        if self._torn < PATIENCE:
            return []
        self._torn = 0
        last = running[-1]
        hole = next(id for id in range(running[0], last) if id not in self._running)
        if hole in self._runs:
            self._save(hole)
            self._clear(hole)
        self._move(last, hole)
        return [(last, hole)]

    def retire(self, slot: int) -> None:
        """The sequence has ended, or makes room: the id rests with what it holds."""
        run = self._runs[slot]
        run.owner, run.running = None, 0
        self._running.remove(slot)
        self.pinned -= run.computed
        if run.computed == 0:
            self._forget(slot)
            return
        del run.tokens[run.computed :]
        run.resting.add(slot)
        self._clock += 1
        run.used = self._clock

    def make_room(self, cells: int) -> bool:
        return cells <= self.free

    def release_one(self) -> bool:
        """Let go whoever rests and was used the longest ago; False if nobody rests."""
        id = min(self._resting, key=lambda id: self._runs[id].used, default=None)
        if id is not None:
            self._clear(id)
        return id is not None

    def check(self) -> None:
        """Recount; an AssertionError is a bug of ours."""
        runs = [run for run in self._tree.root.below if run.parent is not None]
        assert len(runs) == len(self._runs)
        assert self._running == {id for id, run in self._runs.items() if run.running}
        assert self.pinned == sum(self._runs[id].computed for id in self._running)
        for id, run in self._runs.items():
            assert run.parent is self._tree.root
            assert not run.children
            assert (run.owner == id) if run.running else (run.resting == {id})
            assert run.running or run.computed == len(run.tokens) > 0
            assert run.computed <= self.total // self._ids

    @property
    def _resting(self) -> set[int]:
        return {id for id, run in self._runs.items() if not run.running}

    @staticmethod
    def _goes_on(run: Run, length: int) -> bool:
        """Is a prompt with `length` tokens of `run` that one's next turn, rather than a branch of it?"""
        return not run.running and 2 * length > run.computed

    def _place(self, donor: int | None) -> int:
        """Where a newcomer does the least harm: an empty id, near those that run, or the oldest at rest."""
        running = self._running
        empty = [id for id in range(self._ids) if id not in self._runs]
        if empty:
            return min(
                empty, key=lambda id: min((abs(id - other) for other in running), default=id)
            )
        others = self._resting - {donor} or self._resting
        return min(others, key=lambda id: self._runs[id].used)

    def _take_over(self, donor: int | None, slot: int, length: int) -> int:
        """Prepare `slot` for a newcomer with `length` tokens of `donor`; how many of them it gets."""
        if donor == slot:  # there is no other place
            self._operations.append(Trim(slot, length))
            self._forget(slot)
            return length
        if slot in self._runs:
            self._clear(slot)
        if donor is None:
            return 0
        self._operations.append(Copy(donor, slot, length))
        return length

    def _id_of(self, run: Run) -> int | None:
        return run.owner if run.owner is not None else min(run.resting, default=None)

    def _save(self, id: int) -> None:
        """Copy what rests under `id` to an id that is empty, or was used even longer ago, if there is one."""
        run = self._runs[id]
        others = [each for each in range(self._ids) if each not in self._running and each != id]
        target = min(others, key=self._last_used, default=id)
        if self._last_used(target) >= run.used:
            return
        if target in self._runs:
            self._clear(target)
        self._operations.append(Copy(id, target, run.computed))
        saved = self._tree.grow(self._tree.root, list(run.tokens))
        saved.computed, saved.used = run.computed, run.used
        saved.resting.add(target)
        self._runs[target] = saved

    def _last_used(self, id: int) -> int:
        return self._runs[id].used if id in self._runs else 0

    def _move(self, source: int, target: int) -> None:
        """A running sequence goes on under another id, which is empty."""
        run = self._runs.pop(source)
        if run.computed:
            self._operations += [Copy(source, target, run.computed), Trim(source, 0)]
        run.owner = target
        self._runs[target] = run
        self._running ^= {source, target}

    def _clear(self, id: int) -> None:
        self._operations.append(Trim(id, 0))
        self._forget(id)

    def _forget(self, id: int) -> None:
        run = self._runs.pop(id)
        run.resting.clear()
        self._tree.drop_one(run)
