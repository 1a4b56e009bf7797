"""A pool of KV cells for each sequence id (llama.cpp's streams): which ids hold which tokens.

Attention then looks at the cells of one sequence only, and idle tokens cost nothing. In return a
shared prefix has to be copied from stream to stream, there are few more ids than may run, and
llama.cpp computes rows together only if their ids are neighbours. A new sequence continues the id
that holds its own past, or else takes an empty id, or the least recently used one. Once gaps
between the running ids have cost many passes, the sequence with the highest id moves into a gap.

Pure bookkeeping with the same interface as UnifiedCells; only for memories that can be rolled back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from gguf_worker.engine.cells.radix import RadixTree, Run
from gguf_worker.engine.cells.unified import Clear, Copy, Hit, Operation, Trim

WORTH_COPYING = 32
"""Tokens of a prefix from which copying a whole stream is cheaper than computing them again."""
WORTH_MOVING = 16
"""Passes over the model, beyond one a step, that cost about as much as a copy that avoids them."""


class PartitionedCells:
    """`cells` KV cells in equal parts: for `slots` ids that may run, and `idle` more."""

    def __init__(self, cells: int, slots: int, idle: int = 0) -> None:
        self.total = cells
        self._slots = slots
        self._ids = slots + idle
        self._operations: list[Operation] = []
        self._clock = 0  # counts retirements
        self._forget_all()

    def _forget_all(self) -> None:
        self._tree = RadixTree()
        self._runs: dict[int, Run] = {}  # by id that holds tokens: one run each, below the root
        self._running: set[int] = set()
        self.pinned = 0
        """Cells that running sequences hold."""
        self._extra_passes = 0  # caused by gaps between running ids, since one was filled

    @property
    def used(self) -> int:
        return sum(run.computed for run in self._runs.values())

    @property
    def free(self) -> int:
        """Cells that no running sequence holds; idle ones count as free."""
        return self.total - self.pinned

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._running)

    def held(self, slot: int) -> int:
        """Return how many tokens an id has in the cache."""
        run = self._runs.get(slot)
        return run.computed if run is not None else 0

    def operations(self) -> tuple[Operation, ...]:
        """Return the operations since the last call, to be applied before the next step."""
        operations, self._operations = tuple(self._operations), []
        return operations

    def look_up(self, tokens: list[int]) -> Hit:
        """Find the known prefixes of `tokens`, without the last token, which is always computed."""
        limit = len(tokens) - 1
        ready, awaited = self._tree.computed(tokens, limit), self._tree.promised(tokens, limit)
        return Hit(ready, 0, awaited if awaited.length >= WORTH_COPYING else ready)

    def claim(self, tokens: list[int], hit: Hit, reuse_points: Iterable[int] = ()) -> int:
        """Return a sequence id for `tokens` that holds a prefix of them.

        `hit` must come from a look-up just now; `reuse_points` are not needed here.
        """
        length, donor = hit.ready.length, self._id_of(hit.ready.run)
        if donor is not None and self._is_continued_by(self._runs[donor], length):
            slot = donor
            if length < self._runs[slot].computed:
                self._operations.append(Trim(slot, length))
            self._forget(slot)
        else:
            donor = donor if length >= WORTH_COPYING else None
            slot = self._choose_slot(donor)
            length = self._take_over(donor, slot, length)
        run = self._tree.grow(self._tree.root, list(tokens))
        run.computed, run.owner, run.running = length, slot, 1
        self._runs[slot] = run
        self._running.add(slot)
        self.pinned += length
        return slot

    def wait_for(self, hit: Hit) -> None:
        """Do nothing: a prefix can be copied up to any token."""

    def until_snapshot(self, slot: int) -> int | None:
        """Return None: there are no snapshots."""
        return None

    def take(self, slot: int, tokens: list[int]) -> None:
        """Note that `tokens` of `slot` were computed."""
        run = self._runs[slot]
        run.computed += len(tokens)
        self.pinned += len(tokens)
        if (unforeseen := run.computed - len(run.tokens)) > 0:
            run.tokens += tokens[-unforeseen:]

    def compact(self) -> list[tuple[int, int]]:
        """Move a running sequence into a gap between running ids, once gaps have cost enough.

        Returns the moves as (from, to).
        """
        if not self._running or max(self._running) - min(self._running) < len(self._running):
            self._extra_passes = 0
            return []
        running = sorted(self._running)
        holes = sum(after - before > 1 for before, after in itertools.pairwise(running))
        self._extra_passes += holes
        if self._extra_passes < WORTH_MOVING:
            return []
        self._extra_passes = 0
        last = running[-1]
        hole = next(id for id in range(running[0], last) if id not in self._running)
        if hole in self._runs:
            self._save(hole)
            self._clear(hole)
        self._move(last, hole)
        return [(last, hole)]

    def retire(self, slot: int) -> None:
        """Keep the id of an ended or preempted sequence as idle, with the tokens that it holds."""
        run = self._runs[slot]
        run.owner, run.running = None, 0
        self._running.remove(slot)
        self.pinned -= run.computed
        if run.computed == 0:
            self._forget(slot)
            return
        del run.tokens[run.computed :]
        run.idle.add(slot)
        self._clock += 1
        run.used = self._clock

    def clear(self) -> None:
        """Forget all sequences, also those that run, and drop all that the memory holds."""
        self._forget_all()
        self._operations = [Clear()]

    def evict_for(self, cells: int) -> bool:
        """Tell whether `cells` are free; idle ones need not be evicted for that."""
        return cells <= self.free

    def evict_one(self) -> bool:
        """Evict the least recently used idle sequence; False if there is none."""
        id = min(self._idle, key=lambda id: self._runs[id].used, default=None)
        if id is not None:
            self._clear(id)
        return id is not None

    def check(self) -> None:
        """Recount everything; raises AssertionError if the bookkeeping is inconsistent."""
        runs = [run for run in self._tree.root.below if run.parent is not None]
        assert len(runs) == len(self._runs)
        assert self._running == {id for id, run in self._runs.items() if run.running}
        assert self.pinned == sum(self._runs[id].computed for id in self._running)
        for id, run in self._runs.items():
            assert run.parent is self._tree.root
            assert not run.children
            assert (run.owner == id) if run.running else (run.idle == {id})
            assert run.running or run.computed == len(run.tokens) > 0
            assert run.computed <= self.total // self._ids

    @property
    def _idle(self) -> set[int]:
        return {id for id, run in self._runs.items() if not run.running}

    @staticmethod
    def _is_continued_by(run: Run, length: int) -> bool:
        """Tell whether a prompt that shares `length` tokens with an idle `run` is likely its next
        turn, not a branch: it shares more than half."""
        return not run.running and 2 * length > run.computed

    def _choose_slot(self, donor: int | None) -> int:
        """Choose an empty id near the running ones, or else the least recently used idle one."""
        running = self._running
        empty = [id for id in range(self._ids) if id not in self._runs]
        if empty:
            return min(
                empty, key=lambda id: min((abs(id - other) for other in running), default=id)
            )
        others = self._idle - {donor} or self._idle
        return min(others, key=lambda id: self._runs[id].used)

    def _take_over(self, donor: int | None, slot: int, length: int) -> int:
        """Prepare `slot` for a sequence with `length` tokens of `donor`; returns how many it
        gets."""
        if donor == slot:  # there is no other id
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
        return run.owner if run.owner is not None else min(run.idle, default=None)

    def _save(self, id: int) -> None:
        """Copy an idle id's tokens to an id that is empty or less recently used, if there is
        one."""
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
        saved.idle.add(target)
        self._runs[target] = saved

    def _last_used(self, id: int) -> int:
        return self._runs[id].used if id in self._runs else 0

    def _move(self, source: int, target: int) -> None:
        """Move a running sequence to another id, which is empty."""
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
        run.idle.clear()
        self._tree.drop_one(run)
