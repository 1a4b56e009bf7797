"""A provider for another server needs the domain's words only: no engine, chat or model file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from gguf_worker.api import Gateway, answer_job
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Usage
from gguf_worker.providers import (
    EmbeddingRequest,
    Embeddings,
    Finish,
    GenerationRequest,
    ModelCard,
    Part,
    Provider,
    Ranking,
    RankingRequest,
    TextDelta,
)

NOT_NEEDED = (
    "gguf_worker.engine",
    "gguf_worker.chat",
    "gguf_worker.models",
    "gguf_worker.serving",
    "jinja2",
    "numpy",
    "llama_cpp",
)


def test_the_words_of_providers_and_the_api_load_neither_engine_nor_chat_nor_models() -> None:
    code = (
        "import sys\n"
        "import gguf_worker.providers, gguf_worker.generation, gguf_worker.api\n"
        f"print(*(name for name in {NOT_NEEDED!r} if name in sys.modules), sep=',')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


class EchoProvider:
    """Answers with the last message, word by word, as a client of another server would."""

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        assert request.messages is not None
        words = str(request.messages[-1]["content"]).split()
        for word in words:
            yield TextDelta(f"{word} ", 1)
        yield Finish("stop", Usage(prompt_tokens=2, completion_tokens=len(words)))

    async def tokens(self, source: str | GenerationRequest, *, add_special: bool) -> list[int]:
        raise InvalidRequest("This model's tokens are not known here.")

    async def text(self, tokens: Sequence[int]) -> str:
        raise InvalidRequest("This model's tokens are not known here.")

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        raise InvalidRequest("This model's tokens are not known here.")

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        raise InvalidRequest("This model gives no embeddings.")

    async def rank(self, request: RankingRequest) -> Ranking:
        raise InvalidRequest("This model gives no scores.")


def gateway_of(provider: Provider) -> Gateway:
    """Return a gateway with one model, `echo`, that `provider` answers for."""
    return Gateway(
        lambda name: provider,
        lambda: (ModelCard("echo"),),
        health=dict,
        metrics=str,
        observe=lambda event: None,
        cold=lambda name: None,
    )


async def answered(route: str, body: dict[str, Any]) -> list[Any]:
    job = {"id": "j1", "input": {"openai_route": route, "openai_input": body}}
    items = answer_job(gateway_of(EchoProvider()), job, default_timeout=60)
    return [item async for item in items]


CHAT = {"model": "echo", "messages": [{"role": "user", "content": "Deep blue sea"}]}


async def test_a_provider_of_these_words_alone_answers_a_call() -> None:
    (whole,) = await answered("/v1/chat/completions", CHAT)
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == "Deep blue sea "
    assert choice["finish_reason"] == "stop"
    assert whole["usage"]["completion_tokens"] == 3


async def test_its_answer_streams() -> None:
    items = await answered("/v1/chat/completions", {**CHAT, "stream": True})
    *events, end = "".join(items).removesuffix("\n\n").split("\n\n")
    deltas = [json.loads(event.removeprefix("data: ")) for event in events]
    texts = [choice["delta"].get("content") for each in deltas for choice in each["choices"]]
    assert "".join(filter(None, texts)) == "Deep blue sea "
    assert end == "data: [DONE]"


async def test_its_refusal_reaches_the_caller() -> None:
    (item,) = await answered("/v1/embeddings", {"model": "echo", "input": "sea"})
    assert json.loads(item["error"])["message"] == "This model gives no embeddings."
