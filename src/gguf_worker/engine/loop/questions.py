"""Replies to questions: the tokens of a text, the text of tokens.

A short question is replied to at once, a long one is read on a thread, and its reply sent in parts,
so that neither holds up a step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TypeAlias

from gguf_worker.engine.loop.backend import ModelVocabulary
from gguf_worker.engine.loop.tokenizing import failure_of, unknown_token
from gguf_worker.engine.messages import DetokenizeTokens, Failure, Reply, TokenizeText
from gguf_worker.engine.texts import SHORT, TokenizerPool, finished
from gguf_worker.errors import WorkerError

Question = TokenizeText | DetokenizeTokens
Outcome: TypeAlias = "array[int] | str | list[bytes] | Failure"
"""Tokens, of which there may be a million; a text; pieces; or the reason why there is none."""

MOST_TOKENS = 1 << 20
"""Most tokens of a question and of a reply: as messages and as JSON these take ten milliseconds."""
MOST_WAITING = 64
"""Questions that may wait for their reply."""
_PART = 32 * 1024
"""Tokens, or characters, in one message of a reply: as many as are sent in a millisecond."""


class Questions:
    """The questions that wait for their replies, which `send` sends to the parent."""

    def __init__(
        self, vocabulary: ModelVocabulary, pool: TokenizerPool, send: Callable[[Reply], None]
    ) -> None:
        self._vocabulary = vocabulary
        self._pool = pool
        self._send = send
        self._pending: dict[int, Future[Outcome]] = {}
        self._sent: dict[int, int] = {}  # tokens or characters of replies that are sent in parts

    def __len__(self) -> int:
        """Return the number of questions whose reply was not sent."""
        return len(self._pending)

    def __contains__(self, id: int) -> bool:
        return id in self._pending

    def drop(self, id: int) -> None:
        """Forget a question, whose reply is no longer awaited."""
        self._pool.leave(self._pending.pop(id), id)
        self._sent.pop(id, None)

    def ask(self, question: Question) -> None:
        """Reply to a question, now or later."""
        id = question.id
        if len(self._pending) >= MOST_WAITING:
            message = f"{MOST_WAITING} texts wait to be read. Try again shortly."
            self._send(Reply(id, failure=Failure("overloaded", message, retry_after=1.0)))
            return
        work = (
            self._tokens(question) if isinstance(question, TokenizeText) else self._text(question)
        )
        length = len(question.text if isinstance(question, TokenizeText) else question.tokens)
        if length <= SHORT:
            with self._pool.reading(id):
                outcome = finished(work)
            while not self._send_part(id, outcome):
                pass
        else:
            self._pending[id] = self._pool.begin(id, work, characters=length)

    def send_some(self) -> None:
        """Send a part of each reply that is there."""
        for id, future in list(self._pending.items()):
            if future.done() and self._send_part(id, future.result()):
                del self._pending[id]

    def _send_part(self, id: int, outcome: Outcome) -> bool:
        """Send the next part of a reply; returns whether it was the last."""
        if isinstance(outcome, Failure):
            self._send(Reply(id, failure=outcome))
            return True
        begin = self._sent.pop(id, 0)
        end = begin + _PART
        last = end >= len(outcome)
        if isinstance(outcome, str):
            self._send(Reply(id, text=outcome[begin:end], last=last))
        elif isinstance(outcome, list):
            self._send(Reply(id, pieces=outcome[begin:end], last=last))
        else:
            self._send(Reply(id, outcome[begin:end].tolist(), last=last))
        if not last:
            self._sent[id] = end
        return last

    def _tokens(self, question: TokenizeText) -> Generator[None, None, Outcome]:
        tokens = array("i")
        if self._vocabulary.fewest_tokens(question.text) > MOST_TOKENS:
            return _refusal(f"The text has more than {MOST_TOKENS} tokens.")
        try:
            for part in self._vocabulary.read(
                question.text,
                add_special=question.add_special,
                parse_special=question.parse_special,
            ):
                tokens.extend(part)
                if len(tokens) > MOST_TOKENS:
                    return _refusal(f"The text has more than {MOST_TOKENS} tokens.")
                yield
        except WorkerError as error:
            return failure_of(error)
        return tokens

    def _text(self, question: DetokenizeTokens) -> Generator[None, None, Outcome]:
        if len(question.tokens) > MOST_TOKENS:
            return _refusal(f"There are more than {MOST_TOKENS} tokens.")
        size = len(self._vocabulary.pieces)
        for at in range(0, len(question.tokens), _PART):
            failure = unknown_token(question.tokens[at : at + _PART], size, "tokens")
            if failure is not None:
                return failure
            yield
        if question.pieces:
            spelled = self._vocabulary.spelled
            return [spelled[token] for token in question.tokens]
        return self._vocabulary.detokenize(question.tokens)


def _refusal(message: str) -> Failure:
    return Failure("invalid_request", message, param="prompt")
