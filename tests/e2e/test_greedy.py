"""Greedy answers of the engine against llama-cpp-python's own `Llama`, on the same tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.generation import Sampling

pytestmark = [pytest.mark.e2e, pytest.mark.llama]

CONTEXT, TOKENS, UBATCH = 1024, 48, 128

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = [
    CHAT.format("Write a short poem about the sea."),
    CHAT.format("What is the capital of France?"),
    CHAT.format("List three prime numbers and explain what a prime number is."),
    CHAT.format("Türkiye'nin başkenti neresidir? Kısaca açıkla."),
    CHAT.format("用一句话介绍北京。"),
    CHAT.format("Reply with three emoji: 🚀🌊🎉 and say why."),
    "def fibonacci(n):\n    ",
    "The quick brown fox",
    CHAT.format("Summarise: " + "The tide rises and the tide falls, the twilight darkens. " * 12),
    "1, 2, 3, 4, 5, 6,",
]

NEAR_TIE = 1.0
"""Two correct runs may part where the best two logits are closer than this.

The CPU kernels quantise activations, so logits differ by up to about one with the shape of a batch.
"""


class Reference:
    """A greedy `Llama` that computes one prompt at a time, from an empty cache."""

    def __init__(self, model: Path) -> None:
        self.llama = llama_cpp.Llama(
            str(model),
            n_ctx=CONTEXT,
            n_batch=UBATCH,
            n_ubatch=UBATCH,
            n_threads=2,
            n_threads_batch=2,
            flash_attn=True,
            logits_all=False,
            verbose=False,
        )

    def tokens(self, prompt: str) -> list[int]:
        return list(self.llama.tokenize(prompt.encode(), add_bos=True, special=True))

    def generate(self, prompt: str) -> tuple[list[int], list[float]]:
        """Return the tokens up to the end, and the lead of each over the second best."""
        self.llama.reset()
        self.llama.eval(self.tokens(prompt))
        tokens, margins = [], []
        for _ in range(TOKENS):
            pointer = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
            logits = np.ctypeslib.as_array(pointer, (self.llama.n_vocab(),))
            second, first = np.partition(logits, -2)[-2:]
            token = int(logits.argmax())
            tokens.append(token)
            margins.append(float(first - second))
            if llama_cpp.llama_vocab_is_eog(self.llama._model.vocab, token):
                break
            self.llama.eval([token])
        return tokens, margins

    def text(self, tokens: list[int]) -> str:
        return bytes(self.llama.detokenize(tokens)).decode("utf-8", "replace")


@pytest.fixture(scope="module")
def reference(demo_model: Path) -> Iterator[Reference]:
    plain = llama_cpp.llama_model_default_params

    def without_amx() -> llama_cpp.llama_model_params:
        params = plain()
        params.use_extra_bufts = False  # the AMX kernels crash; see engine/llama/weights.py
        return params

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "llama_model_default_params", without_amx)
        patch.setattr("llama_cpp.llama_cpp.llama_model_default_params", without_amx)
        made = Reference(demo_model)
    yield made
    made.llama.close()


@contextmanager
def opened(model: Path, *, idle: int) -> Iterator[EngineClient]:
    """Open an engine that keeps the cells of up to `idle` ended requests."""
    spec = EngineSpec(
        path=str(model),
        context=CONTEXT,
        sequences=len(PROMPTS),
        threads=2,
        batch_size=UBATCH,
        ubatch_size=UBATCH,
        idle_sequences=idle,
    )
    with closing(EngineClient(spec, observe=lambda _: None)) as client:
        client.start()
        yield client


@pytest.fixture(scope="module")
def engine(demo_model: Path) -> Iterator[EngineClient]:
    with opened(demo_model, idle=16) as client:
        yield client


@pytest.fixture(scope="module")
def forgetful(demo_model: Path) -> Iterator[EngineClient]:
    """Open an engine that keeps no ended request's prefix: it computes a prompt in one batch."""
    with opened(demo_model, idle=0) as client:
        yield client


async def answer(engine: EngineClient, prompt: str) -> str:
    stream = engine.submit(EngineRequest(prompt, Sampling(temperature=0.0), max_tokens=TOKENS))
    return "".join([delta.text async for delta in stream])


async def test_greedy_text_from_an_empty_cache_is_that_of_llama_token_for_token(
    forgetful: EngineClient, reference: Reference
) -> None:
    for prompt in PROMPTS:
        tokens, margins = reference.generate(prompt)
        text = await answer(forgetful, prompt)
        expected = reference.text(tokens)
        print(f"{len(tokens)} tokens, smallest margin {min(margins):.3f}: {text[:60]!r}")
        assert text == expected


async def test_greedy_text_sent_at_once_is_that_of_llama_up_to_a_near_tie(
    engine: EngineClient, reference: Reference
) -> None:
    texts = await asyncio.gather(*(answer(engine, prompt) for prompt in PROMPTS))
    for prompt, text in zip(PROMPTS, texts, strict=True):
        tokens, margins = reference.generate(prompt)
        expected = reference.text(tokens)
        if text == expected:
            print(f"same {len(tokens)} tokens: {text[:60]!r}")
            continue
        parted = _parting(reference, tokens, text)
        print(f"parts at token {parted}, margin {margins[parted]:.3f}: {text[:60]!r}")
        assert margins[parted] < NEAR_TIE


def _parting(reference: Reference, tokens: list[int], text: str) -> int:
    """Return the index of the first of `tokens` that `text` does not go on with.

    Compares bytes, because a character may be several tokens.
    """
    given = text.encode()
    for count in range(1, len(tokens) + 1):
        if not given.startswith(bytes(reference.llama.detokenize(tokens[:count]))):
            return count - 1
    return len(tokens) - 1
