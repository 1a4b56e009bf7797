"""Fakes of llama.cpp, of llguidance and of the parent, for tests of the engine's loop.

`FakeBackend` has a vocabulary of bytes and refuses, by assertion, every step that llama.cpp would
refuse, abort on, or silently compute wrong.
"""

from __future__ import annotations

import random
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gguf_worker.engine.cells.unified import Clear, Copy, Operation
from gguf_worker.engine.drawing.grammars.constraint import ConstraintFailed
from gguf_worker.engine.drawing.grammars.translation import GrammarRefused
from gguf_worker.engine.drawing.sampler_pool import Banned
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.messages import (
    Compiling,
    EngineInfo,
    FromEngine,
    Reply,
    Step,
    ToEngine,
    Tokenizing,
)
from gguf_worker.engine.texts.spans import Span
from gguf_worker.engine.texts.tokenizer_pool import TokenizerPool, Work
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Grammar, Sampling

BOS, END, NEVER = 256, 257, 258
"""Tokens without text: the beginning, the end of an answer, and one that the model must never
give."""
VOCABULARY = 259
SPOILING = ord("%")
"""A token that makes no numbers of whatever is computed from then on, until the cache is cleared:
as NaN in a pool of cells without flash attention."""
NAN = -1
"""A model's next token where its logits are NaN."""
GREEDY = Sampling(temperature=0.0)

T = TypeVar("T")
Model = Callable[[list[int]], int]
"""Returns the next token after these: what the fake "computes"."""


def tokens_of(text: str) -> list[int]:
    return list(text.encode())


def answers(script: Mapping[str, str | list[int]], repeat: str = "") -> Model:
    """Return a model that gives each prompt its answer and then END, and others `repeat` for
    ever."""
    book = {
        tuple(tokens_of(prompt)): answer if isinstance(answer, list) else tokens_of(answer)
        for prompt, answer in script.items()
    }

    def next_token(tokens: list[int]) -> int:
        tokens = [token for token in tokens if token != BOS]
        known = [prompt for prompt in book if tuple(tokens[: len(prompt)]) == prompt]
        if not known:
            return ord(repeat[len(tokens) % len(repeat)])
        prompt = max(known, key=len)
        answer, at = book[prompt], len(tokens) - len(prompt)
        return answer[at] if at < len(answer) else END

    return next_token


def drawl(tokens: list[int]) -> int:
    """Return a next letter that depends on all tokens before it; never an end."""
    return ord("a") + zlib.crc32(repr(tokens).encode()) % 26


class FakeSampler:
    """Draws greedily, or with a temperature by the seed and the count of draws.

    With DRY it is ready only when the backend's samplers are.
    """

    def __init__(self, backend: FakeBackend, sampling: Sampling, seed: int) -> None:
        self._backend = backend
        self._slow = sampling.dry_multiplier > 0
        self._bias = sampling.logit_bias
        self._random = random.Random(seed) if sampling.temperature > 0 else None
        self.passes = 0 if self._random is None else 1
        self._closed = False
        backend.open_samplers += 1

    @property
    def ready(self) -> bool:
        return not self._slow or self._backend.samplers_ready

    def sample(self, row: int, logits: npt.NDArray[np.float32], banned: Banned) -> int:
        assert self.ready
        assert not self._closed
        assert row in self._backend.outputs
        for token, bias in self._bias:
            logits[token] += bias
        logits[banned] = -np.inf
        best = int(logits.argmax())
        if not logits[best] > -np.inf:
            return -1
        if self._random is not None and best != END:
            return self._random.choice(b"abcdefghijklmnopqrstuvwxyz")
        return best

    def close(self) -> None:
        assert not self._closed
        self._closed = True
        self._backend.open_samplers -= 1


class FakeVocabulary:
    """A token for each byte, and the three without text. `tokenized` has the texts that were
    tokenised; `deep` is refused. A text is read in pieces that begin with `<cut>`; `before_piece`
    is called before each but the first."""

    bos = BOS

    def __init__(self) -> None:
        self.pieces = [bytes([value]) for value in range(256)] + [b""] * (VOCABULARY - 256)
        self.spelled = [*self.pieces[:256], b"<begin>", b"<end>", b"<never>"]
        self.ends = np.array([END], np.int32)
        self.suppressed = np.array([NEVER], np.int32)
        self.tokenized: list[str] = []
        self.before_piece: Callable[[str], None] = lambda _: None

    def fewest_tokens(self, text: str) -> int:
        return -(-len(text) // 4)

    def read(self, text: str, *, add_special: bool, parse_special: bool) -> Iterator[list[int]]:
        if text == "deep":
            raise InvalidRequest("too deep")
        self.tokenized.append(text)
        for number, piece in enumerate(re.split("(?=<cut>)", text)):
            if number > 0:
                self.before_piece(piece)
            yield self._tokens(
                piece, add_special=add_special and number == 0, parse_special=parse_special
            )

    def _tokens(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        parts = text.split("<end>") if parse_special else [text]
        tokens = [BOS] if add_special else []
        for part in parts[:-1]:
            tokens += [*tokens_of(part), END]
        return tokens + tokens_of(parts[-1])

    def detokenize(self, tokens: list[int]) -> str:
        return b"".join(self.spelled[token] for token in tokens).decode("utf-8", "replace")


class FakeBackend:
    """Keeps the tokens of each sequence id, as a KV cache would, and asks `model` for the next one.

    `cells` is how many tokens it really holds, `codes` are the results of the next steps (0:
    compute it), `before_decode` is called with each step before it is computed. Every step is in
    `steps`. `idle` more ids than `sequences` can hold tokens; without `rollback` an id is copied
    whole or not at all; without `unified` each id has cells of its own, `context` of them, and a
    copy takes new ones.
    `asynchronous`: a step's outputs are there only after `wait`, which calls `while_computing`.
    """

    def __init__(
        self,
        model: Model,
        *,
        sequences: int = 4,
        context: int = 64,
        cells: int | None = None,
        batch_size: int = 16,
        codes: Iterable[int] = (),
        before_decode: Callable[[tuple[Chunk, ...]], None] = lambda _: None,
        idle: int = 4,
        rollback: bool = True,
        unified: bool = True,
        asynchronous: bool = False,
        while_computing: Callable[[], None] = lambda: None,
        generates: bool = True,
    ) -> None:
        self.info = EngineInfo(
            description="bytes",
            context=context,
            sequences=sequences,
            kv_cells=context * (sequences if unified else sequences + idle),
            batch_size=batch_size,
            ubatch_size=batch_size,
            vocabulary=VOCABULARY,
            model_bytes=0,
            parameters=0,
            gpu_offload=False,
            threads=1,
            load_seconds=0.0,
            warmup_seconds=0.0,
            idle_sequences=idle,
            unified=unified,
            rollback=rollback,
            generates=generates,
        )
        self.asynchronous = asynchronous
        self.while_computing = while_computing
        self.computing = False
        self.vocabulary = FakeVocabulary()
        self.cells = self.info.kv_cells if cells is None else cells
        self.codes = deque(codes)
        self.before_decode = before_decode
        self.held: dict[int, list[int]] = {id: [] for id in range(sequences + idle)}
        self._cells: dict[int, list[object]] = {id: [] for id in self.held}
        self.steps: list[tuple[Chunk, ...]] = []
        self.outputs: list[int] = []
        self.open_samplers = 0
        self.clears = 0
        self.spoilt = False
        self.samplers_ready = True
        self._model = model
        self._logits: npt.NDArray[np.float32] = np.zeros((0, VOCABULARY), np.float32)

    @property
    def used(self) -> int:
        """The cells in use; those that several ids share count once."""
        return len({id(cell) for cells in self._cells.values() for cell in cells})

    def decode(self, chunks: tuple[Chunk, ...]) -> tuple[int, list[int]]:
        self.before_decode(chunks)
        after, rows = self._checked(chunks)
        code = self.codes.popleft() if self.codes else 0
        if code == 0 and not self._fits(after, sum(chunk.rows for chunk in chunks)):
            code = 1
        self.steps.append(chunks if code == 0 else ())
        self.outputs = []
        if code == 0:
            self.held = after
            for chunk in chunks:
                self._cells[chunk.slot] += [object() for _ in range(chunk.rows)]
                self.spoilt = self.spoilt or SPOILING in chunk.tokens
            self.outputs = rows
            self.computing = self.asynchronous
            self._logits = np.stack([row for c in chunks for row in self._rows(c)] or [_nan()])
        return code, rows

    def _fits(self, after: dict[int, list[int]], rows: int) -> bool:
        if self.info.unified:
            return self.used + rows <= self.cells
        return all(len(tokens) <= self.info.context for tokens in after.values())

    def wait(self) -> None:
        assert self.asynchronous
        self.while_computing()
        self.computing = False

    def logits(self, outputs: int) -> npt.NDArray[np.float32]:
        assert not self.computing
        assert outputs == len(self.outputs) == len(self._logits)
        return self._logits

    def arrange(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Copy):
                self._copy(operation)
            elif isinstance(operation, Clear):
                self.clears += 1
                self.spoilt = False
                self.held = {id: [] for id in self.held}
                self._cells = {id: [] for id in self.held}
            else:
                known = len(self.held[operation.id])
                assert operation.length < known or operation.length == known == 0
                assert self.info.rollback or operation.length == 0, "half a state cannot be dropped"
                del self.held[operation.id][operation.length :]
                del self._cells[operation.id][operation.length :]

    def _copy(self, copy: Copy) -> None:
        assert not self.held[copy.target], "copied over what somebody holds"
        assert 0 < copy.length <= len(self.held[copy.source])
        assert self.info.rollback or copy.length == len(self.held[copy.source]), (
            "copied half a state"
        )
        self.held[copy.target] = self.held[copy.source][: copy.length]
        shared = self._cells[copy.source][: copy.length]
        self._cells[copy.target] = shared if self.info.unified else [object() for _ in shared]

    def sampler(self, sampling: Sampling, seed: int, prompt: list[int]) -> FakeSampler:
        return FakeSampler(self, sampling, seed)

    def _checked(self, chunks: tuple[Chunk, ...]) -> tuple[dict[int, list[int]], list[int]]:
        """Return what the ids would hold after this step, and the batch rows of its outputs."""
        assert chunks
        assert sum(chunk.rows for chunk in chunks) <= self.info.batch_size
        most = self.info.sequences + self.info.idle_sequences
        assert sum(chunk.output + chunk.scored for chunk in chunks) <= most
        after = {slot: list(tokens) for slot, tokens in self.held.items()}
        rows: list[int] = []
        at, seen = 0, set()
        for chunk in chunks:
            assert chunk.slot in after, "no such sequence id"
            assert chunk.slot not in seen, "two chunks of one sequence"
            assert chunk.rows == len(chunk.tokens) > 0
            assert chunk.start == len(after[chunk.slot]), "a gap, a repeat, or an id not cleared"
            assert all(0 <= token < VOCABULARY for token in chunk.tokens)
            seen.add(chunk.slot)
            after[chunk.slot] += chunk.tokens
            at += chunk.rows
            assert chunk.scored + chunk.output <= chunk.rows
            rows += range(at - chunk.output - chunk.scored, at - chunk.output)
            if chunk.output:
                rows.append(at - 1)
        return after, rows

    def _rows(self, chunk: Chunk) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits of a chunk's outputs: its last rows."""
        tokens = self.held[chunk.slot]
        end = len(tokens) + 1 - chunk.output
        for length in range(end - chunk.scored, len(tokens) + 1):
            yield self._row(tokens[:length])

    def _row(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        token = NAN if self.spoilt else self._model(tokens)
        if token == NAN:
            return _nan()
        row = np.zeros(VOCABULARY, np.float32)
        row[ord("z")] = 1.0  # drawn where the best token is banned
        row[token] = 2.0
        return row


def _nan() -> npt.NDArray[np.float32]:
    return np.full(VOCABULARY, np.nan, np.float32)


class FakeConstraint:
    """Allows only one of `texts`. After the text `fails_after` it fails with `failure`.

    `computed` has the lengths after which a mask was computed; `before_mask` is called each time.
    """

    def __init__(
        self,
        texts: list[str],
        fails_after: str | None,
        failure: ConstraintFailed,
        before_mask: Callable[[], None],
    ) -> None:
        self._failure = failure
        self._before_mask = before_mask
        self._texts = [tokens_of(text) for text in texts]
        self._fails_after = None if fails_after is None else tokens_of(fails_after)
        self._come: list[int] = []
        self.computed: set[int] = set()

    def _rests(self) -> list[list[int]]:
        at = len(self._come)
        return [text[at:] for text in self._texts if text[:at] == self._come]

    @property
    def complete(self) -> bool:
        return self._rests() == [[]]

    def forbidden(self) -> npt.NDArray[np.bool_]:
        self.computed.add(len(self._come))
        self._before_mask()
        if self._come == self._fails_after:
            raise self._failure
        forbidden = np.ones(VOCABULARY, np.bool_)
        for rest in self._rests():
            forbidden[rest[0] if rest else END] = False
        return forbidden

    def accept(self, token: int) -> None:
        assert token < 256, "an end is not accepted"
        assert any(rest[:1] == [token] for rest in self._rests())
        self._come.append(token)


class FakeCompiler:
    """Compiles texts between bars; "!why" is refused. `held` ones are compiled by `release`."""

    def __init__(
        self,
        *,
        held: bool = False,
        fails_after: str | None = None,
        failure: ConstraintFailed | None = None,
        before_mask: Callable[[], None] = lambda: None,
    ) -> None:
        self._held = held
        self._fails_after = fails_after
        self._failure = failure or ConstraintFailed("lost")
        self._before_mask = before_mask
        self._open: list[tuple[Grammar, Future[Any]]] = []
        self.begun = 0
        self.constraints: list[FakeConstraint] = []

    def begin(self) -> None:
        self.begun += 1

    def compile(self, grammar: Grammar) -> Future[Any]:
        future: Future[Any] = Future()
        self._open.append((grammar, future))
        if not self._held:
            self.release()
        return future

    def release(self) -> None:
        opened, self._open = self._open, []
        for grammar, future in opened:
            if not future.set_running_or_notify_cancel():
                continue
            if grammar.text.startswith("!"):
                future.set_exception(GrammarRefused(grammar.text[1:]))
            else:
                constraint = FakeConstraint(
                    grammar.text.split("|"), self._fails_after, self._failure, self._before_mask
                )
                self.constraints.append(constraint)
                future.set_result(constraint)


class FakeChannel:
    """The parent as the loop sees it: sends one turn's messages each time it is asked, then ends.

    An empty turn lets one step pass. A callable turn is called, and may return messages. After the
    last turn it ends (EOFError) as soon as the loop would wait. `tokenizing` has the ids in
    Tokenizing messages, `sent` the steps.
    """

    def __init__(self, *turns: list[ToEngine] | Callable[[], Any], steps_at_most: int = 5000):
        self._turns = deque(turns)
        self._left = steps_at_most
        self.sent: list[Step] = []
        self.tokenizing: list[tuple[int, ...]] = []
        self.compiling: list[tuple[int, ...]] = []
        self.replies: list[Reply] = []
        self.waited: list[float] = []

    def receive(self, timeout: float) -> list[ToEngine]:
        self._left -= 1
        assert self._left > 0, "the loop goes round and round"
        self.waited.append(timeout)
        if self._turns:
            turn = self._turns.popleft()
            return (turn() or []) if callable(turn) else turn
        if timeout > 0:
            raise EOFError
        return []

    def send(self, message: FromEngine) -> None:
        match message:
            case Tokenizing():
                self.tokenizing.append(message.ids)
            case Compiling():
                self.compiling.append(message.ids)
            case Reply():
                self.replies.append(message)
            case _:
                assert isinstance(message, Step)
                self.sent.append(message)


class FakeTokenizers(TokenizerPool):
    """Does all work at once where it is begun, or, if it is `held`, by `turn`."""

    def __init__(
        self, announce: Callable[[tuple[int, ...]], None] = lambda _: None, *, held: bool = False
    ) -> None:
        super().__init__(announce, threads=0)
        self._held = held

    def begin(self, id: int, work: Work[T], *, characters: int) -> Future[T]:
        future = super().begin(id, work, characters=characters)
        while not self._held and self._waiting:
            self.turn()
        return future

    def turn(self) -> None:
        """Do one turn of the work that is next; there must be some."""
        assert self._waiting
        job = self._take()
        assert job is not None
        job.turn()
        self._put_back(job)
        with self._changed:
            self._tell()


class FakePooler:
    """The context for texts: a text is words of one letter each, and its vector counts them.

    Refuses, by assertion, every batch that llama.cpp would refuse, abort on, or silently compute
    wrong. The word `!` makes all vectors of its batch NaN, and those of later ones where there are
    cells, until a reset; `0` adds nothing to a vector. `batches` has those that were
    computed, as (text, start, rows); `before_compute` is called before each. A pair is a document
    behind its query. The text `deep` is refused.
    """

    def __init__(
        self,
        pooling: str = "mean",
        *,
        rows: int = 16,
        longest: int = 16,
        slots: int = 5,
        causal: bool = False,
        before_compute: Callable[[], None] = lambda: None,
    ) -> None:
        self.pooling = pooling
        self.dimensions = 1 if pooling == "rank" else 4
        self.longest = longest
        self.rows = rows
        self.slots = slots
        self.causal = causal
        self.before_compute = before_compute
        self.batches: list[list[tuple[str, int, int]]] = []
        self.held: dict[int, list[int]] = {slot: [] for slot in range(slots)}
        self.tokenized: list[str] = []
        self.spoilt = False

    def fewest_tokens(self, text: str) -> int:
        return -(-len(text) // 4)

    def tokenize(self, text: str) -> list[int]:
        if text == "deep":
            raise InvalidRequest("too deep")
        self.tokenized.append(text)
        return tokens_of(text.replace(" ", ""))

    def pair(self, query: str, document: str) -> list[int]:
        return self.tokenize(query + document)

    def compute(self, spans: Sequence[Span]) -> npt.NDArray[np.float32]:
        self.before_compute()
        assert 0 < len(spans) <= self.slots
        assert len({span.slot for span in spans}) == len(spans)
        total = sum(span.rows for span in spans)
        most = self.rows if self.causal else max(self.rows, self.longest)
        assert total <= most, "more rows than a pass has: llama.cpp ends the process"
        self.spoilt = self.spoilt or any(ord("!") in span.tokens for span in spans)
        vectors = [self._vector(span) for span in spans]
        if self.spoilt:
            vectors = [[np.nan] * self.dimensions for _ in spans]
            self.spoilt = self.causal
        self.batches.append(
            [(bytes(list(span.text.tokens)).decode(), span.start, span.rows) for span in spans]
        )
        return np.array(vectors, np.float32)

    def _vector(self, span: Span) -> list[float]:
        assert span.rows == len(span.tokens) > 0
        assert span.start == len(self.held[span.slot]), "a gap, a repeat, or an id not cleared"
        assert self.causal or (span.start == 0 and span.last), "half a text, which sees the rest"
        tokens = list(span.tokens)
        self.held[span.slot] += tokens
        if span.last:
            self.held[span.slot] = []
        counts = [float(tokens.count(ord(letter))) for letter in "abcd"[: self.dimensions]]
        return [count / len(tokens) for count in counts]  # the mean over the span

    def reset(self) -> None:
        self.held = {slot: [] for slot in self.held}
        self.spoilt = False
