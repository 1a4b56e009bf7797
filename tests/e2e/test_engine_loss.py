"""The engine process is killed, or stops, under a worker that is answering jobs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gguf_worker.app import App
from gguf_worker.config import Settings
from gguf_worker.events import EngineLost, Event, StepDone
from tests.waiting import until_async

pytestmark = pytest.mark.e2e

Items = list[Any]


class Worker:
    """The whole pipeline behind `App.handle`, with the events that it reports."""

    def __init__(self, model: Path, **settings: Any) -> None:
        self.events: list[Event] = []
        self.app = App(Settings(model=str(model), **settings), environ={}, watch=self.events.append)
        self.app.start()

    def engine(self) -> psutil.Process:
        (child,) = psutil.Process().children()
        return child

    def job(self, number: int, tokens: int) -> dict[str, Any]:
        prompt = f"The story of the number {number} begins"
        given = {"prompt": prompt, "stream": True, "max_tokens": tokens, "ignore_eos": True}
        return {"id": f"job{number}", "input": given}

    async def run(self, job: dict[str, Any], first: asyncio.Event | None = None) -> Items:
        items = []
        async for item in self.app.handle(job):
            items.append(item)
            if first is not None:
                first.set()
        return items

    async def health(self) -> dict[str, Any]:
        (health,) = await self.run({"id": "h", "input": {"task": "health"}})
        return dict(health)

    @property
    def rows(self) -> int:
        """The number of rows of all steps."""
        return sum(event.rows for event in self.events if isinstance(event, StepDone))

    def load(self) -> tuple[int, int] | None:
        """Return how many requests ran and waited after the last step; None before the first."""
        steps = (event for event in reversed(self.events) if isinstance(event, StepDone))
        return next(((step.running, step.waiting) for step in steps), None)


@pytest.fixture
def worker(demo_model: Path) -> Iterator[Worker]:
    worker = Worker(demo_model, max_concurrency=4, ctx_size=1024, engine_timeout=3.0)
    yield worker
    worker.app.close()
    assert psutil.Process().children() == []


async def test_a_killed_engine_costs_only_the_answers_that_had_begun(worker: Worker) -> None:
    """Kill it while four stream and four wait; the four waiting get their answers."""
    begun = [asyncio.Event() for _ in range(4)]
    streaming = [
        asyncio.create_task(worker.run(worker.job(n, 900), first)) for n, first in enumerate(begun)
    ]
    await asyncio.gather(*(first.wait() for first in begun))
    waiting = [asyncio.create_task(worker.run(worker.job(n, 20))) for n in range(4, 8)]
    await until_async(lambda: worker.load() == (4, 4))
    killed = worker.engine()
    killed.kill()

    for items in await asyncio.gather(*streaming):
        assert len(items) > 2
        error = json.loads(items[-1]["error"])
        assert items[-2] == {"finish_reason": "error", "failure": error}
        assert (error["code"], error["type"]) == ("engine_interrupted", "server_error")
        assert "again" in error["message"]
    for items in await asyncio.gather(*waiting):
        assert items[-1]["finish_reason"] == "length"
        assert items[-1]["usage"]["completion_tokens"] == 20
    assert worker.engine().pid != killed.pid
    (loss,) = [event for event in worker.events if isinstance(event, EngineLost)]
    assert (loss.cause, loss.interrupted, loss.resubmitted) == ("signal", 4, 4)
    health = await worker.health()
    assert (health["engine_restarts"], health["running"], health["kv_used"]) == (1, 0, 0)


async def test_a_killed_engine_costs_no_answer_that_is_not_streamed(worker: Worker) -> None:
    """Kill it in the middle of four such; each comes once, with all of its tokens."""

    def job(number: int) -> dict[str, Any]:
        prompt = f"The story of the number {number} begins"
        answer = {"n": 2, "max_tokens": 60, "ignore_eos": True, "logprobs": 1}
        input = {"openai_route": "/v1/completions", "openai_input": {"prompt": prompt} | answer}
        return {"id": f"job{number}", "input": input}

    answering = [asyncio.create_task(worker.run(job(number))) for number in range(2)]
    await until_async(lambda: worker.rows > 80)
    worker.engine().kill()
    for (answer,) in await asyncio.gather(*answering):
        assert answer["usage"]["completion_tokens"] == 120
        assert [len(each["logprobs"]["tokens"]) for each in answer["choices"]] == [60, 60]
    (loss,) = [event for event in worker.events if isinstance(event, EngineLost)]
    assert (loss.interrupted, loss.resubmitted) == (0, 4)


async def test_a_stopped_engine_is_noticed_and_replaced(worker: Worker) -> None:
    first = asyncio.Event()
    streaming = asyncio.create_task(worker.run(worker.job(0, 900), first))
    await first.wait()
    stopped = worker.engine()
    os.kill(stopped.pid, signal.SIGSTOP)

    items = await streaming
    assert json.loads(items[-1]["error"])["code"] == "engine_interrupted"
    items = await worker.run(worker.job(1, 10))
    assert items[-1]["finish_reason"] == "length"
    (loss,) = [event for event in worker.events if isinstance(event, EngineLost)]
    assert loss.cause == "wedged"
    assert not psutil.pid_exists(stopped.pid)


async def test_a_cancelled_answer_is_out_of_the_engine_within_two_steps(worker: Worker) -> None:
    begun = asyncio.Event()
    answer = worker.app.handle(worker.job(0, 900))
    task = asyncio.create_task(_first_then_wait(answer, begun))
    await begun.wait()
    before = len(worker.events)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until_async(lambda: worker.load() == (0, 0))
    steps = [event for event in worker.events[before:] if isinstance(event, StepDone)]
    assert len([step for step in steps if step.rows and step.running]) <= 2
    assert (await worker.health())["kv_used"] == 0


async def _first_then_wait(answer: Any, begun: asyncio.Event) -> None:
    async for _ in answer:
        begun.set()
