"""Turns prompts into tokens, within bounds; an invalid one becomes a Failure.

A short text is tokenised at once, a long one on a thread, beside the loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import NamedTuple

from gguf_worker.engine.cells import common_length
from gguf_worker.engine.loop.backend import ModelVocabulary
from gguf_worker.engine.messages import EngineRequest, Failure, Submit
from gguf_worker.engine.texts import SHORT, TokenizerPool, finished
from gguf_worker.errors import WorkerError

_KEPT = 4
"""Prompts that are remembered for further answers to them, which may come a little later."""
_KEPT_CHARACTERS = 1 << 18
"""Most characters of a prompt that is remembered."""
_MOST_READ = 1 << 20
"""Most tokens of a text that is cut then."""
_ANSWERS_SHARE = 4
"""The part of the context, as a fraction, that a prompt cut to what fits leaves free at most."""
_MOST_SCORES = 1 << 17
"""Most log probabilities of a prompt's tokens, with the likeliest ones beside each."""


class Prompt(NamedTuple):
    """A request's prompt: at least one token, and few enough to leave space for an answer.

    `reuse_points` are the request's, as token positions: a position is the number of tokens in
    which the prompt agrees with the tokenised text up to the reuse point, since the last ones may
    differ. Points are left out where there is no memory to tokenise the text. `bad_words` has the
    tokens of the request's bad words, of each word as it is and behind a space.
    """

    tokens: list[int]
    reuse_points: tuple[int, ...] = ()
    bad_words: tuple[list[int], ...] = ()


class _Text(NamedTuple):
    """All that a text's tokens depend on."""

    text: str
    add_special: bool
    parse_special: bool
    reuse_points: tuple[int, ...]
    limit: int
    """The number of tokens from which on it is too long."""


class _Pending(NamedTuple):
    submit: Submit
    arrived: float
    text: _Text


class PromptTokenizer:
    """Tokenises prompts, each of which must have fewer than `context` tokens, on threads of `pool`.

    Requests with the same prompt share its tokens. Times are arguments, on any clock.
    """

    def __init__(self, vocabulary: ModelVocabulary, context: int, pool: TokenizerPool) -> None:
        self._vocabulary = vocabulary
        self._context = context
        self._pool = pool
        self._pending: dict[int, _Pending] = {}
        self._outcomes: OrderedDict[_Text, Future[Prompt | Failure]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of requests whose prompts are being tokenised."""
        return len(self._pending)

    def __contains__(self, id: int) -> bool:
        return id in self._pending

    def prompt(self, submit: Submit, now: float) -> Prompt | Failure | None:
        """Return the prompt of a request; None if it is long: `settled` will yield it."""
        id, request = submit.id, submit.request
        if not isinstance(request.prompt, str):
            return self._completed(self._given(self._cut(request.prompt, request)), submit)
        text = _Text(
            request.prompt,
            request.add_special,
            request.parse_special,
            request.reuse_points,
            self._context if request.truncate is None else _MOST_READ,
        )
        if len(text.text) * (1 + len(text.reuse_points)) <= SHORT:
            with self._pool.reading(id):
                outcome = finished(self._read(text))
            return self._completed(outcome, submit)
        future = self._outcomes.get(text)
        if future is None:
            characters = len(text.text)
            future = self._pool.begin(id, self._read(text), characters=characters)
            self._outcomes[text] = future
        elif not future.done():
            self._pool.join(future, id)
        self._pending[id] = _Pending(submit, now, text)
        return None

    def settled(self) -> Iterator[tuple[Submit, float, Prompt | Failure]]:
        """Yield and forget the requests whose prompts are read, with the time of their arrival."""
        for id, pending in list(self._pending.items()):
            outcome = self._outcomes[pending.text]
            if outcome.done():
                del self._pending[id]
                self._forget_some()
                prompt = self._completed(outcome.result(), pending.submit)
                yield pending.submit, pending.arrived, prompt

    def drop(self, id: int) -> None:
        """Forget a request; its prompt is not read further unless others have the same."""
        pending = self._pending.pop(id)
        outcome = self._outcomes[pending.text]
        self._pool.leave(outcome, id)
        if outcome.cancelled():
            del self._outcomes[pending.text]
        self._forget_some()

    @property
    def deadlines(self) -> list[float | None]:
        """The deadlines of the requests whose prompts are being tokenised."""
        return [pending.submit.request.deadline for pending in self._pending.values()]

    def late(self, now: float) -> list[int]:
        """Return the ids of those whose deadline has passed."""
        return [
            id
            for id, pending in self._pending.items()
            if (deadline := pending.submit.request.deadline) is not None and deadline <= now
        ]

    def _forget_some(self) -> None:
        """Forget the prompts that nobody waits for, but for the last short ones."""
        awaited = {pending.text for pending in self._pending.values()}
        idle = [text for text in self._outcomes if text not in awaited]
        kept = [text for text in idle if len(text.text) <= _KEPT_CHARACTERS][-_KEPT:]
        for text in idle:
            if text not in kept:
                del self._outcomes[text]

    def _given(self, tokens: list[int]) -> Prompt | Failure:
        if len(tokens) >= self._context:  # checked before each token is: there may be millions
            return self._too_long(len(tokens))
        unknown = unknown_token(tokens, len(self._vocabulary.pieces), "prompt")
        return unknown or (Prompt(tokens) if tokens else _EMPTY)

    def _completed(self, prompt: Prompt | Failure, submit: Submit) -> Prompt | Failure:
        """Return the prompt of a request, cut where it wants that, with its bad words."""
        request = submit.request
        if isinstance(prompt, Failure):
            return prompt
        if request.truncate is not None and isinstance(request.prompt, str):
            prompt = self._shortened(prompt, request)
            if len(prompt.tokens) >= self._context:
                return self._too_long(len(prompt.tokens))
        scores = len(prompt.tokens) * (1 + request.prompt_logprobs)
        if scores > _MOST_SCORES:
            return _too_many_scores(scores)
        if not request.rules.bad_words:
            return prompt
        try:
            with self._pool.reading(submit.id):
                return prompt._replace(bad_words=tuple(self._words(request.rules.bad_words)))
        except WorkerError as error:
            return Failure(error.code, error.message, param="bad_words")

    def _words(self, texts: Iterable[str]) -> Iterator[list[int]]:
        for text in texts:
            for word in {text, " " + text.lstrip()}:
                read = self._vocabulary.read(word, add_special=False, parse_special=False)
                if tokens := list(chain.from_iterable(read)):
                    yield tokens

    def _cut(self, tokens: list[int], request: EngineRequest) -> list[int]:
        """Return the last tokens of a prompt, as many as the request wants."""
        if request.truncate is None:
            return tokens
        if request.truncate < 0:
            free = min(request.max_tokens or 1, self._context // _ANSWERS_SHARE)
            return tokens[-(self._context - max(1, free)) :]
        return tokens[-request.truncate :]

    def _shortened(self, prompt: Prompt, request: EngineRequest) -> Prompt:
        """Cut a text's tokens, but keep the one that begins every text."""
        tokens = self._cut(prompt.tokens, request)
        cut = len(prompt.tokens) - len(tokens)
        if cut and prompt.tokens[0] == self._vocabulary.bos:
            tokens = [self._vocabulary.bos, *tokens[1:]]
        points = (point - cut for point in prompt.reuse_points)
        return Prompt(tokens, tuple(point for point in points if point > 0))

    def _read(self, text: _Text) -> Generator[None, None, Prompt | Failure]:
        """Tokenise a text, piece by piece."""
        fewest = self._vocabulary.fewest_tokens(text.text)
        if fewest >= text.limit:  # don't spend seconds tokenising a text that is too long
            return self._too_long(fewest, counted=False)
        tokens: list[int] = []
        try:
            for part in self._parts(text, len(text.text)):
                if len(tokens) >= text.limit:
                    return self._too_long(len(tokens), counted=False)
                tokens += part
                yield
        except WorkerError as error:
            return failure_of(error)
        if len(tokens) >= text.limit:
            return self._too_long(len(tokens))
        if not tokens:
            return _EMPTY
        return Prompt(tokens, (yield from self._positions(text, tokens)))

    def _positions(self, text: _Text, prompt: list[int]) -> Generator[None, None, tuple[int, ...]]:
        positions = []
        for offset in text.reuse_points:
            tokens: list[int] = []
            try:
                for part in self._parts(text, offset):
                    tokens += part
                    yield
            except WorkerError:
                break
            positions.append(common_length(tokens, prompt, 0, len(prompt)))
        return tuple(positions)

    def _parts(self, text: _Text, end: int) -> Iterator[list[int]]:
        return self._vocabulary.read(
            text.text[:end], add_special=text.add_special, parse_special=text.parse_special
        )

    def _too_long(self, count: int, *, counted: bool = True) -> Failure:
        """Return the failure of a prompt of `count` tokens, or of more if they are not counted.

        Clients recognise it by its words: those of OpenAI by "maximum context length is", those of
        Anthropic by "prompt is too long". They then shorten the conversation.
        """
        more = "" if counted else "; not all were counted"
        return Failure(
            "context_length_exceeded",
            f"This model's maximum context length is {self._context} tokens, and the prompt is too "
            f"long: {count} tokens > {self._context - 1} maximum (one is for the answer{more}). "
            "Shorten the prompt, or raise CTX_SIZE.",
            param="prompt",
        )


_EMPTY = Failure("invalid_request", "The prompt is empty.", param="prompt")


def _too_many_scores(count: int) -> Failure:
    message = (
        f"The log probabilities of this prompt would be {count} numbers, and {_MOST_SCORES} may "
        "be. Shorten the prompt, or ask for fewer likely tokens beside each."
    )
    return Failure("invalid_request", message, param="prompt")


def unknown_token(tokens: Sequence[int], vocabulary: int, param: str) -> Failure | None:
    """Return the failure of tokens that a vocabulary of this size does not have."""
    if not tokens or (min(tokens) >= 0 and max(tokens) < vocabulary):
        return None
    message = f"A token id is outside the vocabulary of {vocabulary} tokens."
    return Failure("invalid_request", message, param=param)


def failure_of(error: WorkerError) -> Failure:
    """Return the failure of a text that could not be tokenised."""
    return Failure(error.code, error.message, param="prompt", retry_after=error.retry_after)
