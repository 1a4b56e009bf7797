"""The tree of token runs: what is found in it, and how runs are cut and dropped."""

from __future__ import annotations

import pytest

from gguf_worker.engine.cells.radix import RadixTree, Run, common_length


def computed(tree: RadixTree, parent: Run, tokens: list[int], count: int | None = None) -> Run:
    """A new run of which `count` tokens, or all, are computed."""
    run = tree.grow(parent, list(tokens))
    run.computed = len(tokens) if count is None else count
    return run


def test_nothing_is_known_in_an_empty_tree() -> None:
    tree = RadixTree()
    for match in (tree.computed([1, 2], 2), tree.ending([1, 2], 2), tree.promised([1, 2], 2)):
        assert (match.run, match.length) == (tree.root, 0)


def test_the_longest_computed_prefix_goes_over_several_runs() -> None:
    tree = RadixTree()
    first = computed(tree, tree.root, [1, 2, 3])
    second = computed(tree, first, [4, 5])
    match = tree.computed([1, 2, 3, 4, 9], 5)
    assert (match.run, match.length) == (second, 4)


def test_a_match_is_never_longer_than_asked_for() -> None:
    tree = RadixTree()
    computed(tree, tree.root, [1, 2, 3])
    assert tree.computed([1, 2, 3], 2).length == 2
    assert tree.computed([1], 0).length == 0


def test_tokens_that_are_only_promised_are_not_computed() -> None:
    tree = RadixTree()
    computed(tree, tree.root, [1, 2, 3, 4], count=2)
    assert tree.computed([1, 2, 3, 4], 4).length == 2


def test_the_longer_match_of_equal_tokens_side_by_side_is_found() -> None:
    tree = RadixTree()
    computed(tree, tree.root, [1, 2, 3])
    longer = computed(tree, tree.root, [1, 2, 3, 4])
    first = computed(tree, tree.root, [1, 2])
    longest = computed(tree, first, [3, 4, 5])
    assert tree.computed([1, 2, 3, 4], 4).run is longer
    assert tree.computed([1, 2, 3, 4, 5], 5).run is longest


def test_an_ending_is_where_an_idle_id_ends_and_nowhere_else() -> None:
    tree = RadixTree()
    first = computed(tree, tree.root, [1, 2, 3])
    second = computed(tree, first, [4, 5])
    first.idle.add(7)
    assert tree.ending([1, 2, 3, 4, 5], 5).run is first
    second.idle.add(8)
    assert tree.ending([1, 2, 3, 4, 5], 5).run is second
    assert tree.ending([1, 2, 3, 4], 4).run is first
    assert tree.ending([1, 2], 2).length == 0


def test_a_promise_counts_as_long_as_its_owner_has_not_gone_beyond() -> None:
    tree = RadixTree()
    run = computed(tree, tree.root, [1, 2, 3, 4, 5], count=2)
    run.owner = 0
    assert tree.promised([1, 2, 3, 9], 4).length == 3
    assert tree.promised([1, 2, 9], 3).length == 2
    run.computed = 4
    assert tree.promised([1, 2, 3, 9], 4).length == 0
    run.computed, run.owner = 2, None
    assert tree.promised([1, 2, 3, 9], 4).length == 0


def test_a_cut_leaves_the_ids_and_the_owner_with_the_lower_part() -> None:
    tree = RadixTree()
    run = computed(tree, tree.root, [1, 2, 3, 4, 5], count=4)
    run.owner, run.running, run.used = 3, 1, 9
    upper = tree.cut(run, 2)
    assert (upper.tokens, upper.computed, upper.end) == ([1, 2], 2, 2)
    assert (upper.owner, upper.running, upper.used) == (None, 1, 9)
    assert (run.tokens, run.computed, run.start, run.end) == ([3, 4, 5], 2, 2, 4)
    assert run.owner == 3
    assert list(run.path) == [run, upper]
    assert tree.computed([1, 2, 3, 4, 5], 5).length == 4


def test_a_cut_in_the_middle_of_a_branch_keeps_what_continues_it() -> None:
    tree = RadixTree()
    first = computed(tree, tree.root, [1, 2, 3])
    last = computed(tree, first, [4])
    tree.cut(first, 1)
    assert tree.computed([1, 2, 3, 4], 4).run is last
    assert [run.start for run in last.path] == [3, 1, 0]


def test_a_cut_at_the_end_of_a_run_or_at_the_root_cuts_nothing() -> None:
    tree = RadixTree()
    run = computed(tree, tree.root, [1, 2])
    assert tree.cut(run, 2) is run
    assert tree.cut(tree.root, 0) is tree.root


def test_tokens_that_are_not_computed_cannot_be_cut() -> None:
    tree = RadixTree()
    run = computed(tree, tree.root, [1, 2, 3, 4], count=2)
    with pytest.raises(AssertionError):
        tree.cut(run, 3)


def test_only_a_run_that_nobody_needs_can_be_dropped() -> None:
    tree = RadixTree()
    first = computed(tree, tree.root, [1, 2])
    second = computed(tree, first, [3])
    second.idle.add(1)
    for run in (first, second):
        with pytest.raises(AssertionError):
            tree.drop_one(run)
    second.idle.clear()
    tree.drop_one(second)
    assert tree.is_loose(first)
    tree.drop_one(first)
    assert list(tree.root.below) == [tree.root]
    assert tree.root.children == {}


def test_runs_side_by_side_know_of_each_other() -> None:
    tree = RadixTree()
    first, second = computed(tree, tree.root, [1, 2]), computed(tree, tree.root, [1, 3])
    computed(tree, tree.root, [2])
    assert tree.beside(first) == [second]
    tree.drop_one(second)
    assert tree.beside(first) == []


@pytest.mark.parametrize(
    ("run", "at", "limit", "expected"),
    [
        ([1, 2, 3], 0, 9, 3),
        ([1, 2, 9], 0, 9, 2),
        ([9, 2, 3], 0, 9, 0),
        ([3, 4, 9, 9], 2, 9, 2),
        ([1, 2, 3], 0, 2, 2),
        ([1, 9, 3], 0, 2, 1),
        ([5, 6, 7], 4, 6, 2),
        ([1], 0, 0, 0),
    ],
)
def test_the_common_length_is_counted_from_a_position_and_up_to_a_limit(
    run: list[int], at: int, limit: int, expected: int
) -> None:
    assert common_length(run, [1, 2, 3, 4, 5, 6], at, limit) == expected


def test_the_common_length_is_right_wherever_the_tokens_part() -> None:
    tokens = list(range(50))
    for at in range(50):
        other = [*tokens[:at], -1, *tokens[at + 1 :]]
        assert common_length(other, tokens, 0, 50) == at
