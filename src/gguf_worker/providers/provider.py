"""The protocol of everything that answers requests: this worker's model, or another server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from gguf_worker.providers.answer import Embeddings, Part, Ranking
from gguf_worker.providers.request import EmbeddingRequest, GenerationRequest, RankingRequest


class Provider(Protocol):
    """A source of answers.

    Requests that it cannot serve end with a WorkerError. A provider without a tokeniser, or without
    embeddings, raises InvalidRequest from those methods.
    """

    def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        """Yield deltas, then exactly one Finish; or raise a WorkerError. Closing it cancels.

        The deltas of several answers come as they are made. Each answer ends with an Ended, but the
        last one with the Finish. One error ends them all.
        """
        ...

    async def tokens(self, source: str | GenerationRequest, *, add_special: bool) -> list[int]:
        """Return the tokens of a text, or of the prompt rendered from a chat.

        `add_special`: with BOS and the like, as the model expects them around a prompt.
        """
        ...

    async def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens are written out."""
        ...

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token; special tokens are written out."""
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return the vectors of texts. Raises InvalidRequest if the model makes none.

        Cancelling the task cancels the request.
        """
        ...

    async def rank(self, request: RankingRequest) -> Ranking:
        """Return the scores of documents. Raises InvalidRequest if the model makes none.

        Cancelling the task cancels the request.
        """
        ...
