"""One request as the engine sees it: its tokens, how far they are computed, and where it stands.

Knows no text, no sampler, no clock and no pointer; derived numbers are properties, never stored twice.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_SLOT = -1
"""A sequence that holds no llama.cpp sequence id."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens of one request. Owned by the scheduler; `slot` is llama.cpp's sequence id.

    tokens:  [0 ........ prompt_length ........ len(tokens))
              prompt      generated so far
    cells:   [0 .. computed)            are in the KV cache under `slot`
    pending: [computed .. len(tokens))  have to be computed before a token can be sampled
    """

    id: int
    tokens: list[int]
    prompt_length: int
    max_tokens: int
    priority: int = 1
    user: str = ""
    """Whose share of the worker it takes; "": nobody's, it stands for itself."""
    arrived: float = 0.0
    reuse_points: tuple[int, ...] = ()
    """Positions in the prompt up to which other prompts are likely to be the same."""
    slot: int = NO_SLOT
    computed: int = 0
    cached: int = 0
    """Prompt tokens that were in the cache when it was first admitted."""
    begun: bool = False
    """Has a row of it been computed?"""
    preempted: bool = False
    """Had to make room for others, and waits to go on."""

    @classmethod
    def of(
        cls,
        id: int,
        prompt: list[int],
        max_tokens: int,
        *,
        priority: int = 1,
        user: str = "",
        arrived: float = 0.0,
        reuse_points: tuple[int, ...] = (),
    ) -> Sequence:
        """A new request; the prompt must hold at least one token."""
        assert prompt
        return cls(
            id=id,
            tokens=list(prompt),
            prompt_length=len(prompt),
            max_tokens=max_tokens,
            priority=priority,
            user=user,
            arrived=arrived,
            reuse_points=reuse_points,
        )

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens not yet in the KV cache; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Its next row is a freshly sampled token and nothing else."""
        return self.generated > 0 and self.pending == 1
