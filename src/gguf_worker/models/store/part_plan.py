"""Which bytes of a file are there, which are being fetched, and which come next.

Pure: knows neither disks nor connections. Positions are bytes from the file's start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Spans = tuple[tuple[int, int], ...]
"""Parts of a file, each from its start to its end, in order, with gaps between."""

_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class PieceSizes:
    """The pieces in which a file is fetched.

    A file below `least_file` bytes is one piece. Others have pieces of a sixteenth of what each
    connection has to bring, from `least` to `most` bytes. No piece begins more than `ahead` pieces
    for each connection behind the first byte that is missing: what lies farther apart would be
    random writes for a network volume, and not in memory any more when it is to be hashed.
    """

    connections: int = 16
    least_file: int = 64 * _MEGABYTE
    least: int = 8 * _MEGABYTE
    most: int = 32 * _MEGABYTE
    ahead: int = 2
    least_split: int = _MEGABYTE
    """The bytes that are worth a request of their own, when one connection relieves another."""
    slow_seconds: float = 10.0
    """The time in which a connection has to bring as many; else another takes over."""

    def of(self, size: int) -> int:
        """Return the bytes of a piece of a file of so many bytes."""
        if size < self.least_file:
            return size
        return min(max(size // (16 * self.connections), self.least), self.most)


@dataclass(slots=True, eq=False)
class Claim:
    """A part of a file that one connection fetches: from `at`, which moves, to `end`, which may.

    `seen` and `seen_at`: where it was, and when, as it was last found to be quick enough.
    """

    at: int
    end: int
    seen: int = 0
    seen_at: float = 0.0


class PartPlan:
    """Hands out the missing parts of a file, in order, and keeps account of what has come.

    `there`: the parts that are there from the beginning. Not thread-safe.
    """

    def __init__(self, size: int, there: Sequence[tuple[int, int]], sizes: PieceSizes) -> None:
        self._size = size
        self._sizes = sizes
        self._piece = max(sizes.of(size), 1)
        self._window = sizes.ahead * sizes.connections * self._piece
        self._there: list[list[int]] = []
        for start, end in sorted(there):
            self._add(max(start, 0), min(end, size))
        self._claims: list[Claim] = []
        self._resumed = self.prefix

    @property
    def connections(self) -> int:
        """How many connections are worth while at most."""
        return 1 if self._piece >= self._size else self._sizes.connections

    @property
    def prefix(self) -> int:
        """The bytes that are there without a gap."""
        first = self._there[0] if self._there else [0, 0]
        return first[1] if first[0] == 0 else 0

    @property
    def there(self) -> Spans:
        """What is there by now."""
        return tuple((start, end) for start, end in self._there)

    @property
    def done_bytes(self) -> int:
        return sum(end - start for start, end in self._there)

    @property
    def complete(self) -> bool:
        return self.prefix == self._size

    def claim(self, hashed: int, now: float) -> Claim | None:
        """Return the next part to fetch; None while there is none.

        That is the first piece that nobody fetches or, once all are taken, half of what another
        connection has still to bring, or all that a slow one has. `hashed`: the bytes that were
        hashed so far; once they are beyond what was there from the beginning, pieces keep near.
        `now`: seconds of any clock.
        """
        near = self.prefix if hashed < self._resumed else hashed
        claim = self._free(near + self._window) or self._half() or self._of_a_slow_one(now)
        if claim is not None:
            claim.seen, claim.seen_at = claim.at, now
            self._claims.append(claim)
        return claim

    def add(self, claim: Claim, count: int) -> None:
        """Note that the next `count` bytes of a claim are there."""
        end = min(claim.at + count, claim.end)
        self._add(claim.at, end)
        claim.at = end

    def extend(self, claim: Claim) -> None:
        """Let a claim go on as far as nobody fetches, over what is there already.

        It is for a server that sends the whole file: other ranges would cost the same bytes again.
        """
        later = [each.at for each in self._claims if each.at > claim.at]
        claim.end = min(later, default=self._size)

    def release(self, claim: Claim) -> None:
        """End a claim, whether all of it is there or not."""
        self._claims.remove(claim)

    def _free(self, limit: int) -> Claim | None:
        for start, end in self._gaps():
            if start >= limit:
                return None
            return Claim(start, min(end, start + self._piece))
        return None

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the parts that are neither there nor claimed."""
        taken = sorted(
            [*((start, end) for start, end in self._there)]
            + [(each.at, each.end) for each in self._claims]
        )
        at = 0
        for start, end in [*taken, (self._size, self._size)]:
            if start > at:
                yield at, start
            at = max(at, end)

    def _half(self) -> Claim | None:
        longest = max(self._claims, key=lambda each: each.end - each.at, default=None)
        if longest is None or longest.end - longest.at < 2 * self._sizes.least_split:
            return None
        middle = longest.at + (longest.end - longest.at) // 2
        half = Claim(middle, longest.end)
        longest.end = middle
        return half

    def _of_a_slow_one(self, now: float) -> Claim | None:
        for each in self._claims:
            if each.at - each.seen >= self._sizes.least_split:
                each.seen, each.seen_at = each.at, now
            elif each.at < each.end and now - each.seen_at >= self._sizes.slow_seconds:
                rest = Claim(each.at, each.end)
                each.end = each.at
                return rest
        return None

    def _add(self, start: int, end: int) -> None:
        if start >= end:
            return
        merged = [start, end]
        apart = []
        for each in self._there:
            if each[1] < merged[0] or each[0] > merged[1]:
                apart.append(each)
            else:
                merged = [min(each[0], merged[0]), max(each[1], merged[1])]
        self._there = sorted([*apart, merged])
