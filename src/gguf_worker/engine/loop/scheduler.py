"""Decides what the next step computes: who is admitted, which rows run, who has to make room.

Pure: no clock, no thread, no pointer, no text. `plan` a step, let somebody compute it, `commit` it, then
`advance` each sequence that got a token. Every running sequence decodes one row a step; prompts are computed
in chunks beside them, bounded so that the running streams keep their pace. A prompt whose next tokens another
one is computing waits for those cells, and lets others pass meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gguf_worker.engine.cells import Hit, Operation
from gguf_worker.engine.loop.sequence import NO_SLOT, Sequence
from gguf_worker.engine.loop.waiting_queue import WaitingQueue

HEADROOM = 32
"""Cells that a newcomer must find beyond its known tokens, so that it is not preempted at once."""
WORTH_WAITING = 8
"""Tokens that another one is computing, from which on waiting for them is cheaper."""
LOOKAHEAD = 64
"""Requests that wait for another one's cells, from which on a step looks at no more: each costs some 30 us."""
_LARGEST = 4
"""Times the chunk that a step may be at most."""
WIDE = 64
"""Rows of one sequence from which on llama.cpp's flash attention on a CPU computes them in tiles."""


class Chunk(NamedTuple):
    """`rows` of one sequence, from position `start`; the last one is an output if `output`."""

    sequence: Sequence
    start: int
    rows: int
    output: bool

    @property
    def slot(self) -> int:
        return self.sequence.slot

    @property
    def tokens(self) -> list[int]:
        return self.sequence.tokens[self.start : self.start + self.rows]


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. `operations` have to be done on the cache before it is computed."""

    chunks: tuple[Chunk, ...]
    operations: tuple[Operation, ...]
    preempted: int
    begun: tuple[int, ...]
    """Ids of the requests whose first row this is."""

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self.chunks)


class Cache(Protocol):
    """Who holds which tokens: `kv.UnifiedCells` for one pool of cells, `streams.PartitionedCells` for one each."""

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
    def until_border(self, slot: int) -> int | None: ...
    def settle(self) -> list[tuple[int, int]]: ...
    def take(self, slot: int, tokens: list[int]) -> None: ...
    def retire(self, slot: int) -> None: ...
    def make_room(self, cells: int) -> bool: ...
    def release_one(self) -> bool: ...
    def check(self) -> None: ...


class Mixed:
    """Prompt rows go into the same steps as decode rows, up to `chunk` rows in all while others decode,
    and more while many short prompts are read beside few of those.

    A quarter of the chunk, and one row at least, is left for prompts, however many decode.
    """

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk

    def split(
        self, decoding: int, prompts: list[int], budget: int, *, paced: bool = True
    ) -> tuple[bool, int]:
        """Does this step decode, and how many prompt rows may it have?

        `decoding` sequences could get a token; `prompts` are the rows still to be read of each that is
        being read; `budget` is what a step holds. `paced`: one of the answers has had a second token, so
        there is a pace to keep.
        """
        if not decoding:
            return False, budget
        chunk = _chunk_for(self._chunk, decoding, prompts, paced)
        return True, min(max(chunk - decoding, chunk // 4, 1), budget - decoding)


class Alternate:
    """Steps of decode rows only take turns with steps of prompt rows only: the graph of a decoding step
    keeps its shape, which CUDA can replay.

    Short prompts of a burst are read first, while no answer has a pace yet, so that their answers go on
    together: in up to IN_A_ROW steps, since newcomers in every step could make others wait for ever.
    """

    IN_A_ROW = 6

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._read = 0  # steps of prompt rows since one of decode rows

    def split(
        self, decoding: int, prompts: list[int], budget: int, *, paced: bool = True
    ) -> tuple[bool, int]:
        """As for Mixed."""
        if not (decoding and prompts):
            return decoding > 0, budget
        if self._read >= (self.IN_A_ROW if _is_burst(self._chunk, prompts, paced) else 1):
            self._read = 0
            return True, 0
        self._read += 1
        return False, min(budget, _chunk_for(self._chunk, decoding, prompts, paced))


def _is_burst(chunk: int, prompts: list[int], paced: bool) -> bool:
    """Are these the short prompts of many who came together, and nobody has more than a first token?"""
    return not paced and max(prompts) <= chunk


def _chunk_for(chunk: int, decoding: int, prompts: list[int], paced: bool) -> int:
    """Rows of a step while `decoding` answers go on. Many short prompts are read faster in larger steps,
    which pays while many wait for their first token and few for the next; long prompts are not."""
    if prompts and _is_burst(chunk, prompts, paced):
        return max(chunk, sum(prompts))
    short = sum(rows <= chunk for rows in prompts)
    return chunk * max(1, min(-(-4 * short // decoding), short, _LARGEST))


Mixing = Mixed | Alternate


class Scheduler:
    """Continuous batching over the running sequences of `cache`.

    `context` bounds one request (prompt and answer); `budget` the rows of one step; `max_waiting` the queue.
    A request alone always fits, because `context <= cells`: so the oldest one always gets on.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        slots: int,
        context: int,
        budget: int,
        max_waiting: int,
        mixing: Mixing | None = None,
    ) -> None:
        assert context <= cache.total
        assert slots <= budget
        self.kv = cache
        self.slots = slots
        self.context = context
        self.budget = budget
        self.max_waiting = max_waiting
        self._mixing = mixing or Mixed(budget)
        self._queue = WaitingQueue()
        self._running: list[Sequence] = []  # in order of admission: the last one makes room first
        self._by_id: dict[int, Sequence] = {}
        self._crowded = False  # a step found no KV slot: nobody comes in until somebody has gone

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return not self._by_id

    def can_fit(self, prompt_tokens: int) -> bool:
        """Does a prompt of this length leave room for at least one token?"""
        return prompt_tokens < self.context

    def can_queue(self, expected: int = 0) -> bool:
        """Is there room for one more, counting the sequences that those in the queue will take?

        `expected` others have been promised a place.
        """
        return len(self._queue) + expected < self.max_waiting + self.kv.free_slots

    def ahead_of(self, priority: int, user: str, now: float) -> int:
        """How many places have to come free before a newcomer gets one, as things stand."""
        before = self._queue.ahead_of(priority, user, now, self._running_by_user())
        return max(0, before + 1 - self.kv.free_slots)

    def add(self, sequence: Sequence) -> None:
        """Put a request into the queue."""
        assert self.can_fit(sequence.prompt_length)
        assert sequence.id not in self._by_id
        self._by_id[sequence.id] = sequence
        self._queue.add(sequence)

    def remove(self, id: int) -> None:
        """Forget a request in any phase: finished, cancelled or failed. Its cells may be reused at once."""
        sequence = self._by_id.pop(id)
        if sequence.slot == NO_SLOT:
            self._queue.remove(sequence)
        else:
            self._running.remove(sequence)
            self.kv.retire(sequence.slot)
            self._crowded = False

    def plan(self, now: float, limit: int | None = None) -> Plan:
        """The next step, of `limit` rows at most; empty when nothing can or need be computed.

        `now`, in seconds of the clock that `Sequence.arrived` is on, decides whose turn it is.
        """
        self._admit(now)
        preempted, decoding = self._make_room_for_decoding()
        self._settle()
        rows = min(self.budget, limit or self.budget)
        if len(decoding) == len(self._running):  # as nearly always
            chunks = _decode_rows(decoding[:rows])
            return Plan(tuple(chunks), self.kv.operations(), preempted, ())
        prompts = [each.pending for each in self._running if not each.decoding]
        paced = any(each.generated > 1 for each in decoding)
        decodes, prompt_rows = self._mixing.split(len(decoding), prompts, rows, paced=paced)
        decode_rows = _decode_rows(decoding[:rows])
        chunks = decode_rows if decodes else []
        left = rows - len(chunks)
        prompt_rows = min(prompt_rows, left)
        spare = min(prompt_rows // 2, left - prompt_rows)
        chunks += self._prompt_chunks(prompt_rows, spare, len(decoding))
        chunks = chunks or decode_rows  # a turn of the prompts, and none of them found a cell
        chunks.sort(key=lambda chunk: chunk.slot)
        begun = tuple(chunk.sequence.id for chunk in chunks if not chunk.sequence.begun)
        return Plan(tuple(chunks), self.kv.operations(), preempted, begun)

    def commit(self, plan: Plan) -> None:
        """The step was computed: its rows are in the KV cache."""
        for chunk in plan.chunks:
            self.kv.take(chunk.sequence.slot, chunk.tokens)
            chunk.sequence.computed += chunk.rows
            chunk.sequence.begun = True

    def retreat(self) -> bool:
        """The step found no KV slot: make room, at the cost of who rests, then of the youngest.

        False if a request is alone.
        """
        if self.kv.release_one():
            return True
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
        assert len(self._by_id) == len(self._queue) + len(self._running)
        for sequence in self._running:
            assert self.kv.held(sequence.slot) == sequence.computed <= len(sequence.tokens)
        assert len({sequence.slot for sequence in self._running}) == len(self._running)
        waiting = [each for each in self._by_id.values() if each in self._queue]
        assert all(each.slot == NO_SLOT and each.computed == 0 for each in waiting)

    def _make_room_for_decoding(self) -> tuple[int, list[Sequence]]:
        """A cell for each row that decodes, also of who has just come back.

        How many had to go for that, and who decodes.
        """
        preempted = 0
        decoding = [each for each in self._running if each.decoding]
        while not self.kv.make_room(len(decoding)):
            gone = self._running[-1]
            self._preempt(gone)
            preempted += 1
            decoding = [each for each in decoding if each is not gone]
        return preempted, decoding

    def _prompt_chunks(self, rows: int, spare: int, reserved: int) -> list[Chunk]:
        """Up to `rows` of the prompts, `spare` more for a short one; `reserved` cells are for the rows that
        decode."""
        chunks = []
        prompts = [each for each in self._running if not each.decoding]
        for each, share in _shares(prompts, rows, spare):
            count = min(share, self.kv.until_border(each.slot) or share)
            count = self._available(count, reserved)
            if count > 0:
                chunks.append(Chunk(each, each.computed, count, output=count == each.pending))
                reserved += count
        return chunks

    def _available(self, cells: int, reserved: int) -> int:
        """Up to `cells`, beyond the `reserved` ones, making room if need be."""
        if cells <= 0 or self.kv.make_room(reserved + cells):
            return cells
        most = self.kv.total - self.kv.pinned - reserved
        return most if most > 0 and self.kv.make_room(reserved + most) else 0

    def _admit(self, now: float) -> None:
        if self._crowded or not self.kv.free_slots or not len(self._queue):
            return
        running = self._running_by_user()
        passed: set[int] = set()
        while self.kv.free_slots and (next := self._next(now, running, passed)) is not None:
            sequence, hit = next
            if not self._has_room(sequence, hit):
                return  # nobody overtakes who waits for cells
            self._start(sequence, hit)
            running[sequence.user] += 1

    def _next(
        self, now: float, running: Counter[str], passed: set[int]
    ) -> tuple[Sequence, Hit] | None:
        """Whose turn it is, and what is known of it; `passed` grows by who waits for another one's cells."""
        for sequence in self._queue.in_turn(now, running):
            if len(passed) >= LOOKAHEAD:
                return None
            if sequence.id in passed:
                continue
            hit = self.kv.look_up(sequence.tokens)
            if hit.gain < WORTH_WAITING:
                return sequence, hit
            self.kv.wait_for(hit)
            passed.add(sequence.id)
        return None

    def _running_by_user(self) -> Counter[str]:
        return Counter(each.user for each in self._running)

    def _settle(self) -> None:
        """Where rows are computed together only under neighbouring ids, sequences may have to move."""
        for source, target in self.kv.settle():
            next(each for each in self._running if each.slot == source).slot = target

    def _has_room(self, sequence: Sequence, hit: Hit) -> bool:
        """Would its known tokens fit beside those of all running ones, with some room to grow?"""
        if not self._running:
            return True
        length = len(sequence.tokens)
        growth = min(sequence.max_tokens - sequence.generated, self.context - length, HEADROOM)
        known = self.kv.pinned + sum(each.pending + 1 for each in self._running)
        return known + length - hit.pinned + growth <= self.kv.total

    def _start(self, sequence: Sequence, hit: Hit) -> None:
        self._queue.remove(sequence)
        sequence.slot = self.kv.claim(sequence.tokens, hit, sequence.reuse_points)
        sequence.computed = self.kv.held(sequence.slot)
        if not sequence.preempted:
            sequence.cached = sequence.computed
        sequence.preempted = False
        self._running.append(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """A running sequence makes room; it goes on first, later, with what is left of its cells."""
        self._running.remove(sequence)
        self.kv.retire(sequence.slot)
        sequence.slot, sequence.computed = NO_SLOT, 0
        sequence.preempted = True
        self._queue.add(sequence)


def _decode_rows(decoding: list[Sequence]) -> list[Chunk]:
    """A row for each, in the order of their ids."""
    return [
        Chunk(each, each.computed, 1, True) for each in sorted(decoding, key=lambda each: each.slot)
    ]


def _shares(prompts: list[Sequence], rows: int, spare: int) -> list[tuple[Sequence, int]]:
    """Who gets how many of a step's prompt rows; `prompts` are in order of admission.

    Short prompts are read whole beside the oldest one, which gets half of the rows at least, and no fewer
    than WIDE. No prompt gets a narrow piece beside others, and only the oldest may be left with one: a pass
    takes equally much of each. `spare` rows more may be used if they complete the reading of a short prompt
    that is begun with this step.
    """
    if not prompts:
        return []
    oldest, others = prompts[0], sorted(prompts[1:], key=lambda each: each.pending)
    left = rows - min(oldest.pending, max(rows // 2, WIDE))
    shares: list[tuple[Sequence, int]] = []
    while others and others[0].pending <= left:
        left -= others[0].pending
        rows -= others[0].pending
        shares.append((others[0], others.pop(0).pending))
    for each in (oldest, *others):
        count = min(each.pending, rows)
        if shares and rows > 0 and not each.begun and each.pending <= spare:
            count = each.pending
        elif each is not oldest and count < each.pending:
            count = min(count, each.pending - WIDE)
        if count > 0 and (not shares or count == each.pending or count >= WIDE):
            shares.append((each, count))
            rows -= count
    return shares
