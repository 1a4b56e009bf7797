"""One pool of KV cells for all sequences: which ids hold which tokens, and what is kept for reuse.

Cells of a common prefix are shared: a new sequence starts with a copy, by reference, of the longest
known prefix of its tokens, from any id that holds it, be it of a running request, of one whose
prompt is being read, or of one that has ended. Ended requests are kept idle under an id of their
own until their cells or their id are needed; the least recently used are evicted first.

Running ids are the low ones, so that the rows of a step have dense ids. Pure bookkeeping: it holds
no cells and calls nothing; what llama.cpp has to do is in `operations`, in order.

There are two kinds of memory. With `rollback` (attention over the whole context) a prefix may be
shared up to any token. Without it (sliding windows, recurrent and hybrid models) the state of an id
can only be taken over whole: then a prefix can be shared only where an idle id ends, so running
sequences leave snapshots, which are idle ids, at reuse points.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from gguf_worker.engine.cells.radix import Match, RadixTree, Run, common_length

TRIM_CELLS = 256
"""Least number of cells to evict at once, so that the next few steps need no eviction."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Give the first `length` tokens of `source` to `target`, which is empty."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Drop all but the first `length` tokens of `id`."""

    id: int
    length: int


@dataclass(frozen=True, slots=True)
class Clear:
    """Drop the tokens of all ids, and all that their cells and states held."""


Operation = Copy | Trim | Clear


@dataclass(frozen=True, slots=True)
class Hit:
    """The known prefixes of a prompt."""

    ready: Match
    """The prefix that can be taken over now."""
    pinned: int
    """Tokens of that prefix that running sequences hold in any case."""
    awaited: Match
    """The prefix that can be taken over when the run's owner has computed it; not always longer."""

    @property
    def gain(self) -> int:
        """Tokens that a request need not compute if it waits for `awaited`."""
        return self.awaited.length - self.ready.length


class UnifiedCells:
    """`cells` KV cells shared by `slots` running sequences and up to `idle` ended ones.

    `keep` bounds the cells that only idle sequences hold: attention passes over every used cell, so
    they slow down the running sequences.
    """

    def __init__(
        self, cells: int, slots: int, idle: int, *, rollback: bool, keep: int | None = None
    ) -> None:
        self.total = cells
        self._slots = slots
        self._ids = slots + idle
        self._keep = cells if keep is None else keep
        self._rollback = rollback
        self._snapshots = not rollback and idle > 0
        self._operations: list[Operation] = []
        self._clock = 0  # counts claims and retirements
        self._forget_all()

    def _forget_all(self) -> None:
        self.used = 0
        self.pinned = 0
        """Cells that running sequences hold; the others may be evicted."""
        self._tree = RadixTree()
        self._runs: dict[int, Run] = {}  # by id, where its tokens end
        self._reuse_points: dict[int, set[int]] = {}  # by running id, where to leave a snapshot
        self._free_slots = list(range(self._slots))
        self._free_idle = list(range(self._slots, self._ids))

    @property
    def free(self) -> int:
        return self.total - self.used

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    def held(self, slot: int) -> int:
        """Return how many tokens an id has in the cache."""
        run = self._runs.get(slot)
        return run.end if run is not None else 0

    def operations(self) -> tuple[Operation, ...]:
        """Return the operations since the last call, to be applied before the next step."""
        operations, self._operations = tuple(self._operations), []
        return operations

    # Running sequences

    def look_up(self, tokens: list[int]) -> Hit:
        """Find the known prefixes of `tokens`, without the last token, which is always computed."""
        limit = len(tokens) - 1
        find = self._tree.computed if self._rollback else self._tree.ending
        ready = find(tokens, limit)
        pinned = sum(
            min(run.computed, ready.length - run.start) for run in ready.run.path if run.running
        )
        if not (self._rollback or self._snapshots):  # a running sequence cannot be copied from
            return Hit(ready, pinned, ready)
        return Hit(ready, pinned, self._tree.promised(tokens, limit))

    def claim(self, tokens: list[int], hit: Hit, reuse_points: Iterable[int] = ()) -> int:
        """Return a sequence id for `tokens` that holds the first `hit.ready.length` of them.

        `hit` must come from a look-up just now. Snapshots are left at `reuse_points` (positions),
        where the memory needs them.
        """
        slot = heapq.heappop(self._free_slots)
        length = hit.ready.length
        parent = self._tree.cut(hit.ready.run, length)
        if length:
            self._operations.append(Copy(self._donor(parent), slot, length))
        run = self._tree.grow(parent, tokens[length:])
        run.owner = slot
        self._runs[slot] = run
        self._pin(run)
        if self._rollback:
            for id in tuple(parent.idle):  # `slot` holds all of its tokens now
                self._release(id)
        elif self._snapshots:
            self._reuse_points[slot] = {at for at in reuse_points if length < at < len(tokens)}
        return slot

    def wait_for(self, hit: Hit) -> None:
        """Have the owner of `hit.awaited`, for which a request waits, leave a snapshot if one is
        needed."""
        owner = hit.awaited.run.owner
        assert owner is not None
        if self._snapshots:
            self._reuse_points[owner].add(hit.awaited.length)
            if self.held(owner) == hit.awaited.length:
                self._leave_snapshot(owner)

    def until_snapshot(self, slot: int) -> int | None:
        """Return the number of tokens up to the next snapshot; None if none is due."""
        at = self.held(slot)
        ahead = [point - at for point in self._reuse_points.get(slot, ()) if point > at]
        return min(ahead, default=None)

    def compact(self) -> list[tuple[int, int]]:
        """Return the moves of running ids, from and to: none, in one pool of cells."""
        return []

    def take(self, slot: int, tokens: list[int]) -> None:
        """Note that `tokens` of `slot` were computed."""
        assert len(tokens) <= self.free, "took cells that are not there"
        run = self._runs[slot]
        complete = run.computed == len(run.tokens)
        if complete and (run.children or run.idle):
            run = self._branch_off(slot, run, tokens)
        run.computed += len(tokens)
        if (unforeseen := run.computed - len(run.tokens)) > 0:
            run.tokens += tokens[-unforeseen:]
        self.used += len(tokens)
        self.pinned += len(tokens)
        if run.end in self._reuse_points.get(slot, ()):
            self._leave_snapshot(slot)

    def retire(self, slot: int) -> None:
        """Keep an ended or preempted sequence's tokens under an idle id, unless other ids hold
        them."""
        self._clock += 1
        run = self._runs.pop(slot)
        self._reuse_points.pop(slot, None)
        self._unpin(run)
        run = self._withdraw(run)
        if not self._is_redundant(run):
            self._keep_idle(slot, run)
        self._operations.append(Trim(slot, 0))
        heapq.heappush(self._free_slots, slot)
        self._drop(run)
        while (excess := self.used - self.pinned - self._keep) > 0:
            self._evict(excess)

    def clear(self) -> None:
        """Forget all sequences, also those that run, and drop all that the memory holds."""
        self._forget_all()
        self._operations = [Clear()]

    # Eviction

    def evict_for(self, cells: int) -> bool:
        """Evict idle tokens until `cells` are free; returns False, evicting none, if too many are
        pinned."""
        if self.total - self.pinned < cells:
            return False
        while self.free < cells:
            self._evict(max(cells - self.free, TRIM_CELLS))
        return True

    def evict_one(self) -> bool:
        """Evict the least recently used idle sequence; False if there is none."""
        id = self._least_recent(leaves_only=False)
        if id is None:
            return False
        self._release(id)
        return True

    def check(self) -> None:
        """Recount everything; raises AssertionError if the bookkeeping is inconsistent."""
        runs = [run for run in self._tree.root.below if run.parent is not None]
        assert self.used == sum(run.computed for run in runs) <= self.total
        assert self.pinned == sum(run.computed for run in runs if run.running)
        ids = set(self._runs) | set(self._free_slots) | set(self._free_idle)
        assert len(ids) == len(self._runs) + len(self._free_slots) + len(self._free_idle)
        for id, run in self._runs.items():
            assert (run.owner == id) if id < self._slots else (id in run.idle)
        for run in runs:
            assert run.children or run.idle or run.owner is not None
            assert not (run.children or run.idle) or run.computed == len(run.tokens)
            assert len(run.idle) <= 1
            assert run.running == sum(below.owner is not None for below in run.below)
            for token, side_by_side in run.children.items():
                assert all(child.tokens[0] == token for child in side_by_side)
                assert all(child.start == run.end for child in side_by_side)

    # Parts

    def _donor(self, run: Run) -> int:
        """Return an id that holds everything up to the end of `run`, and without rollback no
        more."""
        if run.idle:
            return min(run.idle)
        assert self._rollback
        holders = ([*below.idle, below.owner] for below in run.below)
        return next(id for ids in holders for id in ids if id is not None)

    def _pin(self, run: Run) -> None:
        self._clock += 1
        for each in run.path:
            each.running += 1
            each.used = self._clock
            if each.running == 1:
                self.pinned += each.computed

    def _unpin(self, run: Run) -> None:
        for each in run.path:
            each.running -= 1
            each.used = self._clock
            if each.running == 0:
                self.pinned -= each.computed

    def _branch_off(self, slot: int, run: Run, tokens: list[int]) -> Run:
        """Give the further tokens of `slot` a run of their own: other ids continue or end `run`."""
        run.owner = None
        branch = self._tree.grow(run, list(tokens))
        branch.owner, branch.running, branch.used = slot, 1, run.used
        self._runs[slot] = branch
        return branch

    def _leave_snapshot(self, slot: int) -> None:
        run = self._runs[slot]
        at = run.end
        self._reuse_points[slot].discard(at)
        if run.computed == 0 or run.idle or (id := self._take_idle_id()) is None:
            return
        self._operations.append(Copy(slot, id, at))
        self._set_idle(id, self._tree.cut(run, at))

    def _keep_idle(self, slot: int, run: Run) -> None:
        """Keep the tokens that `slot` holds under an idle id, if one is free or can be freed."""
        owner = run.owner  # another running sequence may end here too
        run.owner = slot  # so that the run is not dropped while an idle id is freed
        target = self._take_idle_id()
        run.owner = owner
        if target is not None:
            self._operations.append(Copy(slot, target, run.end))
            self._set_idle(target, run)

    def _set_idle(self, id: int, run: Run) -> None:
        run.idle.add(id)
        run.used = self._clock
        self._runs[id] = run

    def _withdraw(self, run: Run) -> Run:
        """Drop the promised tokens of `run`; returns the run where its computed tokens end."""
        run.owner = None
        if run.computed:
            del run.tokens[run.computed :]
            return run
        parent = run.parent
        assert parent is not None
        self._tree.drop_one(run)
        return parent

    def _is_redundant(self, run: Run) -> bool:
        """Tell whether ids other than the one that just ended hold everything up to `run`'s end.

        Releases idle ids that hold only a prefix of it.
        """
        if run is self._tree.root or run.idle:
            return True
        beside = self._tree.beside(run)
        if not self._rollback:
            return any(other.tokens == run.tokens and other.idle for other in beside)
        if run.children or run.owner is not None:
            return True
        size = len(run.tokens)
        for other in beside:
            common = common_length(other.tokens, run.tokens, 0, size)
            if common == size <= other.computed:
                return True
            if common == len(other.tokens) and other.idle and not other.children:
                for id in tuple(other.idle):
                    self._release(id)
        return False

    def _take_idle_id(self) -> int | None:
        if not self._free_idle and not self.evict_one():
            return None
        return heapq.heappop(self._free_idle)

    def _least_recent(self, *, leaves_only: bool) -> int | None:
        candidates = [
            (run.used, id)
            for id, run in self._runs.items()
            if id >= self._slots and not (leaves_only and (run.children or run.owner is not None))
        ]
        return min(candidates)[1] if candidates else None

    def _evict(self, cells: int) -> None:
        """Evict up to `cells` of the least recently used idle sequence that ends in a leaf.

        There is one whenever a used cell is not pinned.
        """
        id = self._least_recent(leaves_only=True)
        assert id is not None
        if self._rollback:
            self._shorten(id, cells)
        else:
            self._release(id)

    def _shorten(self, id: int, cells: int) -> None:
        """Evict `cells` cells from the end of the run that `id` ends with, or the whole run."""
        run = self._runs[id]
        assert not run.running
        if cells < run.computed:
            del run.tokens[-cells:]
            run.computed -= cells
            self.used -= cells
            self._operations.append(Trim(id, run.end))
            return
        parent = run.parent
        assert parent is not None
        alone = len(parent.children) == 1 and len(parent.children[run.tokens[0]]) == 1
        if parent.parent is None or not alone or parent.idle or parent.owner is not None:
            self._release(id)
            return
        run.idle.remove(id)
        self.used -= run.computed
        self._tree.drop_one(run)
        self._operations.append(Trim(id, parent.end))
        parent.idle.add(id)
        self._runs[id] = parent

    def _release(self, id: int) -> None:
        """Free an idle id, and the cells that only it held."""
        run = self._runs.pop(id)
        run.idle.remove(id)
        self._operations.append(Trim(id, 0))
        heapq.heappush(self._free_idle, id)
        self._drop(run)

    def _drop(self, run: Run) -> None:
        while run.parent is not None and self._tree.is_loose(run):
            parent = run.parent
            self.used -= run.computed
            self._tree.drop_one(run)
            run = parent
