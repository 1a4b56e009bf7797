"""The engine's loop over a fake llama.cpp: how requests go through it, and how each one ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from gguf_worker.engine.cells.unified import UnifiedCells
from gguf_worker.engine.drawing.grammars.constraint import GrammarTooCostly
from gguf_worker.engine.drawing.grammars.pending_grammars import PATIENCE_SECONDS
from gguf_worker.engine.loop.factory import embedder_for, scheduler_for
from gguf_worker.engine.loop.questions import MOST_TOKENS, MOST_WAITING
from gguf_worker.engine.loop.scheduler import Scheduler
from gguf_worker.engine.loop.server import PREPARING_SECONDS, ContextLost, Server
from gguf_worker.engine.loop.step_reporter import BEAT_SECONDS
from gguf_worker.engine.messages import (
    Cancel,
    Delta,
    DetokenizeTokens,
    EngineRequest,
    EngineSpec,
    Failure,
    Reply,
    Start,
    Step,
    Stop,
    Submit,
    ToEngine,
    TokenizeText,
    Tokenizing,
)
from gguf_worker.generation import (
    Grammar,
    Outline,
    Phase,
    PhaseMark,
    Sampling,
    TokenLogprob,
    TokenRules,
    Usage,
)
from tests.fake_backend import (
    BOS,
    END,
    GREEDY,
    NAN,
    NEVER,
    VOCABULARY,
    FakeBackend,
    FakeChannel,
    FakeCompiler,
    FakePooler,
    FakeTokenizers,
    Model,
    answers,
    drawl,
    tokens_of,
)
from tests.fakes import FakeClock

WARM = Sampling(temperature=1.0, seed=1)


def ask(id: int, prompt: str | list[int] = "hi", **more: Any) -> Submit:
    settings: dict[str, Any] = {"sampling": GREEDY, "add_special": False, "parse_special": False}
    return Submit(id, EngineRequest(prompt, **(settings | more)))


@dataclass
class Said:
    """All that the loop has said, by request."""

    steps: list[Step]

    @property
    def deltas(self) -> list[Delta]:
        return [delta for step in self.steps for delta in step.deltas]

    def of(self, id: int) -> list[Delta]:
        return [delta for delta in self.deltas if delta.id == id]

    def text(self, id: int) -> str:
        return "".join(delta.text for delta in self.of(id))

    def end(self, id: int) -> Delta:
        """Return its last delta, of which there is exactly one."""
        (last,) = [delta for delta in self.of(id) if delta.last]
        assert self.of(id)[-1] is last
        return last

    def code(self, id: int) -> str:
        failure = self.end(id).failure
        assert failure is not None
        return failure.code

    def message(self, id: int) -> str:
        failure = self.end(id).failure
        assert failure is not None
        return failure.message


class Loop:
    """A server with what it needs; `run` says the turns and leaves nothing behind unless told
    so."""

    def __init__(
        self,
        backend: FakeBackend,
        *,
        max_queue: int = 16,
        interval: float = 0.0,
        compiler: FakeCompiler | None = None,
        pooler: FakePooler | None = None,
        chunk: int | None = None,
        held_texts: bool = False,
    ) -> None:
        self.backend = backend
        self.held_texts = held_texts
        self.pooler = pooler
        self.chunk = chunk
        self.compiler = compiler or FakeCompiler()
        self.interval = interval
        self.clock = FakeClock()
        self.spec = EngineSpec(
            path="", context=backend.info.context, sequences=0, max_queue=max_queue
        )
        self.scheduler = scheduler_for(self.spec, backend.info)

    def run(self, *turns: list[ToEngine] | Callable[[], Any], clean: bool = True) -> Said:
        self.channel = FakeChannel(*turns)
        self.tokenizers = FakeTokenizers(
            lambda ids: self.channel.send(Tokenizing(ids)), held=self.held_texts
        )
        embedder = None
        if self.pooler is not None:
            info = self.backend.info
            embedder = embedder_for(self.spec, info, self.pooler, self.tokenizers)
        self.server = Server(
            self.backend,
            self.channel,
            self.scheduler,
            compiler=self.compiler,
            now=self.clock,
            seeds=random.Random(0),
            interval=self.interval,
            tokenizers=self.tokenizers,
            embedder=embedder,
            chunk=self.chunk,
        )
        self.server.run()
        self.scheduler.check()
        self.backend.arrange(self.scheduler.cells.operations())
        assert all(self.scheduler.cells.held(id) == len(t) for id, t in self.backend.held.items())
        if clean:
            assert self.scheduler.idle
            assert self.scheduler.cells.pinned == 0
            assert self.scheduler.cells.used == self.backend.used
            assert self.backend.open_samplers == 0
        return Said(self.channel.sent)


def pause() -> None:
    """A turn without messages."""


# Answers


def test_an_answer_comes_token_by_token_and_ends_with_stop() -> None:
    said = Loop(FakeBackend(answers({"hi": "abc"}))).run([ask(1)])
    assert [(d.text, d.tokens, d.finish) for d in said.of(1)] == [
        ("a", 1, None),
        ("b", 1, None),
        ("c", 1, None),
        ("", 1, "stop"),
    ]


def test_the_last_delta_counts_the_tokens_of_prompt_and_answer() -> None:
    usage = Loop(FakeBackend(answers({"hi": "abc"}))).run([ask(1)]).end(1).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 4)


def test_the_first_delta_counts_the_tokens_of_the_prompt_and_those_found_in_the_cache() -> None:
    said = Loop(FakeBackend(answers({"hi": "abc"}))).run([ask(1)])
    first, *others, _ = said.of(1)
    assert first.usage == Usage(2, 1, 0)
    assert all(each.usage is None for each in others)


def test_the_tokens_of_all_deltas_add_up_to_the_usage_when_text_is_held_back() -> None:
    backend = FakeBackend(answers({"hi": "a€b🌊c"}))
    said = Loop(backend).run([ask(1, stop=("bx",))])
    usage = said.end(1).usage
    assert usage is not None
    assert sum(d.tokens for d in said.of(1)) == usage.completion_tokens == 1 + 3 + 1 + 4 + 1 + 1
    assert said.text(1) == "a€b🌊c"
    assert all(d.text for d in said.of(1)[:-1])


def test_a_prompt_of_tokens_is_taken_as_it_is() -> None:
    backend = FakeBackend(answers({"hi": "yes"}))
    said = Loop(backend).run([ask(1, prompt=tokens_of("hi"), add_special=True)])
    assert said.text(1) == "yes"
    assert backend.vocabulary.tokenized == []


def test_a_text_prompt_is_tokenised_as_the_request_wants() -> None:
    backend = FakeBackend(answers({}, repeat="x"))
    Loop(backend).run(
        [
            ask(1, "a<end>", add_special=True, parse_special=True, max_tokens=1),
            ask(2, "a<end>", max_tokens=1),
        ]
    )
    (first, second), *_ = backend.steps
    assert first.tokens == [BOS, ord("a"), END]
    assert second.tokens == tokens_of("a<end>")


def test_the_end_token_gives_no_text_and_ends_with_stop() -> None:
    said = Loop(FakeBackend(answers({"hi": ""}))).run([ask(1)])
    assert [(d.text, d.tokens, d.finish) for d in said.of(1)] == [("", 1, "stop")]


def test_ignore_eos_bans_the_end_tokens_and_goes_on_to_the_limit() -> None:
    said = Loop(FakeBackend(answers({"hi": "ab"}))).run([ask(1, ignore_eos=True, max_tokens=4)])
    assert (said.text(1), said.end(1).finish) == ("abzz", "length")


def test_a_token_that_the_model_must_not_give_is_never_drawn() -> None:
    backend = FakeBackend(answers({"hi": [ord("a"), NEVER, ord("b")]}))
    assert Loop(backend).run([ask(1)]).text(1) == "azb"


def test_max_tokens_ends_an_answer_with_length() -> None:
    said = Loop(FakeBackend(answers({}, repeat="abc"))).run([ask(1, max_tokens=5)])
    assert len(said.text(1)) == 5
    assert said.end(1).finish == "length"


def test_an_end_token_at_the_limit_is_a_stop() -> None:
    said = Loop(FakeBackend(answers({"hi": "ab"}))).run([ask(1, max_tokens=3)])
    assert said.end(1).finish == "stop"


def test_a_full_context_ends_an_answer_with_length() -> None:
    backend = FakeBackend(answers({}, repeat="x"), context=20)
    said = Loop(backend).run([ask(1, "12345")])
    assert (said.text(1), said.end(1).finish) == ("x" * 15, "length")


@pytest.mark.parametrize(
    "stop", [("lo w",), ("zzz", "lo w"), ("lo w", "o world"), ("lo wo", "lo w")]
)
def test_a_stop_string_across_tokens_ends_the_answer_before_it(stop: tuple[str, ...]) -> None:
    said = Loop(FakeBackend(answers({"hi": "hello world"}))).run([ask(1, stop=stop)])
    assert (said.text(1), said.end(1).finish, said.end(1).stop) == ("hel", "stop", "lo w")


def test_what_only_looked_like_a_stop_string_is_given_out_at_the_end() -> None:
    said = Loop(FakeBackend(answers({"hi": "hello"}))).run([ask(1, stop=("lox",))])
    assert (said.text(1), said.end(1).finish, said.end(1).stop) == ("hello", "stop", None)


def test_text_held_back_comes_out_when_a_limit_ends_the_answer() -> None:
    said = Loop(FakeBackend(answers({"hi": "hello"}))).run([ask(1, stop=("lox",), max_tokens=4)])
    assert (said.text(1), said.end(1).finish) == ("hell", "length")


@pytest.mark.parametrize("text", ["🌊🐚", "海の詩", "İstanbul'da ığüşöç", "é" * 5])
def test_characters_are_never_cut(text: str) -> None:
    said = Loop(FakeBackend(answers({"hi": text}))).run([ask(1)])
    assert [d.text for d in said.of(1) if d.text] == list(text)


def test_a_character_cut_by_the_limit_becomes_a_replacement_character() -> None:
    said = Loop(FakeBackend(answers({"hi": "a🌊"}))).run([ask(1, max_tokens=3)])
    assert said.text(1) == "a\N{REPLACEMENT CHARACTER}"


# Many at a time


def test_requests_are_computed_together_each_with_its_own_answer() -> None:
    script = {f"q{n}?": f"answer {n}" for n in range(4)}
    backend = FakeBackend(answers(script))
    said = Loop(backend).run([ask(n, f"q{n}?") for n in range(4)])
    assert [said.text(n) for n in range(4)] == list(script.values())
    assert max(len(step) for step in backend.steps) == 4


def test_one_message_carries_the_news_of_a_whole_step() -> None:
    said = Loop(FakeBackend(answers({"hi": "abc"}))).run([ask(1), ask(2)])
    assert [[d.id for d in step.deltas] for step in said.steps if step.rows] == [[1, 2]] * 4


def test_a_request_that_comes_while_others_run_joins_at_the_next_step() -> None:
    backend = FakeBackend(answers({"hi": "abcdef"}))
    Loop(backend).run([ask(1)], pause, [ask(2)])
    assert [[c.sequence.id for c in step] for step in backend.steps[:4]] == [
        [1],
        [1],
        [1, 2],
        [1, 2],
    ]


def test_a_long_prompt_does_not_stop_a_running_stream() -> None:
    backend = FakeBackend(answers({"hi": "a" * 20}, repeat="b"), batch_size=8)
    said = Loop(backend).run([ask(1)], [ask(2, "x" * 40, max_tokens=2)])
    waiting = [step for step in said.steps if step.rows == 8]
    assert len(waiting) >= 5
    assert all([d.id for d in step.deltas] == [1] for step in waiting)


def test_a_prompt_is_announced_before_it_is_tokenised_and_when_that_is_done() -> None:
    loop = Loop(FakeBackend(answers({"hi": "ab"})))
    loop.run([ask(1), ask(2)])
    assert loop.channel.tokenizing == [(1,), (), (2,), ()]


def test_admitted_requests_are_named_before_their_first_step_is_computed() -> None:
    loop = Loop(FakeBackend(answers({"hi": "ab"}), sequences=2))
    seen: list[list[tuple[int, ...]]] = []
    loop.backend.before_decode = lambda _: seen.append([s.begun for s in loop.channel.sent])
    loop.run([ask(1), ask(2), ask(3)])
    assert seen[0] == [(1, 2)]
    assert [ids for ids in seen[-1] if ids] == [(1, 2), (3,)]


def test_intervals_are_reported_for_every_token_after_the_first() -> None:
    loop = Loop(FakeBackend(answers({"hi": "abc"})))
    loop.backend.before_decode = lambda _: loop.clock.advance(0.25)
    said = loop.run([ask(1)])
    assert [step.intervals for step in said.steps if step.rows] == [(), (0.25,), (0.25,), (0.25,)]


def test_a_report_has_the_seconds_and_the_rows_of_its_step() -> None:
    loop = Loop(FakeBackend(answers({"hi": "abc"}), sequences=1))
    loop.backend.before_decode = lambda _: loop.clock.advance(0.25)
    first = next(step for step in loop.run([ask(1), ask(2)]).steps if step.rows)
    assert (first.seconds, first.rows, first.running, first.waiting) == (0.25, 2, 1, 1)
    assert (first.kv_used, first.kv_total) == (2, 64)


# Refusals


def test_an_empty_prompt_is_refused() -> None:
    said = Loop(FakeBackend(drawl)).run([ask(1, ""), ask(2, [])])
    for id in (1, 2):
        failure = said.end(id).failure
        assert failure is not None
        assert (failure.code, failure.param) == ("invalid_request", "prompt")


@pytest.mark.parametrize("token", [-1, VOCABULARY, 2**40])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    said = Loop(FakeBackend(drawl)).run([ask(1, [5, token])])
    assert said.code(1) == "invalid_request"
    assert str(VOCABULARY) in said.message(1)


def test_a_prompt_that_cannot_fit_is_refused_with_both_numbers() -> None:
    said = Loop(FakeBackend(drawl, context=32)).run([ask(1, "x" * 32), ask(2, [1] * 33)])
    assert said.code(1) == said.code(2) == "context_length_exceeded"
    for id, count in ((1, 32), (2, 33)):
        # Clients of OpenAI and of Anthropic know by these words that they have to shorten it.
        assert "maximum context length is 32 tokens" in said.message(id)
        assert f"prompt is too long: {count} tokens > 31 maximum" in said.message(id)
        assert "not all were counted" not in said.message(id)


def test_a_hopeless_text_is_refused_without_being_counted() -> None:
    backend = FakeBackend(drawl, context=32)
    said = Loop(backend).run([ask(1, "x" * 1000)])
    assert backend.vocabulary.tokenized == []
    assert "prompt is too long: 250 tokens > 31 maximum" in said.message(1)
    assert "not all were counted" in said.message(1)


def test_the_longest_prompt_that_fits_gets_one_token() -> None:
    said = Loop(FakeBackend(answers({}, repeat="a"), context=32)).run([ask(1, "x" * 31)])
    assert (said.text(1), said.end(1).finish) == ("a", "length")


def test_a_request_beyond_the_queue_is_refused_as_overloaded_and_the_others_complete() -> None:
    loop = Loop(FakeBackend(answers({"hi": "abc"}), sequences=1), max_queue=2)
    said = loop.run([ask(n) for n in range(1, 6)])
    assert [said.end(n).finish for n in (1, 2, 3)] == ["stop"] * 3
    assert said.code(4) == said.code(5) == "overloaded"
    failure = said.end(4).failure
    assert failure is not None
    assert failure.retry_after is not None


def test_biases_of_unknown_tokens_do_not_reach_the_sampler() -> None:
    backend = FakeBackend(answers({"hi": "a"}))
    seen: list[Sampling] = []
    make = backend.sampler

    def sampler(sampling: Sampling, seed: int, prompt: list[int]) -> Any:
        seen.append(sampling)
        return make(sampling, seed, prompt)

    backend.sampler = sampler  # type: ignore[method-assign]
    bias = ((-1, 1.0), (5, 2.0), (VOCABULARY, 3.0))
    Loop(backend).run([ask(1, sampling=Sampling(temperature=0, logit_bias=bias))])
    assert seen[0].logit_bias == ((5, 2.0),)


# Cancels and deadlines


def phases() -> list[Any]:
    """Return, for each phase, how many steps pass before the cancel or the deadline, with one id
    taken."""
    return [
        pytest.param(0, id="waiting"),
        pytest.param(1, id="prefilling"),
        pytest.param(6, id="decoding"),
    ]


def in_phase(steps: int) -> tuple[Loop, Submit, list[ToEngine]]:
    """Return a loop, a request of 30 tokens, and those before it: one, if it is to wait."""
    loop = Loop(FakeBackend(answers({}, repeat="b"), sequences=1, batch_size=8))
    before: list[ToEngine] = [ask(9, "first", max_tokens=10)] if steps == 0 else []
    return loop, ask(1, "x" * 30), before


@pytest.mark.parametrize("steps", phases())
def test_a_cancel_in_any_phase_frees_the_request_without_a_word(steps: int) -> None:
    loop, request, before = in_phase(steps)
    said = loop.run([*before, request], *[pause] * steps, [Cancel(1)])
    assert not any(delta.last for delta in said.of(1))
    assert all(c.sequence.id != 1 for step in loop.backend.steps[steps + 1 :] for c in step)
    if before:
        assert said.end(9).finish == "length"


@pytest.mark.parametrize("steps", phases())
def test_a_deadline_in_any_phase_ends_the_request(steps: int) -> None:
    loop, request, before = in_phase(steps)
    late = loop.clock.time + 5.0
    request = ask(1, request.request.prompt, deadline=late)
    said = loop.run([*before, request], *[pause] * steps, partial(loop.clock.advance, 5.0))
    assert said.code(1) == "deadline_exceeded"
    usage = said.end(1).usage
    assert usage is not None
    assert (usage.completion_tokens > 0) is (steps == 6)


def test_a_deadline_that_has_passed_before_the_request_came_ends_it_uncomputed() -> None:
    loop = Loop(FakeBackend(drawl))
    said = loop.run([ask(1, deadline=loop.clock.time)])
    assert said.code(1) == "deadline_exceeded"
    assert loop.backend.steps == []


def test_a_cancel_of_what_has_ended_or_never_was_is_nothing() -> None:
    said = Loop(FakeBackend(answers({"hi": "a"}))).run([Cancel(7), ask(1), Cancel(7)])
    assert said.text(1) == "a"


def test_a_cancel_that_comes_together_with_its_request_leaves_nothing() -> None:
    loop = Loop(FakeBackend(drawl))
    assert loop.run([ask(1), Cancel(1)]).deltas == []
    assert loop.backend.steps == []


@pytest.mark.parametrize(("others", "interval"), [(0, 0.0), (1, 1000.0)])
def test_the_slot_of_a_cancelled_request_is_reported_as_free_at_once(
    others: int, interval: float
) -> None:
    loop = Loop(FakeBackend(answers({}, repeat="b")), interval=interval)
    beside = [ask(2, "y", max_tokens=30)] * others
    said = loop.run([*beside, ask(1, "x", max_tokens=30)], *[pause] * 3, [Cancel(1)], pause)
    running = [step.running for step in said.steps]
    at = running.index(others, 1)
    assert set(running[:at]) == {others + 1}
    assert sum(step.steps for step in said.steps[: at + 1]) <= 5


def test_the_id_of_a_cancelled_request_is_cleared_before_it_is_used_again() -> None:
    backend = FakeBackend(answers({"hi": "ab"}, repeat="x"), sequences=1)
    said = Loop(backend).run([ask(1, "long")], pause, [Cancel(1), ask(2)])
    assert said.text(2) == "ab"  # the backend asserts that nothing of request 1 was left


# Trouble


def test_logits_that_are_no_numbers_fail_that_request_alone() -> None:
    bad = [ord("a"), NAN]
    said = Loop(FakeBackend(answers({"hi": "abc", "bad": bad}))).run([ask(1), ask(2, "bad")])
    assert (said.text(1), said.end(1).finish) == ("abc", "stop")
    assert (said.text(2), said.code(2)) == ("a", "generation_failed")


def requests(sampling: Sampling = GREEDY) -> list[ToEngine]:
    return [ask(n, f"{n} tells", sampling=sampling, max_tokens=40) for n in range(1, 5)]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("cells", [60, 75, 110])
def test_a_cache_that_is_really_full_changes_no_text(cells: int, sampling: Sampling) -> None:
    calm = Loop(FakeBackend(drawl)).run(requests(sampling))
    tight = Loop(FakeBackend(drawl, cells=cells)).run(requests(sampling))
    for n in range(1, 5):
        assert tight.text(n) == calm.text(n)
        assert len(tight.text(n)) == 40
        assert tight.end(n).finish == "length"


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_preemption_by_our_own_count_changes_no_text(sampling: Sampling) -> None:
    calm = Loop(FakeBackend(drawl)).run(requests(sampling))
    backend = FakeBackend(drawl)
    loop = Loop(backend)
    loop.scheduler = Scheduler(
        UnifiedCells(100, 4, 4, rollback=True), slots=4, context=64, budget=16, max_waiting=16
    )
    tight = loop.run(requests(sampling))
    assert sum(step.preempted for step in tight.steps) > 0
    assert [tight.text(n) for n in range(1, 5)] == [calm.text(n) for n in range(1, 5)]


def test_a_step_without_a_slot_now_and_then_is_tried_again() -> None:
    backend = FakeBackend(drawl, codes=[0, 1, 0, 0, 1, 1, 0])
    said = Loop(backend).run(requests())
    calm = Loop(FakeBackend(drawl)).run(requests())
    assert [said.text(n) for n in range(1, 5)] == [calm.text(n) for n in range(1, 5)]


def test_a_step_that_found_no_cells_is_reported_as_computing_nothing() -> None:
    said = Loop(FakeBackend(answers({"hi": "a"}), codes=[1])).run([ask(1), ask(2)])
    told = [step for step in said.steps if not step.begun]
    assert (told[0].rows, told[0].preempted) == (0, 1)
    assert said.text(1) == said.text(2) == "a"


def test_a_request_alone_without_a_slot_is_computed_in_smaller_steps() -> None:
    backend = FakeBackend(answers({"x" * 12: "ok"}), codes=[1, 1])
    said = Loop(backend).run([ask(1, "x" * 12)])
    assert said.text(1) == "ok"
    assert [sum(c.rows for c in step) for step in backend.steps[:4]] == [0, 0, 3, 9]


def test_a_request_for_which_there_is_never_a_slot_fails_and_the_next_one_is_served() -> None:
    backend = FakeBackend(answers({"hi": "ok"}), codes=[1, 1, 1, 1])
    said = Loop(backend).run([ask(1, "12345678")], *[pause] * 4, [ask(2)])
    assert said.code(1) == "generation_failed"
    assert said.text(2) == "ok"


def test_a_cache_smaller_than_promised_serves_what_fits_and_fails_the_rest() -> None:
    backend = FakeBackend(answers({"hi": "ok"}), cells=20)
    said = Loop(backend).run([ask(1, "x" * 30), ask(2), ask(3, "y" * 30), ask(4)])
    assert [said.code(1), said.code(3)] == ["generation_failed"] * 2
    assert [said.text(2), said.text(4)] == ["ok", "ok"]


@pytest.mark.parametrize("code", [2, -1, -3])
def test_any_other_code_of_the_library_ends_the_process(code: int) -> None:
    with pytest.raises(ContextLost, match=str(code)):
        Loop(FakeBackend(drawl, codes=[0, code])).run([ask(1)])


# Seeds


def test_the_same_seed_draws_the_same_text_alone_or_beside_others() -> None:
    request = partial(ask, sampling=Sampling(temperature=1, seed=42), max_tokens=12)
    alone = Loop(FakeBackend(drawl)).run([request(1)]).text(1)
    said = Loop(FakeBackend(drawl)).run([request(2), ask(5)], pause, [request(3)])
    assert said.text(2) == said.text(3) == alone
    assert len(alone) == 12


def test_without_a_seed_two_requests_draw_differently() -> None:
    request = partial(ask, sampling=Sampling(temperature=1), max_tokens=12)
    said = Loop(FakeBackend(drawl)).run([request(1), request(2)])
    assert said.text(1) != said.text(2)


# The process's life


def test_an_idle_loop_sends_signs_of_life() -> None:
    loop = Loop(FakeBackend(drawl))
    tick = partial(loop.clock.advance, BEAT_SECONDS)
    said = loop.run(tick, tick, tick)
    assert [(step.rows, step.deltas) for step in said.steps] == [(0, ())] * 3


def test_a_long_step_sends_signs_of_life_when_asked_to_and_not_too_often() -> None:
    loop = Loop(FakeBackend(answers({"hi": ""})))

    def slow(_: object) -> None:
        for _ in range(10):
            loop.clock.advance(BEAT_SECONDS / 2)
            loop.server.beat()

    loop.backend.before_decode = slow
    said = loop.run([ask(1)])
    assert len([step for step in said.steps if not step.rows and not step.begun]) == 5


def test_the_loop_waits_for_messages_only_when_it_has_nothing_to_do() -> None:
    loop = Loop(FakeBackend(answers({"hi": "a"})))
    loop.run([ask(1)])
    assert loop.channel.waited == [BEAT_SECONDS, 0.0, BEAT_SECONDS]


def test_a_stop_ends_the_loop_at_once() -> None:
    loop = Loop(FakeBackend(drawl))
    loop.run([ask(1)], pause, [Stop()], clean=False)
    assert len(loop.backend.steps) == 2


def test_a_parent_that_is_gone_ends_the_loop_in_the_middle_of_an_answer() -> None:
    def gone() -> None:
        raise EOFError

    loop = Loop(FakeBackend(drawl))
    loop.run([ask(1)], pause, gone, clean=False)
    assert len(loop.backend.steps) == 2


def test_a_second_start_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="twice"):
        Loop(FakeBackend(drawl)).run([Start(EngineSpec("m.gguf", 64, 1))])


# Waiting


def test_a_request_that_could_not_begin_in_time_is_refused_at_once_with_a_time_to_retry() -> None:
    loop = Loop(FakeBackend(drawl, sequences=1))
    loop.clock = FakeClock(per_look=0.01)
    first: list[ToEngine] = [ask(1, "a", max_tokens=30)]
    both = lambda: [  # noqa: E731 - read when the first has ended, on the clock of then
        ask(2, "b", max_tokens=30),
        ask(3, "c", deadline=loop.clock.time + 0.5),
        ask(4, "d", deadline=loop.clock.time + 500.0),
    ]
    said = loop.run(first, *[pause] * 40, both)
    assert said.code(3) == "overloaded"
    failure = said.end(3).failure
    assert failure is not None
    assert failure.retry_after is not None
    assert said.end(4).finish == "length"


def test_a_request_that_comes_before_those_that_wait_is_not_refused_for_them() -> None:
    loop = Loop(FakeBackend(drawl, sequences=1))
    loop.clock = FakeClock(per_look=0.01)

    def crowd() -> list[ToEngine]:  # read when the first has ended, on the clock of then
        soon = loop.clock.time + 4.0
        low = [ask(id, "b", max_tokens=30, priority=0) for id in range(2, 9)]
        return [
            *low,
            ask(9, "c", deadline=soon, priority=0),
            ask(10, "d", deadline=soon, priority=2, max_tokens=1),
        ]

    said = loop.run([ask(1, "a", max_tokens=30)], *[pause] * 40, crowd)
    assert said.end(10).finish == "length"
    assert said.code(9) == "overloaded"
    assert [said.end(id).finish for id in range(2, 9)] == ["length"] * 7


def test_no_request_is_refused_for_a_wait_of_which_nothing_is_known() -> None:
    loop = Loop(FakeBackend(drawl, sequences=1))
    far = loop.clock.time + 1000
    said = loop.run([ask(1, max_tokens=3), ask(2, max_tokens=3, deadline=far)])
    assert said.end(2).finish == "length"


def test_the_higher_priority_begins_first() -> None:
    loop = Loop(FakeBackend(drawl, sequences=1))
    said = loop.run(
        [ask(1, max_tokens=2)],
        [ask(2, "low", max_tokens=2, priority=0), ask(3, "high", max_tokens=2, priority=2)],
    )
    begun = [id for step in said.steps for id in step.begun]
    assert begun == [1, 3, 2]


def test_the_usage_says_how_much_of_the_prompt_was_known() -> None:
    said = Loop(FakeBackend(drawl)).run(
        [ask(1, "known before", max_tokens=1)],
        pause,
        pause,
        [ask(2, "known before, and more", max_tokens=1)],
    )
    usages = [said.end(id).usage for id in (1, 2)]
    assert [usage and usage.cached_tokens for usage in usages] == [0, 12]


def test_reuse_points_become_positions_and_a_crash_on_them_blames_their_request() -> None:
    backend = FakeBackend(drawl, rollback=False)
    loop = Loop(backend)
    said = loop.run(
        [ask(1, "system, user", max_tokens=1, reuse_points=(7,))],
        pause,
        pause,
        [ask(2, "system: more", max_tokens=1, reuse_points=(6,))],
        pause,
        pause,
        [ask(3, "system, else", max_tokens=1)],
    )
    assert said.end(3).usage.cached_tokens == 7  # type: ignore[union-attr]
    assert loop.channel.tokenizing == [(1,), (), (2,), (), (3,), ()]


# PendingGrammars


def held_to(texts: str, id: int = 1, prompt: str = "hi", **more: Any) -> Submit:
    return ask(id, prompt, grammar=Grammar("regex", texts), **more)


def test_an_answer_is_held_to_its_grammar_and_ends_with_it_without_another_step() -> None:
    backend = FakeBackend(answers({"hi": "abc"}))
    said = Loop(backend).run([held_to("yes|nope")])
    assert (said.text(1), said.end(1).finish) == ("nope", "stop")
    assert len(backend.steps) == 4


def test_the_end_comes_only_where_the_grammar_is_matched() -> None:
    backend = FakeBackend(answers({"hi": [END] * 9}))
    said = Loop(backend).run([held_to("a|abc")])
    assert (said.text(1), said.end(1).finish) == ("a", "stop")
    assert said.end(1).usage.completion_tokens == 2  # type: ignore[union-attr]


def test_a_grammar_is_named_to_the_parent_before_it_is_compiled_and_when_that_is_done() -> None:
    compiler = FakeCompiler(held=True)
    loop = Loop(FakeBackend(drawl), compiler=compiler)
    loop.run([held_to("ab", 1)], [held_to("ab", 2)], compiler.release)
    assert loop.channel.compiling == [(1,), (1, 2), (2,), ()]


def test_running_streams_go_on_while_a_grammar_is_compiled() -> None:
    compiler = FakeCompiler(held=True)
    loop = Loop(FakeBackend(answers({"hi": "abcdef"})), compiler=compiler)
    said = loop.run([ask(1)], [held_to("no", 2)], *[pause] * 10, compiler.release)
    assert said.text(1) == "abcdef"
    assert said.text(2) == "no"
    assert PREPARING_SECONDS in loop.channel.waited


def test_a_refused_grammar_ends_its_request_before_anything_is_computed() -> None:
    backend = FakeBackend(answers({"hi": "ab"}))
    said = Loop(backend).run([held_to("!no uniqueItems")], pause)
    failure = said.end(1).failure
    assert failure == Failure("invalid_request", "no uniqueItems", param="grammar")
    assert backend.steps == []
    assert Loop(backend).run([ask(2)]).text(2) == "ab"


def test_a_grammar_that_takes_too_long_to_compile_is_refused() -> None:
    compiler = FakeCompiler(held=True)
    loop = Loop(FakeBackend(drawl), compiler=compiler)
    said = loop.run([held_to("ab")], partial(loop.clock.advance, PATIENCE_SECONDS))
    assert said.code(1) == "invalid_request"
    assert "20 seconds" in said.message(1)


def test_a_cancel_while_a_grammar_is_compiled_leaves_nothing() -> None:
    compiler = FakeCompiler(held=True)
    loop = Loop(FakeBackend(answers({"hi": "ab"})), compiler=compiler)
    said = loop.run([held_to("x")], [Cancel(1)], compiler.release, [ask(2)])
    assert said.of(1) == []
    assert compiler.constraints == [], "it was compiled all the same"
    assert said.text(2) == "ab"


def test_a_deadline_while_a_grammar_is_compiled_ends_the_request() -> None:
    compiler = FakeCompiler(held=True)
    loop = Loop(FakeBackend(drawl), compiler=compiler)
    late = loop.clock.time + 5.0
    said = loop.run([held_to("x", deadline=late)], partial(loop.clock.advance, 5.0))
    assert said.code(1) == "deadline_exceeded"
    assert loop.backend.steps == []


def test_requests_whose_grammars_are_compiled_count_for_the_queue() -> None:
    compiler = FakeCompiler(held=True)
    loop = Loop(FakeBackend(drawl, sequences=1), max_queue=1, compiler=compiler)
    said = loop.run([held_to("x", id) for id in (1, 2, 3)], compiler.release)
    assert said.code(3) == "overloaded"
    assert (said.text(1), said.text(2)) == ("x", "x")


def test_ignore_eos_cannot_be_had_with_a_grammar() -> None:
    said = Loop(FakeBackend(drawl)).run([held_to("x", ignore_eos=True)])
    failure = said.end(1).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_request", "ignore_eos")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_that_cannot_be_held_any_longer_fails_alone(asynchronous: bool) -> None:
    backend = FakeBackend(answers({"hi": "abc"}), asynchronous=asynchronous)
    loop = Loop(backend, compiler=FakeCompiler(fails_after="xy"))
    said = loop.run([held_to("xyz"), ask(2)])
    assert (said.text(1), said.code(1)) == ("xy", "generation_failed")
    assert said.text(2) == "abc"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_grammar_that_is_too_much_work_ends_its_answer_as_the_callers_fault(
    asynchronous: bool,
) -> None:
    backend = FakeBackend(answers({"hi": "abc"}), asynchronous=asynchronous)
    costly = GrammarTooCostly("it takes too long")
    loop = Loop(backend, compiler=FakeCompiler(fails_after="xy", failure=costly))
    said = loop.run([held_to("xyz"), ask(2)])
    failure = said.end(1).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_request", "grammar")
    assert "make it simpler" in failure.message
    assert said.text(2) == "abc"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_masks_of_one_step_give_signs_of_life(asynchronous: bool) -> None:
    backend = FakeBackend(drawl, asynchronous=asynchronous)
    compiler = FakeCompiler(before_mask=lambda: loop.clock.advance(BEAT_SECONDS))
    loop = Loop(backend, compiler=compiler)
    sent: list[int] = []
    backend.before_decode = lambda _: sent.append(len(loop.channel.sent))
    loop.run([held_to("ab", id) for id in range(4)])
    first, second = sent
    assert second - first >= 4


def test_stop_strings_and_limits_end_a_constrained_answer_too() -> None:
    said = Loop(FakeBackend(drawl)).run(
        [held_to("hello world", 1, stop=("lo",)), held_to("hello", 2, max_tokens=2)]
    )
    assert (said.text(1), said.end(1).finish) == ("hel", "stop")
    assert (said.text(2), said.end(2).finish) == ("he", "length")


def test_text_held_back_comes_out_when_the_grammar_ends_the_answer() -> None:
    said = Loop(FakeBackend(drawl)).run([held_to("hello", stop=("lox",))])
    assert (said.text(1), said.end(1).finish) == ("hello", "stop")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_constrained_and_free_answers_run_together_also_where_they_are_preempted(
    asynchronous: bool,
) -> None:
    backend = FakeBackend(drawl, cells=75, asynchronous=asynchronous)
    text = "abcdefghijklmnopqrstuvwxyz" * 2
    free = Loop(FakeBackend(drawl)).run(requests())
    loop = Loop(backend)
    said = loop.run([*requests(), held_to(text, 8, "constrained"), held_to(text, 9, "other")])
    assert [said.text(n) for n in range(1, 5)] == [free.text(n) for n in range(1, 5)]
    assert said.text(8) == said.text(9) == text
    assert sum(step.preempted for step in said.steps) > 0


def test_masks_are_computed_while_an_asynchronous_step_is() -> None:
    compiler = FakeCompiler()
    counts: list[int] = []
    backend = FakeBackend(
        drawl,
        asynchronous=True,
        while_computing=lambda: counts.append(len(compiler.constraints[0].computed)),
    )
    Loop(backend, compiler=compiler).run([held_to("abc")])
    assert counts == [1, 2, 3]


def test_the_vocabulary_is_read_for_grammars_when_there_is_nothing_else_to_do() -> None:
    loop = Loop(FakeBackend(answers({"hi": "ab"})))
    loop.run([ask(1)], *[pause] * 2)
    assert loop.compiler.begun == 0
    loop.run(pause)
    assert loop.compiler.begun == 1


# Samplers that take long to make

SLOW = Sampling(temperature=0.0, dry_multiplier=1.0)


def slow_samplers(model: Model, **more: Any) -> tuple[FakeBackend, Callable[[], None]]:
    """A backend whose samplers with DRY are not ready, and what makes them so."""
    backend = FakeBackend(model, **more)
    backend.samplers_ready = False
    return backend, partial(setattr, backend, "samplers_ready", True)


def test_a_request_whose_sampler_is_being_made_holds_up_no_other() -> None:
    backend, finish = slow_samplers(answers({"hi": "abcdef"}))
    loop = Loop(backend)
    said = loop.run([ask(1), ask(2, sampling=SLOW)], *[pause] * 10, finish)
    assert said.text(1) == said.text(2) == "abcdef"
    assert said.deltas.index(said.end(1)) < said.deltas.index(said.of(2)[0])
    assert PREPARING_SECONDS in loop.channel.waited


def test_a_request_waits_for_its_grammar_and_for_its_sampler() -> None:
    backend, finish = slow_samplers(drawl)
    compiler = FakeCompiler(held=True)
    loop = Loop(backend, compiler=compiler)
    said = loop.run([held_to("no", sampling=SLOW)], compiler.release, pause, finish)
    assert said.text(1) == "no"


@pytest.mark.parametrize("late", [False, True])
def test_a_request_may_end_while_its_sampler_is_made(late: bool) -> None:
    backend, finish = slow_samplers(answers({"hi": "ab"}))
    loop = Loop(backend)
    request = ask(1, sampling=SLOW, deadline=loop.clock.time + 5.0)
    end: Callable[[], Any] | list[ToEngine] = [Cancel(1)]
    if late:
        end = partial(loop.clock.advance, 5.0)
    said = loop.run([request], end, finish, [ask(2)])
    assert said.text(2) == "ab"
    assert [delta.failure is not None for delta in said.of(1)] == [True] * late


def test_requests_whose_samplers_are_made_count_for_the_queue() -> None:
    backend, finish = slow_samplers(answers({"hi": "x"}), sequences=1)
    said = Loop(backend, max_queue=1).run([ask(id, sampling=SLOW) for id in (1, 2, 3)], finish)
    assert said.code(3) == "overloaded"
    assert (said.text(1), said.text(2)) == ("x", "x")


# Log probabilities


def told(said: Said, id: int = 1) -> list[TokenLogprob]:
    return [each for delta in said.of(id) for each in delta.logprobs]


def test_log_probabilities_come_for_every_token_but_that_which_ends_the_answer() -> None:
    backend = FakeBackend(answers({"hi": "a🌊b"}))
    said = Loop(backend).run([ask(1, logprobs=0, stop=("bx",)), ask(2)])
    *deltas, last = said.of(1)
    assert all(len(delta.logprobs) == delta.tokens for delta in deltas)
    assert len(last.logprobs) == last.tokens - 1
    assert b"".join(each.piece for each in told(said)) == "a🌊b".encode()
    assert told(said, 2) == []


def test_log_probabilities_are_the_models_own_before_biases_and_masks() -> None:
    sampling = Sampling(temperature=0.0, logit_bias=((ord("q"), 100.0),))
    said = Loop(FakeBackend(answers({"hi": "abc"}))).run(
        [ask(1, logprobs=2, sampling=sampling, max_tokens=1), held_to("z", 2, logprobs=1)]
    )
    (biased,), (masked,) = told(said), told(said, 2)
    assert biased.piece == b"q"
    assert [piece for _, piece, _ in biased.top] == [b"a", b"z", b"q"]
    assert biased.top[0][2] - biased.top[2][2] == pytest.approx(2.0)
    assert masked.piece == b"z"
    assert masked.top[0][1] == b"a"
    assert masked.top[0][2] - masked.top[1][2] == pytest.approx(1.0)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("answer", "stop", "kept"),
    [
        ("hello world", "lo w", "hel"),
        ("hello world", "hello", ""),
        ("a\N{WATER WAVE}b", "b", "a\N{WATER WAVE}"),
        ("a\N{WATER WAVE}b", "\N{WATER WAVE}", "a"),
        ("lolo w!", "lo w", "lo"),
    ],
)
def test_the_log_probabilities_of_a_stop_string_are_left_out(
    answer: str, stop: str, kept: str, asynchronous: bool
) -> None:
    backend = FakeBackend(answers({"hi": answer}), asynchronous=asynchronous)
    said = Loop(backend).run([ask(1, logprobs=0, stop=(stop,))])
    assert said.text(1) == kept
    assert b"".join(each.piece for each in told(said)) == kept.encode()
    usage = said.end(1).usage
    assert usage is not None
    assert usage.completion_tokens == len((kept + stop).encode()), "they were computed all the same"


def test_the_log_probabilities_of_a_stop_string_that_is_shown_are_kept() -> None:
    backend = FakeBackend(answers({"hi": "hello world"}))
    said = Loop(backend).run([ask(1, logprobs=0, stop=("lo w",), show_stop=True)])
    assert said.text(1) == "hello w"
    assert b"".join(each.piece for each in told(said)) == b"hello w"


# Prompts that are scored


def scored(said: Said, id: int = 1) -> list[TokenLogprob]:
    return [each for delta in said.of(id) for each in delta.prompt_logprobs]


def pieces(tokens: list[TokenLogprob]) -> bytes:
    return b"".join(each.piece for each in tokens)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("batch_size", [4, 16, 64])
def test_every_token_of_a_prompt_is_scored_once_in_order_before_the_answer(
    batch_size: int, asynchronous: bool
) -> None:
    prompt = "the sea and the theatre"
    backend = FakeBackend(
        answers({prompt: "!"}, repeat="e"), batch_size=batch_size, asynchronous=asynchronous
    )
    said = Loop(backend).run([ask(1, prompt, prompt_logprobs=1)], [ask(2, "x" * 30, max_tokens=9)])
    first, *others = scored(said)
    assert pieces(scored(said)) == prompt.encode()
    assert (first.logprob, first.top) == (None, ())
    for each in others:
        likely = [piece for _, piece, _ in each.top]
        assert each.logprob is not None
        assert each.piece in likely
        assert (each.logprob == max(value for _, _, value in each.top)) == (each.piece == b"e")
        assert len(likely) == (1 if each.piece == b"e" else 2)
    kinds = ["prompt" if delta.prompt_logprobs else "answer" for delta in said.of(1)]
    assert kinds == sorted(kinds, reverse=True)
    assert said.text(1) == "!"
    assert scored(said, 2) == []


def test_a_prompt_of_one_token_has_a_first_one_only() -> None:
    said = Loop(FakeBackend(answers({"a": "b"}))).run([ask(1, "a", prompt_logprobs=3)])
    assert [(each.piece, each.logprob) for each in scored(said)] == [(b"a", None)]
    assert said.text(1) == "b"


@pytest.mark.parametrize("prompt_logprobs", [-1, 2])
def test_without_any_token_of_an_answer_only_the_prompt_is_computed(prompt_logprobs: int) -> None:
    backend = FakeBackend(answers({}, repeat="x"))
    said = Loop(backend).run([ask(1, max_tokens=0, prompt_logprobs=prompt_logprobs), ask(2)], pause)
    end = said.end(1)
    assert (said.text(1), end.finish, end.tokens) == ("", "length", 0)
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (2, 0)
    assert pieces(scored(said)) == (b"hi" if prompt_logprobs >= 0 else b"")


def test_running_answers_go_on_in_every_step_beside_a_prompt_that_is_scored() -> None:
    backend = FakeBackend(answers({"hi": "a" * 30}, repeat="b"), sequences=2, idle=2)
    said = Loop(backend).run([ask(1)], [ask(2, "x" * 40, max_tokens=1, prompt_logprobs=0)])
    beside = [step for step in backend.steps if any(chunk.scored for chunk in step)]
    assert len(beside) >= 10
    assert all(len(step) == 2 for step in beside)
    assert len(said.text(1)) == 30


def test_a_scored_prompt_that_the_cache_holds_is_computed_again() -> None:
    backend = FakeBackend(answers({"the sea": "s"}, repeat="x"))
    said = Loop(backend).run(
        [ask(1, "the sea")], *[pause] * 4, [ask(2, "the sea", prompt_logprobs=0)]
    )
    assert pieces(scored(said, 2)) == b"the sea"
    usage = said.end(2).usage
    assert usage is not None
    assert usage.cached_tokens == 0


def test_a_prompt_is_not_scored_by_numbers_that_were_lost() -> None:
    """Another one spoils the cache meanwhile: all goes on where it was."""
    backend = FakeBackend(answers({"the sea": "s"}, repeat="x"), sequences=2, idle=1, batch_size=8)
    said = Loop(backend).run([ask(1, "the sea", prompt_logprobs=0)], [ask(2, "%%%")])
    assert pieces(scored(said)) == b"the sea"
    assert said.text(1) == "s"
    assert said.code(2) == "generation_failed"


def test_a_scored_prompt_that_makes_no_numbers_fails() -> None:
    said = Loop(FakeBackend(answers({}, repeat="x"))).run([ask(1, "a%b", prompt_logprobs=0)])
    assert said.code(1) == "generation_failed"


def test_a_cancelled_prompt_is_not_scored_further() -> None:
    backend = FakeBackend(answers({}, repeat="x"), sequences=1, idle=1)
    said = Loop(backend).run(
        [ask(1, "x" * 40, prompt_logprobs=0)], pause, [Cancel(1)], [ask(2, max_tokens=1)]
    )
    assert 0 < len(scored(said)) < 40
    assert said.text(2) == "x"


def test_more_log_probabilities_than_are_bearable_are_refused() -> None:
    backend = FakeBackend(drawl, context=1 << 17)
    said = Loop(backend).run([ask(1, [5] * 100_000, prompt_logprobs=1)])
    assert said.code(1) == "invalid_request"
    assert "131072 may be" in said.message(1)


# Rules about tokens


def test_an_answer_has_the_least_number_of_tokens_before_it_ends() -> None:
    said = Loop(FakeBackend(answers({"hi": "ab"}))).run(
        [ask(1, rules=TokenRules(least=5), max_tokens=8), ask(2, rules=TokenRules(least=2))]
    )
    assert (said.text(1), said.end(1).finish) == ("abzzz", "stop")
    assert (said.text(2), said.end(2).finish) == ("ab", "stop")


def test_no_stop_string_ends_an_answer_that_is_too_short() -> None:
    backend = FakeBackend(answers({"hi": "a.b.c."}))
    said = Loop(backend).run([ask(1, stop=(".",), rules=TokenRules(least=3))])
    assert (said.text(1), said.end(1).stop) == ("a.b", ".")


@pytest.mark.parametrize("show", [False, True])
def test_a_stop_token_ends_the_answer_and_is_named(show: bool) -> None:
    rules = TokenRules(stops=(ord("c"), 99_999))
    said = Loop(FakeBackend(answers({"hi": "abcd"}))).run([ask(1, rules=rules, show_stop=show)])
    end = said.end(1)
    assert (said.text(1), end.finish, end.stop) == ("abc" if show else "ab", "stop", ord("c"))


def test_the_models_own_end_is_no_stop_token() -> None:
    rules = TokenRules(stops=(END,))
    said = Loop(FakeBackend(answers({"hi": "ab"}))).run([ask(1, rules=rules)])
    assert (said.text(1), said.end(1).finish, said.end(1).stop) == ("ab", "stop", None)


def test_an_end_that_is_ignored_may_still_be_asked_for_as_a_stop_token() -> None:
    rules = TokenRules(stops=(END,))
    backend = FakeBackend(answers({"hi": "ab"}))
    said = Loop(backend).run([ask(1, rules=rules, ignore_eos=True, max_tokens=9)])
    assert (said.text(1), said.end(1).finish, said.end(1).stop) == ("ab", "stop", END)


def test_a_stop_token_counts_only_when_the_answer_is_long_enough() -> None:
    rules = TokenRules(least=3, stops=(ord("b"),))
    said = Loop(FakeBackend(answers({"hi": "ab"}, repeat="b"))).run([ask(1, rules=rules)])
    assert said.text(1) == "azz"


def test_only_allowed_tokens_are_drawn() -> None:
    rules = TokenRules(allowed=(ord("a"), ord("z"), END))
    said = Loop(FakeBackend(answers({"hi": "abaca"}))).run([ask(1, rules=rules)])
    assert said.text(1) == "azaza"


def test_a_bad_word_is_never_completed() -> None:
    rules = TokenRules(bad_words=("bad", "c"))
    said = Loop(FakeBackend(answers({"hi": "abadbac"}))).run([ask(1, rules=rules)])
    assert said.text(1) == "abazbaz"


def test_a_bad_word_that_cannot_be_read_fails_its_request_only() -> None:
    backend = FakeBackend(answers({"hi": "ab"}))
    said = Loop(backend).run([ask(1, rules=TokenRules(bad_words=("deep",))), ask(2)])
    failure = said.end(1).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_request", "bad_words")
    assert said.text(2) == "ab"


@pytest.mark.parametrize("long", [False, True])
def test_rules_that_leave_no_token_fail_their_request_only(
    long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if long:
        monkeypatch.setattr("gguf_worker.engine.loop.tokenizing.SHORT", 0)
    rules = TokenRules(least=1, allowed=(END,))
    said = Loop(FakeBackend(answers({"hi": "ab"}))).run([ask(1, rules=rules), ask(2)])
    failure = said.end(1).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_request", "min_tokens")
    assert said.text(2) == "ab"


def test_an_answer_held_to_a_grammar_keeps_the_rules_that_it_can() -> None:
    rules = TokenRules(bad_words=("x",))
    backend = FakeBackend(answers({}, repeat="x"))
    said = Loop(backend).run([held_to("xa|ya", 1, rules=rules), held_to("xx", 2, rules=rules)])
    assert (said.text(1), said.text(2)) == ("ya", "xx")


# Prompts that are cut


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(
    ("truncate", "read"),
    [(4, [BOS, *tokens_of("567")]), (100, [BOS, *tokens_of("1234567")]), (1, [BOS])],
)
def test_a_text_keeps_its_last_tokens_and_the_one_that_begins_it(
    truncate: int, read: list[int], long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if long:
        monkeypatch.setattr("gguf_worker.engine.loop.tokenizing.SHORT", 0)
    backend = FakeBackend(answers({}, repeat="x"))
    said = Loop(backend).run([ask(1, "1234567", add_special=True, truncate=truncate, max_tokens=1)])
    ((chunk,), *_) = backend.steps
    assert chunk.tokens[: chunk.rows] == read
    usage = said.end(1).usage
    assert usage is not None
    assert usage.prompt_tokens == len(read)


def test_token_ids_keep_the_last_of_them() -> None:
    backend = FakeBackend(answers({}, repeat="x"))
    Loop(backend).run([ask(1, tokens_of("1234567"), truncate=3, max_tokens=1)])
    assert backend.steps[0][0].tokens == tokens_of("567")


@pytest.mark.parametrize("prompt", ["x" * 200, [ord("x")] * 200], ids=["text", "ids"])
def test_a_prompt_may_be_cut_to_what_fits_beside_the_answer(prompt: str | list[int]) -> None:
    backend = FakeBackend(answers({}, repeat="x"), context=40, batch_size=64)
    said = Loop(backend).run(
        [ask(1, prompt, truncate=-1, max_tokens=10), ask(2, prompt, truncate=50)]
    )
    usage = said.end(1).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (30, 10)
    assert said.code(2) == "context_length_exceeded"


@pytest.mark.parametrize("most", [1, 10, 29, 30, 31, 39, 40, 1000])
@pytest.mark.parametrize("size", [1, 10, 29, 30, 31, 39, 200])
@pytest.mark.parametrize("ids", [False, True], ids=["text", "ids"])
def test_a_cut_prompt_keeps_what_fits_and_leaves_at_most_a_share_to_the_answer(
    size: int, most: int, ids: bool
) -> None:
    backend = FakeBackend(answers({}, repeat="x"), context=40, batch_size=64)
    prompt: str | list[int] = [ord("x")] * size if ids else "x" * size
    said = Loop(backend).run([ask(1, prompt, truncate=-1, max_tokens=most)])
    usage = said.end(1).usage
    assert usage is not None
    assert usage.prompt_tokens == min(size, 40 - min(most, 10))
    assert usage.completion_tokens == min(most, 40 - usage.prompt_tokens)


# Special tokens


def test_special_tokens_are_shown_where_that_is_wanted_but_for_the_end() -> None:
    answer = [ord("a"), BOS, ord("b"), END]
    backend = FakeBackend(lambda tokens: answer[len(tokens) - 2])
    said = Loop(backend).run([ask(1, show_special=True), ask(2)])
    assert said.text(1) == "a<begin>b"
    assert said.text(2) == "ab"


# PendingReplies


def replies(*questions: ToEngine) -> list[Reply]:
    loop = Loop(FakeBackend(drawl))
    loop.run(list(questions))
    return loop.channel.replies


def test_texts_are_tokenised_and_back_as_asked() -> None:
    plain, special, text = replies(
        TokenizeText(1, "a<end>", False, False),
        TokenizeText(2, "a<end>"),
        DetokenizeTokens(3, [BOS, *"é".encode(), END]),
    )
    assert plain == Reply(1, tokens=tokens_of("a<end>"))
    assert special == Reply(2, tokens=[BOS, ord("a"), END])
    assert text == Reply(3, text="<begin>é<end>")


def test_a_tokeniser_is_announced_and_when_it_is_done() -> None:
    loop = Loop(FakeBackend(drawl))
    loop.run([TokenizeText(1, "a"), DetokenizeTokens(2, [1])])
    assert loop.channel.tokenizing == [(1,), (), (2,), ()]


@pytest.mark.parametrize(
    "question",
    [
        TokenizeText(1, "x" * (MOST_TOKENS * 4 + 1)),
        DetokenizeTokens(1, [1] * (MOST_TOKENS + 1)),
        DetokenizeTokens(1, [VOCABULARY]),
        DetokenizeTokens(1, [-1]),
    ],
    ids=["long text", "many tokens", "unknown token", "negative token"],
)
def test_what_cannot_be_tokenised_is_refused(question: ToEngine) -> None:
    (reply,) = replies(question)
    assert reply.failure is not None
    assert reply.failure.code == "invalid_request"


# News of short steps


def test_the_texts_of_short_steps_go_out_together_but_the_first_and_the_last_at_once() -> None:
    loop = Loop(FakeBackend(answers({"hi": "abcdefg"})), interval=0.25)
    said = loop.run([ask(1)], *[lambda: loop.clock.advance(0.1)] * 12)
    assert [delta.text for delta in said.of(1)] == ["a", "b", "c", "d", "e", "f", "g", ""]
    told = [[delta.text for delta in step.deltas] for step in said.steps if step.deltas]
    assert told[0] == ["a"]
    assert max(map(len, told)) == 3
    assert sum(step.steps for step in said.steps) == 8
    assert sum(step.rows for step in said.steps) == 9


# An asynchronous backend


def test_a_steps_text_is_sent_while_the_next_step_is_computed() -> None:
    loop: Loop
    seen = []

    def look() -> None:
        seen.append("".join(delta.text for step in loop.channel.sent for delta in step.deltas))

    loop = Loop(FakeBackend(answers({"hi": "abc"}), asynchronous=True, while_computing=look))
    said = loop.run([ask(1)])
    assert seen == ["", "a", "ab", "abc"]
    assert (said.text(1), said.end(1).finish) == ("abc", "stop")


@pytest.mark.parametrize("seed", range(3))
def test_an_asynchronous_backend_changes_no_answer(seed: int) -> None:
    def script() -> list[list[ToEngine]]:
        chance = random.Random(seed)
        stops = [(), ("ab",), ("q",), ("e", "zz")]
        return [
            [
                ask(
                    id,
                    f"{id % 3} prompt",
                    max_tokens=chance.choice([1, 4, 30]),
                    stop=chance.choice(stops),
                )
            ]
            for id in range(1, 15)
        ]

    there, here = (
        Loop(FakeBackend(drawl, asynchronous=late)).run(*script()) for late in (True, False)
    )
    for id in range(1, 15):
        assert there.text(id) == here.text(id)
        assert there.end(id).finish == here.end(id).finish
        assert there.end(id).usage == here.end(id).usage


def test_a_cancel_and_a_stop_string_free_the_cells_of_a_step_in_flight() -> None:
    loop = Loop(FakeBackend(answers({"hi": "abcdef"}, repeat="x"), asynchronous=True))
    said = loop.run([ask(1, stop=("c",)), ask(2, "other")], *[pause] * 3, [Cancel(2)], *[pause] * 5)
    assert (said.text(1), said.end(1).finish) == ("ab", "stop")
    assert not [delta for delta in said.of(2) if delta.last]


def test_the_failure_of_the_only_request_is_sent_before_the_loop_waits() -> None:
    said = Loop(FakeBackend(answers({"bad": [NAN]}), asynchronous=True)).run([ask(1, "bad")])
    assert said.code(1) == "generation_failed"
    said = Loop(FakeBackend(drawl, codes=[1] * 20, asynchronous=True)).run([ask(1)])
    assert said.code(1) == "generation_failed"


# All of it


@pytest.mark.parametrize("seed", range(3))
def test_every_request_of_a_random_run_ends_exactly_once(seed: int) -> None:
    chance = random.Random(seed)
    backend = FakeBackend(drawl, cells=90, asynchronous=bool(seed % 2))
    compiler = FakeCompiler(held=True, fails_after="held")
    loop = Loop(backend, max_queue=4, compiler=compiler)
    cancelled: set[int] = set()
    asked = 0

    def turn() -> list[ToEngine]:
        nonlocal asked
        loop.clock.advance(0.1)
        messages: list[ToEngine] = []
        if chance.random() < 0.4:
            asked += 1
            prompt = "p" * chance.choice([0, 1, 3, 20, 40, 70, 400])
            stop = chance.choice([(), ("ab",), ("q", "zz")])
            deadline = chance.choice([None, loop.clock.time + chance.choice([0.4, 3.0])])
            limit = chance.choice([1, 5, 10**6])
            text = chance.choice([None, None, "held to|this", "!never", "x" * 9])
            grammar = Grammar("regex", text) if text else None
            limits = {"deadline": deadline, "max_tokens": limit}
            messages.append(ask(asked, prompt, stop=stop, grammar=grammar, **limits))
        if chance.random() < 0.2:
            compiler.release()
        if asked and chance.random() < 0.1:
            id = chance.randint(1, asked)
            cancelled.add(id)
            messages.append(Cancel(id))
        return messages

    said = loop.run(*[turn] * 1500, compiler.release)
    for id in range(1, asked + 1):
        ends = [delta for delta in said.of(id) if delta.last]
        assert len(ends) == 1 or (not ends and id in cancelled)
    ends = [delta for delta in said.deltas if delta.last]
    codes = {delta.failure.code if delta.failure else delta.finish for delta in ends}
    assert codes >= {
        "stop",
        "length",
        "overloaded",
        "deadline_exceeded",
        "context_length_exceeded",
        "invalid_request",
        "generation_failed",
    }


# Long texts, which are read beside the loop.

LONG = "x" * 3000 + "<cut>" + "x" * 3000


def reading(loop: Loop, turns: int = 1) -> Callable[[], None]:
    """A turn of the channel in which the tokenisers' threads do as many turns."""

    def read() -> None:
        for _ in range(turns):
            loop.tokenizers.turn()

    return read


def with_long_texts(**more: Any) -> Loop:
    backend = FakeBackend(drawl, context=8192, batch_size=8192, sequences=more.pop("sequences", 4))
    return Loop(backend, held_texts=True, **more)


def test_answers_go_on_while_a_long_prompt_is_read() -> None:
    loop = with_long_texts()
    said = loop.run(
        [ask(1, max_tokens=6), ask(2, LONG, max_tokens=1)],
        *[pause, pause, reading(loop), pause, reading(loop), pause, reading(loop)],
    )
    assert said.end(2).finish == "length"
    texts = [(delta.id, delta.text) for step in loop.channel.sent for delta in step.deltas]
    assert [id for id, _ in texts].index(2) >= 3, "the other came first, and went on"
    assert loop.channel.tokenizing == [(1,), (), *[(2,), ()] * 3]


def test_a_long_prompt_that_is_too_long_is_read_no_further() -> None:
    loop = with_long_texts()
    loop.backend.vocabulary.fewest_tokens = lambda text: 0  # type: ignore[method-assign]
    said = loop.run([ask(1, LONG * 5)], reading(loop, 3), pause)
    assert said.code(1) == "context_length_exceeded"
    assert "9005 tokens > 8191 maximum" in said.message(1)


def test_a_request_may_be_cancelled_while_its_prompt_is_read() -> None:
    pieces: list[str] = []
    loop = with_long_texts()
    loop.backend.vocabulary.before_piece = pieces.append
    loop.run([ask(1, LONG)], reading(loop), [Cancel(1)], pause)
    assert pieces == []
    with pytest.raises(AssertionError):
        loop.tokenizers.turn()


def test_a_request_may_be_late_while_its_prompt_is_read() -> None:
    loop = with_long_texts()
    said = loop.run(
        [ask(1, LONG, deadline=loop.clock() + 5.0)],
        reading(loop),
        lambda: loop.clock.advance(5.0),
        pause,
    )
    assert said.code(1) == "deadline_exceeded"
    assert "before its prompt was read" in said.message(1)


def test_prompts_that_are_read_count_for_the_queue() -> None:
    loop = with_long_texts(sequences=1, max_queue=1)
    more = {"max_tokens": 1}
    said = loop.run(
        [ask(1, LONG, **more), ask(2, LONG + "2", **more), ask(3, LONG + "3", **more)],
        reading(loop, 6),
    )
    assert said.code(3) == "overloaded"
    assert said.end(1).finish == said.end(2).finish == "length"


def test_a_prompt_keeps_its_place_in_the_queue_while_it_is_read() -> None:
    loop = with_long_texts(sequences=1)
    loop.run(
        [ask(1, max_tokens=4)],
        [ask(2, LONG, max_tokens=1)],
        lambda: loop.clock.advance(1.0),
        [ask(3, max_tokens=1)],
        reading(loop, 3),
    )
    ends = [delta.id for step in loop.channel.sent for delta in step.deltas if delta.last]
    assert ends == [1, 2, 3]


def test_answers_to_one_prompt_have_it_read_once() -> None:
    loop = with_long_texts()
    said = loop.run(
        [ask(1, LONG, max_tokens=1), ask(2, LONG, max_tokens=1)],
        [ask(3, LONG, max_tokens=1), Cancel(1)],
        reading(loop, 3),
        [ask(4, LONG, max_tokens=1)],
        [ask(5, LONG, max_tokens=1, add_special=True)],
        reading(loop, 3),
    )
    assert [said.end(id).finish for id in (2, 3, 4, 5)] == ["length"] * 4
    assert loop.backend.vocabulary.tokenized == [LONG, LONG]
    assert (1, 2) not in loop.channel.tokenizing, "it was cancelled before"
    assert (2, 3) in loop.channel.tokenizing


def test_a_long_reply_comes_in_parts_between_the_steps() -> None:
    loop = with_long_texts()
    text = "x" * 70_000
    loop.run([ask(1, max_tokens=4), TokenizeText(7, text, False)], reading(loop, 2), *[pause] * 4)
    replies = loop.channel.replies
    assert [reply.last for reply in replies] == [False, False, True]
    assert [token for reply in replies for token in reply.tokens] == tokens_of(text)
    loop.run([DetokenizeTokens(8, tokens_of(text))], reading(loop, 4), *[pause] * 4)
    assert "".join(reply.text for reply in loop.channel.replies) == text


def test_only_so_many_questions_wait() -> None:
    loop = with_long_texts()
    loop.run([TokenizeText(id, LONG) for id in range(MOST_WAITING + 1)], clean=False)
    (reply,) = loop.channel.replies
    assert reply.id == MOST_WAITING
    assert reply.failure is not None
    assert reply.failure.code == "overloaded"


def test_a_question_may_be_cancelled_while_it_is_read() -> None:
    loop = with_long_texts()
    loop.run([TokenizeText(7, LONG)], reading(loop), [Cancel(7)], pause)
    assert loop.channel.replies == []
    with pytest.raises(AssertionError):
        loop.tokenizers.turn()


# Thoughts

CLOSE = "</t>"
THOUGHTS = Outline(
    (
        Phase("content", (PhaseMark("<t>", 1, first=True), PhaseMark("{", 2))),
        Phase("thought", (PhaseMark(CLOSE, 0),)),
        Phase("other", (PhaseMark("}", 0),)),
    ),
    closings=(CLOSE,),
)
BEGUN = Outline(THOUGHTS.phases, begin=1, closings=THOUGHTS.closings)
LETTERS = "abcdefghijklmnopqrstuvwxy"


def thought_of(said: Said, id: int) -> int:
    usage = said.end(id).usage
    assert usage is not None
    return usage.reasoning_tokens


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 2, 5])
def test_a_thought_ends_when_its_budget_is_used_up(asynchronous: bool, budget: int) -> None:
    backend = FakeBackend(answers({"hi": LETTERS}), asynchronous=asynchronous)
    said = Loop(backend).run([ask(1, outline=BEGUN, thought_budget=budget, logprobs=0)])
    expected = LETTERS[:budget] + CLOSE + LETTERS[budget + len(CLOSE) :]
    assert said.text(1) == expected
    assert thought_of(said, 1) == budget
    usage = said.end(1).usage
    assert usage is not None
    assert usage.completion_tokens == sum(delta.tokens for delta in said.of(1)) == len(LETTERS) + 1
    pieces = [each.piece for delta in said.of(1) for each in delta.logprobs]
    assert b"".join(pieces) == expected.encode()


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_thought_that_the_model_opens_has_the_budget_too(budget: int) -> None:
    backend = FakeBackend(answers({"hi": "<t>" + LETTERS}))
    said = Loop(backend).run([ask(1, outline=THOUGHTS, thought_budget=budget)])
    assert said.text(1).startswith("<t>" + LETTERS[:budget] + CLOSE)
    assert thought_of(said, 1) == budget


@pytest.mark.parametrize("budget", [None, 2, 3, 9])
def test_a_thought_that_ends_by_itself_is_left_alone(budget: int | None) -> None:
    text = "<t>ab</t>cd"
    said = Loop(FakeBackend(answers({"hi": text}))).run(
        [ask(1, outline=THOUGHTS, thought_budget=budget)]
    )
    assert (said.text(1), thought_of(said, 1)) == (text, 2)


def test_what_may_become_the_mark_of_an_end_puts_off_another_but_not_for_ever() -> None:
    backend = FakeBackend(answers({"hi": "a" + "<" * 30}))
    said = Loop(backend).run([ask(1, outline=BEGUN, thought_budget=2)])
    assert said.text(1).startswith("a<<<<<</t><")
    assert thought_of(said, 1) == 1 + len(CLOSE)


def test_the_budget_counts_the_thoughts_of_an_answer_together() -> None:
    backend = FakeBackend(answers({"hi": "ab</t><t>cdefgh"}))
    said = Loop(backend).run([ask(1, outline=BEGUN, thought_budget=3)])
    assert said.text(1).startswith("ab</t><t>c</t>")
    assert thought_of(said, 1) == 3


def test_a_thought_is_ended_the_second_time_by_the_second_closing() -> None:
    outline = Outline(BEGUN.phases, begin=1, closings=("</t>", "</t>!"))
    backend = FakeBackend(answers({"hi": "abcdef<t>ghijklmn"}))
    said = Loop(backend).run([ask(1, outline=outline, thought_budget=2)])
    assert said.text(1) == "ab</t><t></t>!lmn"


def test_a_budget_lets_a_character_come_to_its_end() -> None:
    backend = FakeBackend(answers({"hi": "a🌊bcdefgh"}))
    said = Loop(backend).run([ask(1, outline=BEGUN, thought_budget=2)])
    assert said.text(1).startswith("a🌊</t>")
    assert thought_of(said, 1) == 5


def test_a_limit_of_tokens_ends_an_answer_within_a_mark_that_is_forced() -> None:
    backend = FakeBackend(answers({"hi": LETTERS}))
    said = Loop(backend).run([ask(1, outline=BEGUN, thought_budget=2, max_tokens=4)])
    assert (said.text(1), said.end(1).finish) == ("ab</", "length")
    assert thought_of(said, 1) == 2


def test_a_token_that_opens_a_thought_is_not_drawn_once_the_budget_is_used_up() -> None:
    outline = Outline(
        (Phase("content", (PhaseMark("[", 1),)), Phase("thought", (PhaseMark("]", 0),))),
        closings=("]",),
    )
    backend = FakeBackend(answers({"none": "a[b", "one": "[ab[c", "free": "[a]"}))
    said = Loop(backend).run(
        [
            ask(1, "none", outline=outline, thought_budget=0),
            ask(2, "one", outline=outline, thought_budget=1),
            ask(3, "free", outline=outline),
        ]
    )
    assert [said.text(id) for id in (1, 2, 3)] == ["azb", "[a]zc", "[a]"]


def test_a_thought_is_counted_though_it_never_ends() -> None:
    said = Loop(FakeBackend(answers({"hi": "abc</"}))).run([ask(1, outline=BEGUN)])
    assert thought_of(said, 1) == 5


def test_budgets_of_requests_that_are_computed_together_are_their_own() -> None:
    backend = FakeBackend(answers({"hi": LETTERS}))
    said = Loop(backend).run([ask(id, outline=BEGUN, thought_budget=id) for id in range(1, 5)])
    assert [thought_of(said, id) for id in range(1, 5)] == [1, 2, 3, 4]


def test_a_thought_that_is_ended_comes_before_what_a_grammar_demands() -> None:
    grammar = Grammar("lark", "abcde</t>yes|ab</t>yes")
    backend = FakeBackend(answers({"hi": "abcde</t>yes"}))
    said = Loop(backend).run([ask(1, outline=BEGUN, thought_budget=2, grammar=grammar)])
    assert said.end(1).failure is None
    assert said.text(1) == "ab</t>yes"


def test_a_grammar_that_allows_no_end_of_the_thought_goes_first() -> None:
    backend = FakeBackend(answers({"hi": "abcde"}))
    asked = ask(1, outline=BEGUN, thought_budget=2, grammar=Grammar("lark", "abcde"))
    said = Loop(backend).run([asked])
    assert (said.text(1), said.end(1).finish) == ("abcde", "stop")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_stop_strings_sleep_in_thoughts_and_calls(asynchronous: bool) -> None:
    text = "<t>no stop</t>\n\nYes {stop} and stop here"
    backend = FakeBackend(answers({"hi": text}), asynchronous=asynchronous)
    said = Loop(backend).run([ask(1, outline=THOUGHTS, stop=("stop", "\n\n"))])
    assert said.text(1) == "<t>no stop</t>\n\nYes {stop} and "
    assert said.end(1).stop == "stop"
    assert thought_of(said, 1) == len("no stop")


def test_a_delta_tells_whether_a_thought_is_open_behind_it() -> None:
    said = Loop(FakeBackend(answers({"hi": "<t>ab</t>c"}))).run([ask(1, outline=THOUGHTS)])
    assert [(delta.text, delta.thought) for delta in said.of(1)] == [
        ("<t>", True),
        ("a", True),
        ("b", True),
        ("</t>", False),
        ("c", False),
        ("", False),
    ]
