"""More clients than places: each is told a time of its own, and finds a place then."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import openai
import pytest

from tests.http_worker import KEY, Served, http_worker

pytestmark = [pytest.mark.e2e, pytest.mark.llama]

CALLS, TOKENS = 60, 400
SETTINGS = {"MAX_CONCURRENCY": "4", "MAX_QUEUE": "4", "CTX_SIZE": "1024", "THREADS": "1"}
"""Eight places."""


async def ask(client: openai.AsyncOpenAI) -> str:
    try:
        answer = await client.completions.create(
            model="demo", prompt="the sea", max_tokens=TOKENS, extra_body={"ignore_eos": True}
        )
    except openai.APIStatusError as error:
        return f"{error.status_code}"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS
    return "answered"


async def ask_all(served: Served, calls: int, tries: int) -> Counter[str]:
    async with openai.AsyncOpenAI(
        base_url=f"{served.base}/v1", api_key=KEY, max_retries=tries
    ) as client:
        return Counter(await asyncio.gather(*(ask(client) for _ in range(calls))))


def test_sixty_calls_at_once_are_all_answered_from_eight_places(
    tiny_model: Path, tmp_path: Path
) -> None:
    """By OpenAI's client, with the two more tries that it makes by itself."""
    settings = {**SETTINGS, "SERVED_MODEL_NAME": "demo"}
    with http_worker(tiny_model, tmp_path / "log", **settings) as worker:
        asyncio.run(ask_all(worker, 8, 0))  # so that it knows how long a request takes
        at_once = asyncio.run(ask_all(worker, CALLS, 0))
        assert at_once["503"] >= CALLS // 3, at_once
        assert set(at_once) == {"answered", "503"}
        # Its pace is this machine's: a run may lose a call when something else has the processors.
        runs = (asyncio.run(ask_all(worker, CALLS, 2)) for _ in range(3))
        assert any(run == {"answered": CALLS} for run in runs)
