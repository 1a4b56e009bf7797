"""Decides what the next step computes: who is admitted, which rows run, who has to make room.

Pure: no clock, no thread, no pointer, no text. `plan` a step, let somebody compute it, `commit` it, then
`advance` each sequence that got a token. Decode rows come first, one for each running sequence, then prompt
chunks in order of admission up to the step's budget, so a long prompt never stops the running streams.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gguf_worker.engine.kv import KvCells
from gguf_worker.engine.sequence import NO_SLOT, Sequence

HEADROOM = 32
"""Cells that a newcomer must find beyond its known tokens, so that it is not preempted at once."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` rows of one sequence, from position `start`; the last one is an output if `output`."""

    sequence: Sequence
    start: int
    count: int
    output: bool

    @property
    def slot(self) -> int:
        return self.sequence.slot

    @property
    def tokens(self) -> list[int]:
        return self.sequence.tokens[self.start : self.start + self.count]


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. `cleared`: sequence ids whose cells must be dropped before it is computed."""

    chunks: tuple[Chunk, ...]
    cleared: tuple[int, ...]
    preempted: int

    @property
    def rows(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    @property
    def begun(self) -> tuple[int, ...]:
        """Ids of the requests whose first row this is."""
        return tuple(chunk.sequence.id for chunk in self.chunks if chunk.start == 0)


class Scheduler:
    """Continuous batching over `slots` sequences that share `cells` tokens of KV cache.

    `context` bounds one request (prompt and answer); `budget` the rows of one step; `max_waiting` the queue.
    A request alone always fits, because `context <= cells`: so the oldest one always gets on.
    """

    def __init__(
        self, *, cells: int, slots: int, context: int, budget: int, max_waiting: int
    ) -> None:
        assert context <= cells
        assert slots <= budget
        self.kv = KvCells(cells, slots)
        self.context = context
        self.budget = budget
        self.max_waiting = max_waiting
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of admission: the last one makes room first
        self._by_id: dict[int, Sequence] = {}
        self._to_clear: list[int] = []
        self._crowded = False  # a step found no KV slot: nobody comes in until somebody has gone

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self._by_id

    def can_fit(self, prompt_tokens: int) -> bool:
        """Does a prompt of this length leave room for at least one token?"""
        return prompt_tokens < self.context

    def can_queue(self) -> bool:
        """Is there room for one more, counting the sequences that those in the queue will take?"""
        return len(self._waiting) < self.max_waiting + self.kv.free_slots

    def add(self, sequence: Sequence) -> None:
        """Put a request at the end of the queue."""
        assert self.can_fit(sequence.prompt_length)
        assert sequence.id not in self._by_id
        self._by_id[sequence.id] = sequence
        self._waiting.append(sequence)

    def remove(self, id: int) -> None:
        """Forget a request in any phase: finished, cancelled or failed. Its cells are free at once."""
        sequence = self._by_id.pop(id)
        if sequence.slot == NO_SLOT:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self._evict(sequence)
            self._crowded = False

    def plan(self, limit: int | None = None) -> Plan:
        """The next step, of `limit` rows at most; empty when nothing can or need be computed."""
        preempted = self._make_room_for_decoding()
        decoding = sorted((s for s in self._running if s.decoding), key=lambda s: s.slot)
        chunks = [Chunk(s, s.computed, 1, True) for s in decoding]
        budget = min(self.budget, limit or self.budget) - len(chunks)
        cells = self.kv.free - len(chunks)
        self._admit()
        for sequence in self._running:
            if sequence.decoding:
                continue
            count = min(sequence.pending, budget, cells)
            if count <= 0:
                break
            chunks.append(
                Chunk(sequence, sequence.computed, count, output=count == sequence.pending)
            )
            budget -= count
            cells -= count
        cleared, self._to_clear = tuple(self._to_clear), []
        return Plan(tuple(chunks), cleared, preempted)

    def commit(self, plan: Plan) -> None:
        """The step was computed: its rows are in the KV cache."""
        for chunk in plan.chunks:
            self.kv.take(chunk.sequence.slot, chunk.count)
            chunk.sequence.computed += chunk.count

    def retreat(self) -> bool:
        """The step found no KV slot: make room by preempting the youngest. False if it is alone."""
        if len(self._running) < 2:
            return False
        self._preempt(self._running[-1])
        self._crowded = True
        return True

    def advance(self, sequence: Sequence, token: int) -> bool:
        """`token` was sampled for `sequence`; True if a limit ends the request here."""
        sequence.tokens.append(token)
        return sequence.generated >= sequence.max_tokens or len(sequence.tokens) >= self.context

    def check(self) -> None:
        """Recount everything; an AssertionError is a bug of ours."""
        self.kv.check()
        assert len(self._by_id) == len(self._waiting) + len(self._running)
        for sequence in self._running:
            assert self.kv.held(sequence.slot) == sequence.computed <= len(sequence.tokens)
        assert self.kv.used == sum(s.computed for s in self._running)
        assert all(s.slot == NO_SLOT and s.computed == 0 for s in self._waiting)

    def _make_room_for_decoding(self) -> int:
        preempted = 0
        while sum(s.decoding for s in self._running) > self.kv.free:
            self._preempt(self._running[-1])
            preempted += 1
        return preempted

    def _admit(self) -> None:
        while self._waiting and self._can_admit(self._waiting[0]):
            sequence = self._waiting.popleft()
            sequence.slot = self.kv.claim()
            self._running.append(sequence)

    def _can_admit(self, sequence: Sequence) -> bool:
        """Would its known tokens fit beside those of all running ones, with some room to grow?"""
        if self._crowded or not self.kv.can_claim():
            return False
        if not self._running:
            return True
        remaining = sequence.max_tokens - sequence.generated
        known = sum(len(s.tokens) + 1 for s in self._running)
        return known + len(sequence.tokens) + min(remaining, HEADROOM) <= self.kv.total

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's cells; it goes to the head of the queue and is recomputed later."""
        self._running.remove(sequence)
        self._evict(sequence)
        sequence.slot, sequence.computed = NO_SLOT, 0
        self._waiting.appendleft(sequence)

    def _evict(self, sequence: Sequence) -> None:
        self.kv.release(sequence.slot)
        self._to_clear.append(sequence.slot)
