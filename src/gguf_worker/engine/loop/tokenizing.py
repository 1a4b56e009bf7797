"""From texts to tokens and back, within bounds; whatever is wrong with them is a Failure.

Tokenisers can crash. The parent is told before one runs whose text it reads, and when that is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gguf_worker.engine.cells import common_length
from gguf_worker.engine.messages import (
    Detokenize,
    Failure,
    FromEngine,
    Reply,
    Submit,
    Tokenize,
    Tokenizing,
)

MOST_CHARACTERS = 256 * 1024
"""Of a text that is tokenised for its own sake, while all streams wait: some 60 milliseconds."""
MOST_TOKENS = 256 * 1024


class Tokenizer(Protocol):
    """What is needed of the library; see `llama.Llama`."""

    pieces: list[bytes]

    def fewest_tokens(self, text: str) -> int: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, tokens: list[int]) -> str: ...


class Reader:
    """Reads for requests that hold fewer than `context` tokens of prompt; `send` reaches the parent."""

    def __init__(
        self, tokenizer: Tokenizer, context: int, send: Callable[[FromEngine], None]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = len(tokenizer.pieces)
        self._context = context
        self._send = send

    def prompt(self, submit: Submit) -> list[int] | Failure:
        """The prompt's tokens, at least one and at most what leaves room for an answer."""
        if isinstance(submit.prompt, str):
            count = self._tokenizer.fewest_tokens(submit.prompt)
            if count >= self._context:  # hopeless: don't spend seconds on counting
                return self._too_long(f"at least {count}")
            tokens = self._tokens(submit, submit.prompt)
        else:
            tokens = submit.prompt
            if len(tokens) >= self._context:  # before each is looked at: there may be millions
                return self._too_long(str(len(tokens)))
            if (failure := self._unknown(tokens, "prompt")) is not None:
                return failure
        if not tokens:
            return Failure("invalid_request", "The prompt is empty.", param="prompt")
        if len(tokens) >= self._context:
            return self._too_long(str(len(tokens)))
        return tokens

    def reuse_points(self, submit: Submit, prompt: list[int]) -> tuple[int, ...]:
        """Where in the tokens the reuse_points of the text are, as far as the tokens agree."""
        if not isinstance(submit.prompt, str):
            return ()
        positions = []
        for offset in submit.reuse_points:
            tokens = self._tokens(submit, submit.prompt[:offset])
            positions.append(common_length(tokens, prompt, 0, len(prompt)))
        return tuple(positions)

    def reply(self, message: Tokenize | Detokenize) -> Reply:
        """What was asked for, or what is wrong with the question."""
        if isinstance(message, Tokenize):
            if len(message.text) > MOST_CHARACTERS:
                return _refusal(message.id, f"The text has more than {MOST_CHARACTERS} characters.")
            return Reply(message.id, tokens=self._tokens(message, message.text))
        if len(message.tokens) > MOST_TOKENS:
            return _refusal(message.id, f"There are more than {MOST_TOKENS} tokens.")
        if (failure := self._unknown(message.tokens, "tokens")) is not None:
            return Reply(message.id, failure=failure)
        self._send(Tokenizing(message.id))
        text = self._tokenizer.detokenize(message.tokens)
        self._send(Tokenizing(None))
        return Reply(message.id, text=text)

    def _tokens(self, message: Submit | Tokenize, text: str) -> list[int]:
        """The tokens of `text`; the parent knows whose it is, should that crash."""
        self._send(Tokenizing(message.id))
        tokens = self._tokenizer.tokenize(
            text, add_special=message.add_special, parse_special=message.parse_special
        )
        self._send(Tokenizing(None))
        return tokens

    def _unknown(self, tokens: list[int], param: str) -> Failure | None:
        if all(0 <= token < self._vocabulary for token in tokens):
            return None
        return Failure(
            "invalid_request",
            f"A token id is outside the vocabulary of {self._vocabulary} tokens.",
            param=param,
        )

    def _too_long(self, count: str) -> Failure:
        return Failure(
            "context_length_exceeded",
            f"The prompt has {count} tokens, and this worker holds {self._context} per request, of "
            "which at least one is for the answer. Shorten the prompt, or raise CTX_SIZE.",
            param="prompt",
        )


def _refusal(id: int, message: str) -> Reply:
    return Reply(id, failure=Failure("invalid_request", message, param="prompt"))
