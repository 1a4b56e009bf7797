"""Translated schemas over a real vocabulary, and answers of the demo model held to them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.engine.drawing.grammars import Compiler, Constraint
from gguf_worker.engine.llama.context import Llama
from gguf_worker.generation import Grammar, Sampling
from gguf_worker.schemas import translated
from tests.schemas.client_schemas import SCHEMAS
from tests.schemas.validity import matches

pytestmark = pytest.mark.llama

EVERY_FOURTH = [name for at, name in enumerate(SCHEMAS) if at % 4 == 0]
ASKED = [
    "pydantic person",
    "pydantic steps",
    "zod 3: discriminated",
    "zod 4: a tool's arguments",
    "OpenAPI: inheritance",
    "Google: record",
]


@pytest.fixture(scope="module")
def llama(demo_model: Path) -> Iterator[Llama]:
    spec = EngineSpec(path=str(demo_model), context=256, sequences=1, batch_size=64, ubatch_size=64)
    model = Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)
    with closing(model):
        yield model


@pytest.fixture(scope="module")
def compiler(llama: Llama) -> Iterator[Compiler]:
    with closing(Compiler(llama.vocabulary)) as compiler:
        yield compiler


@pytest.fixture(scope="module")
def engine(demo_model: Path) -> Iterator[EngineClient]:
    spec = EngineSpec(path=str(demo_model), context=512, sequences=2, threads=2)
    client = EngineClient(spec, observe=lambda _: None)
    with closing(client):
        client.start()
        yield client


def grammar(name: str) -> Grammar:
    return Grammar("json_schema", translated(SCHEMAS[name]).text)


def drawn(llama: Llama, constraint: Constraint, chance: random.Random) -> str | None:
    """A random answer of whole tokens, ended as soon as it may be; None if that took too long."""
    text, ends, pieces = b"", llama.vocabulary.ends, llama.vocabulary.pieces
    closing = [token for token, piece in enumerate(pieces) if piece in (b'"', b"}", b"]")]
    for _ in range(150):
        allowed = np.flatnonzero(~constraint.forbidden())
        if np.intersect1d(allowed, ends).size:
            return text.decode()
        chosen = np.intersect1d(allowed, closing)
        token = int(chance.choice((chosen if chosen.size else allowed).tolist()))
        constraint.accept(token)
        text += llama.vocabulary.pieces[token]
        if constraint.complete:
            return text.decode()
    return None


@pytest.mark.parametrize("name", EVERY_FOURTH)
def test_an_answer_of_random_tokens_matches_the_schema_or_a_warning_says_why_not(
    llama: Llama, compiler: Compiler, name: str
) -> None:
    relaxed = translated(SCHEMAS[name]).relaxed
    text = drawn(llama, compiler.compile(grammar(name)).result(60), random.Random(name))
    assert text is None or relaxed or matches(SCHEMAS[name], json.loads(text)), text


@pytest.mark.parametrize("name", ASKED)
async def test_what_the_model_answers_matches_the_schema(engine: EngineClient, name: str) -> None:
    prompt = "<|im_start|>user\nTell me about it, as JSON.<|im_end|>\n<|im_start|>assistant\n"
    asked: Any = EngineRequest(prompt, Sampling(seed=3), max_tokens=300, grammar=grammar(name))
    text = ""
    async with asyncio.timeout(120):
        async for delta in engine.submit(asked):
            text += delta.text
            finish = delta.finish
    assert (
        finish == "length"
        or translated(SCHEMAS[name]).relaxed
        or matches(SCHEMAS[name], json.loads(text))
    )
