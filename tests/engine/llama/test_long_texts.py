"""Long texts in a real engine: answers go on while they are tokenised."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.engine.messages import Step, Tokenizing
from gguf_worker.events import EngineLost, Event
from gguf_worker.generation import Sampling
from tests.tiny_gguf import write_tiny

pytestmark = pytest.mark.llama

TEXTS = {
    "marks": "<|im_start|>" * 20_000,
    "lines": "the sea and the harbour, 1234 boats\n" * 20_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_an_answer_goes_on_while_a_long_text_is_tokenised(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[Any] = []
    events: list[Event] = []
    path = write_tiny(tmp_path / "m.gguf", context_length=65536)
    spec = EngineSpec(path=str(path), context=65536, sequences=1)
    client = EngineClient(spec, observe=events.append)
    receive = client._receive

    def noting(child: Any, message: Any, lost_at: float | None) -> None:
        if isinstance(message, Tokenizing):
            came.append(message.ids)
        elif isinstance(message, Step) and any(delta.text for delta in message.deltas):
            came.append("text")
        receive(child, message, lost_at)

    monkeypatch.setattr(client, "_receive", noting)
    await asyncio.to_thread(client.start)
    try:
        request = EngineRequest("the sea", Sampling(temperature=1.0, seed=1), ignore_eos=True)
        stream = client.submit(request)
        await anext(stream)
        came.clear()
        tokens = await client.tokenize(text)
        stream.close()
    finally:
        await asyncio.to_thread(client.close)
    assert len(tokens) > 10_000
    end = came.index(())
    assert came[:end].count("text") > 3
    assert not [event for event in events if isinstance(event, EngineLost)]
