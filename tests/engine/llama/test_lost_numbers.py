"""Numbers of one request never reach another's. llama.cpp itself, with models of which one token's
embedding is no number, or makes a key that is too large: a request that has that token fails, and
all others get what they would have got alone, whatever kind of memory they share.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.random_model import SHAPES, write
from gguf_worker.engine.cells.unified import Clear, Trim
from gguf_worker.engine.drawing.grammars.compiler import Compiler
from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.llama.pooling_context import PoolingContext
from gguf_worker.engine.loop.factory import scheduler_for
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.server import Server
from gguf_worker.engine.messages import Cancel, Delta, Embed, EngineRequest, EngineSpec, Submit
from gguf_worker.engine.texts.embedder import Embedder
from gguf_worker.generation import Sampling, TokenLogprob
from tests.fake_backend import FakeChannel, FakeTokenizers
from tests.fakes import FakeClock
from tests.tiny_gguf import write_encoder, write_tiny

pytestmark = pytest.mark.llama

Vector = npt.NDArray[np.float32]

BAD, BERT_BAD = 200, 50
"""The token whose embedding is no number, in a decoder and in an encoder."""
TOLERANCE = 0.05
"""Largest difference of a logarithm of a probability. Those of these models differ by about 1."""
TOKENS = 10
"""Length of an answer."""

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "one pool": ("llama", {"flash_attention": "off"}),
    "one pool, flash attention": ("llama", {"flash_attention": "on"}),
    "a pool for each": ("llama", {"flash_attention": "off", "unified": False}),
    "one pool, large keys": ("large keys", {"flash_attention": "off"}),
    "one pool, quantised": ("quantised", {"flash_attention": "off"}),
    "sliding windows": ("gemma3", {"flash_attention": "off", "ubatch_size": 64}),
    "states": ("mamba2", {}),
    "states and cells": ("lfm2", {"flash_attention": "on"}),
}


def prompt(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, BAD, length)]


def spoilt(path: Path, architecture: str) -> Path:
    """Write a model whose token BAD has no numbers; an encoder's is BERT_BAD."""
    if architecture == "bert":
        write_encoder(path)
    else:
        write_tiny(path, architecture)
    with tensors(path) as by_name:
        by_name["token_embd.weight"][BERT_BAD if architecture == "bert" else BAD] = np.nan
    return path


def with_large_keys(path: Path) -> Path:
    """Write a model in which the key of the token BAD, and of no other, is beyond half precision.

    What it alone has in the first dimension is made large there.
    """
    write_tiny(path)
    with tensors(path) as by_name:
        by_name["token_embd.weight"][:, 0] = 0
        by_name["token_embd.weight"][BAD] = np.eye(64)[0]
        by_name["blk.0.attn_k.weight"][:, 0] = 60_000
    return path


def quantised(path: Path) -> Path:
    """Write a model whose output layer is in Q6_K, whose kernels may make zeros of NaN."""
    whole = path.with_suffix(".whole")
    shape = dataclasses.replace(SHAPES["tiny"], embedding=256, feed_forward=512)
    write(whole, shape)
    wanted = llama_cpp.llama_model_quantize_default_params()
    wanted.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    wanted.token_embedding_type = llama_cpp.GGML_TYPE_F16
    paths = (str(each).encode() for each in (whole, path))
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(wanted)) == 0
    with tensors(path) as by_name:
        by_name["token_embd.weight"][BAD] = np.nan
    return path


@contextlib.contextmanager
def tensors(path: Path) -> Iterator[dict[str, Any]]:
    """Open a model's tensors to be written to."""
    reader = gguf.GGUFReader(path, "r+")
    yield {each.name: each.data for each in reader.tensors}
    reader.data.flush()


@pytest.fixture(params=KINDS)
def llama(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Llama]:
    kind, more = KINDS[request.param]
    writers = {"large keys": with_large_keys, "quantised": quantised}
    path = tmp_path / "spoilt.gguf"
    writers[kind](path) if kind in writers else spoilt(path, kind)
    sizes: dict[str, Any] = {
        "context": 128,
        "sequences": 4,
        "idle_sequences": 4,
        "batch_size": 64,
        "ubatch_size": 32,
        "threads": 1,
    }
    spec = EngineSpec(path=str(path), **(sizes | more))
    llama = Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)
    yield llama
    llama.close()


class Run:
    """The loop over a model, and what it said."""

    def __init__(self, llama: Llama, *turns: Any) -> None:
        self.llama = llama
        self.prompts: dict[int, list[int]] = {}
        spec = EngineSpec(path="", context=llama.info.context, sequences=0)
        channel = FakeChannel(*turns)
        scheduler = scheduler_for(spec, llama.info)
        Server(
            llama,
            channel,
            scheduler,
            compiler=Compiler(llama.vocabulary),
            now=FakeClock(),
            seeds=random.Random(0),
        ).run()
        scheduler.check()
        assert scheduler.idle
        self.deltas = [delta for step in channel.sent for delta in step.deltas]

    def of(self, id: int) -> list[Delta]:
        return [delta for delta in self.deltas if delta.id == id]

    def tokens(self, id: int) -> list[TokenLogprob]:
        return [token for delta in self.of(id) for token in delta.logprobs]

    def code(self, id: int) -> str | None:
        (last,) = [delta for delta in self.of(id) if delta.last]
        return None if last.failure is None else last.failure.code


def ask(id: int, tokens: list[int], max_tokens: int = TOKENS) -> Submit:
    return Submit(
        id,
        EngineRequest(
            tokens,
            sampling=Sampling(temperature=0.0),
            add_special=False,
            parse_special=False,
            ignore_eos=True,
            max_tokens=max_tokens,
            logprobs=0,
        ),
    )


def pauses(count: int) -> list[Callable[[], None]]:
    return [lambda: None] * count


def assert_alone(llama: Llama, tokens: list[int], answer: list[TokenLogprob]) -> None:
    """Hold every token of an answer to what the model says of its beginning, computed alone."""
    assert len(answer) == TOKENS
    llama.arrange([Clear()])
    tokens = list(tokens)
    for each in answer:
        chunk = Chunk(Sequence(1, tokens, len(tokens), 1, slot=0), 0, len(tokens), True)
        code, rows = llama.decode([chunk])
        assert code == 0
        row = llama.logits(len(rows))[0].astype(np.float64)
        llama.arrange([Trim(0, 0)])
        expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert each.logprob == pytest.approx(expected[each.token], abs=TOLERANCE)
        assert expected[each.token] == pytest.approx(expected.max(), abs=TOLERANCE)
        tokens.append(each.token)


def test_a_request_without_numbers_fails_and_no_other_notices(llama: Llama) -> None:
    prompts = {1: prompt(1, 40), 2: prompt(2, 7), 4: prompt(4, 20), 5: prompt(3, 30)}
    bad = [*prompts[5], BAD, *prompt(9, 8)]  # a prompt that begins like another one
    run = Run(
        llama,
        [ask(1, prompts[1]), ask(2, prompts[2])],
        *pauses(4),
        [ask(3, bad)],
        *pauses(2),
        [ask(4, prompts[4])],
        *pauses(8),
        [ask(5, prompts[5])],
    )
    assert run.code(3) == "generation_failed"
    assert not run.tokens(3)
    for id, tokens in prompts.items():
        assert run.code(id) is None
        assert_alone(llama, tokens, run.tokens(id))


def test_a_request_without_numbers_leaves_nothing_behind(llama: Llama) -> None:
    """Its cells and its state are the next one's, also where it was cancelled unnoticed."""
    run = Run(
        llama,
        [ask(1, [*prompt(1, 60), BAD, *prompt(2, 50)])],
        *pauses(12),
        [ask(2, [*prompt(3, 60), BAD, *prompt(4, 60)])],
        [],
        [Cancel(2)],
        [ask(3, prompt(5, 8)), ask(4, prompt(6, 8)), ask(5, prompt(7, 50))],
    )
    assert run.code(1) == "generation_failed"
    for id, tokens in ((3, prompt(5, 8)), (4, prompt(6, 8)), (5, prompt(7, 50))):
        assert_alone(llama, tokens, run.tokens(id))


def test_many_requests_without_numbers_let_the_others_through(llama: Llama) -> None:
    bad = {id: [*prompt(id, id), BAD, *prompt(id + 50, 4)] for id in range(10, 16)}
    good = {id: prompt(id, id) for id in range(20, 24)}
    flood = [[ask(id, tokens)] for id, tokens in bad.items()]
    calm = [[ask(id, tokens)] for id, tokens in good.items()]
    run = Run(
        llama, *(turn for pair in zip(flood, calm, strict=False) for turn in pair), *flood[4:]
    )
    assert all(run.code(id) == "generation_failed" for id in bad)
    for id, tokens in good.items():
        assert_alone(llama, tokens, run.tokens(id))


# Texts

POOLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "an encoder": ("bert", {"causal": False}),
    "a decoder": ("llama", {"causal": True}),
    "a decoder with flash attention": ("llama", {"causal": True, "flash_attention": "on"}),
    "a decoder with states": ("mamba2", {"causal": True}),
}


@pytest.fixture(params=POOLINGS)
def pooler(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PoolingContext]:
    architecture, more = POOLINGS[request.param]
    path = spoilt(tmp_path / "spoilt.gguf", architecture)
    spec = EngineSpec(
        path=str(path),
        pooling="mean",
        generates=False,
        context=100,
        sequences=4,
        ubatch_size=64,
        threads=1,
        **({"flash_attention": "off"} | more),
    )
    llama = Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)
    pooler = PoolingContext(llama, spec)
    yield pooler
    pooler.close()
    llama.close()


def embedded(pooler: PoolingContext, *requests: list[list[int]]) -> list[list[Vector] | str]:
    """Compute the texts of all requests together; the codes of those that fail."""
    tokenizers = FakeTokenizers(lambda _: None)
    embedder = Embedder(pooler, vocabulary=512, most=100, tokenizers=tokenizers)
    for id, texts in enumerate(requests):
        assert embedder.add(Embed(id, tuple(texts))) is None
    made: list[list[Vector] | str] = [[] for _ in requests]
    for _ in range(1000):
        if not len(embedder):
            return made
        for delta in embedder.step(None, lambda _: None)[1]:
            if delta.failure is not None:
                made[delta.id] = delta.failure.code
            else:
                vectors = made[delta.id]
                assert isinstance(vectors, list)
                vectors += [np.frombuffer(vector, "<f4") for vector in delta.vectors]
    raise AssertionError("it goes on and on")


def test_a_text_without_numbers_fails_and_no_other_text_notices(pooler: PoolingContext) -> None:
    bad_token = BERT_BAD if pooler.causal is False else BAD
    most = 40 if pooler.causal is False else BAD
    good = [[[token % most for token in prompt(id, size)] for size in (5, 7)] for id in range(4)]
    long = [[token % most for token in prompt(9, 90)]]
    alone = [embedded(pooler, texts)[0] for texts in [*good, long]]
    bad = [[3, 4], [5, bad_token, 6], [7, 8]]
    together = embedded(pooler, good[0], bad, good[1], long, good[2])
    assert together[1] == "generation_failed"
    after = embedded(pooler, good[3])
    for found, expected in zip(
        [together[0], together[2], together[4], after[0], together[3]], alone, strict=True
    ):
        assert isinstance(found, list)
        assert isinstance(expected, list)
        for one, other in zip(found, expected, strict=True):
            assert one @ other > 0.999


def test_a_long_text_without_numbers_leaves_nothing_behind(pooler: PoolingContext) -> None:
    low = [token % 40 for token in prompt(1, 95)]
    (expected,) = embedded(pooler, [low])
    bad_token = BERT_BAD if pooler.causal is False else BAD
    assert embedded(pooler, [[*low[:90], bad_token]]) == ["generation_failed"]
    (found,) = embedded(pooler, [low])
    assert isinstance(found, list)
    assert isinstance(expected, list)
    assert found[0] @ expected[0] > 0.999
