"""One request as the scheduler sees it: its tokens, and how far they are computed.

Knows no text, no sampler, no clock and no pointer; derived numbers are properties, never stored
twice.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_SLOT = -1
"""`slot` of a sequence that holds no llama.cpp sequence id."""
UNLIMITED = 2**31 - 1
"""`max_tokens` of a request that may go on until its context is full."""


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of one request. Owned by the scheduler; `slot` is llama.cpp's sequence id.

    tokens:  [0 ........ prompt_length ........ len(tokens))
              prompt      generated so far
    cells:   [0 .. computed)            are in the KV cache under `slot`
    pending: [computed .. len(tokens))  have to be computed before a token can be drawn
    """

    id: int
    tokens: list[int]
    prompt_length: int
    max_tokens: int
    priority: int = 1
    user: str = ""
    """The user whose share of the slots it takes; "": it counts towards no user's."""
    arrived: float = 0.0
    reuse_points: tuple[int, ...] = ()
    """Positions in the prompt up to which other prompts are likely to be the same."""
    slot: int = NO_SLOT
    computed: int = 0
    cached: int = 0
    """Prompt tokens that were in the cache when it was admitted for the first time."""
    scored: int | None = None
    """Prompt tokens whose successor's probability is known, from the front; None: not wanted."""
    begun: bool = False
    """Tells whether any of its rows was computed."""
    preempted: bool = False
    """Tells whether it lost its slot to others, and waits to go on."""

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
        """Make the sequence of a new request; the prompt must hold at least one token."""
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
        """The number of tokens drawn so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def unscored(self) -> bool:
        """Tells whether the probabilities of more prompt tokens are wanted."""
        return self.scored is not None and self.scored < self.prompt_length - 1

    @property
    def reusable(self) -> list[int]:
        """Its tokens as far as what the cache has of them is of use, and one more: the logits of
        unscored tokens are in no cache."""
        if self.scored is None or not self.unscored:
            return self.tokens
        return self.tokens[: self.scored + 1]

    @property
    def pending(self) -> int:
        """The number of tokens not yet in the KV cache; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Tells whether its next row is a freshly drawn token and nothing else."""
        return self.generated > 0 and self.pending == 1
