"""A radix tree over token sequences: which runs of tokens are in the KV cache, or will be.

A path from the root spells the tokens that one or more sequence ids hold. Ids that hold a common
prefix in the same cells share its runs; the same tokens in other cells are runs of their own, side
by side. Pure: it knows no limits and no positions of cells, and does not decide when a run is
dropped. A radix tree for prefixes of the KV cache is SGLang's idea (RadixAttention); promised
tokens are an addition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive tokens in cells of their own, from position `start`.

    The first `computed` of them are in the cache; the others are promised by the run's owner. A run
    with children promises nothing.
    """

    parent: Run | None
    start: int
    tokens: list[int]
    computed: int = 0
    children: dict[int, list[Run]] = field(default_factory=dict)
    """The runs after this one by first token; several where tokens were computed more than once."""
    idle: set[int] = field(default_factory=set)
    """Ids of idle sequences that end with this run."""
    owner: int | None = None
    """Id of the running sequence whose tokens end with this run, and that may extend it."""
    running: int = 0
    """Number of running sequences that have this run on their path."""
    used: int = 0
    """Time of the last use by a request, counted in claims and retirements."""

    @property
    def end(self) -> int:
        """The position after its last computed token."""
        return self.start + self.computed

    @property
    def path(self) -> Iterator[Run]:
        """This run and those before it, up to the root, which is left out."""
        run: Run | None = self
        while run is not None and run.parent is not None:
            yield run
            run = run.parent

    @property
    def below(self) -> Iterator[Run]:
        """This run and all that continue it."""
        stack = [self]
        while stack:
            run = stack.pop()
            yield run
            for side_by_side in run.children.values():
                stack += side_by_side


@dataclass(frozen=True, slots=True)
class Match:
    """A known prefix of some tokens: `length` of them, which end somewhere in `run`."""

    run: Run
    length: int


class RadixTree:
    """The tree of runs: finds, adds, splits and drops them."""

    def __init__(self) -> None:
        self.root = Run(None, 0, [])

    def computed(self, tokens: list[int], limit: int) -> Match:
        """Find the longest computed prefix of `tokens`, of at most `limit`."""
        best = Match(self.root, 0)
        for run, common in self._along(tokens, limit):
            length = run.start + min(common, run.computed)
            if length > best.length:
                best = Match(run, length)
        return best

    def ending(self, tokens: list[int], limit: int) -> Match:
        """Find the longest prefix of `tokens`, of at most `limit`, that is all an idle id holds."""
        best = Match(self.root, 0)
        for run, common in self._along(tokens, limit):
            if run.idle and common == len(run.tokens) and run.end > best.length:
                best = Match(run, run.end)
        return best

    def promised(self, tokens: list[int], limit: int) -> Match:
        """Find the longest prefix of `tokens`, of at most `limit`, that a running sequence has
        promised to compute."""
        best = Match(self.root, 0)
        for run, common in self._along(tokens, limit):
            ahead = run.owner is not None and common >= run.computed
            if ahead and run.start + common > best.length:
                best = Match(run, run.start + common)
        return best

    def grow(self, parent: Run, tokens: list[int]) -> Run:
        """Add a run after `parent` that promises `tokens`, at least one."""
        run = Run(parent, parent.start + len(parent.tokens), tokens)
        parent.children.setdefault(tokens[0], []).append(run)
        return run

    def cut(self, run: Run, at: int) -> Run:
        """Split `run` at position `at`, unless it ends there; returns the run that ends there.

        A new upper part has no ids.
        """
        count = at - run.start
        if run.parent is None or count == len(run.tokens):
            return run
        assert 0 < count <= run.computed
        upper = Run(run.parent, run.start, run.tokens[:count], count)
        upper.running, upper.used = run.running, run.used
        self._detach(run)
        run.parent.children.setdefault(upper.tokens[0], []).append(upper)
        upper.children[run.tokens[count]] = [run]
        run.parent, run.start = upper, at
        run.tokens, run.computed = run.tokens[count:], run.computed - count
        return upper

    @staticmethod
    def is_loose(run: Run) -> bool:
        """Tell whether no other run continues `run` and no id ends with it."""
        return not run.children and not run.idle and run.owner is None

    def drop_one(self, run: Run) -> None:
        """Take a loose run out of the tree."""
        assert self.is_loose(run)
        self._detach(run)

    def beside(self, run: Run) -> list[Run]:
        """Return the other runs after the same parent that begin with the same token."""
        assert run.parent is not None
        return [other for other in run.parent.children[run.tokens[0]] if other is not run]

    def _detach(self, run: Run) -> None:
        assert run.parent is not None
        side_by_side = run.parent.children[run.tokens[0]]
        side_by_side.remove(run)
        if not side_by_side:
            del run.parent.children[run.tokens[0]]

    def _along(self, tokens: list[int], limit: int) -> Iterator[tuple[Run, int]]:
        """Yield the runs along `tokens` from the root, with how many of their tokens agree."""
        stack = [self.root]
        while stack:
            run = stack.pop()
            at = run.start + len(run.tokens)
            if at >= limit:
                continue
            for child in run.children.get(tokens[at], ()):
                common = common_length(child.tokens, tokens, at, limit)
                yield child, common
                if common == len(child.tokens):
                    stack.append(child)


def common_length(run: list[int], tokens: list[int], at: int, limit: int) -> int:
    """Count the tokens of `run` that agree with `tokens[at:limit]`, from the front."""
    low, high = 0, min(len(run), limit - at)
    if run[:high] == tokens[at : at + high]:
        return high
    while low < high:  # run[:low] agrees; run[:high] does not, or was not compared yet
        middle = (low + high + 1) // 2
        if run[low:middle] == tokens[at + low : at + middle]:
            low = middle
        else:
            high = middle - 1
    return low
