"""Embeddings by a real engine process: beside streams, through a crash, and of what is not a
number."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.errors import (
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    StartError,
)
from gguf_worker.events import Event, StepDone
from gguf_worker.generation import Sampling
from tests.tiny_gguf import write_encoder

pytestmark = pytest.mark.llama

GREEDY = Sampling(temperature=0)
TEXTS = ["the sea is deep", "blue", "fish swim in the cold and deep sea, and the sea is red"]

Open = Callable[..., EngineClient]


@pytest.fixture
def opened() -> Iterator[Open]:
    made: list[EngineClient] = []

    def open_model(
        path: Path, pooling: str, observe: Callable[[Event], None] = lambda _: None, **more: Any
    ) -> EngineClient:
        settings: dict[str, Any] = {
            "context": 128,
            "sequences": 4,
            "batch_size": 128,
            "ubatch_size": 128,
        }
        spec = EngineSpec(path=str(path), pooling=pooling, threads=2, **(settings | more))
        client = EngineClient(spec, observe=observe, backoff=(0.0,))
        made.append(client)
        client.start()
        return client

    yield open_model
    for client in made:
        client.close()


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "e.gguf")


def of_texts(**more: Any) -> dict[str, Any]:
    return {"generates": False, "causal": False, **more}


def same(vectors: list[bytes], others: list[bytes]) -> bool:
    """Each of length 1, so the product is the cosine."""
    pairs = zip(vectors, others, strict=True)
    return all(np.frombuffer(a, "<f4") @ np.frombuffer(b, "<f4") > 0.9999 for a, b in pairs)


async def text_of(client: EngineClient, tokens: int) -> tuple[int, float]:
    """Return how many tokens a stream had, and the longest time between two of its deltas."""
    count, longest, last = 0, 0.0, None
    async for delta in client.submit(
        EngineRequest("the sea", GREEDY, max_tokens=tokens, ignore_eos=True)
    ):
        now = time.monotonic()
        longest = max(longest, now - (last or now))
        last, count = now, count + delta.tokens
    return count, longest


async def test_many_requests_share_batches_and_each_gets_its_own_vectors(
    opened: Open, encoder: Path
) -> None:
    events: list[Event] = []
    client = opened(encoder, "mean", events.append, **of_texts(max_queue=100))
    info = client.info
    assert info is not None
    assert (info.generates, info.pooling, info.dimensions, info.kv_cells) == (False, "mean", 64, 0)
    alone, tokens = await client.embed(TEXTS)
    assert tokens == sum([len(await client.tokenize(text)) for text in TEXTS])
    before = sum(event.steps for event in events if isinstance(event, StepDone))
    found = await asyncio.gather(*(client.embed(TEXTS[at % 3 :]) for at in range(60)))
    for at, (vectors, _) in enumerate(found):
        assert same(vectors, alone[at % 3 :])
    steps = sum(event.steps for event in events if isinstance(event, StepDone)) - before
    assert steps < 60


async def test_dimensions_are_those_of_the_beginning(opened: Open, encoder: Path) -> None:
    client = opened(encoder, "mean", **of_texts())
    (whole,), _ = await client.embed(["blue"])
    (part,), _ = await client.embed(["blue"], dimensions=8)
    cut = np.frombuffer(whole, "<f4")[:8]
    assert np.frombuffer(part, "<f4") == pytest.approx(cut / np.linalg.norm(cut), abs=1e-6)


async def test_a_model_for_embeddings_writes_no_text_and_a_chat_model_embeds_none(
    opened: Open, encoder: Path, tiny_model: Path
) -> None:
    with pytest.raises(InvalidRequest, match="writes no text"):
        await anext(opened(encoder, "mean", **of_texts()).submit(EngineRequest("a", GREEDY)))
    chat = opened(tiny_model, "none")
    with pytest.raises(InvalidRequest, match="POOLING"):
        await chat.embed(["a"])
    with pytest.raises(InvalidRequest, match="reranker"):
        await chat.rank("a", ["b"])


async def test_scores_come_for_each_document(opened: Open, tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "r.gguf", pooling=4, head=True)
    client = opened(path, "rank", **of_texts())
    scores, tokens = await client.rank("deep sea", TEXTS)
    one, _ = await client.rank("deep sea", TEXTS[1:2])
    assert len(set(scores)) == 3
    assert one == pytest.approx(scores[1:2], abs=1e-3)
    assert tokens > sum(len(text.split()) for text in TEXTS)


async def test_scores_survive_the_engine(opened: Open, tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "r.gguf", pooling=4, head=True)
    client = opened(path, "rank", **of_texts())
    expected, _ = await client.rank("deep sea", TEXTS)
    task = asyncio.ensure_future(client.rank("deep sea", TEXTS * 500))
    await asyncio.sleep(0.1)  # any moment will do
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        assert (await task)[0] == pytest.approx(expected * 500, abs=1e-3)


async def test_numbers_that_are_none_are_a_failure(opened: Open, tmp_path: Path) -> None:
    client = opened(write_encoder(tmp_path / "nan.gguf", weight=float("nan")), "mean", **of_texts())
    with pytest.raises(GenerationFailed, match="no valid numbers"):
        await client.embed(["blue"])
    assert client.info is not None


async def test_streams_and_texts_get_on_together_with_a_context_each(
    opened: Open, tiny_model: Path
) -> None:
    client = opened(tiny_model, "last", context=512, prefill_chunk=32, max_queue=50)
    alone, _ = await client.embed(TEXTS)
    streams = [asyncio.ensure_future(text_of(client, 300)) for _ in range(3)]
    found = await asyncio.gather(*(client.embed(TEXTS * 10) for _ in range(10)))
    for vectors, _ in found:
        assert same(vectors, alone * 10)
    running = [stream for stream in streams if not stream.done()]
    assert [count for count, _ in await asyncio.gather(*streams)] == [300] * 3
    assert running or found


async def test_texts_do_not_wait_for_streams_to_end(opened: Open, tiny_model: Path) -> None:
    client = opened(tiny_model, "mean", context=2048)
    stream = asyncio.ensure_future(text_of(client, 1000))
    await asyncio.sleep(0)  # now it is sent
    await client.embed(TEXTS)
    assert not stream.done()
    assert (await stream)[0] == 1000


async def test_an_overload_and_a_deadline_end_texts(opened: Open, encoder: Path) -> None:
    client = opened(encoder, "mean", **of_texts(sequences=1, max_queue=1))
    many = ["the sea is deep and cold"] * 2000
    tasks = [asyncio.ensure_future(client.embed(many)) for _ in range(2)]
    await asyncio.sleep(0)  # now they are sent
    with pytest.raises(Overloaded):
        await client.embed(["blue"])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(DeadlineExceeded):
        await client.embed(many * 5, deadline=time.monotonic() + 0.1)
    assert len((await client.embed(["blue"]))[0]) == 1


async def test_texts_survive_the_engine(opened: Open, encoder: Path) -> None:
    client = opened(encoder, "mean", **of_texts(max_queue=20))
    expected, _ = await client.embed(TEXTS)
    tasks = [asyncio.ensure_future(client.embed(TEXTS * 200)) for _ in range(5)]
    await asyncio.sleep(0.1)  # any moment will do
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        for vectors, _ in await asyncio.gather(*tasks):
            assert same(vectors, expected * 200)
    assert same((await client.embed(TEXTS))[0], expected)


async def test_the_demo_model_gives_text_and_the_vectors_that_llama_cpp_gives(
    opened: Open, demo_model: Path
) -> None:
    client = opened(demo_model, "mean", context=512, prefill_chunk=64, flash_attention="on")
    stream = asyncio.ensure_future(text_of(client, 40))
    vectors, _ = await client.embed(TEXTS)
    assert (await stream)[0] == 40
    llama = llama_cpp.Llama(
        str(demo_model), embedding=True, pooling_type=1, n_ctx=512, flash_attn=True, verbose=False
    )
    for text, vector in zip(TEXTS, vectors, strict=True):
        other = np.array(llama.embed(text))
        assert np.frombuffer(vector, "<f4") @ other / np.linalg.norm(other) > 0.9999
    llama.close()


def test_a_context_for_texts_that_llama_cpp_refuses_is_a_start_error(
    opened: Open, tiny_model: Path
) -> None:
    """The tiny model's heads cannot be cut into blocks of 32."""
    with pytest.raises(StartError, match="a context for texts of 128 tokens"):
        opened(tiny_model, "mean", generates=False, kv_type="q4_0")
