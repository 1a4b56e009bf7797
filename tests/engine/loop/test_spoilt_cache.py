"""The loop over a fake llama.cpp whose cache one request's token spoils: who fails, and who does
not even notice."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from gguf_worker.engine.loop.factory import scheduler_for
from gguf_worker.engine.loop.server import Server
from gguf_worker.engine.messages import (
    Cancel,
    Delta,
    EngineRequest,
    EngineSpec,
    Failure,
    Step,
    Submit,
)
from gguf_worker.generation import Grammar, Sampling
from tests.fake_backend import (
    GREEDY,
    NAN,
    SPOILING,
    FakeBackend,
    FakeChannel,
    FakeCompiler,
    answers,
    drawl,
)
from tests.fakes import FakeClock

LENGTH = 20
WARM = Sampling(temperature=1.0, seed=1)
BAD = 9
"""The id of the request that spoils the cache."""


def ask(id: int, prompt: str = "", **more: Any) -> Submit:
    settings: dict[str, Any] = {"sampling": GREEDY, "add_special": False, "parse_special": False}
    settings |= {"max_tokens": LENGTH} | more
    return Submit(id, EngineRequest(prompt or f"{id} tells", **settings))


def spoiling(id: int = BAD, before: str = "", after: str = "") -> Submit:
    return ask(id, f"{before}{chr(SPOILING)}{after}")


class Run:
    """The loop over `backend`, and what it said."""

    def __init__(self, backend: FakeBackend, *turns: Any, queue: int = 16) -> None:
        spec = EngineSpec(path="", context=backend.info.context, sequences=0, max_queue=queue)
        scheduler = scheduler_for(spec, backend.info)
        channel = FakeChannel(*turns)
        Server(
            backend,
            channel,
            scheduler,
            compiler=FakeCompiler(),
            now=FakeClock(),
            seeds=random.Random(0),
        ).run()
        scheduler.check()
        assert scheduler.idle
        assert backend.open_samplers == 0
        self.steps: list[Step] = channel.sent
        self.deltas = [delta for step in self.steps for delta in step.deltas]

    def text(self, id: int) -> str:
        return "".join(delta.text for delta in self.deltas if delta.id == id)

    def end(self, id: int) -> Delta:
        (last,) = [delta for delta in self.deltas if delta.id == id and delta.last]
        return last

    def failure(self, id: int) -> str | None:
        failure = self.end(id).failure
        return failure.code if isinstance(failure, Failure) else None

    def assert_as_alone(self, *submits: Submit) -> None:
        """Hold each answer to what the request gets when it runs alone."""
        for submit in submits:
            alone = Run(FakeBackend(drawl), [submit])
            assert self.text(submit.id) == alone.text(submit.id)
            last, expected = self.end(submit.id), alone.end(submit.id)
            assert last.finish == expected.finish
            assert last.usage is not None
            assert expected.usage is not None
            tokens = sum(delta.tokens for delta in self.deltas if delta.id == submit.id)
            assert tokens == last.usage.completion_tokens == expected.usage.completion_tokens


def pauses(count: int) -> list[Callable[[], None]]:
    return [lambda: None] * count


BACKENDS: dict[str, Callable[[], FakeBackend]] = {
    "one pool": lambda: FakeBackend(drawl),
    "pools": lambda: FakeBackend(drawl, unified=False),
    "states": lambda: FakeBackend(drawl, rollback=False),
    "asynchronous": lambda: FakeBackend(drawl, asynchronous=True),
    "few idle ids": lambda: FakeBackend(drawl, idle=0),
}


@pytest.mark.parametrize("kind", BACKENDS)
def test_answers_go_on_as_if_nothing_had_been(kind: str) -> None:
    good = [ask(1), ask(2, sampling=WARM), ask(3)]
    run = Run(BACKENDS[kind](), list(good), *pauses(5), [spoiling()], *pauses(9), [ask(4)])
    assert run.failure(BAD) == "generation_failed"
    assert run.text(BAD) == ""
    run.assert_as_alone(*good, ask(4))


def test_an_answer_held_to_a_grammar_goes_on_too() -> None:
    held = ask(1, grammar=Grammar("lark", "abcdefgh"), max_tokens=None)
    run = Run(FakeBackend(drawl), [held], *pauses(3), [spoiling()])
    assert run.failure(BAD) == "generation_failed"
    assert (run.text(1), run.end(1).finish) == ("abcdefgh", "stop")


def test_the_one_that_spoils_is_found_while_its_prompt_is_being_read() -> None:
    """It has no numbers yet that could be lost: only others' are."""
    good = [ask(1), ask(2)]
    run = Run(FakeBackend(drawl), list(good), *pauses(4), [spoiling(after="x" * 50)])
    assert run.failure(BAD) == "generation_failed"
    run.assert_as_alone(*good)


def test_the_one_that_spoils_is_found_when_its_own_answer_does_it() -> None:
    backend = FakeBackend(
        lambda tokens: SPOILING if tokens[-3:] == [ord("a"), ord("b"), ord("c")] else drawl(tokens)
    )
    run = Run(backend, [ask(BAD, "abc"), ask(1)], [ask(2)])
    assert run.failure(BAD) == "generation_failed"
    assert run.text(BAD) == "%"
    run.assert_as_alone(ask(1), ask(2))


def test_several_that_spoil_are_all_found() -> None:
    good = [ask(1), ask(2)]
    bad = [spoiling(id, before="x" * id) for id in (11, 12, 13)]
    run = Run(FakeBackend(drawl, sequences=8), list(good), *pauses(3), bad)
    assert [run.failure(each.id) for each in bad] == ["generation_failed"] * 3
    run.assert_as_alone(*good)


def test_whoever_comes_after_a_cancelled_one_is_not_blamed_for_what_it_left() -> None:
    run = Run(FakeBackend(drawl), [spoiling(after="x" * 50)], [], [Cancel(BAD), ask(1)], [ask(2)])
    run.assert_as_alone(ask(1), ask(2))


@pytest.mark.parametrize("steps", range(1, 9))
def test_the_next_on_trial_is_not_blamed_for_what_a_cancelled_one_left(steps: int) -> None:
    good = [ask(1), ask(2)]
    turns = [list(good), *pauses(3), [spoiling(after="x" * 45)], *pauses(steps), [Cancel(BAD)]]
    run = Run(FakeBackend(drawl), *turns)
    run.assert_as_alone(*good)


def test_a_prompt_that_begins_like_the_one_that_spoils_is_computed_anew() -> None:
    before = "the same beginning "
    run = Run(FakeBackend(drawl), [spoiling(before=before)], *pauses(4), [ask(1, before)])
    assert run.failure(BAD) == "generation_failed"
    run.assert_as_alone(ask(1, before))


def test_a_row_of_one_request_alone_is_computed_once_more_before_it_fails() -> None:
    backend = FakeBackend(answers({"bad": [NAN]}))
    run = Run(backend, [ask(BAD, "bad")])
    assert run.failure(BAD) == "generation_failed"
    assert [sum(chunk.rows for chunk in step) for step in backend.steps] == [3, 3]
    assert backend.clears == 1


def test_a_row_that_is_lost_once_only_fails_nobody() -> None:
    backend = FakeBackend(drawl)
    run = Run(backend, [ask(1), ask(2)], *pauses(3), lambda: setattr(backend, "spoilt", True))
    run.assert_as_alone(ask(1), ask(2))


def test_those_that_were_interrupted_count_as_preempted() -> None:
    run = Run(FakeBackend(drawl), [ask(1), ask(2)], *pauses(3), [spoiling()])
    assert sum(step.preempted for step in run.steps) == 3


def test_a_flood_that_spoils_the_cache_starves_nobody() -> None:
    good = [ask(id) for id in (1, 2)]
    flood = [[spoiling(id, before="x" * (id % 30))] for id in range(100, 160)]
    late = [ask(3), ask(4)]
    backend = FakeBackend(drawl, sequences=4)
    run = Run(backend, list(good), *flood[:30], list(late), *flood[30:], queue=100)
    run.assert_as_alone(*good, *late)
    assert all(run.failure(id) == "generation_failed" for id in range(100, 160))


@pytest.mark.parametrize("seed", range(6))
def test_a_random_load_with_some_that_spoil_changes_no_answer(seed: int) -> None:
    chance = random.Random(seed)
    good = [ask(id, "x" * chance.randint(1, 40)) for id in range(1, 30)]
    bad = [spoiling(id, "x" * chance.randint(0, 30), "y" * chance.randint(0, 20))
           for id in range(100, 110)]  # fmt: skip
    submits = [*good, *bad]
    chance.shuffle(submits)
    turns: list[Any] = []
    while submits:
        turns += [[submits.pop() for _ in range(min(len(submits), chance.randint(1, 4)))]]
        turns += pauses(chance.randint(0, 8))
    backend = FakeBackend(drawl, cells=chance.choice([None, 80, 120]), asynchronous=seed % 2 > 0)
    run = Run(backend, *turns, queue=100)
    run.assert_as_alone(*good)
    assert all(run.failure(each.id) == "generation_failed" for each in bad)
