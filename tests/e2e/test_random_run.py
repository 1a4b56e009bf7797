"""A thousand random requests through the whole pipeline, with far too small a KV cache."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from gguf_worker.app import App
from gguf_worker.config import Settings
from gguf_worker.events import Event, RequestDone, StepDone
from tests.waiting import until_async

pytestmark = [pytest.mark.e2e, pytest.mark.llama]

REQUESTS, AT_ONCE, CONTEXT, CELLS = 1000, 21, 512, 768  # one client more than the worker takes
WORDS = (
    "the",
    "sea",
    "and",
    "a",
    "theatre",
    "of",
    "onions,",
    "éclairs,",
    "deniz",
    "kıyısı",
    "海の歌",
    "🚀",
)
GROWTH = 1.03
"""Growth of resident memory from half-time to the end that is the allocator's slack."""


def random_input(random: random.Random) -> dict[str, Any]:
    """Return a job's input; one in eight is wrong in some way."""
    words = " ".join(random.choices(WORDS, k=random.choice((1, 5, 40, 120))))
    given: dict[str, Any] = {
        "max_tokens": random.choice((1, 3, 20, 100)),
        "stream": random.random() < 0.7,
        "ignore_eos": random.random() < 0.8,
        "temperature": random.choice((0, 0, 0.7, 1.5)),
        "seed": random.randrange(1000),
    }
    if random.random() < 0.5:
        given["prompt"] = words
    else:
        given["messages"] = [{"role": "user", "content": words}]
    if random.random() < 0.3:
        given["stop"] = random.sample(["e", "th", "\n", "zz", "ing"], k=2)
    if random.random() < 0.2:
        given |= {"repeat_penalty": 1.2, "dry_multiplier": 0.8, "top_k": 0, "min_p": 0.01}
    if random.random() < 0.125:
        given |= random.choice(
            (
                {"prompt": "word " * 5000, "messages": None},
                {"temperature": "hot"},
                {"prompt": "", "messages": None},
                {"timeout": 0.001},
                {"top_p": 7},
                {"stop": [""]},
            )
        )
    return given


async def run_one(app: App, number: int, random: random.Random) -> str:
    """Send one request, leaving early in one of six, and return its end."""
    job = {"id": f"job{number}", "input": random_input(random)}
    leave_after = random.randrange(4) if random.random() < 1 / 6 else None
    items = []
    async with aclosing(app.handle(job)) as answer:
        if leave_after == 0:
            task = asyncio.ensure_future(anext(answer, None))
            await asyncio.sleep(random.random() * 0.02)  # leave at any moment
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return "left"
        async for item in answer:
            items.append(item)
            if len(items) == leave_after:
                return "left"
    ends = [item for item in items if item.get("error") or "usage" in item]
    assert ends == items[-1:]
    error = ends[0].get("error")
    return str(json.loads(error)["code"] if error else ends[0]["finish_reason"])


def resident(app_process: psutil.Process) -> tuple[int, int]:
    """Return the resident bytes of this process and of the engine's."""
    (engine,) = app_process.children()
    return app_process.memory_info().rss, engine.memory_info().rss


class Steps:
    """The last step that the engine has reported, and the preemptions of all of them."""

    def __init__(self) -> None:
        self.preempted = 0
        self._last: StepDone | None = None

    def add(self, step: StepDone) -> None:
        self.preempted += step.preempted
        self._last = step

    def idle(self) -> StepDone | None:
        """Return the last step if nothing runs or waits after it."""
        last = self._last
        return None if last is None or last.running or last.waiting else last


async def test_a_thousand_random_requests_end_once_each_and_leave_nothing_behind(
    tiny_model: Path,
) -> None:
    events: list[Event] = []
    steps = Steps()

    def watch(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.add(event)
        else:
            events.append(event)

    settings = Settings(
        model=str(tiny_model), ctx_size=CONTEXT, max_concurrency=8, kv_size=CELLS, max_queue=12
    )
    app = App(settings, environ={}, watch=watch)
    app.start()
    chance, process = random.Random(20), psutil.Process()
    ends: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    try:
        numbers = iter(range(REQUESTS))

        async def client(seed: int) -> None:
            own = random.Random(seed)
            for number in numbers:
                end = await run_one(app, number, own)
                ends[end] += 1
                if end == "overloaded":
                    await asyncio.sleep(0.1)  # as a client that is told to come back later
                if number % (REQUESTS // 10) == 0:
                    sizes.append(resident(process))

        await asyncio.gather(*(client(chance.randrange(2**32)) for _ in range(AT_ONCE)))
        sizes.append(resident(process))
        last = await until_async(steps.idle)
    finally:
        app.close()

    print(
        f"ends {dict(ends)}, preemptions {steps.preempted}, resident MB {[_mb(s) for s in sizes]}"
    )
    assert ends.total() == REQUESTS
    assert {"stop", "length", "left", "invalid_request", "context_length_exceeded"} <= set(ends)
    assert "internal_error" not in ends
    assert "engine_interrupted" not in ends
    done = Counter(event.request_id for event in events if isinstance(event, RequestDone))
    assert done.total() == len(done)
    assert steps.preempted > 0
    assert last.kv_used == 0
    half = sizes[len(sizes) // 2]
    assert sizes[-1][0] < half[0] * GROWTH
    assert sizes[-1][1] < half[1] * GROWTH


def _mb(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] >> 20, size[1] >> 20
