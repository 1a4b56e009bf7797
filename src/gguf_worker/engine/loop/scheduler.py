"""Decides what the next step computes: which requests are admitted or preempted, and which rows
run.

Pure: no clock, no thread, no pointer, no text. `plan` a step, have it computed, `commit` it, then
`advance` each sequence that got a token. Every running sequence decodes one row a step; prompts are
computed in chunks beside them, bounded so that running answers go on steadily. A request whose next
tokens another request is computing waits for those cells, and later requests overtake it meanwhile.
Continuous batching is Orca's idea (Yu et al., 2022), chunked prompts beside decode rows are
Sarathi's (Agrawal et al., 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gguf_worker.engine.cells import Hit, Operation
from gguf_worker.engine.loop.mixing import Mixed, Mixing, prompt_shares
from gguf_worker.engine.loop.sequence import NO_SLOT, Sequence
from gguf_worker.engine.loop.suspects import Suspects
from gguf_worker.engine.loop.waiting_queue import WaitingQueue

HEADROOM = 32
"""Free cells that a new request needs beyond its known tokens, so that it is not preempted at
once."""
WORTH_WAITING = 8
"""Gain in tokens from which waiting for another request's cells is cheaper than computing."""
LOOKAHEAD = 64
"""Most requests that one step finds waiting for another's cells: each check costs some 30 us."""


class Chunk(NamedTuple):
    """`rows` tokens of one sequence from position `start`; `output`: the last one's logits are
    wanted, to draw its successor; `scored`: so are those of as many before, of a prompt that is
    scored."""

    sequence: Sequence
    start: int
    rows: int
    output: bool
    scored: int = 0

    @property
    def slot(self) -> int:
        """The sequence id of the rows."""
        return self.sequence.slot

    @property
    def tokens(self) -> list[int]:
        """The tokens of the rows."""
        return self.sequence.tokens[self.start : self.start + self.rows]


@dataclass(frozen=True, slots=True)
class Plan:
    """One step; `operations` have to be applied to the cache before it is computed."""

    chunks: tuple[Chunk, ...]
    operations: tuple[Operation, ...]
    preempted: int
    begun: tuple[int, ...]
    """Ids of the requests whose first rows are in this step."""
    scores: bool = False
    """Tells whether it has rows of prompts that are scored."""

    @property
    def rows(self) -> int:
        """The number of rows of all chunks."""
        return sum(chunk.rows for chunk in self.chunks)

    def draws(self) -> Iterator[tuple[Sequence, int]]:
        """Yield the sequences that get a token, with the place of their row among all outputs."""
        at = 0
        for chunk in self.chunks:
            at += chunk.scored
            if chunk.output:
                yield chunk.sequence, at
                at += 1

    def scored(self) -> Iterator[tuple[Sequence, range]]:
        """Yield the sequences whose prompts are scored, with the places of their rows."""
        at = 0
        for chunk in self.chunks:
            if chunk.scored:
                yield chunk.sequence, range(at, at + chunk.scored)
            at += chunk.scored + chunk.output


class Cells(Protocol):
    """The bookkeeping of the KV cells; see UnifiedCells and PartitionedCells."""

    total: int

    @property
    def used(self) -> int: ...
    @property
    def pinned(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def free_slots(self) -> int: ...

    def held(self, slot: int) -> int: ...
    def operations(self) -> tuple[Operation, ...]: ...
    def look_up(self, tokens: list[int]) -> Hit: ...
    def claim(self, tokens: list[int], hit: Hit, reuse_points: Iterable[int] = ()) -> int: ...
    def wait_for(self, hit: Hit) -> None: ...
    def until_snapshot(self, slot: int) -> int | None: ...
    def compact(self) -> list[tuple[int, int]]: ...
    def take(self, slot: int, tokens: list[int]) -> None: ...
    def retire(self, slot: int) -> None: ...
    def clear(self) -> None: ...
    def evict_for(self, cells: int) -> bool: ...
    def evict_one(self) -> bool: ...
    def check(self) -> None: ...


class Scheduler:
    """Continuous batching over the running sequences of `cells`.

    `slots` is how many sequences may run; `context` bounds the tokens of one request (prompt and
    answer), `budget` the rows of one step, `outputs` those of them whose logits are wanted (None:
    as many as `slots`), `max_waiting` the queue. A request alone always fits, because `context` is
    within the cells, so the oldest one always goes on.
    """

    def __init__(
        self,
        cells: Cells,
        *,
        slots: int,
        context: int,
        budget: int,
        max_waiting: int,
        outputs: int | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        assert context <= cells.total
        assert slots <= budget
        self._outputs = max(outputs or 0, slots)
        self.cells = cells
        self.slots = slots
        self.context = context
        self.budget = budget
        self.max_waiting = max_waiting
        self._mixing = mixing or Mixed(budget)
        self._queue = WaitingQueue()
        self._running: list[Sequence] = []  # in order of admission: the last one is preempted first
        self._by_id: dict[int, Sequence] = {}
        self._admission_paused = False  # after a step found no KV cells, until a request has ended
        self._suspects = Suspects()

    @property
    def running(self) -> int:
        """The number of requests that hold a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a slot."""
        return len(self._queue)

    @property
    def since(self) -> float | None:
        """The time when the oldest of the running requests came; None if none runs."""
        return min((each.arrived for each in self._running), default=None)

    @property
    def idle(self) -> bool:
        """Tells whether there are no requests."""
        return not self._by_id

    def can_fit(self, prompt_tokens: int) -> bool:
        """Tell whether a prompt of this length leaves space for at least one token."""
        return prompt_tokens < self.context

    def can_queue(self, expected: int = 0) -> bool:
        """Tell whether one more request may wait, beside `expected` ones that will be queued later.

        Requests that will find a free slot don't count as waiting.
        """
        return len(self._queue) + expected < self.max_waiting + self.cells.free_slots

    def ahead_of(self, priority: int, user: str, now: float) -> int:
        """Return how many slots have to become free before a request that comes now gets one."""
        before = self._queue.ahead_of(priority, user, now, self._running_by_user())
        return max(0, before + 1 - self.cells.free_slots)

    def add(self, sequence: Sequence) -> None:
        """Put a new request into the queue."""
        assert self.can_fit(sequence.prompt_length)
        assert sequence.id not in self._by_id
        self._by_id[sequence.id] = sequence
        self._queue.add(sequence)

    def remove(self, id: int) -> None:
        """Forget a request that finished, failed or was cancelled; its cells may be reused at
        once."""
        sequence = self._by_id.pop(id)
        if sequence.slot == NO_SLOT:
            self._queue.remove(sequence)
        else:
            self._running.remove(sequence)
            self.cells.retire(sequence.slot)
            self._admission_paused = False
        if self._suspects.remove(sequence):
            self.cells.clear()

    def plan(self, now: float, limit: int | None = None) -> Plan:
        """Return the next step, of `limit` rows at most; empty when there is nothing to compute.

        `now`, in seconds on the clock of `Sequence.arrived`, decides which request is next.
        """
        self._admit(now)
        preempted, decoding = self._evict_for_decoding()
        self._follow_moves()
        rows = min(self.budget, limit or self.budget)
        if len(decoding) == len(self._running):  # the usual case: no prompt is being read
            chunks = _decode_rows(decoding[:rows])
            return Plan(tuple(chunks), self.cells.operations(), preempted, ())
        prompts = [each.pending for each in self._running if not each.decoding]
        streaming = any(each.generated > 1 for each in decoding)
        decodes, prompt_rows = self._mixing.split(len(decoding), prompts, rows, streaming=streaming)
        decode_rows = _decode_rows(decoding[:rows])
        chunks = decode_rows if decodes else []
        left = rows - len(chunks)
        prompt_rows = min(prompt_rows, left)
        spare = min(prompt_rows // 2, left - prompt_rows)
        chunks += self._prompt_chunks(prompt_rows, spare, len(decoding))
        chunks = chunks or decode_rows  # it was the prompts' turn, and none of them found a cell
        chunks.sort(key=lambda chunk: chunk.slot)
        begun = tuple(chunk.sequence.id for chunk in chunks if not chunk.sequence.begun)
        scores = any(chunk.scored for chunk in chunks)
        return Plan(tuple(chunks), self.cells.operations(), preempted, begun, scores)

    def commit(self, plan: Plan) -> None:
        """Note that the planned step was computed: its rows are in the KV cache."""
        for chunk in plan.chunks:
            self.cells.take(chunk.sequence.slot, chunk.tokens)
            chunk.sequence.computed += chunk.rows
            chunk.sequence.begun = True

    def retreat(self) -> bool:
        """Free cells after a step found none: evict an idle sequence, else preempt the youngest.

        Returns False if neither can be done, because only one request runs.
        """
        if self.cells.evict_one():
            return True
        if len(self._running) < 2:
            return False
        self._preempt(self._running[-1])
        self._admission_paused = True
        return True

    @property
    def has_trial(self) -> bool:
        """Tells whether a request is computed alone, so that lost numbers are its own fault."""
        return self._suspects.on_trial is not None

    def start_again(self, innocent: Collection[int], now: float) -> int:
        """Preempt all that run, and drop all that the cache holds; returns how many they were.

        Before they go on together, all but the `innocent` ones (ids) are computed alone, until they
        get a token, the shortest first. After one that is removed without, the cache is dropped
        again, and the others go on.
        """
        running, self._running = self._running, []
        for each in running:
            self._enqueue_again(each)
        self.cells.clear()
        self._admission_paused = False
        self._suspects.add(running, innocent, now)
        return len(running)

    def advance(self, sequence: Sequence, token: int) -> bool:
        """Append a drawn token to `sequence`; True if a limit ends the request here."""
        sequence.tokens.append(token)
        if self._suspects.advance(sequence):
            self._preempt(sequence)  # what it holds is kept idle meanwhile
        return sequence.generated >= sequence.max_tokens or len(sequence.tokens) >= self.context

    def check(self) -> None:
        """Recount everything; raises AssertionError if the bookkeeping is inconsistent."""
        self.cells.check()
        assert len(self._by_id) == len(self._queue) + len(self._running)
        for sequence in self._running:
            assert self.cells.held(sequence.slot) == sequence.computed <= len(sequence.tokens)
        assert len({sequence.slot for sequence in self._running}) == len(self._running)
        waiting = [each for each in self._by_id.values() if each in self._queue]
        assert all(each.slot == NO_SLOT and each.computed == 0 for each in waiting)

    def _evict_for_decoding(self) -> tuple[int, list[Sequence]]:
        """Free a cell for each row that decodes, also of sequences that were just admitted again.

        Returns the number of sequences preempted for that, and the sequences that decode.
        """
        preempted = 0
        decoding = [each for each in self._running if each.decoding]
        while not self.cells.evict_for(len(decoding)):
            youngest = self._running[-1]
            self._preempt(youngest)
            preempted += 1
            decoding = [each for each in decoding if each is not youngest]
        return preempted, decoding

    def _prompt_chunks(self, rows: int, spare: int, reserved: int) -> list[Chunk]:
        """Choose up to `rows` prompt rows, and `spare` more to complete a short prompt.

        `reserved` cells are left for the rows that decode.
        """
        chunks = []
        prompts = [each for each in self._running if not each.decoding]
        outputs = self._outputs - len(self._running)  # beside one for each sequence
        for each, share in prompt_shares(prompts, rows, spare):
            count = min(share, self.cells.until_snapshot(each.slot) or share)
            if each.unscored:
                count = min(count, _known(each) + 1 + outputs)
            count = self._available(count, reserved)
            if count > 0:
                chunk = _prompt_chunk(each, count)
                chunks.append(chunk)
                reserved += count
                outputs -= max(0, chunk.scored + chunk.output - 1)
        return chunks

    def _available(self, cells: int, reserved: int) -> int:
        """Free up to `cells` beyond the `reserved` ones, evicting idle ones if needed; returns how
        many are free."""
        if cells <= 0 or self.cells.evict_for(reserved + cells):
            return cells
        most = self.cells.total - self.cells.pinned - reserved
        return most if most > 0 and self.cells.evict_for(reserved + most) else 0

    def _admit(self, now: float) -> None:
        if self._suspects:
            if not self._running:
                suspect = self._suspects.next()
                self._start(suspect, self.cells.look_up(suspect.reusable))
            return
        self._suspects.settle(now)
        if self._admission_paused or not self.cells.free_slots or not len(self._queue):
            return
        running = self._running_by_user()
        passed: set[int] = set()
        while self.cells.free_slots and (next := self._next(now, running, passed)) is not None:
            sequence, hit = next
            if not self._fits(sequence, hit):
                return  # no other request overtakes one that waits for cells
            self._start(sequence, hit)
            running[sequence.user] += 1

    def _next(
        self, now: float, running: Counter[str], passed: set[int]
    ) -> tuple[Sequence, Hit] | None:
        """Return the next request to admit and its known prefix; None if there is none.

        Requests that wait for another one's cells are passed over, and added to `passed`.
        """
        for sequence in self._queue.in_turn(now, running):
            if len(passed) >= LOOKAHEAD:
                return None
            if sequence.id in passed:
                continue
            if self._suspects.closes_out(sequence, now):
                if self._running:
                    return None
                self._suspects.open()
            hit = self.cells.look_up(sequence.reusable)
            if hit.gain < WORTH_WAITING:
                return sequence, hit
            self.cells.wait_for(hit)
            passed.add(sequence.id)
        return None

    def _running_by_user(self) -> Counter[str]:
        return Counter(each.user for each in self._running)

    def _follow_moves(self) -> None:
        """Update `slot` of the running sequences that the cells moved to other ids."""
        for source, target in self.cells.compact():
            next(each for each in self._running if each.slot == source).slot = target

    def _fits(self, sequence: Sequence, hit: Hit) -> bool:
        """Tell whether its known tokens fit beside the running requests, with some cells to
        grow."""
        if not self._running:
            return True
        length = len(sequence.tokens)
        growth = min(sequence.max_tokens - sequence.generated, self.context - length, HEADROOM)
        known = self.cells.pinned + sum(each.pending + 1 for each in self._running)
        return known + length - hit.pinned + growth <= self.cells.total

    def _start(self, sequence: Sequence, hit: Hit) -> None:
        self._queue.remove(sequence)
        sequence.slot = self.cells.claim(sequence.tokens, hit, sequence.reuse_points)
        sequence.computed = self.cells.held(sequence.slot)
        if not sequence.preempted:
            sequence.cached = sequence.computed
        sequence.preempted = False
        self._running.append(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's slot away; it is first to be admitted again, and then reuses
        what is left of its cells."""
        self._running.remove(sequence)
        self.cells.retire(sequence.slot)
        self._enqueue_again(sequence)

    def _enqueue_again(self, sequence: Sequence) -> None:
        sequence.slot, sequence.computed = NO_SLOT, 0
        sequence.preempted = True
        self._queue.add(sequence)


def _known(sequence: Sequence) -> int:
    """Return how many of its next rows were scored before it was preempted."""
    return max(0, (sequence.scored or 0) - sequence.computed)


def _prompt_chunk(sequence: Sequence, count: int) -> Chunk:
    """Return the next `count` rows of a prompt."""
    start, output = sequence.computed, count == sequence.pending
    scored = count - output - _known(sequence) if sequence.unscored else 0
    return Chunk(sequence, start, count, output, max(0, scored))


def _decode_rows(decoding: list[Sequence]) -> list[Chunk]:
    """Return one row for each sequence, in the order of their slots."""
    return [
        Chunk(each, each.computed, 1, True) for each in sorted(decoding, key=lambda each: each.slot)
    ]
