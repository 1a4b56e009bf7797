"""Turns texts into tokens and back, within bounds; an invalid one becomes a Failure.

Tokenisers can crash, so the parent is informed before a text is tokenised, and afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from gguf_worker.engine.cells import common_length
from gguf_worker.engine.loop.backend import ModelVocabulary
from gguf_worker.engine.messages import (
    DetokenizeTokens,
    EngineRequest,
    Failure,
    FromEngine,
    Reply,
    Submit,
    TokenizeText,
    Tokenizing,
)
from gguf_worker.errors import WorkerError

MOST_CHARACTERS = 256 * 1024
"""Most characters in one TokenizeText, for which all streams wait: some 60 milliseconds."""
MOST_TOKENS = 256 * 1024
"""Most tokens in one DetokenizeTokens."""


class PromptTokenizer:
    """Tokenises prompts, each of which must have fewer than `context` tokens.

    `send` sends a message to the parent.
    """

    def __init__(
        self, vocabulary: ModelVocabulary, context: int, send: Callable[[FromEngine], None]
    ) -> None:
        self._vocabulary = vocabulary
        self._size = len(vocabulary.pieces)
        self._context = context
        self._send = send

    def prompt(self, submit: Submit) -> list[int] | Failure:
        """Return the prompt's tokens: at least one, and few enough to leave space for an answer."""
        prompt = submit.request.prompt
        if isinstance(prompt, str):
            count = self._vocabulary.fewest_tokens(prompt)
            if count >= self._context:  # don't spend seconds tokenising a text that is too long
                return self._too_long(f"at least {count}")
            try:
                tokens = self._tokens(submit.id, submit.request, prompt)
            except WorkerError as error:
                return _failure(error)
        else:
            tokens = prompt
            if len(tokens) >= self._context:  # checked before each token is: there may be millions
                return self._too_long(str(len(tokens)))
            if (failure := self._unknown(tokens, "prompt")) is not None:
                return failure
        if not tokens:
            return Failure("invalid_request", "The prompt is empty.", param="prompt")
        if len(tokens) >= self._context:
            return self._too_long(str(len(tokens)))
        return tokens

    def reuse_points(self, submit: Submit, prompt: list[int]) -> tuple[int, ...]:
        """Return the request's reuse points as token positions in the prompt.

        A position is the number of tokens in which the prompt agrees with the tokenised text up to
        the reuse point: the last ones may differ. Points are left out where there is no memory to
        tokenise the text.
        """
        request = submit.request
        if not isinstance(request.prompt, str):
            return ()
        positions = []
        for offset in request.reuse_points:
            try:
                tokens = self._tokens(submit.id, request, request.prompt[:offset])
            except WorkerError:
                break
            positions.append(common_length(tokens, prompt, 0, len(prompt)))
        return tuple(positions)

    def reply(self, message: TokenizeText | DetokenizeTokens) -> Reply:
        """Return the reply to a question, with a failure if the question is invalid."""
        if isinstance(message, TokenizeText):
            if len(message.text) > MOST_CHARACTERS:
                return _refusal(message.id, f"The text has more than {MOST_CHARACTERS} characters.")
            try:
                return Reply(message.id, tokens=self._tokens(message.id, message, message.text))
            except WorkerError as error:
                return Reply(message.id, failure=_failure(error))
        if len(message.tokens) > MOST_TOKENS:
            return _refusal(message.id, f"There are more than {MOST_TOKENS} tokens.")
        if (failure := self._unknown(message.tokens, "tokens")) is not None:
            return Reply(message.id, failure=failure)
        self._send(Tokenizing((message.id,)))
        text = self._vocabulary.detokenize(message.tokens)
        self._send(Tokenizing(()))
        return Reply(message.id, text=text)

    def _tokens(self, id: int, flags: EngineRequest | TokenizeText, text: str) -> list[int]:
        """Return the tokens of `text`, telling the parent before that it is `id`'s; raises as the
        vocabulary does."""
        self._send(Tokenizing((id,)))
        try:
            return self._vocabulary.tokenize(
                text, add_special=flags.add_special, parse_special=flags.parse_special
            )
        finally:
            self._send(Tokenizing(()))

    def _unknown(self, tokens: list[int], param: str) -> Failure | None:
        if all(0 <= token < self._size for token in tokens):
            return None
        return Failure(
            "invalid_request",
            f"A token id is outside the vocabulary of {self._size} tokens.",
            param=param,
        )

    def _too_long(self, count: str) -> Failure:
        return Failure(
            "context_length_exceeded",
            f"The prompt has {count} tokens, and this worker holds {self._context} per request, of "
            "which at least one is for the answer. Shorten the prompt, or raise CTX_SIZE.",
            param="prompt",
        )


def _failure(error: WorkerError) -> Failure:
    return Failure(error.code, error.message, param="prompt", retry_after=error.retry_after)


def _refusal(id: int, message: str) -> Reply:
    return Reply(id, failure=Failure("invalid_request", message, param="prompt"))
