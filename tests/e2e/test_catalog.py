"""A worker with two models, the demo model and a tiny one, over HTTP and on the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fake_runpod import FakeRunPod, Worker
from tests.http_worker import Served, http_worker
from tests.waiting import until_async

pytestmark = pytest.mark.e2e


@pytest.fixture
def catalog(demo_model: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """Write a catalog whose models are unloaded as soon as nobody asks for them."""
    file = tmp_path / "models.yaml"
    file.write_text(
        f"""
models:
  demo:
    model: {demo_model}
    ctx_size: 1024
    aliases: [gpt-4o-mini]
    keep_alive: 0.05
  tiny:
    model: {tiny_model}
    ctx_size: 512
    keep_alive: 0.05
"""
    )
    return file


async def test_clients_of_two_models_get_each_their_own_answers(
    catalog: Path, tmp_path: Path
) -> None:
    settings = {"MODELS_FILE": str(catalog), "MAX_CONCURRENCY": "4"}
    with http_worker(Path("tiny"), tmp_path / "log", **settings) as served:
        async with served.async_client() as client:
            await ask_both(served, client)
        metrics = served.metrics()
        assert metrics["model_loads_total"] >= 4
        assert metrics['model_unloads_total{cause="keep_alive"}'] >= 3


def resident(served: Served) -> float:
    """Return the bytes that all engines have in memory."""
    return served.metrics()['process_resident_memory_bytes{process="engine"}']


async def ask_both(served: Served, client: openai.AsyncOpenAI) -> None:
    """Ask both models at once, three times, each time after both were unloaded."""
    listed = [model.id async for model in client.models.list()]
    assert listed == ["tiny", "demo"], "the one that MODEL names comes first"

    async def one(name: str) -> tuple[str, str]:
        answer = await client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=12,
            temperature=0,
        )
        return answer.model, answer.choices[0].message.content or ""

    found = []
    for _ in range(3):
        found += await asyncio.gather(*map(one, ("gpt-4o-mini", "tiny", "demo", "tiny")))
        await until_async(lambda: resident(served) == 0)
    assert [name for name, _ in found] == ["demo", "tiny"] * 6
    assert all(text.isprintable() and " la " in text for name, text in found if name == "demo")
    assert len({text for name, text in found if name == "tiny"}) == 1
    with pytest.raises(openai.NotFoundError, match="serves 'tiny', 'demo'"):
        await one("other")


def test_jobs_of_two_models_are_answered_by_one_worker(
    worker: Callable[..., Worker], runpod_api: FakeRunPod, catalog: Path
) -> None:
    worker(MODELS_FILE=str(catalog), MODEL="tiny", MAX_CONCURRENCY="4")
    jobs = {}
    for number in range(8):
        input: dict[str, Any] = {"prompt": "the", "max_tokens": 2, "ignore_eos": True}
        if number % 2:
            input["model"] = "demo"
        jobs[runpod_api.submit(input)] = input
    for id, input in jobs.items():
        result = runpod_api.wait_done(id)
        assert result["output"][0]["model"] == input.get("model", "tiny")
