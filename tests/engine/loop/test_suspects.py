"""Suspects: who is tried, and how long newcomers wait."""

from __future__ import annotations

from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.suspects import Suspects


def interrupted(*ids: int) -> list[Sequence]:
    sequences = newcomers(*ids)
    for each in sequences:
        each.preempted = True
    return sequences


def newcomers(*ids: int) -> list[Sequence]:
    return [Sequence.of(id, [1, 2], 10) for id in ids]


def tried(suspects: Suspects) -> list[int]:
    """Let each get a token in its turn; returns the turns."""
    turns = []
    while suspects:
        turns.append(suspects.next().id)
        assert suspects.on_trial is not None
        assert suspects.advance(suspects.on_trial)
    return turns


def test_the_shortest_is_tried_first_then_the_youngest_and_the_innocent_not_at_all() -> None:
    suspects = Suspects()
    sequences = interrupted(1, 2, 3, 4, 5)
    sequences[2].tokens.append(7)
    sequences[4].tokens += [7, 7]
    suspects.add(sequences, {2}, 0.0)
    assert tried(suspects) == [4, 1, 3, 5]
    assert not suspects


def test_only_the_one_on_trial_ends_a_trial() -> None:
    suspects = Suspects()
    old, young = interrupted(1, 2)
    suspects.add([old, young], (), 0.0)
    assert suspects.next() is young
    assert not suspects.advance(old)
    assert suspects.on_trial is young


def test_one_that_ends_meanwhile_is_not_tried() -> None:
    suspects = Suspects()
    old, middle, young = interrupted(1, 2, 3)
    suspects.add([old, middle, young], (), 0.0)
    assert not suspects.remove(middle)
    assert tried(suspects) == [3, 1]
    assert not suspects.remove(old)


def test_after_one_that_ends_on_trial_the_others_are_no_longer_suspected() -> None:
    suspects = Suspects()
    old, young = interrupted(1, 2)
    suspects.add([old, young], (), 0.0)
    assert suspects.next() is young
    assert suspects.remove(young), "it may have left anything in the cache"
    assert not suspects
    suspects.add([old], (), 1.0)
    assert tried(suspects) == [1]


def test_newcomers_wait_until_all_have_gone_on_and_as_long_again() -> None:
    suspects = Suspects()
    (newcomer,) = newcomers(9)
    guilty, one, other = interrupted(1, 2, 3)
    assert not suspects.closes_out(newcomer, 0.0)
    suspects.add([guilty, one, other], {2, 3}, 10.0)
    suspects.next()
    suspects.remove(guilty)
    suspects.settle(11.0)
    assert suspects.closes_out(newcomer, 11.0)
    assert not suspects.closes_out(one, 11.0)
    suspects.advance(one)
    suspects.settle(90.0)
    assert suspects.closes_out(newcomer, 90.0)
    suspects.advance(other)
    suspects.settle(100.0)
    suspects.settle(150.0)
    assert suspects.closes_out(newcomer, 189.9)
    assert not suspects.closes_out(newcomer, 190.0)


def test_a_token_got_on_trial_is_not_going_on() -> None:
    """What others then leave behind may have to be dropped with what it holds."""
    suspects = Suspects()
    (newcomer,) = newcomers(9)
    (one,) = interrupted(1)
    suspects.add([one], (), 10.0)
    tried(suspects)
    suspects.settle(11.0)
    assert suspects.closes_out(newcomer, 1000.0)
    suspects.advance(one)
    suspects.settle(12.0)
    assert not suspects.closes_out(newcomer, 14.0)


def test_newcomers_need_not_wait_when_those_that_were_interrupted_have_ended() -> None:
    suspects = Suspects()
    (newcomer,) = newcomers(9)
    (one,) = interrupted(1)
    suspects.add([one], {1}, 10.0)
    suspects.remove(one)
    suspects.settle(20.0)
    assert suspects.closes_out(newcomer, 20.0)
    suspects.open()
    assert not suspects.closes_out(newcomer, 20.0)
