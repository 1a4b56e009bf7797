"""The worker's end of the engine: restarts, retries, quarantine, deadlines, and an end for every
request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gguf_worker.engine.messages import (
    Delta,
    Embed,
    EngineRequest,
    EngineSpec,
    GpuSupport,
    Submit,
    TokenizeText,
)
from gguf_worker.engine.parent.allowance import Allowance
from gguf_worker.engine.parent.answer_stream import AnswerStream
from gguf_worker.engine.parent.client import EngineClient
from gguf_worker.engine.parent.outgoing import encoded
from gguf_worker.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineInterrupted,
    EngineStartFailed,
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
    ModelCorrupt,
    Overloaded,
    RequestQuarantined,
    StartError,
    WorkerError,
)
from gguf_worker.events import EngineBack, EngineLost, Event, StepDone
from gguf_worker.generation import Grammar, Sampling
from tests.waiting import until, until_async

FAKE = (sys.executable, str(Path(__file__).parents[2] / "fake_engine.py"))
GREEDY = Sampling(temperature=0)


class Engine:
    """A client of the fake engine, and what it reported. Names are paths in one folder."""

    def __init__(self, folder: Path, sequences: int, starts: str, **options: Any) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.deaths: list[str] = []
        self.died = threading.Event()
        variables = {"FAKE_LIVES": str(folder / "lives"), "FAKE_STARTS": starts}
        settings: dict[str, Any] = {"command": FAKE, "variables": variables, "backoff": (0.0,)}
        self.client = EngineClient(
            EngineSpec(path="m.gguf", context=64, sequences=sequences),
            observe=self.events.append,
            on_dead=self._on_dead,
            **(settings | options),
        )

    def _on_dead(self, reason: str) -> None:
        self.deaths.append(reason)
        self.died.set()

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def ask(self, program: str, *, whole: bool = False, **options: Any) -> AnswerStream:
        """Submit; `{name}` in the program is a path."""
        names = {name: self.path(name) for name in ("gate", "later", "mark")}
        request = EngineRequest(program.format(**names), GREEDY, **options)
        return self.client.submit(request, whole=whole)

    def open(self, name: str = "gate") -> None:
        (self.folder / name).touch()

    @property
    def lives(self) -> int:
        file = self.folder / "lives"
        return file.stat().st_size if file.exists() else 0

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def passed_its_trial(self) -> None:
        """Return when a process reads texts: before, it computes the client's own request."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(EngineUnavailable):
                    await self.client.tokenize("a")
                    return
                await asyncio.sleep(0.01)

    def kill(self) -> int:
        pid = self.client.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Makes engines, started unless told otherwise, and closes them."""
    made: list[Engine] = []

    def make(
        *, sequences: int = 4, starts: str = "ready", start: bool = True, **options: Any
    ) -> Engine:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        engine = Engine(folder, sequences, starts.format(gate=folder / "gate"), **options)
        made.append(engine)
        if start:
            engine.client.start()
        return engine

    yield make
    for each in made:
        each.client.close()


async def read(stream: AnswerStream) -> tuple[str, Delta]:
    """All of its text, and the last delta."""
    text, last = "", None
    async for delta in stream:
        text, last = text + delta.text, delta
    assert last is not None
    assert last.finish is not None
    return text, last


async def outcome(stream: AnswerStream) -> str:
    """Return its text, or the code of the error that ended it."""
    try:
        return (await read(stream))[0]
    except WorkerError as error:
        return error.code


async def all_of(*streams: AnswerStream) -> list[str]:
    async with asyncio.timeout(30):
        return list(await asyncio.gather(*map(outcome, streams)))


async def first(stream: AnswerStream) -> Delta:
    async with asyncio.timeout(30):
        return await anext(stream)


def gone(pid: int) -> bool:
    """Tell whether a process is neither running nor a zombie."""
    return not psutil.pid_exists(pid)


# Starting


def test_a_process_that_finds_no_gpu_tells_why_and_is_not_tried_again(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="no_gpu:the driver is too old;ready", start=False)
    with pytest.raises(EngineStartFailed, match="the driver is too old") as failed:
        it.client.start()
    assert it.client.gpu_fault == GpuSupport("no_device", "the driver is too old")
    assert (failed.value.permanent, failed.value.lacking, it.lives) == (False, True, 1)
    assert engine().client.gpu_fault is None


def test_start_waits_for_the_model_and_returns_what_was_opened(
    engine: Callable[..., Engine],
) -> None:
    it = engine(start=False)
    assert it.client.info is None
    info = it.client.start()
    assert (info.description, info.context, info.sequences) == ("fake", 64, 4)
    assert it.client.info == info
    assert it.client.dead is None
    assert it.seen(EngineBack) == []


def test_progress_is_reported_while_the_model_loads(engine: Callable[..., Engine]) -> None:
    fractions: list[float] = []
    it: Engine

    def progress(fraction: float) -> None:
        fractions.append(fraction)
        it.open()

    it = engine(starts="load:{gate}", start=False, progress=progress)
    it.client.start()
    assert fractions[0] == 0.5


def test_a_process_that_ends_while_it_starts_is_a_start_error_with_its_last_words(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="exit:no such instruction", start=False)
    with pytest.raises(EngineStartFailed, match=r"status 3.*no such instruction") as caught:
        it.client.start()
    assert not caught.value.permanent
    assert not caught.value.lacking
    assert it.deaths == [caught.value.message]
    assert it.lives == 1


def test_a_command_that_cannot_be_run_is_a_start_error(engine: Callable[..., Engine]) -> None:
    it = engine(start=False, command=("/no/such/program",))
    with pytest.raises(EngineStartFailed, match="cannot be started"):
        it.client.start()


def test_a_model_refused_for_good_is_not_tried_again(engine: Callable[..., Engine]) -> None:
    it = engine(starts="refuse!:model_corrupt:no tensors", start=False, tries=3)
    with pytest.raises(ModelCorrupt, match="no tensors") as caught:
        it.client.start()
    assert caught.value.permanent
    assert it.lives == 1
    assert it.client.dead == "no tensors"


def test_a_passing_refusal_is_tried_again_as_often_as_asked(engine: Callable[..., Engine]) -> None:
    it = engine(
        starts="refuse:engine_start_failed:out of memory;exit:x;ready", start=False, tries=3
    )
    assert it.client.start().description == "fake"
    assert it.lives == 3


def test_the_first_start_gives_up_after_its_tries(engine: Callable[..., Engine]) -> None:
    it = engine(starts="refuse:engine_start_failed:cannot read", start=False, tries=2)
    with pytest.raises(EngineStartFailed, match="cannot read") as caught:
        it.client.start()
    assert not caught.value.permanent
    assert it.lives == 2


@pytest.mark.parametrize(("how", "lacking"), [("lack", True), ("refuse", False)])
def test_only_a_refusal_for_want_of_memory_is_known_as_one(
    how: str, lacking: bool, engine: Callable[..., Engine]
) -> None:
    """Such a start is tried again with a smaller KV cache."""
    it = engine(starts=f"{how}:engine_start_failed:refused", start=False)
    with pytest.raises(EngineStartFailed, match="refused") as caught:
        it.client.start()
    assert caught.value.lacking is lacking


@pytest.mark.slow
def test_a_process_that_is_silent_while_it_loads_is_given_up(engine: Callable[..., Engine]) -> None:
    it = engine(starts="silent", start=False, patience=0.3)
    with pytest.raises(EngineStartFailed, match="no sign of life"):
        it.client.start()


def test_a_loss_right_after_the_first_readiness_does_not_fail_the_start(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;load:{gate}", start=False)

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            super().wait(timeout)
            it.kill()
            until(lambda: it.client.info is None)
            return True

    it.client._started = Late()
    assert it.client.start().description == "fake"


# Answers


async def test_deltas_come_while_the_answer_is_made(engine: Callable[..., Engine]) -> None:
    it = engine()
    stream = it.ask("say:a wait:{gate} say:b")
    assert (await first(stream)).text == "a"
    it.open()
    text, last = await read(stream)
    assert (text, last.finish) == ("b", "stop")


async def test_deltas_since_the_last_look_are_one(engine: Callable[..., Engine]) -> None:
    it = engine()
    stream = it.ask("say:a say:b say:c mark:{mark} wait:{gate}")
    other = it.ask("wait:{mark} say:x")
    await read(other)  # the loop has run: what came before it is there, too
    delta = await first(stream)
    assert (delta.text, delta.tokens, delta.last) == ("abc", 3, False)
    it.open()
    assert (await read(stream))[0] == ""


async def test_the_last_delta_carries_the_usage_with_our_seconds(
    engine: Callable[..., Engine],
) -> None:
    _, last = await read(engine().ask("say:a say:b"))
    usage = last.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 2)
    assert 0 <= usage.queue_seconds <= usage.ttft_seconds <= usage.seconds
    assert usage.prefill_seconds == pytest.approx(usage.ttft_seconds - usage.queue_seconds)


async def test_a_failure_is_raised_as_the_error_of_its_code(engine: Callable[..., Engine]) -> None:
    stream = engine().ask("fail:generation_failed")
    with pytest.raises(GenerationFailed, match="as it was told"):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_text_before_a_failure_is_given_before_it_is_raised(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    stream = it.ask("say:a say:b fail:generation_failed")
    await read(it.ask("say:1 say:2 say:3 say:4 say:5"))
    delta = await first(stream)
    assert (delta.text, delta.failure) == ("ab", None)
    with pytest.raises(GenerationFailed):
        await anext(stream)


async def test_requests_reach_the_engine_in_the_order_they_were_made(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=1)
    streams = [it.ask(f"say:{n}") for n in range(6)]
    last = it.ask("prompts")
    assert await all_of(*streams) == list("012345")
    assert await outcome(last) == "|".join([*(f"say:{n}" for n in range(6)), "prompts"])


async def test_a_request_made_while_the_model_loads_is_sent_when_it_is_ready(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="load:{gate}", start=False)
    starting = asyncio.create_task(asyncio.to_thread(it.client.start))
    stream = it.ask("say:early")
    it.open()
    assert await outcome(stream) == "early"
    await starting


async def test_each_step_is_reported(engine: Callable[..., Engine]) -> None:
    it = engine()
    await read(it.ask("say:a"))
    await asyncio.to_thread(until, lambda: sum(s.rows for s in it.seen(StepDone)) == 2)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda client: client.submit(EngineRequest("half a \ud83d pair", GREEDY)),
        lambda client: client.submit(EngineRequest("say:x", GREEDY, stop=("\ud83d",))),
        lambda client: client.submit(
            EngineRequest("say:x", Sampling(dry_sequence_breakers=("\ud83d",)))
        ),
    ],
    ids=["prompt", "stop", "breaker"],
)
async def test_text_that_is_not_unicode_is_refused_and_harms_nobody(
    request_of: Callable[[EngineClient], AnswerStream], engine: Callable[..., Engine]
) -> None:
    it = engine()
    with pytest.raises(InvalidRequest, match="surrogate"):
        request_of(it.client)
    it.kill()
    assert await outcome(it.ask("say:fine")) == "fine"


# Cancelling


async def test_a_cancel_is_sent_once_however_often_a_stream_is_closed(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=1)
    stream = it.ask("say:a wait:{gate}")
    await first(stream)
    stream.close()
    stream.close()
    assert await outcome(it.ask("cancels")) == "1"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_request_that_ended_is_not_cancelled_by_its_close(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    stream = it.ask("say:a")
    await read(stream)
    stream.close()
    assert await outcome(it.ask("cancels")) == ""


async def test_a_reader_that_waits_for_a_delta_is_released_when_the_stream_is_closed(
    engine: Callable[..., Engine],
) -> None:
    stream = engine().ask("wait:{gate}")

    async def wait() -> list[Delta]:
        return [delta async for delta in stream]

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    stream.close()
    assert await asyncio.wait_for(waiting, 10) == []


async def test_a_request_cancelled_while_the_engine_is_down_is_not_sent(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=1, starts="ready;load:{gate}")
    it.kill()
    await asyncio.to_thread(until, lambda: it.lives == 2)
    it.ask("say:unwanted").close()
    wanted = it.ask("prompts say:/ cancels")
    it.open()
    assert await outcome(wanted) == "prompts say:/ cancels/"


# Losing the process


async def test_a_kill_interrupts_those_that_streamed_and_the_others_complete(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=4)
    streaming = [it.ask("say:a wait:{gate} say:b") for _ in range(4)]
    waiting = [it.ask(f"say:{n}") for n in range(4)]
    assert [(await first(stream)).text for stream in streaming] == ["a"] * 4
    it.kill()
    assert await all_of(*streaming) == ["engine_interrupted"] * 4
    assert await all_of(*waiting) == list("0123")
    (lost,), (back,) = it.seen(EngineLost), it.seen(EngineBack)
    assert (lost.cause, lost.interrupted, lost.resubmitted) == ("signal", 4, 4)
    assert "SIGKILL" in lost.detail
    assert back.restarts == 1


async def test_an_interrupted_request_says_that_it_may_be_sent_again(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    stream = it.ask("say:a wait:{gate}")
    await first(stream)
    it.kill()
    with pytest.raises(EngineInterrupted) as caught:
        await anext(stream)
    assert caught.value.retryable
    assert caught.value.retry_after is not None


async def test_a_request_that_kills_the_engine_alone_is_refused_and_its_neighbour_completes(
    engine: Callable[..., Engine],
) -> None:
    """Kill it beside two others, then beside the one of them that was no suspect, then alone."""
    it = engine(sequences=2, starts="load:{gate}", start=False)
    starting = asyncio.create_task(asyncio.to_thread(it.client.start))
    poison, innocent = it.ask("die:SIGSEGV"), it.ask("say:well")
    behind = it.ask("say:behind")
    it.open()
    await starting
    with pytest.raises(RequestQuarantined, match="3 times"):
        await asyncio.wait_for(anext(poison), 30)
    assert await all_of(innocent, behind) == ["well", "behind"]
    assert it.lives == 4
    assert [lost.cause for lost in it.seen(EngineLost)] == ["signal"] * 3


async def test_a_prompt_that_kills_the_tokeniser_is_tried_alone_before_others_are_suspected_twice(
    engine: Callable[..., Engine],
) -> None:
    """Kill the engine before any step of it, beside two that have begun and have not streamed."""
    it = engine(sequences=4)
    begun = [it.ask(f"mark:{mark} @3/say:{mark} wait:{{gate}}") for mark in ("{mark}", "{later}")]
    marks = [it.folder / name for name in ("mark", "later")]
    await asyncio.to_thread(until, lambda: all(mark.exists() for mark in marks))
    with pytest.raises(RequestQuarantined):
        await asyncio.wait_for(anext(it.ask("choke")), 30)
    assert [(await first(stream)).text for stream in begun] == [str(mark) for mark in marks]
    it.open()
    await all_of(*begun)
    assert it.lives == 3


async def test_suspects_are_tried_one_at_a_time(engine: Callable[..., Engine]) -> None:
    it = engine(sequences=4, starts="load:{gate}", start=False)
    starting = asyncio.create_task(asyncio.to_thread(it.client.start))
    streams = [it.ask(f"@1/die:SIGKILL prompts wait:{{later}} say:.{n}") for n in range(3)]
    it.open()
    await starting
    prompts = [(await first(stream)).text.count("|") + 1 for stream in streams]
    assert prompts == [1, 2, 3]
    it.open("later")
    assert [text[-2:] for text in await all_of(*streams)] == [".0", ".1", ".2"]


async def test_the_next_suspect_is_tried_when_the_one_before_is_cancelled(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=4, starts="load:{gate}", start=False)
    starting = asyncio.create_task(asyncio.to_thread(it.client.start))
    stuck = it.ask("@1/die:SIGKILL mark:{mark} wait:{later}")
    next_one = it.ask("say:next")
    it.open()
    await starting
    await asyncio.to_thread(until, (it.folder / "mark").exists)
    stuck.close()
    assert await all_of(next_one) == ["next"]


async def test_the_deadline_of_a_suspect_holds_while_another_one_is_tried(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=4, starts="load:{gate}", start=False)
    starting = asyncio.create_task(asyncio.to_thread(it.client.start))
    stuck = it.ask("@1/die:SIGKILL wait:{later}")
    other = it.ask("say:other", deadline=time.monotonic() + 0.5)
    it.open()
    await starting
    assert await all_of(other) == ["deadline_exceeded"]
    it.open("later")
    assert await all_of(stuck) == [""]


async def test_an_engine_is_not_blamed_for_a_silence_in_which_the_worker_itself_stood_still(
    engine: Callable[..., Engine],
) -> None:
    """A container that is revived from a snapshot finds the clock far ahead."""
    ahead = 0.0
    looks: list[float] = []

    def now() -> float:
        looks.append(time.monotonic() + ahead)
        return looks[-1]

    it = engine(silence=1.0, now=now)
    pid = it.client.pid
    ahead = 3600.0
    await asyncio.to_thread(until, lambda: sum(look > looks[0] + 3000 for look in looks) > 20)
    assert await all_of(it.ask("say:well")) == ["well"]
    assert (it.client.pid, it.seen(EngineLost)) == (pid, [])


@pytest.mark.parametrize(
    ("word", "cause", "detail"),
    [
        pytest.param("hang", "wedged", "no sign of life", marks=pytest.mark.slow),
        pytest.param("die:SIGSTOP", "wedged", "no sign of life", marks=pytest.mark.slow),
        ("die:SIGABRT", "signal", "SIGABRT"),
        ("exit:GGML_ASSERT", "exit", "status 3: GGML_ASSERT"),
        ("garbage", "garbled", "cannot be read"),
    ],
)
async def test_however_the_engine_is_lost_it_is_replaced(
    word: str, cause: str, detail: str, engine: Callable[..., Engine]
) -> None:
    it = engine(silence=0.5)
    old = it.client.pid
    assert old is not None
    assert await all_of(it.ask(f"@1/{word} say:again")) == ["again"]
    (lost,) = it.seen(EngineLost)
    assert lost.cause == cause
    assert detail in lost.detail
    assert gone(old)


@pytest.mark.slow
async def test_an_idle_engine_that_is_stopped_is_noticed(engine: Callable[..., Engine]) -> None:
    it = engine(silence=0.5)
    pid = it.client.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(until, lambda: it.seen(EngineBack))
    assert gone(pid)
    assert await outcome(it.ask("say:ok")) == "ok"


@pytest.mark.slow
async def test_a_sign_of_life_from_time_to_time_is_enough(engine: Callable[..., Engine]) -> None:
    it = engine(silence=0.6)
    stream = it.ask("say:a wait:{gate} say:b")
    await first(stream)
    heard = len(it.events)
    await asyncio.to_thread(until, lambda: len(it.events) > heard + 15)
    it.open()
    assert await outcome(stream) == "b"
    assert it.seen(EngineLost) == []


async def test_a_request_outlives_several_restarts_in_which_it_was_not_computed(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;exit:x;refuse:engine_start_failed:busy;ready")
    it.kill()
    assert await all_of(it.ask("say:at-last")) == ["at-last"]
    assert it.lives == 4
    (back,) = it.seen(EngineBack)
    assert back.restarts == 1


async def test_an_engine_lost_too_often_in_a_row_is_given_up(engine: Callable[..., Engine]) -> None:
    it = engine(starts="ready;exit:out of luck")
    streaming = it.ask("say:a wait:{gate}")
    await first(streaming)
    waiting = it.ask("say:b", deadline=time.monotonic() + 60)
    it.kill()
    assert await all_of(streaming, waiting) == ["engine_interrupted", "engine_unavailable"]
    await asyncio.to_thread(it.died.wait, 30)
    assert len(it.deaths) == 1
    assert "out of luck" in it.deaths[0]
    assert "5 times in a row" in it.deaths[0]
    assert it.client.dead == it.deaths[0]
    with pytest.raises(EngineUnavailable, match="out of luck"):
        it.ask("say:c")
    assert it.lives == 5


async def test_every_request_fails_when_the_engine_is_given_up(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;exit:x")
    it.kill()
    streams = [it.ask(f"say:{n}") for n in range(8)]
    assert await all_of(*streams) == ["engine_unavailable"] * 8


async def test_a_finished_answer_starts_the_count_of_losses_again(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    for _ in range(7):
        it.kill()
        assert await all_of(it.ask("say:x")) == ["x"]
    assert it.client.dead is None


async def test_texts_that_kill_the_tokeniser_never_make_the_client_give_up(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    for _ in range(6):
        with pytest.raises(EngineUnavailable, match="Try again"):
            await asyncio.wait_for(it.client.tokenize("choke"), 30)
        await it.passed_its_trial()
    for _ in range(3):
        assert await all_of(it.ask("choke")) == ["request_quarantined"]
    assert it.client.dead is None
    assert await all_of(it.ask("say:well")) == ["well"]
    assert it.lives == 13


async def test_requests_that_kill_the_engine_one_after_the_other_do_not_make_the_client_give_up(
    engine: Callable[..., Engine],
) -> None:
    """Each process between them computes the client's own trial request."""
    it = engine()
    for _ in range(5):
        assert await all_of(it.ask("die:SIGSEGV")) == ["request_quarantined"]
    assert await all_of(it.ask("say:well")) == ["well"]
    assert it.lives == 11


async def test_a_machine_on_which_whatever_is_computed_dies_is_given_up_and_no_request_convicted(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="broken")
    streams = [it.ask(f"say:{n}", whole=n > 3) for n in range(6)]
    assert await all_of(*streams) == ["engine_unavailable"] * 6
    assert it.lives == 5
    assert it.client.dead is not None


async def test_no_question_is_asked_of_an_engine_that_has_yet_to_pass_its_trial(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;broken")
    assert await all_of(it.ask("die:SIGSEGV")) == ["engine_unavailable"]
    with pytest.raises(EngineUnavailable):
        await it.client.tokenize("a")


async def test_no_question_is_asked_of_an_engine_that_has_a_suspect_alone(
    engine: Callable[..., Engine],
) -> None:
    """A process that dies beside a question would convict nobody."""
    it = engine(starts="ready;load:{gate};ready")
    suspect = it.ask("@1/die:SIGKILL @2/die:SIGKILL mark:{mark} wait:{later} say:well")
    until(lambda: it.lives == 2)
    other = it.ask("say:other", whole=True)
    it.open()
    await asyncio.to_thread(until, (it.folder / "mark").exists)
    with pytest.raises(EngineUnavailable):
        await it.client.tokenize("a")
    it.open("later")
    assert await all_of(suspect, other) == ["well", "other"]
    assert await it.client.tokenize("a") == [97]


async def test_a_collected_answer_is_begun_anew_after_a_loss_and_comes_once(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    program = "say:a @1/say:b likely:c mark:{mark} @1/wait:{gate} say:d"
    collected, shown = it.ask(program, whole=True), it.ask("say:x @1/wait:{gate}")
    await first(shown)
    await until_async((it.folder / "mark").exists)
    it.kill()
    deltas = [delta async for delta in collected]
    assert [(delta.text, delta.tokens, delta.finish) for delta in deltas] == [("acd", 3, "stop")]
    assert [each.piece for each in deltas[0].logprobs] == [b"c"]
    assert deltas[0].usage is not None
    assert deltas[0].usage.completion_tokens == 2
    assert await outcome(shown) == "engine_interrupted"


async def test_a_request_that_kills_the_engine_late_is_convicted_where_nobody_was_shown_its_answer(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    others = [it.ask(f"say:a @1/wait:{{gate}} say:{n}", whole=True) for n in range(3)]
    bad = it.ask("say:a say:b die:SIGSEGV", whole=True)
    assert await all_of(*others, bad) == ["a0", "a1", "a2", "request_quarantined"]


async def test_the_deadline_of_a_collected_answer_holds_when_it_is_begun_anew(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;load:{gate}")
    deadline = time.monotonic() + 1.0
    stream = it.ask("say:a mark:{mark} wait:{later}", whole=True, deadline=deadline)
    await until_async((it.folder / "mark").exists)
    it.kill()
    assert await all_of(stream) == ["deadline_exceeded"]


async def test_no_more_requests_wait_for_a_restart_than_the_engine_will_take(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;load:{gate}")
    it.kill()
    await asyncio.to_thread(until, lambda: it.lives == 2)
    streams = [it.ask(f"say:{n}") for n in range(4 + 64)]
    with pytest.raises(Overloaded, match="68 requests") as caught:
        it.ask("say:more")
    assert caught.value.retry_after == 1.0
    streams.pop().close()
    streams.append(it.ask("say:more"))
    it.open()
    assert await all_of(*streams) == [*map(str, range(67)), "more"]


async def test_a_request_that_has_no_place_is_refused_before_it_is_encoded(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    it.client._allowance = Allowance(100, most_bytes=200_000)
    large = "x" * 150_000
    not_unicode = "\ud83d" * 150_000
    alone = it.ask(f"say:a wait:{{gate}} say:{large}{large}", whole=True)
    with pytest.raises(Overloaded):
        it.ask(not_unicode)
    with pytest.raises(Overloaded):
        await it.client.tokenize(not_unicode)
    with pytest.raises(Overloaded):
        await it.client.embed([not_unicode])
    assert await all_of(it.ask("say:small")) == ["small"]
    it.open()
    assert len(await outcome(alone)) == 300_001
    assert await all_of(it.ask(f"say:{large}")) == [large]


async def test_nothing_is_encoded_while_others_wait_for_the_lock(
    engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = engine()
    held: list[bool] = []

    def noted(message: Submit | Embed | TokenizeText) -> bytes:
        held.append(it.client._lock.locked())
        return encoded(message)

    monkeypatch.setattr("gguf_worker.engine.parent.client.encoded", noted)
    await all_of(it.ask("say:a"))
    await it.client.tokenize("a")
    await it.client.embed(["vector:a"])
    assert held == [False] * 3


async def test_a_deadline_ends_a_request_while_the_engine_is_down(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;load:{gate}")
    it.kill()
    await asyncio.to_thread(until, lambda: it.lives == 2)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(anext(it.ask("say:x", deadline=time.monotonic() + 0.2)), 10)


async def test_a_deadline_ends_a_request_in_the_pause_before_a_restart(
    engine: Callable[..., Engine],
) -> None:
    it = engine(backoff=(0.0, 60.0))
    it.kill()
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(anext(it.ask("say:x", deadline=time.monotonic() + 0.2)), 10)


# Closing


async def test_a_close_ends_those_who_wait_and_leaves_no_process(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=1)
    pid = it.client.pid
    assert pid is not None
    streaming, waiting = it.ask("say:a wait:{gate}"), it.ask("say:b")
    await first(streaming)
    await asyncio.to_thread(it.client.close)
    assert gone(pid)
    assert await all_of(streaming, waiting) == ["engine_unavailable"] * 2
    with pytest.raises(EngineUnavailable, match="closing"):
        it.ask("say:c")
    assert it.deaths == []


def test_a_close_lets_the_engine_end_by_itself(engine: Callable[..., Engine]) -> None:
    it = engine()
    it.client.close()
    assert (it.folder / "lives.stopped").exists()


def test_a_close_may_be_repeated(engine: Callable[..., Engine]) -> None:
    it = engine()
    it.client.close()
    it.client.close()
    assert it.client.pid is None


async def test_a_close_before_the_start_ends_those_who_wait(engine: Callable[..., Engine]) -> None:
    it = engine(start=False)
    stream = it.ask("say:a")
    it.client.close()
    assert await all_of(stream) == ["engine_unavailable"]
    with pytest.raises(EngineStartFailed, match="closed"):
        it.client.start()
    assert it.lives == 0


def test_a_close_while_the_model_loads_ends_the_start(engine: Callable[..., Engine]) -> None:
    it = engine(starts="load:{gate}", start=False)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            it.client.start()
        except StartError as error:
            failures.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    until(lambda: it.lives == 1)
    pid = it.client.pid
    it.client.close()
    thread.join(10)
    assert [type(failure) for failure in failures] == [EngineStartFailed]
    assert pid is None or gone(pid)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["hang", "die:SIGSTOP"])
async def test_a_close_does_not_wait_for_ever_for_an_engine_that_hangs(
    word: str, engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_worker.engine.parent.process._STOP_SECONDS", 0.2)
    it = engine()
    pid = it.client.pid
    assert pid is not None
    stream = it.ask(f"say:a {word}")
    await first(stream)
    await asyncio.to_thread(it.client.close)
    assert gone(pid)
    assert await outcome(stream) == "engine_unavailable"


# Event loops and descriptors


def test_a_closed_event_loop_does_not_stop_the_engine_for_others(
    engine: Callable[..., Engine],
) -> None:
    it = engine(sequences=2)

    async def leave() -> None:
        it.ask("say:a wait:{gate} say:b")

    asyncio.run(leave())
    it.open()

    async def use() -> list[str]:
        return await all_of(it.ask("say:x"), it.ask("say:y"))

    assert asyncio.run(use()) == ["x", "y"]
    assert it.client.dead is None


def test_two_event_loops_use_one_engine_at_the_same_time(engine: Callable[..., Engine]) -> None:
    it = engine()
    meet = threading.Barrier(2, timeout=10)
    results: dict[str, str] = {}

    def work(name: str) -> None:
        async def use() -> str:
            stream = it.ask(f"say:{name} wait:{{gate}} say:{name}")
            await first(stream)
            meet.wait()
            it.open()
            return await outcome(stream)

        results[name] = asyncio.run(use())

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {"a": "a", "b": "b"}


async def descriptors_after(it: Engine, losses: int) -> AsyncIterator[int]:
    for _ in range(losses):
        it.kill()
        assert await all_of(it.ask("say:x")) == ["x"]
        yield len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
async def test_restarts_leave_no_descriptor_no_thread_and_no_process(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    counts = [count async for count in descriptors_after(it, 20)]
    assert counts[-1] <= counts[0]
    assert [t.name for t in threading.enumerate()].count("engine") == 1
    children = psutil.Process().children()
    assert [child.pid for child in children if "fake_engine" in " ".join(child.cmdline())] == [
        it.client.pid
    ]


async def test_an_engine_works_with_descriptors_beyond_those_that_select_knows(
    engine: Callable[..., Engine],
) -> None:
    low = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        it = engine()
        assert await all_of(it.ask("say:x")) == ["x"]
    finally:
        for descriptor in low:
            os.close(descriptor)


# Grammars and log probabilities


async def test_the_fields_beside_the_prompt_reach_the_engine(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    grammar = Grammar("regex", "a+")
    asked = await outcome(it.ask("asked", grammar=grammar, logprobs=3, show_special=True))
    assert asked == "a+ 3 True"
    assert await outcome(it.ask("asked")) == " -1 False"


async def test_log_probabilities_come_with_the_text(engine: Callable[..., Engine]) -> None:
    it = engine()
    deltas = [delta async for delta in it.ask("likely:a likely:b")]
    pieces = [each.piece for delta in deltas for each in delta.logprobs]
    assert pieces == [b"a", b"b"]


async def test_a_grammar_that_kills_the_engine_is_refused_and_costs_no_other_request_its_answer(
    engine: Callable[..., Engine],
) -> None:
    """Kill the engine while two others are computed: they are tried after it, one at a time."""
    it = engine()
    others = [it.ask(f"@1/mark:{mark} @1/wait:{{gate}}") for mark in ("{mark}", "{later}")]
    marks = [it.folder / name for name in ("mark", "later")]
    await asyncio.to_thread(until, lambda: all(mark.exists() for mark in marks))
    bad = it.ask("say:never", grammar=Grammar("lark", "choke"))
    with pytest.raises(RequestQuarantined):
        await asyncio.wait_for(anext(bad), 30)
    it.open()
    assert await all_of(*others, it.ask("say:next")) == ["", "", "next"]
    assert it.lives == 3


# PendingReplies


async def test_texts_are_tokenised_and_back(engine: Callable[..., Engine]) -> None:
    it = engine()
    assert await it.client.tokenize("aé") == list("aé".encode())
    assert await it.client.detokenize(list("aé".encode())) == "aé"
    several = await asyncio.gather(*map(it.client.tokenize, "abc"))
    assert several == [[97], [98], [99]]


async def test_a_question_that_is_refused_is_the_error_of_its_code(
    engine: Callable[..., Engine],
) -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        await engine().client.tokenize("long")


async def test_half_a_surrogate_pair_cannot_be_tokenised(engine: Callable[..., Engine]) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        await engine().client.tokenize("\ud800")


async def test_a_text_that_crashes_the_tokeniser_is_not_tried_again_and_blamed_on_nobody(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    running = it.ask("mark:{mark} @2/say:again wait:{gate}")
    until(lambda: os.path.exists(it.path("mark")))
    with pytest.raises(EngineUnavailable, match="Try again"):
        await asyncio.wait_for(it.client.tokenize("choke"), 30)
    it.open()
    assert await all_of(running) == ["again"]
    assert it.lives == 2
    assert await it.client.tokenize("a") == [97]


async def test_a_question_to_an_engine_that_is_away_is_refused_at_once(
    engine: Callable[..., Engine],
) -> None:
    it = engine(starts="ready;load:{gate}")
    it.kill()
    until(lambda: it.lives == 2)
    with pytest.raises(EngineUnavailable, match="restarted"):
        await it.client.tokenize("a")
    it.open()
    until(lambda: it.client.info)
    assert await it.client.tokenize("a") == [97]


async def test_a_question_that_is_open_when_the_client_closes_gets_an_error(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    question = asyncio.create_task(it.client.tokenize("hush"))
    await asyncio.sleep(0)  # now it is sent
    await asyncio.to_thread(it.client.close)
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(question, 30)
    with pytest.raises(EngineUnavailable):
        await it.client.detokenize([1])


async def test_a_question_that_nobody_waits_for_any_more_is_forgotten(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    question = asyncio.create_task(it.client.tokenize("hush"))
    await asyncio.sleep(0)  # now it is sent
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question
    assert await it.client.tokenize("a") == [97]


async def test_the_engine_hears_that_nobody_waits_for_a_question_which_it_has(
    engine: Callable[..., Engine],
) -> None:
    it = engine()
    question = asyncio.create_task(it.client.tokenize("hush"))
    await asyncio.sleep(0)
    await all_of(it.ask("say:sent-after-it"))
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question
    assert await all_of(it.ask("cancels")) == ["1"]


# Embeddings


async def test_the_vectors_of_all_parts_come_with_the_tokens(engine: Callable[..., Engine]) -> None:
    client = engine().client
    vectors, tokens = await client.embed(["vector:ab", "vector:cd", "wanted"], dimensions=3)
    assert (vectors, tokens) == ([b"ab", b"cd", b"None 3"], 7)


async def test_scores_are_numbers_and_the_query_reaches_the_engine(
    engine: Callable[..., Engine],
) -> None:
    client = engine().client
    scores, tokens = await client.rank("sea", ["vector:abcd", "vector:\0\0\0\0"])
    assert (scores, tokens) == (list(struct.unpack("<2f", b"abcd\0\0\0\0")), 7)
    with pytest.raises(struct.error):
        await client.rank("sea", ["wanted"])


async def test_a_failure_of_texts_is_the_error_of_its_code(engine: Callable[..., Engine]) -> None:
    client = engine().client
    with pytest.raises(ContextLengthExceeded):
        await client.embed(["vector:ab", "fail:context_length_exceeded"])


async def test_half_a_surrogate_pair_is_the_fault_of_the_texts(
    engine: Callable[..., Engine],
) -> None:
    client = engine().client
    with pytest.raises(InvalidRequest) as embedding:
        await client.embed(["\ud83c"])
    with pytest.raises(InvalidRequest) as ranking:
        await client.rank("a", ["\ud83c"])
    assert (embedding.value.param, ranking.value.param) == ("input", "documents")
    assert await client.embed(["vector:ab"]) == ([b"ab"], 7)


async def test_a_cancelled_task_cancels_its_texts(engine: Callable[..., Engine]) -> None:
    made = engine()
    texts = [f"mark:{made.path('mark')}", f"wait:{made.path('never')}"]
    task = asyncio.ensure_future(made.client.embed(texts))
    await until_async((made.folder / "mark").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await all_of(made.ask("cancels")) == ["1"]


async def test_texts_of_which_nothing_came_are_sent_again_after_a_crash(
    engine: Callable[..., Engine],
) -> None:
    made = engine()
    vectors, _ = await made.client.embed(["@1/die:SEGV", "vector:ab"])
    assert vectors == [b"ab"]
    assert made.lives == 2


async def test_texts_that_kill_the_engine_twice_are_refused(engine: Callable[..., Engine]) -> None:
    made = engine()
    with pytest.raises(RequestQuarantined):
        await made.client.embed(["die:SEGV"])
    assert await made.client.embed(["vector:ab"]) == ([b"ab"], 7)


async def test_texts_of_which_a_part_had_come_are_computed_anew_after_a_crash(
    engine: Callable[..., Engine],
) -> None:
    made = engine()
    texts = ["vector:ab", f"mark:{made.path('mark')}", "@1/wait:/nowhere", "vector:cd"]
    task = asyncio.ensure_future(made.client.embed(texts))
    await until_async((made.folder / "mark").exists)
    made.kill()
    vectors, _ = await asyncio.wait_for(task, 30)
    assert vectors == [b"ab", b"cd"]


async def test_the_deadline_of_texts_holds_while_the_engine_is_down(
    engine: Callable[..., Engine],
) -> None:
    made = engine(starts="ready;silent")
    made.kill()
    until(lambda: made.client.info is None)
    with pytest.raises(DeadlineExceeded):
        await made.client.embed(["vector:ab"], deadline=time.monotonic() + 0.2)
