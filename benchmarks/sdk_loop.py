"""Streaming jobs through RunPod's own SDK, and the same work without it.

The SDK talks to a fake of its job API. The worker under test is `python handler.py`; the direct way
is the engine's client in this process. The ratio of the two is what the queue, the SDK, the gateway
and the posts cost together.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.build import ROOT
from benchmarks.measures import Measures
from gguf_worker.config import load_settings, probe
from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.generation import Sampling
from gguf_worker.models.gguf import read_header
from gguf_worker.models.memory import fit
from gguf_worker.serving.loaded_model import engine_spec
from tests.fake_runpod import FakeRunPod, Worker

SDK, DIRECT = "sdk", "direct"

_CONTEXT = 512
_GREEDY = Sampling(temperature=0.0)
_PATIENCE = 300.0


async def through_sdk(
    model: Path, threads: int, prompts: Sequence[str], max_tokens: int
) -> Measures:
    """Measure all prompts at once, as jobs of a worker that the SDK drives."""
    return await asyncio.to_thread(_through_sdk, model, threads, prompts, max_tokens)


def _through_sdk(model: Path, threads: int, prompts: Sequence[str], max_tokens: int) -> Measures:
    settings = _environment(model, threads, len(prompts))
    with tempfile.TemporaryDirectory() as scratch, FakeRunPod() as api:
        home = Path(scratch)
        environment = api.environment(home) | settings
        with closing(Worker(environment, log=home / "worker.log", cwd=ROOT)) as worker:
            worker.wait_polling(api)
            api.wait_done(api.submit(_job(prompts[0][::-1], 1)), _PATIENCE)
            began = time.monotonic()
            jobs = [api.submit(_job(prompt, max_tokens)) for prompt in prompts]
            results = [api.wait_done(job, _PATIENCE) for job in jobs]
            wall = time.monotonic() - began
            worker.terminate()
    tokens = sum(_generated(result) for result in results)
    return {"tokens_per_second": tokens / wall, "wall": wall}


def _job(prompt: str, max_tokens: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def _generated(result: dict[str, Any]) -> int:
    if "output" not in result:
        raise RuntimeError(f"a job failed: {result.get('error')}")
    count: int = result["output"][-1]["usage"]["completion_tokens"]
    return count


async def direct(model: Path, threads: int, prompts: Sequence[str], max_tokens: int) -> Measures:
    """Measure all prompts at once, submitted to the engine by its own client."""
    spec = _spec(model, _environment(model, threads, len(prompts)))
    client = EngineClient(spec, observe=lambda _: None)
    with closing(client):
        await asyncio.to_thread(client.start)
        await _generate(client, prompts[0][::-1], 1)
        began = time.monotonic()
        counts = await asyncio.gather(
            *(_generate(client, prompt, max_tokens) for prompt in prompts)
        )
        wall = time.monotonic() - began
    return {"tokens_per_second": sum(counts) / wall, "wall": wall}


async def _generate(client: EngineClient, prompt: str, max_tokens: int) -> int:
    request = EngineRequest(prompt, _GREEDY, max_tokens=max_tokens, ignore_eos=True)
    stream = client.submit(request)
    return sum([delta.tokens async for delta in stream])


def _environment(model: Path, threads: int, sequences: int) -> dict[str, str]:
    return {
        "MODEL": str(model),
        "THREADS": str(threads),
        "CTX_SIZE": str(_CONTEXT),
        "MAX_CONCURRENCY": str(sequences),
        "LOG_LEVEL": "warning",
        "RUNPOD_LOG_LEVEL": "ERROR",
    }


def _spec(model: Path, environment: Mapping[str, str]) -> EngineSpec:
    """Return the settings of the engine that the worker opens in this environment."""
    settings, machine = load_settings(environment), probe(os.environ)
    sizes = fit(settings, machine, read_header(model), gpu_offload=bool(machine.gpus))
    return engine_spec(settings, model, sizes)
