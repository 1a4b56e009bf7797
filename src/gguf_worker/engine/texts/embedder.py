"""Texts to vectors, or to scores, in batches between the steps of what is generated.

Texts of several requests share a batch. The oldest request has half of one at least, the others go in turns, in
the order in which they came. A text is read in pieces where the model allows that, else at once. Pure: no
clock, thread or pointer; the texts are computed by whoever is given.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gguf_worker.engine.messages import Delta, Embed, Failure, FromEngine, Tokenizing
from gguf_worker.errors import wrong_model
from gguf_worker.generation import Usage

Vectors = npt.NDArray[np.float32]

_CHARACTERS = 256 * 1024
"""Tokenised between two batches at most, but for a text that is longer: some 60 milliseconds."""


class Span(NamedTuple):
    """`rows` tokens of a text from `start`, under the sequence id `slot`; `last`: there are no more."""

    text: Text
    slot: int
    start: int
    rows: int

    @property
    def tokens(self) -> Sequence[int]:
        return self.text.tokens[self.start : self.start + self.rows]

    @property
    def last(self) -> bool:
        return self.start + self.rows == len(self.text.tokens)

    @property
    def output(self) -> bool:
        return True


class Pooler(Protocol):
    """What is needed of the library; see `pooled.PoolingContext`."""

    pooling: str
    dimensions: int
    longest: int
    """Tokens of a text at most."""
    rows: int
    """Tokens of a batch at best; a text that cannot be read in pieces may be longer, and is then alone."""
    slots: int
    """Texts of a batch at most."""
    causal: bool

    def fewest_tokens(self, text: str) -> int: ...
    def tokenize(self, text: str) -> list[int]: ...
    def pair(self, query: str, document: str) -> list[int]: ...
    def compute(self, pieces: Sequence[Span]) -> Vectors: ...
    def clear(self, slot: int) -> None: ...


@dataclass(slots=True, eq=False)
class Text:
    """One text, its tokens, and what is known of its vector. Tokens are kept small: there may be millions."""

    request: _Request
    tokens: array[int]
    vector: Vectors | None = None


@dataclass(slots=True, eq=False)
class _Request:
    """An Embed that has not ended; `texts` are those that were read and wait."""

    embed: Embed
    unread: int = 0
    """The first text that was not tokenised yet."""
    texts: deque[Text] = field(default_factory=deque)
    begun: bool = False
    given: int = 0
    """Texts whose vectors are out."""
    tokens: int = 0

    @property
    def ready(self) -> bool:
        """All texts are known to be good, and some wait."""
        return self.unread == len(self.embed.texts) and bool(self.texts)

    @property
    def ranks(self) -> bool:
        return self.embed.query is not None

    def next_texts(self, most: int, at_least: int) -> tuple[int, int]:
        """How many unread texts have `most` characters, but no fewer than `at_least`; and those characters."""
        texts, query = self.embed.texts, len(self.embed.query or "")  # which is read with each
        count = characters = 0
        for index in range(self.unread, len(texts)):
            more = 1 + query + len(texts[index])
            if count >= at_least and characters + more > most:
                break
            count, characters = count + 1, characters + more
        return count, characters


class Embedder:
    """The requests for vectors or scores of one model, `most` of them at a time.

    `vocabulary` bounds token ids; `send` reaches the parent.
    """

    def __init__(
        self, pooler: Pooler, *, vocabulary: int, most: int, send: Callable[[FromEngine], None]
    ) -> None:
        self._pooler = pooler
        self._vocabulary = vocabulary
        self._most = most
        self._send = send
        self._open: dict[int, _Request] = {}  # in order of arrival
        self._partial: Span | None = None  # the last piece of a text that is read in pieces

    @property
    def running(self) -> int:
        """Requests of which something was computed."""
        return sum(request.begun for request in self._open.values())

    @property
    def waiting(self) -> int:
        return len(self._open) - self.running

    def __len__(self) -> int:
        """Requests that are open."""
        return len(self._open)

    def __contains__(self, id: int) -> bool:
        return id in self._open

    @property
    def deadlines(self) -> list[float | None]:
        return [request.embed.deadline for request in self._open.values()]

    def late(self, now: float) -> list[int]:
        """The requests whose deadline is over."""
        return [
            id
            for id, request in self._open.items()
            if request.embed.deadline is not None and request.embed.deadline <= now
        ]

    def add(self, embed: Embed) -> Failure | None:
        """Take a request, or say why not."""
        failure = self._refusal(embed)
        if failure is None:
            self._open[embed.id] = _Request(embed)
        return failure

    def drop(self, id: int) -> None:
        """Forget a request: what was not computed will not be."""
        request = self._open.pop(id)
        if self._partial is not None and self._partial.text.request is request:
            self._pooler.clear(self._partial.slot)
            self._partial = None

    def step(
        self, rows: int | None, begin: Callable[[tuple[int, ...]], None]
    ) -> tuple[int, list[Delta]]:
        """Read some texts and compute one batch: its rows, and the news.

        `rows`: tokens of it at most, but for a text that has to be read at once; None: as is best. `begin` is
        told the requests of which something is computed for the first time, before it is.
        """
        news = self._read()
        pieces = self._plan(min(rows or self._pooler.rows, self._pooler.rows))
        if not pieces:
            return 0, news
        requests = dict.fromkeys(piece.text.request for piece in pieces)
        if begun := tuple(each.embed.id for each in requests if not each.begun):
            begin(begun)
        for request in requests:
            request.begun = True
        vectors = self._pooler.compute(pieces)
        return sum(piece.rows for piece in pieces), news + self._take(pieces, vectors)

    # Requests

    def _refusal(self, embed: Embed) -> Failure | None:
        pooling, dimensions = self._pooler.pooling, self._pooler.dimensions
        if (pooling == "rank") != (embed.query is not None):
            return unable(pooling, embed)
        if embed.dimensions is not None and not 1 <= embed.dimensions <= dimensions:
            return Failure(
                "invalid_request",
                f"The model's embeddings have {dimensions} dimensions; as many can be had, or fewer.",
                param="dimensions",
            )
        if not embed.texts:
            return Failure("invalid_request", "There is nothing to read.", param=_param(embed))
        if len(self._open) >= self._most:
            return Failure(
                "overloaded",
                f"{len(self._open)} requests for embeddings or scores are open, which is as many as this "
                "worker takes. Try again shortly.",
                retry_after=1.0,
            )
        return None

    def _read(self) -> list[Delta]:
        """Tokenise some texts; requests with one that is wrong fail.

        Of the oldest request a text is read at least, and each has half of what those before it left: a short
        one does not wait for a long one.
        """
        news: list[Delta] = []
        left = _CHARACTERS
        unread = [each for each in self._open.values() if each.unread < len(each.embed.texts)]
        for request in unread:
            share = left if request is unread[-1] else left // 2
            count, characters = request.next_texts(share, at_least=int(request is unread[0]))
            left -= characters
            if count and (failure := self._tokenized(request, count)) is not None:
                self.drop(request.embed.id)
                news.append(Delta(request.embed.id, failure=failure))
        return news

    def _tokenized(self, request: _Request, count: int) -> Failure | None:
        """Tokenise the next texts of a request; what is wrong with one of them."""
        failure = None
        self._send(Tokenizing(request.embed.id))  # tokenisers can crash
        for index in range(request.unread, request.unread + count):
            tokens = self._tokens(request.embed, index)
            if isinstance(tokens, Failure):
                failure = tokens
                break
            request.texts.append(Text(request, array("i", tokens)))
            request.unread += 1
        self._send(Tokenizing(None))
        return failure

    def _tokens(self, embed: Embed, index: int) -> list[int] | Failure:
        text, longest = embed.texts[index], self._pooler.longest
        if not text and not (embed.query and isinstance(text, str)):  # a pair is not empty
            return self._wrong(embed, index, "is empty")
        if isinstance(text, list):
            if len(text) > longest:  # before each is looked at: there may be millions
                return self._too_long(embed, index, str(len(text)))
            if not all(0 <= token < self._vocabulary for token in text):
                outside = f"has a token id outside the vocabulary of {self._vocabulary} tokens"
                return self._wrong(embed, index, outside)
            tokens = text
        else:
            count = self._pooler.fewest_tokens((embed.query or "") + text)
            if count > longest:  # hopeless: don't spend seconds on counting
                return self._too_long(embed, index, f"at least {count}")
            if embed.query is None:
                tokens = self._pooler.tokenize(text)
            else:
                tokens = self._pooler.pair(embed.query, text)
        if not tokens:
            return self._wrong(embed, index, "has no tokens")
        if len(tokens) > longest:
            return self._too_long(embed, index, str(len(tokens)))
        return tokens

    def _wrong(self, embed: Embed, index: int, what: str) -> Failure:
        return Failure("invalid_request", f"{_name(embed, index)} {what}.", param=_param(embed))

    def _too_long(self, embed: Embed, index: int, count: str) -> Failure:
        what = "with its query " if embed.query is not None else ""
        return Failure(
            "context_length_exceeded",
            f"{_name(embed, index)} {what}has {count} tokens, and this worker reads {self._pooler.longest} "
            "of a text. Shorten or split it, or raise CTX_SIZE where the model can read more.",
            param=_param(embed),
        )

    # Batches

    def _plan(self, rows: int) -> list[Span]:
        # Texts of one request come out in their order: what follows a text in pieces waits for its last.
        busy = self._partial and self._partial.text.request
        ready = [each for each in self._open.values() if each.ready and each is not busy]
        pieces: list[Span] = []
        if self._partial is not None:
            pieces.append(self._next_piece(self._partial, max(1, rows // 2) if ready else rows))
        elif ready and len(ready[0].texts[0].tokens) > rows:
            text = ready[0].texts.popleft()
            if not self._pooler.causal:
                return [Span(text, 0, 0, len(text.tokens))]
            del ready[0]
            count = max(1, rows // 2) if ready else rows
            pieces.append(Span(text, self._pooler.slots - 1, 0, count))
        left = rows - sum(piece.rows for piece in pieces)
        for slot, text in enumerate(self._choose(ready, left)):
            pieces.append(Span(text, slot, 0, len(text.tokens)))
        return pieces

    def _next_piece(self, before: Span, most: int) -> Span:
        start = before.start + before.rows
        count = min(most, len(before.text.tokens) - start)
        return Span(before.text, before.slot, start, count)

    def _choose(self, ready: list[_Request], rows: int) -> Iterator[Text]:
        """Whole texts of `rows` tokens together at most: the oldest request's up to half of it, then in turns.

        One id is left for a text that is read in pieces.
        """
        ids = self._pooler.slots - 1
        free, left = ids, rows
        turns = deque(ready)
        while turns and free:
            request = turns.popleft()
            if len(request.texts[0].tokens) > left:
                continue
            text = request.texts.popleft()
            free, left = free - 1, left - len(text.tokens)
            yield text
            if not request.texts:
                continue
            if request is ready[0] and left > rows // 2 and free > ids // 2:
                turns.appendleft(request)
            else:
                turns.append(request)

    def _take(self, pieces: Sequence[Span], vectors: Vectors) -> list[Delta]:
        """What was computed, by request."""
        self._partial = None
        out: dict[_Request, list[bytes]] = {}
        bad: set[_Request] = set()
        for piece, vector in zip(pieces, vectors, strict=True):
            text = piece.text
            text.vector = self._joined(text.vector, vector, piece)
            if not piece.last:
                self._partial = piece
                continue
            made = self._made(text)
            if made is None:
                bad.add(text.request)
                continue
            text.request.tokens += len(text.tokens)
            out.setdefault(text.request, []).append(made)
        news = [self._failed(request) for request in bad]
        news += [self._news(request, made) for request, made in out.items() if request not in bad]
        return news

    def _joined(self, before: Vectors | None, vector: Vectors, piece: Span) -> Vectors:
        """The vector of a text up to this piece. A mean is that of all tokens, each piece with its weight."""
        pooling = self._pooler.pooling
        if pooling == "mean":
            weighted = vector * np.float32(piece.rows / len(piece.text.tokens))
            return weighted if before is None else before + weighted
        return before if pooling == "cls" and before is not None else vector

    def _made(self, text: Text) -> bytes | None:
        """The text's vector or score as it goes out; None: it is none."""
        assert text.vector is not None
        vector = text.vector
        if text.request.ranks:
            score = vector[:1]
            return score.astype("<f4").tobytes() if np.isfinite(score).all() else None
        vector = vector[: text.request.embed.dimensions].astype(np.float64)
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0:
            return None
        return (vector / length).astype("<f4").tobytes()

    def _failed(self, request: _Request) -> Delta:
        self.drop(request.embed.id)
        what = "score" if request.ranks else "embedding"
        message = f"The model computed no valid numbers for the {what} of a text."
        return Delta(request.embed.id, failure=Failure("generation_failed", message))

    def _news(self, request: _Request, made: list[bytes]) -> Delta:
        request.given += len(made)
        if request.given < len(request.embed.texts):
            return Delta(request.embed.id, vectors=tuple(made))
        del self._open[request.embed.id]
        usage = Usage(request.tokens, 0)
        return Delta(request.embed.id, finish="stop", usage=usage, vectors=tuple(made))


def unable(pooling: str, embed: Embed) -> Failure:
    """Return the failure of a request that a model of this pooling never serves."""
    error = wrong_model("embeddings" if embed.query is None else "scores", pooling)
    return Failure(error.code, error.message, param=error.param)


def _param(embed: Embed) -> str:
    return "input" if embed.query is None else "documents"


def _name(embed: Embed, index: int) -> str:
    """The text as the caller counts it."""
    return f"{_param(embed)}[{index}]"
