"""Computes the vectors or scores of texts, in batches between the steps of generation.

Texts of several requests share a batch. Pure: no clock, thread or pointer; the Pooler computes the
texts.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence

import numpy as np

from gguf_worker.engine.messages import Delta, Embed, Failure
from gguf_worker.engine.texts.spans import (
    EmbedProgress,
    EmbedText,
    Pooler,
    Span,
    Vectors,
    plan_batch,
)
from gguf_worker.engine.texts.text_tokens import refusal, tokens_of
from gguf_worker.engine.texts.tokenizer_pool import SHORT, TokenizerPool, finished
from gguf_worker.engine.texts.vectors import as_bytes, joined
from gguf_worker.generation import Usage

_CHARACTERS = 4 * SHORT
"""Characters of short requests that are tokenised between two batches."""


class Embedder:
    """The requests for vectors or scores of one model, `most` of them at a time.

    `vocabulary` is the number of token ids. The texts of all but short requests are tokenised on
    the threads of `tokenizers`.
    """

    def __init__(
        self, pooler: Pooler, *, vocabulary: int, most: int, tokenizers: TokenizerPool
    ) -> None:
        self._pooler = pooler
        self._vocabulary = vocabulary
        self._most = most
        self._tokenizers = tokenizers
        self._open: dict[int, EmbedProgress] = {}  # in order of arrival
        self._unfinished: Span | None = None  # the last span of a text that is read in spans

    @property
    def running(self) -> int:
        """The number of requests of which something was computed."""
        return sum(request.begun for request in self._open.values())

    @property
    def waiting(self) -> int:
        """The number of requests of which nothing was computed yet."""
        return len(self._open) - self.running

    def __len__(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    def __contains__(self, id: int) -> bool:
        return id in self._open

    @property
    def has_work(self) -> bool:
        """Tells whether a step would do something: else all texts are being tokenised."""
        return self._unfinished is not None or any(
            request.reading is None or request.reading.done() for request in self._open.values()
        )

    @property
    def deadlines(self) -> list[float | None]:
        """The deadlines of all open requests."""
        return [request.embed.deadline for request in self._open.values()]

    def late(self, now: float) -> list[int]:
        """Return the ids of the requests whose deadline has passed."""
        return [
            id
            for id, request in self._open.items()
            if request.embed.deadline is not None and request.embed.deadline <= now
        ]

    def add(self, embed: Embed) -> Failure | None:
        """Accept a request, or return the failure with which it is refused."""
        failure = refusal(self._pooler, embed)
        if failure is not None:
            return failure
        if len(self._open) >= self._most:
            return Failure(
                "overloaded",
                f"{len(self._open)} requests for embeddings or scores are open, which is as many "
                "as this worker takes. Try again shortly.",
                retry_after=1.0,
            )
        request = self._open[embed.id] = EmbedProgress(embed)
        if request.characters > SHORT:
            work = self._read(request)
            characters = request.characters
            request.reading = self._tokenizers.begin(embed.id, work, characters=characters)
        return None

    def drop(self, id: int) -> None:
        """Forget a request; the rest of its texts is not computed."""
        request = self._open.pop(id)
        if request.reading is not None:
            self._tokenizers.leave(request.reading, id)
        if self._unfinished is not None and self._unfinished.text.request is request:
            self._pooler.reset()
            self._unfinished = None

    def step(
        self, rows: int | None, begin: Callable[[tuple[int, ...]], None]
    ) -> tuple[int, list[Delta]]:
        """Tokenise some texts and compute one batch; returns its number of rows, and deltas.

        `rows`: most tokens of the batch, except for a text that has to be read as a whole; None:
        the pooler's own limit. `begin` is called before the batch is computed, with the ids of the
        requests whose first tokens are in it.
        """
        deltas = self._read_texts()
        rows = min(rows or self._pooler.rows, self._pooler.rows)
        spans = plan_batch(list(self._open.values()), self._unfinished, self._pooler, rows)
        if not spans:
            return 0, deltas
        requests = dict.fromkeys(span.text.request for span in spans)
        if begun := tuple(each.embed.id for each in requests if not each.begun):
            begin(begun)
        for request in requests:
            request.begun = True
        vectors = self._pooler.compute(spans)
        return sum(span.rows for span in spans), deltas + self._take(spans, vectors)

    def _read_texts(self) -> list[Delta]:
        """Tokenise the texts of some short requests; returns the deltas of requests that fail for
        an invalid text."""
        deltas: list[Delta] = []
        left = _CHARACTERS
        for request in [each for each in self._open.values() if not each.read]:
            failure = None
            if request.reading is not None:
                failure = request.reading.result() if request.reading.done() else None
            elif left > 0:
                left -= request.characters
                with self._tokenizers.reading(request.embed.id):
                    failure = finished(self._read(request))
            if failure is not None:
                self.drop(request.embed.id)
                deltas.append(Delta(request.embed.id, failure=failure))
        return deltas

    def _read(self, request: EmbedProgress) -> Generator[None, None, Failure | None]:
        """Tokenise the texts of a request; returns the failure of an invalid one."""
        for index in range(len(request.embed.texts)):
            tokens = tokens_of(self._pooler, self._vocabulary, request.embed, index)
            if isinstance(tokens, Failure):
                return tokens
            request.texts.append(EmbedText(request, array("i", tokens)))
            yield
        request.read = True
        return None

    def _take(self, spans: Sequence[Span], vectors: Vectors) -> list[Delta]:
        """Return the deltas for the requests of a computed batch."""
        self._unfinished = None
        if not np.isfinite(vectors).all():
            return self._after_lost_numbers([span.text for span in spans])
        complete: dict[EmbedProgress, list[bytes]] = {}
        invalid: set[EmbedProgress] = set()
        for span, vector in zip(spans, vectors, strict=True):
            text = span.text
            text.vector = joined(self._pooler.pooling, text.vector, vector, span)
            if not span.last:
                self._unfinished = span
                continue
            data = as_bytes(text)
            if data is None:
                invalid.add(text.request)
                continue
            text.request.tokens += len(text.tokens)
            complete.setdefault(text.request, []).append(data)
        deltas = [self._failed(request) for request in invalid]
        deltas += [self._give(each, made) for each, made in complete.items() if each not in invalid]
        return deltas

    def _after_lost_numbers(self, texts: Sequence[EmbedText]) -> list[Delta]:
        """Have each text of a batch computed alone; one that was alone already fails.

        One text without numbers makes no numbers of the others in its batch, and of what comes
        after it in the same cells.
        """
        self._pooler.reset()
        if texts[0].apart:
            return [self._failed(texts[0].request)]
        for text in reversed(texts):
            text.put_back()
        return []

    def _failed(self, request: EmbedProgress) -> Delta:
        self.drop(request.embed.id)
        what = "score" if request.ranks else "embedding"
        message = f"The model computed no valid numbers for the {what} of a text."
        return Delta(request.embed.id, failure=Failure("generation_failed", message))

    def _give(self, request: EmbedProgress, vectors: list[bytes]) -> Delta:
        request.given += len(vectors)
        if request.given < len(request.embed.texts):
            return Delta(request.embed.id, vectors=tuple(vectors))
        del self._open[request.embed.id]
        usage = Usage(request.tokens, 0)
        return Delta(request.embed.id, finish="stop", usage=usage, vectors=tuple(vectors))
