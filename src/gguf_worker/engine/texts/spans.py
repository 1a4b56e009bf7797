"""Batches of texts: spans of tokens, from several requests, that are computed together.

The oldest request has half of a batch at least; the others take turns in the order in which they
came. A long text is read in spans where the model allows that, else as a whole.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gguf_worker.engine.messages import Embed, Failure

Vectors = npt.NDArray[np.float32]


class Span(NamedTuple):
    """`rows` tokens of a text from position `start`, under the sequence id `slot`."""

    text: EmbedText
    slot: int
    start: int
    rows: int

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of the span."""
        return self.text.tokens[self.start : self.start + self.rows]

    @property
    def last(self) -> bool:
        """Tells whether it ends its text."""
        return self.start + self.rows == len(self.text.tokens)

    @property
    def scored(self) -> int:
        return 0

    @property
    def output(self) -> bool:
        """Always True: the vector of every span is wanted."""
        return True


class Pooler(Protocol):
    """Computes spans; see `llama.PoolingContext`."""

    pooling: str
    dimensions: int
    longest: int
    """Most tokens of a text."""
    rows: int
    """Most tokens of a batch; a text that cannot be read in spans may be longer, and is then a
    batch of its own."""
    slots: int
    """Most texts of a batch."""
    causal: bool

    def fewest_tokens(self, text: str) -> int: ...
    def tokenize(self, text: str) -> list[int]: ...
    def pair(self, query: str, document: str) -> list[int]: ...
    def compute(self, spans: Sequence[Span]) -> Vectors: ...
    def reset(self) -> None: ...


@dataclass(slots=True, eq=False)
class EmbedText:
    """One text: its tokens, in a compact array since there may be millions, and its vector so
    far."""

    request: EmbedProgress
    tokens: array[int]
    vector: Vectors | None = None
    apart: bool = False
    """Tells whether it has to be computed alone: the numbers of its first batch were lost."""

    def put_back(self) -> None:
        """Have it computed anew and alone, before the others of its request."""
        self.vector, self.apart = None, True
        self.request.texts.appendleft(self)


@dataclass(slots=True, eq=False)
class EmbedProgress:
    """An Embed that has not ended, and how far it has come."""

    embed: Embed
    reading: Future[Failure | None] | None = None
    """The work of tokenising its texts on threads; None for a short request."""
    read: bool = False
    """Tells whether all texts are tokenised, so that none is invalid."""
    texts: deque[EmbedText] = field(default_factory=deque)
    """Texts that were tokenised and wait for a batch."""
    begun: bool = False
    given: int = 0
    """Texts whose vectors were sent."""
    tokens: int = 0

    @property
    def ready(self) -> bool:
        """Tells whether all texts are tokenised, and some wait."""
        return self.read and bool(self.texts)

    @property
    def ranks(self) -> bool:
        """Tells whether scores are wanted, not vectors."""
        return self.embed.query is not None

    @property
    def characters(self) -> int:
        """The characters, or tokens, of all texts, each with the query that is read with it."""
        query = len(self.embed.query or "")
        return sum(len(text) + query for text in self.embed.texts)


def plan_batch(
    requests: Sequence[EmbedProgress], unfinished: Span | None, pooler: Pooler, rows: int
) -> list[Span]:
    """Choose the spans of the next batch, of `rows` tokens at most, and take their texts.

    `requests` are in order of arrival; `unfinished` is the last span of a text that is read in
    spans.
    """
    # The vectors of a request come in order, so the texts after one in spans wait for its end.
    busy = unfinished and unfinished.text.request
    ready = [each for each in requests if each.ready and each is not busy]
    if unfinished is not None and unfinished.text.apart:
        return [_next_span(unfinished, rows)]
    if apart := [each for each in ready if each.texts[0].apart]:
        text = apart[0].texts.popleft()
        return [
            Span(text, 0, 0, min(rows, len(text.tokens)) if pooler.causal else len(text.tokens))
        ]
    spans: list[Span] = []
    if unfinished is not None:
        spans.append(_next_span(unfinished, max(1, rows // 2) if ready else rows))
    elif ready and len(ready[0].texts[0].tokens) > rows:
        text = ready[0].texts.popleft()
        if not pooler.causal:
            return [Span(text, 0, 0, len(text.tokens))]
        del ready[0]
        count = max(1, rows // 2) if ready else rows
        spans.append(Span(text, pooler.slots - 1, 0, count))
    left = rows - sum(span.rows for span in spans)
    for slot, text in enumerate(_whole_texts(ready, left, pooler.slots - 1)):
        spans.append(Span(text, slot, 0, len(text.tokens)))
    return spans


def _next_span(before: Span, most: int) -> Span:
    start = before.start + before.rows
    count = min(most, len(before.text.tokens) - start)
    return Span(before.text, before.slot, start, count)


def _whole_texts(ready: list[EmbedProgress], rows: int, ids: int) -> Iterator[EmbedText]:
    """Yield up to `ids` whole texts, of `rows` tokens together at most.

    The oldest request gets half of the batch first, then all take turns.
    """
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
