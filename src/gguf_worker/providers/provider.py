"""The protocol of everything that answers requests: this worker's model, or another server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from gguf_worker.providers.answer import Embeddings, Part, Ranking
from gguf_worker.providers.request import EmbeddingRequest, GenerationRequest, RankingRequest


class Provider(Protocol):
    """Somewhere an answer can come from."""

    def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        """Pieces, then exactly one Finish; or a WorkerError. Closing the generator cancels.

        Of several answers the pieces come as they are made, each answer but the last to end has an
        Ended, and one error is the end of them all.
        """
        ...

    async def tokens(self, source: str | GenerationRequest, *, add_special: bool) -> list[int]:
        """The tokens of a text, or of the prompt that a chat becomes."""
        ...

    async def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The vectors of texts; InvalidRequest where the model gives none. Cancelling the task cancels."""
        ...

    async def rank(self, request: RankingRequest) -> Ranking:
        """The scores of documents; InvalidRequest where the model gives none. Cancelling the task cancels."""
        ...
