"""Accounting of the KV cache: which sequence ids are taken, and how many cells each holds.

Pure bookkeeping: it holds no cells and calls nothing. The scheduler asks before it acts, and llama.cpp is
told by the server.
"""

from __future__ import annotations

import heapq


class KvCells:
    """`cells` tokens of cache shared by up to `slots` sequences.

    Ids are handed out lowest first: llama.cpp splits a step into fewer physical batches when the ids of its
    rows are dense.
    """

    def __init__(self, cells: int, slots: int) -> None:
        self.total = cells
        self._free_slots = list(range(slots))
        self._held: dict[int, int] = {}
        self._used = 0

    @property
    def used(self) -> int:
        return self._used

    @property
    def free(self) -> int:
        return self.total - self._used

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    def can_claim(self) -> bool:
        """Is a sequence id free?"""
        return bool(self._free_slots)

    def claim(self) -> int:
        """The lowest free sequence id, now taken and empty."""
        slot = heapq.heappop(self._free_slots)
        self._held[slot] = 0
        return slot

    def take(self, slot: int, cells: int) -> None:
        """`slot` holds `cells` more."""
        assert cells <= self.free, "took cells that are not there"
        self._held[slot] += cells
        self._used += cells

    def release(self, slot: int) -> None:
        """Give the id back, with every cell it holds."""
        self._used -= self._held.pop(slot)
        heapq.heappush(self._free_slots, slot)

    def held(self, slot: int) -> int:
        return self._held[slot]

    def check(self) -> None:
        """Recount; an AssertionError is a bug of ours."""
        assert self._used == sum(self._held.values())
        assert 0 <= self._used <= self.total
        assert not set(self._held) & set(self._free_slots)
        assert len(set(self._free_slots)) == len(self._free_slots)
