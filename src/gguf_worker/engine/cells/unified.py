"""Which sequence ids hold which tokens in one pool of KV cells, and what is kept for the next request.

Cells of a common prefix are shared: a newcomer starts with a copy, by reference, of the longest known prefix
of its tokens, from whoever holds it: a running request, one that is being read, or one at rest. Requests that
ended rest under an id of their own until their cells or their id are needed; the least recently used go first.

Running ids are the low ones, so that the rows of a step have dense ids. Pure bookkeeping: it holds no cells
and calls nothing; what llama.cpp has to do is in `operations`, in order.

Two kinds of memory. With `rollback` (attention over the whole context) a prefix may be shared up to any token.
Without it (sliding windows, recurrent and hybrid models) the state of an id can only be taken over whole: then
a prefix can be shared where an id rests, so running sequences leave snapshots at reuse_points.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from gguf_worker.engine.cells.radix import Match, RadixTree, Run, common_length

TRIM_CELLS = 256
"""Cells that make room at once, so that the next few steps don't have to ask again."""


@dataclass(frozen=True, slots=True)
class Copy:
    """`target`, which is empty, gets the first `length` tokens of `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Trim:
    """`id` keeps its first `length` tokens."""

    id: int
    length: int


Operation = Copy | Trim


@dataclass(frozen=True, slots=True)
class Hit:
    """What is known of a prompt."""

    ready: Match
    """The prefix that can be taken over now."""
    pinned: int
    """How much of it running sequences hold anyway."""
    awaited: Match
    """The prefix that can be taken over when the run's owner has computed it; not always longer."""

    @property
    def gain(self) -> int:
        """Tokens that need not be computed by whoever waits."""
        return self.awaited.length - self.ready.length


class UnifiedCells:
    """`cells` tokens shared by `slots` running sequences and up to `resting` ended ones.

    `keep` bounds the cells at rest: attention passes over every cell in use, so they slow the running down.
    """

    def __init__(
        self, cells: int, slots: int, resting: int, *, rollback: bool, keep: int | None = None
    ) -> None:
        self.total = cells
        self._keep = cells if keep is None else keep
        self.used = 0
        self.pinned = 0
        """Cells that running sequences hold; the others rest and make room when asked."""
        self._rollback = rollback
        self._snapshots = not rollback and resting > 0
        self._tree = RadixTree()
        self._runs: dict[int, Run] = {}  # by id, where its tokens end
        self._reuse_points: dict[int, set[int]] = {}  # by running id, where to leave a snapshot
        self._free_slots = list(range(slots))
        self._free_resting = list(range(slots, slots + resting))
        self._slots = slots
        self._operations: list[Operation] = []
        self._clock = 0  # counts claims and retirements

    @property
    def free(self) -> int:
        return self.total - self.used

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    def held(self, slot: int) -> int:
        """Tokens that an id has in the cache."""
        run = self._runs.get(slot)
        return run.end if run is not None else 0

    def operations(self) -> tuple[Operation, ...]:
        """What has to be done before the next step, since the last time this was asked."""
        operations, self._operations = tuple(self._operations), []
        return operations

    # Running sequences

    def look_up(self, tokens: list[int]) -> Hit:
        """What is known of `tokens`; the last one always has to be computed."""
        limit = len(tokens) - 1
        find = self._tree.computed if self._rollback else self._tree.ending
        ready = find(tokens, limit)
        pinned = sum(
            min(run.computed, ready.length - run.start) for run in ready.run.path if run.running
        )
        if not (self._rollback or self._snapshots):  # nobody could take over what is computed
            return Hit(ready, pinned, ready)
        return Hit(ready, pinned, self._tree.promised(tokens, limit))

    def claim(self, tokens: list[int], hit: Hit, reuse_points: Iterable[int] = ()) -> int:
        """A sequence id for `tokens`, with the first `hit.ready.length` of them; `hit` is fresh.

        At `reuse_points` (positions) it leaves snapshots, where the memory needs them.
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
            for id in tuple(parent.resting):  # what it holds is now held by `slot` too
                self._release(id)
        elif self._snapshots:
            self._reuse_points[slot] = {at for at in reuse_points if length < at < len(tokens)}
        return slot

    def wait_for(self, hit: Hit) -> None:
        """Somebody waits for `hit.awaited`: where the memory needs it, its owner leaves a snapshot there."""
        owner = hit.awaited.run.owner
        assert owner is not None
        if self._snapshots:
            self._reuse_points[owner].add(hit.awaited.length)
            if self.held(owner) == hit.awaited.length:
                self._leave_snapshot(owner)

    def until_border(self, slot: int) -> int | None:
        """Tokens up to the next snapshot, if there is to be one."""
        at = self.held(slot)
        ahead = [border - at for border in self._reuse_points.get(slot, ()) if border > at]
        return min(ahead, default=None)

    def settle(self) -> list[tuple[int, int]]:
        """Which running ids had to move, from and to: none, in one pool of cells."""
        return []

    def take(self, slot: int, tokens: list[int]) -> None:
        """`tokens` of `slot` were computed."""
        assert len(tokens) <= self.free, "took cells that are not there"
        run = self._runs[slot]
        complete = run.computed == len(run.tokens)
        if complete and (run.children or run.resting):
            run = self._branch_off(slot, run, tokens)
        run.computed += len(tokens)
        if (unforeseen := run.computed - len(run.tokens)) > 0:
            run.tokens += tokens[-unforeseen:]
        self.used += len(tokens)
        self.pinned += len(tokens)
        if run.end in self._reuse_points.get(slot, ()):
            self._leave_snapshot(slot)

    def retire(self, slot: int) -> None:
        """The sequence has ended, or makes room: what it holds rests, unless that is held already."""
        self._clock += 1
        run = self._runs.pop(slot)
        self._reuse_points.pop(slot, None)
        self._unpin(run)
        run = self._withdraw(run)
        if not self._is_redundant(run):
            self._lay_to_rest(slot, run)
        self._operations.append(Trim(slot, 0))
        heapq.heappush(self._free_slots, slot)
        self._drop(run)
        while (excess := self.used - self.pinned - self._keep) > 0:
            self._let_go(excess)

    # Making room

    def make_room(self, cells: int) -> bool:
        """Let rested tokens go until `cells` are free; False, and nothing done, if too many are pinned."""
        if self.total - self.pinned < cells:
            return False
        while self.free < cells:
            self._let_go(max(cells - self.free, TRIM_CELLS))
        return True

    def release_one(self) -> bool:
        """Let go whoever rests and was used the longest ago; False if nobody rests."""
        id = self._least_recent(leaves_only=False)
        if id is None:
            return False
        self._release(id)
        return True

    def check(self) -> None:
        """Recount; an AssertionError is a bug of ours."""
        runs = [run for run in self._tree.root.below if run.parent is not None]
        assert self.used == sum(run.computed for run in runs) <= self.total
        assert self.pinned == sum(run.computed for run in runs if run.running)
        ids = set(self._runs) | set(self._free_slots) | set(self._free_resting)
        assert len(ids) == len(self._runs) + len(self._free_slots) + len(self._free_resting)
        for id, run in self._runs.items():
            assert (run.owner == id) if id < self._slots else (id in run.resting)
        for run in runs:
            assert run.children or run.resting or run.owner is not None
            assert not (run.children or run.resting) or run.computed == len(run.tokens)
            assert len(run.resting) <= 1
            assert run.running == sum(below.owner is not None for below in run.below)
            for token, side_by_side in run.children.items():
                assert all(child.tokens[0] == token for child in side_by_side)
                assert all(child.start == run.end for child in side_by_side)

    # Parts

    def _donor(self, run: Run) -> int:
        """An id that holds everything up to the end of `run`, and in a memory without rollback no more."""
        if run.resting:
            return min(run.resting)
        assert self._rollback
        holders = ([*below.resting, below.owner] for below in run.below)
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
        """`slot` goes on where others continue, or rest: its own tokens are a new run."""
        run.owner = None
        branch = self._tree.grow(run, list(tokens))
        branch.owner, branch.running, branch.used = slot, 1, run.used
        self._runs[slot] = branch
        return branch

    def _leave_snapshot(self, slot: int) -> None:
        run = self._runs[slot]
        at = run.end
        self._reuse_points[slot].discard(at)
        if run.computed == 0 or run.resting or (id := self._resting_id()) is None:
            return
        self._operations.append(Copy(slot, id, at))
        self._rest(id, self._tree.cut(run, at))

    def _lay_to_rest(self, slot: int, run: Run) -> None:
        """What `slot` holds goes on under an id that rests, if there is one."""
        owner = run.owner  # another one may stand where this one ended
        run.owner = slot  # so that nobody drops it meanwhile
        target = self._resting_id()
        run.owner = owner
        if target is not None:
            self._operations.append(Copy(slot, target, run.end))
            self._rest(target, run)

    def _rest(self, id: int, run: Run) -> None:
        run.resting.add(id)
        run.used = self._clock
        self._runs[id] = run

    def _withdraw(self, run: Run) -> Run:
        """Take back what `run` promised; where its sequence really ends."""
        run.owner = None
        if run.computed:
            del run.tokens[run.computed :]
            return run
        parent = run.parent
        assert parent is not None
        self._tree.drop_one(run)
        return parent

    def _is_redundant(self, run: Run) -> bool:
        """Is everything up to the end of `run` held without the id that just ended there?"""
        if run is self._tree.root or run.resting:
            return True
        beside = self._tree.beside(run)
        if not self._rollback:
            return any(other.tokens == run.tokens and other.resting for other in beside)
        if run.children or run.owner is not None:
            return True
        size = len(run.tokens)
        for other in beside:
            common = common_length(other.tokens, run.tokens, 0, size)
            if common == size <= other.computed:
                return True
            if common == len(other.tokens) and other.resting and not other.children:
                for id in tuple(other.resting):
                    self._release(id)
        return False

    def _resting_id(self) -> int | None:
        if not self._free_resting and not self.release_one():
            return None
        return heapq.heappop(self._free_resting)

    def _least_recent(self, *, leaves_only: bool) -> int | None:
        candidates = [
            (run.used, id)
            for id, run in self._runs.items()
            if id >= self._slots and not (leaves_only and (run.children or run.owner is not None))
        ]
        return min(candidates)[1] if candidates else None

    def _let_go(self, cells: int) -> None:
        """Up to `cells` of whoever rests alone at the end and was used the longest ago.

        There is one wherever a cell is not pinned.
        """
        id = self._least_recent(leaves_only=True)
        assert id is not None
        if self._rollback:
            self._shorten(id, cells)
        else:
            self._release(id)

    def _shorten(self, id: int, cells: int) -> None:
        """Take `cells` from the end of what `id` holds alone, or all of that."""
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
        if parent.parent is None or not alone or parent.resting or parent.owner is not None:
            self._release(id)
            return
        run.resting.remove(id)
        self.used -= run.computed
        self._tree.drop_one(run)
        self._operations.append(Trim(id, parent.end))
        parent.resting.add(id)
        self._runs[id] = parent

    def _release(self, id: int) -> None:
        """`id` rests no more, and whatever only it held is free."""
        run = self._runs.pop(id)
        run.resting.remove(id)
        self._operations.append(Trim(id, 0))
        heapq.heappush(self._free_resting, id)
        self._drop(run)

    def _drop(self, run: Run) -> None:
        while run.parent is not None and self._tree.is_loose(run):
            parent = run.parent
            self.used -= run.computed
            self._tree.drop_one(run)
            run = parent
