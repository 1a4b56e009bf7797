"""Which sequence ids hold which tokens where each id has KV cells of its own (a stream).

Attention then looks at the cells of one sequence only, and tokens at rest cost nothing. In return a shared
prefix has to be copied, stream by stream, there are only as many ids as may run, and llama.cpp computes rows
together only if their ids are neighbours. So the running ids are kept dense: a newcomer takes the lowest id
that doesn't run, and a hole that stays open for some steps is filled with the last running sequence.

Pure bookkeeping with the same front as `kv.KvCache`; only for memories that can be rolled back.
"""

from __future__ import annotations

from collections.abc import Iterable

from gguf_worker.engine.kv import Copy, Hit, Operation, Trim
from gguf_worker.engine.radix import RadixTree, Run

WORTH_COPYING = 32
"""Tokens of a prefix from which on copying a whole stream is cheaper than computing them again."""
PATIENCE = 8
"""Steps with a hole among the running ids that cost about as much as the copy that fills it."""


class KvStreams:
    """`slots` ids with `cells / slots` tokens each."""

    def __init__(self, cells: int, slots: int) -> None:
        self.total = cells
        self._slots = slots
        self._tree = RadixTree()
        self._runs: dict[int, Run] = {}  # every id that holds something: one run from the root each
        self._operations: list[Operation] = []
        self._clock = 0
        self._torn = 0  # steps in a row with a hole

    @property
    def used(self) -> int:
        return sum(run.computed for run in self._runs.values())

    @property
    def pinned(self) -> int:
        """Cells that running sequences hold."""
        return sum(run.computed for run in self._runs.values() if run.running)

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
        return Hit(self._tree.computed(tokens, limit), 0, self._tree.promised(tokens, limit))

    def claim(self, tokens: list[int], hit: Hit, borders: Iterable[int] = ()) -> int:
        """A sequence id for `tokens`, with a prefix of them; `hit` is fresh, `borders` need nothing here."""
        slot = min(id for id in range(self._slots) if id not in self._running)
        length, donor = hit.ready.length, self._id_of(hit.ready.run)
        if donor == slot:
            if length < self._runs[slot].computed:
                self._save(slot)
                self._operations.append(Trim(slot, length))
            self._forget(slot)
        else:
            length = length if length >= WORTH_COPYING else 0
            self._vacate(slot, keep=donor if length else None)
            if length and donor is not None:
                self._operations.append(Copy(donor, slot, length))
                if self._runs[donor].computed == length and not self._runs[donor].running:
                    self._clear(donor)  # the newcomer has all of it, and goes on
        run = self._tree.grow(self._tree.root, list(tokens))
        run.computed, run.owner, run.running = length, slot, 1
        self._runs[slot] = run
        self._touch(run)
        return slot

    def wait_for(self, hit: Hit) -> None:
        """Nothing to prepare: a prefix can be copied up to any token."""

    def until_border(self, slot: int) -> int | None:
        """There are no borders."""
        return None

    def take(self, slot: int, tokens: list[int]) -> None:
        """`tokens` of `slot` were computed."""
        run = self._runs[slot]
        run.computed += len(tokens)
        if (unforeseen := run.computed - len(run.tokens)) > 0:
            run.tokens += tokens[-unforeseen:]

    def settle(self) -> list[tuple[int, int]]:
        """Fill a hole that has been there for a while; which running ids moved, from and to."""
        running = self._running
        if not running or max(running) == len(running) - 1:
            self._torn = 0
            return []
        self._torn += 1
        if self._torn < PATIENCE:
            return []
        self._torn = 0
        moves = []
        while (last := max(running)) >= len(running):
            hole = min(id for id in range(self._slots) if id not in running)
            self._vacate(hole, keep=None)
            self._move(last, hole)
            running = self._running
            moves.append((last, hole))
        return moves

    def retire(self, slot: int) -> None:
        """The sequence has ended, or makes room: the id rests with what it holds."""
        run = self._runs[slot]
        run.owner, run.running = None, 0
        if run.computed == 0:
            self._forget(slot)
            return
        del run.tokens[run.computed :]
        run.resting.add(slot)
        self._touch(run)

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
        for id, run in self._runs.items():
            assert run.parent is self._tree.root
            assert not run.children
            assert (run.owner == id) if run.running else (run.resting == {id})
            assert run.running or run.computed == len(run.tokens) > 0
            assert run.computed <= self.total // self._slots

    @property
    def _running(self) -> set[int]:
        return {id for id, run in self._runs.items() if run.running}

    @property
    def _resting(self) -> set[int]:
        return {id for id, run in self._runs.items() if not run.running}

    def _id_of(self, run: Run) -> int | None:
        return run.owner if run.owner is not None else min(run.resting, default=None)

    def _vacate(self, id: int, keep: int | None) -> None:
        """Empty an id that doesn't run; what it holds moves to a better place, if it deserves one.

        `keep` is an id that must stay as it is.
        """
        if id in self._runs:
            self._save(id, keep)
            self._clear(id)

    def _save(self, id: int, spare: int | None = None) -> None:
        """Copy what rests under `id` to an id that is empty, or was used even longer ago."""
        run = self._runs[id]
        target = self._place_for(run, spare)
        if target is None:
            return
        if target in self._runs:
            self._clear(target)
        self._operations.append(Copy(id, target, run.computed))
        saved = self._tree.grow(self._tree.root, list(run.tokens))
        saved.computed, saved.used = run.computed, run.used
        saved.resting.add(target)
        self._runs[target] = saved

    def _place_for(self, run: Run, spare: int | None) -> int | None:
        above = range(len(self._running) + 1, self._slots)
        empty = [id for id in above if id not in self._runs]
        if empty:
            return empty[-1]
        older = [
            (self._runs[id].used, id)
            for id in above
            if id != spare and not self._runs[id].running and self._runs[id].used < run.used
        ]
        return min(older)[1] if older else None

    def _move(self, source: int, target: int) -> None:
        """A running sequence goes on under another id, which is empty."""
        run = self._runs.pop(source)
        if run.computed:
            self._operations += [Copy(source, target, run.computed), Trim(source, 0)]
        run.owner = target
        self._runs[target] = run

    def _clear(self, id: int) -> None:
        self._operations.append(Trim(id, 0))
        self._forget(id)

    def _forget(self, id: int) -> None:
        run = self._runs.pop(id)
        run.resting.clear()
        run.owner = None
        self._tree.drop_one(run)

    def _touch(self, run: Run) -> None:
        self._clock += 1
        run.used = self._clock
