"""Replies to questions: the tokens of a text, the text of tokens.

A short question is replied to at once, a long one is read on a thread, and its reply sent in parts,
so that neither holds up a step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future

from gguf_worker.engine.loop.backend import ModelVocabulary
from gguf_worker.engine.loop.tokenizing import failure_of, unknown_token
from gguf_worker.engine.messages import DetokenizeTokens, Failure, Reply, TokenizeText
from gguf_worker.engine.texts import SHORT, TokenizerPool, finished
from gguf_worker.errors import WorkerError

Question = TokenizeText | DetokenizeTokens

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
        self._pending: dict[int, Future[Reply]] = {}
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
                reply = finished(work)
            self._send(reply)
        else:
            self._pending[id] = self._pool.begin(id, work, characters=length)

    def send_some(self) -> None:
        """Send a part of each reply that is there."""
        for id, future in list(self._pending.items()):
            if future.done() and self._send_part(future.result()):
                del self._pending[id]
                self._sent.pop(id, None)

    def _send_part(self, reply: Reply) -> bool:
        """Send the next part of a reply; returns whether it was the last."""
        begin = self._sent.get(reply.id, 0)
        end = begin + _PART
        last = end >= max(len(reply.tokens), len(reply.text))
        part = Reply(
            reply.id, reply.tokens[begin:end], reply.text[begin:end], reply.failure, last=last
        )
        self._send(part)
        self._sent[reply.id] = end
        return last

    def _tokens(self, question: TokenizeText) -> Generator[None, None, Reply]:
        tokens: list[int] = []
        parts = self._vocabulary.read(
            question.text, add_special=question.add_special, parse_special=question.parse_special
        )
        if self._vocabulary.fewest_tokens(question.text) > MOST_TOKENS:
            return _refusal(question.id, f"The text has more than {MOST_TOKENS} tokens.")
        try:
            for part in parts:
                tokens += part
                if len(tokens) > MOST_TOKENS:
                    return _refusal(question.id, f"The text has more than {MOST_TOKENS} tokens.")
                yield
        except WorkerError as error:
            return Reply(question.id, failure=failure_of(error))
        return Reply(question.id, tokens)

    def _text(self, question: DetokenizeTokens) -> Generator[None, None, Reply]:
        if len(question.tokens) > MOST_TOKENS:
            return _refusal(question.id, f"There are more than {MOST_TOKENS} tokens.")
        size = len(self._vocabulary.pieces)
        for at in range(0, len(question.tokens), _PART):
            failure = unknown_token(question.tokens[at : at + _PART], size, "tokens")
            if failure is not None:
                return Reply(question.id, failure=failure)
            yield
        return Reply(question.id, text=self._vocabulary.detokenize(question.tokens))


def _refusal(id: int, message: str) -> Reply:
    return Reply(id, failure=Failure("invalid_request", message, param="prompt"))
