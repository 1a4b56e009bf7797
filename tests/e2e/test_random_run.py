"""A thousand random requests through the whole pipeline, with a KV cache that is far too small for them."""

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
from tests.tiny_gguf import write_tiny

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
"""How much more memory than at half-time may be resident at the end: the allocator's slack."""


def random_input(random: random.Random) -> dict[str, Any]:
    """A job's input; one in eight is wrong in some way."""
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
    """Send one request, leaving early in one of six; how it ended."""
    job = {"id": f"job{number}", "input": random_input(random)}
    leave_after = random.randrange(4) if random.random() < 1 / 6 else None
    items = []
    async with aclosing(app.handle(job)) as answer:
        if leave_after == 0:
            task = asyncio.ensure_future(anext(answer, None))
            await asyncio.sleep(random.random() * 0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return "left"
        async for item in answer:
            items.append(item)
            if len(items) == leave_after:
                return "left"
    ends = [item for item in items if item.get("error") or item.get("finish_reason")]
    assert ends == items[-1:]
    error = ends[0].get("error")
    return str(json.loads(error)["code"] if error else ends[0]["finish_reason"])


def resident(app_process: psutil.Process) -> tuple[int, int]:
    """Bytes of this process and of the engine's."""
    (engine,) = app_process.children()
    return app_process.memory_info().rss, engine.memory_info().rss


async def test_a_thousand_random_requests_end_once_each_and_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    model = write_tiny(tmp_path / "tiny.gguf")
    events: list[Event] = []
    preempted, last_step = 0, None

    def watch(event: Event) -> None:
        nonlocal preempted, last_step
        if isinstance(event, StepDone):
            preempted, last_step = preempted + event.preempted, event
        else:
            events.append(event)

    settings = Settings(
        model=str(model), ctx_size=CONTEXT, max_concurrency=8, kv_size=CELLS, max_queue=12
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
                    await asyncio.sleep(0.1)
                if number % (REQUESTS // 10) == 0:
                    sizes.append(resident(process))

        await asyncio.gather(*(client(chance.randrange(2**32)) for _ in range(AT_ONCE)))
        sizes.append(resident(process))
        async with asyncio.timeout(10):
            while last_step is None or last_step.running or last_step.waiting:
                await asyncio.sleep(0.05)
    finally:
        app.close()

    print(f"ends {dict(ends)}, preemptions {preempted}, resident MB {[_mb(s) for s in sizes]}")
    assert ends.total() == REQUESTS
    assert {"stop", "length", "left", "invalid_request", "context_length_exceeded"} <= set(ends)
    assert "internal_error" not in ends
    assert "engine_interrupted" not in ends
    done = Counter(event.request_id for event in events if isinstance(event, RequestDone))
    assert done.total() == len(done)
    assert preempted > 0
    assert (last_step.kv_used, last_step.running, last_step.waiting) == (0, 0, 0)
    half = sizes[len(sizes) // 2]
    assert sizes[-1][0] < half[0] * GROWTH
    assert sizes[-1][1] < half[1] * GROWTH


def _mb(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] >> 20, size[1] >> 20
