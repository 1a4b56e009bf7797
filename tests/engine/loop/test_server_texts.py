"""The engine's loop with texts for embeddings: between the steps of what is generated, and
alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.loop.step_reporter import BEAT_SECONDS
from gguf_worker.engine.messages import Cancel, Embed, Reply, ToEngine, TokenizeText
from tests.engine.loop.test_server import Loop, Said, ask, pause
from tests.fake_backend import FakeBackend, FakePooler, answers, drawl


def embed(id: int, *texts: str, **more: Any) -> Embed:
    return Embed(id, texts or ("ab",), **more)


def vectors(said: Said, id: int) -> list[bytes]:
    return [vector for delta in said.of(id) for vector in delta.vectors]


def with_pooler(backend: FakeBackend | None = None, **more: Any) -> Loop:
    return Loop(backend or FakeBackend(drawl), pooler=FakePooler(), **more)


def of_texts(**more: Any) -> Loop:
    """A model that generates nothing."""
    return with_pooler(FakeBackend(drawl, generates=False, sequences=1, idle=0), **more)


def test_vectors_come_from_a_model_that_generates_nothing() -> None:
    loop = of_texts()
    said = loop.run([embed(1, "ab", "b"), embed(2, "cd")])
    assert len(vectors(said, 1)) == 2
    assert list(np.frombuffer(vectors(said, 1)[1], "<f4")) == [0, 1, 0, 0]
    assert said.end(1).finish == said.end(2).finish == "stop"
    assert loop.backend.steps == []


def test_such_a_model_is_asked_for_text_in_vain() -> None:
    said = of_texts().run([ask(1)])
    assert said.code(1) == "invalid_request"
    assert "writes no text" in said.message(1)


def test_such_a_model_tokenises_all_the_same_and_prepares_no_grammars() -> None:
    loop = of_texts()
    loop.run([TokenizeText(7, "ab", False)], pause)
    assert loop.channel.replies == [Reply(7, tokens=[97, 98])]
    assert loop.compiler.begun == 0


def test_a_model_for_text_says_how_embeddings_can_be_had() -> None:
    said = Loop(FakeBackend(drawl)).run([embed(1), embed(2, query="a")])
    assert said.code(1) == said.code(2) == "invalid_request"
    assert "POOLING" in said.message(1)
    assert "reranker" in said.message(2)


def test_what_the_embedder_refuses_fails_at_once() -> None:
    said = of_texts(max_queue=1).run([embed(1), embed(2)])
    assert said.end(1).finish == "stop"
    assert said.code(2) == "overloaded"


def test_beside_answers_texts_get_as_much_time_as_the_steps_and_no_more() -> None:
    order: list[str] = []
    loop: list[Loop] = []

    def takes(name: str, seconds: float) -> Callable[..., None]:
        def pass_time(*_: object) -> None:
            order.append(name)
            loop[0].clock.advance(seconds)

        return pass_time

    backend = FakeBackend(answers({"hi": "abcdefghijkl"}), before_decode=takes("step", 1.0))
    pooler = FakePooler(rows=2, slots=2, before_compute=takes("texts", 3.0))
    loop.append(Loop(backend, pooler=pooler))
    loop[0].run([ask(1), embed(2, *["aa"] * 20)])
    beside = order[: 1 + max(at for at, name in enumerate(order) if name == "step")]
    assert beside[:9] == ["step", "texts", *["step"] * 3, "texts", *["step"] * 3]


def test_answers_and_batches_of_texts_take_turns() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: order.append(name)

    backend = FakeBackend(answers({"hi": "abcdef"}), before_decode=note("step"))
    pooler = FakePooler(rows=4, slots=2, before_compute=note("texts"))
    said = Loop(backend, pooler=pooler).run([ask(1), embed(2, "aa", "bb", "cc")])
    assert order[:6] == ["step", "texts"] * 3
    assert said.text(1) == "abcdef"
    assert len(vectors(said, 2)) == 3


def test_while_answers_go_on_a_batch_has_no_more_than_a_chunk() -> None:
    loop = with_pooler(FakeBackend(answers({"hi": "abcdefgh"})), chunk=6)
    loop.run([ask(1), embed(2, *["abc"] * 8)])
    assert loop.pooler is not None
    rows = [sum(rows for _, _, rows in batch) for batch in loop.pooler.batches]
    assert rows[:3] == [6, 6, 6]
    alone = with_pooler(chunk=6)
    alone.run([embed(2, *["abc"] * 4)])
    assert alone.pooler is not None
    assert [len(batch) for batch in alone.pooler.batches] == [4]


def test_the_vectors_of_a_batch_go_out_before_the_next_step() -> None:
    seen: list[int] = []
    loop = with_pooler(FakeBackend(answers({"hi": "abcd"})))

    def look(_: tuple[Chunk, ...]) -> None:
        seen.append(sum(len(step.deltas) for step in loop.channel.sent if step.deltas))

    loop.backend.before_decode = look
    said = loop.run([ask(1), embed(2)])
    assert len(vectors(said, 2)) == 1
    steps = [step for step in said.steps if any(delta.vectors for delta in step.deltas)]
    assert [delta.id for delta in steps[0].deltas] == [2]
    assert seen[1] == 2, "the first token, and the vector"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_text_of_a_step_does_not_wait_for_a_batch(asynchronous: bool) -> None:
    seen: list[str] = []
    backend = FakeBackend(answers({"hi": "abcdef"}), asynchronous=asynchronous)
    loop = Loop(backend, pooler=FakePooler(slots=2), interval=60.0)
    assert loop.pooler is not None
    loop.pooler.before_compute = lambda: seen.append(Said(loop.channel.sent).text(1))
    loop.run([ask(1), embed(2, *"abcd")])
    assert seen == ["a", "ab", "abc", "abcd"]


def test_a_request_for_texts_is_named_before_it_is_computed() -> None:
    loop = of_texts()
    named: list[tuple[int, ...]] = []
    assert loop.pooler is not None
    loop.pooler.before_compute = lambda: named.append(
        tuple(id for step in loop.channel.sent for id in step.begun)
    )
    loop.run([embed(1), embed(2)])
    assert named == [(1, 2)]


def test_texts_count_as_rows_and_their_requests_as_running_or_waiting() -> None:
    loop = of_texts(max_queue=8)
    assert loop.pooler is not None
    loop.pooler.slots = 2
    said = loop.run([embed(1, "ab", "cd"), embed(2, "ab")])
    assert sum(step.rows for step in said.steps) == 6
    first = next(step for step in said.steps if step.deltas)
    assert (first.running, first.waiting) == (1, 1)
    assert said.steps[-1].running == said.steps[-1].waiting == 0
    assert all(step.kv_total == 0 for step in said.steps)


@pytest.mark.parametrize("generates", [True, False])
def test_a_cancelled_request_is_not_computed_any_further(generates: bool) -> None:
    backend = FakeBackend(drawl, generates=generates, sequences=1)
    loop = Loop(backend, pooler=FakePooler(slots=2))
    said = loop.run([embed(1, *"abcd"), embed(2, "a")], [Cancel(1)], [Cancel(1), Cancel(77)])
    assert loop.pooler is not None
    texts = [text for batch in loop.pooler.batches for text, _, _ in batch]
    assert texts == ["a", "a"]
    assert not any(delta.last for delta in said.of(1))
    assert said.end(2).finish == "stop"


def test_a_request_whose_time_is_over_ends_between_two_batches() -> None:
    loop = of_texts()
    assert loop.pooler is not None
    loop.pooler.slots = 2
    loop.pooler.before_compute = lambda: loop.clock.advance(4.0)
    said = loop.run([embed(1, *"abcd", deadline=loop.clock() + 5), embed(2, "a")])
    assert said.code(1) == "deadline_exceeded"
    assert said.end(2).finish == "stop"
    assert len(vectors(said, 1)) < 4


def test_a_text_that_is_wrong_fails_its_request_without_a_batch() -> None:
    loop = of_texts()
    said = loop.run([embed(1, "a", "")])
    failure = said.end(1).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_request", "input")
    assert loop.pooler is not None
    assert loop.pooler.batches == []


def test_numbers_that_are_none_fail_the_request() -> None:
    assert of_texts().run([embed(1, "!")]).code(1) == "generation_failed"


def test_without_texts_the_loop_sleeps_as_before() -> None:
    loop = of_texts()
    loop.run([embed(1)], pause, pause)
    assert loop.channel.waited[-1] == BEAT_SECONDS


@pytest.mark.parametrize("seed", range(4))
def test_every_request_of_a_random_run_of_texts_and_answers_ends_exactly_once(seed: int) -> None:
    chance = random.Random(seed)
    backend = FakeBackend(drawl, cells=90, asynchronous=bool(seed % 2))
    pooler = FakePooler(rows=8, causal=seed > 1)
    loop = Loop(backend, max_queue=3, pooler=pooler, chunk=5)
    pooler.before_compute = lambda: loop.clock.advance(0.03)
    cancelled: set[int] = set()
    asked: dict[int, int] = {}

    def turn() -> list[ToEngine]:
        loop.clock.advance(0.1)
        messages: list[ToEngine] = []
        if chance.random() < 0.3:
            id = len(asked) + 1
            deadline = chance.choice([None, None, loop.clock.time + chance.choice([0.2, 2.0])])
            if chance.random() < 0.5:
                asked[id] = 0
                limit, stop = chance.choice([1, 5, 60]), chance.choice([(), ("q",)])
                prompt = "p" * chance.choice([1, 20, 70])
                messages.append(ask(id, prompt, max_tokens=limit, stop=stop, deadline=deadline))
            else:
                texts = [
                    chance.choice(["a", "abcd", "c" * 8, "d" * 15, "ab" * 8])
                    for _ in range(chance.choice([1, 2, 9]))
                ]
                wrong = chance.choice([None] * 6 + ["!", "b" * 17, ""])
                asked[id] = len(texts) + (wrong is not None)
                texts += [] if wrong is None else [wrong]
                messages.append(embed(id, *texts, deadline=deadline))
        if asked and chance.random() < 0.1:
            id = chance.randint(1, len(asked))
            cancelled.add(id)
            messages.append(Cancel(id))
        return messages

    said = loop.run(*[turn] * 800, *[pause] * 200)
    for id, texts in asked.items():
        ends = [delta for delta in said.of(id) if delta.last]
        assert len(ends) == 1 or (not ends and id in cancelled)
        if ends and ends[0].finish and texts:
            assert len(vectors(said, id)) == texts
    ends = [delta for delta in said.deltas if delta.last]
    codes = {delta.failure.code if delta.failure else delta.finish for delta in ends}
    assert codes >= {"stop", "length", "overloaded", "deadline_exceeded", "generation_failed"}
    assert not any(pooler.held.values())
    assert said.steps[-1].running == said.steps[-1].waiting == 0
