"""How much may be open in the parent: what waits for the engine, by number and by bytes.

The engine has bounds of its own, but no request reaches them while it is restarted, or while it
computes a long step. Pure: it knows sizes, not requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.errors import Overloaded

MOST_BYTES = 256 * 2**20
"""Bytes of all messages: as many as the HTTP front holds of bodies. A machine with room for a model
has room for these, and a prompt for the longest context of today's models has some 5 MB."""
FREE_BYTES = 64 * 2**10
"""Bytes of a message that large ones never keep out: with as many as there may be connections, they
are 256 MiB too."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The bounds of one engine; `most_waiting`: requests that no process has yet."""

    most_waiting: int
    most_bytes: int = MOST_BYTES

    def check_waiting(self, waiting: int, *, retry_after: float) -> None:
        """Raise Overloaded if no further request may wait for the engine."""
        if waiting >= self.most_waiting:
            raise Overloaded(
                f"{waiting} requests are waiting for the engine, which is being restarted; that is "
                "as many as this worker takes. Try again shortly.",
                retry_after=retry_after,
            )

    def check_bytes(self, size: int, held: int) -> None:
        """Raise Overloaded if there is no room for a message of `size` bytes beside those that are
        `held`. A message that is alone is never too large."""
        if held and size > FREE_BYTES and held + size > self.most_bytes:
            raise Overloaded(
                "Too many large requests are open at once. Try again shortly.", retry_after=1.0
            )
