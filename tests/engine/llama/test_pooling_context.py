"""Vectors and scores of llama.cpp itself, against those of llama-cpp-python's own `Llama.embed` on
one file.

Tiny models of random weights, each kind of memory, and none. Cosines are compared, and scores to a
tolerance: a row's last bits change with the shape of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.llama.pooling_context import PoolingContext
from gguf_worker.engine.messages import Delta, Embed, EngineSpec
from gguf_worker.engine.texts.embedder import Embedder
from gguf_worker.models.gguf import read_header
from tests.fake_backend import FakeTokenizers
from tests.tiny_gguf import (
    ARCHITECTURES,
    SPECIAL_WORDS,
    write_decoder_reranker,
    write_encoder,
    write_tiny,
)

pytestmark = pytest.mark.llama

TEXTS = (
    "the sea is deep",
    "blue",
    "fish swim in the cold and deep sea, x9.",
    "the",
    "and red fish",
)
LONG = "the sea is deep and cold. " * 20
CLS, SEP = SPECIAL_WORDS.index("[CLS]"), SPECIAL_WORDS.index("[SEP]")

Vector = npt.NDArray[np.float32]


class Engine:
    """An opened model with its embedder."""

    def __init__(self, path: Path, pooling: str, **more: Any) -> None:
        settings = {"context": 512, "sequences": 2, "batch_size": 128, "ubatch_size": 128}
        # The reference computes with flash attention, and so does this.
        settings |= {"flash_attention": "on", "kv_type": "f16"} | more
        spec = EngineSpec(path=str(path), pooling=pooling, **settings)  # type: ignore[arg-type]
        self.beats = 0
        self.llama = Llama(spec, progress=lambda _: None, beat=self.beat, log=lambda _: None)
        self.pooled = PoolingContext(self.llama, spec)
        self.info = self.pooled.described(self.llama.info)
        size = self.info.vocabulary
        self.embedder = Embedder(self.pooled, vocabulary=size, most=8, tokenizers=FakeTokenizers())

    def beat(self) -> None:
        self.beats += 1

    def run(self, *asked: Embed) -> dict[int, list[Vector]]:
        """The vectors of each request, all of them in the embedder at the same time."""
        for embed in asked:
            assert self.embedder.add(embed) is None
        news: list[Delta] = []
        while len(self.embedder):
            news += self.embedder.step(None, lambda _: None)[1]
        assert [delta.failure for delta in news if delta.failure] == []
        return {
            embed.id: [
                np.frombuffer(vector, "<f4")
                for delta in news
                if delta.id == embed.id
                for vector in delta.vectors
            ]
            for embed in asked
        }

    def close(self) -> None:
        self.pooled.close()
        self.llama.close()


@pytest.fixture
def opened() -> Iterator[list[Engine]]:
    """Engines that are closed in the end."""
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.close()


def reference(path: Path, pooling: int, texts: Sequence[str], rows: int = 512) -> list[Vector]:
    """Each text alone in a fresh batch of llama-cpp-python's own."""
    llama = llama_cpp.Llama(
        str(path),
        embedding=True,
        pooling_type=pooling,
        n_ctx=rows,
        n_batch=rows,
        n_ubatch=rows,
        flash_attn=True,
        verbose=False,
    )
    try:
        return [np.array(llama.embed(text), np.float32) for text in texts]
    finally:
        llama.close()


def cosine(a: Vector, b: Vector) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


POOLINGS = [("mean", 1), ("cls", 2), ("last", 3)]


def assert_same(found: Sequence[Vector], expected: Sequence[Vector]) -> None:
    for vector, other in zip(found, expected, strict=True):
        assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5)
        assert cosine(vector, other) > 0.9999


@pytest.mark.parametrize(("pooling", "number"), POOLINGS)
def test_the_vectors_of_an_encoder_are_llama_cpps_alone_and_packed(
    tmp_path: Path, opened: list[Engine], pooling: str, number: int
) -> None:
    path = write_encoder(tmp_path / "e.gguf", pooling=number)
    engine = Engine(path, pooling, generates=False, causal=False, context=128)
    opened.append(engine)
    assert (engine.info.generates, engine.info.pooling, engine.info.dimensions) == (
        False,
        pooling,
        64,
    )
    expected = reference(path, number, TEXTS, 128)
    for text, vector in zip(TEXTS, expected, strict=True):
        assert_same(engine.run(Embed(1, (text,)))[1], [vector])
    found = engine.run(*(Embed(id, TEXTS) for id in range(4)))
    for vectors in found.values():
        assert_same(vectors, expected)


@pytest.mark.parametrize(("pooling", "number"), POOLINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_vectors_of_a_decoder_are_llama_cpps_alone_and_packed(
    tmp_path: Path, opened: list[Engine], architecture: str, pooling: str, number: int
) -> None:
    path = write_tiny(tmp_path / "d.gguf", architecture)
    engine = Engine(path, pooling)
    opened.append(engine)
    expected = reference(path, number, TEXTS)
    for text, vector in zip(TEXTS, expected, strict=True):
        assert_same(engine.run(Embed(1, (text,)))[1], [vector])
    found = engine.run(*(Embed(id, TEXTS) for id in range(4)))
    for vectors in found.values():
        assert_same(vectors, expected)


@pytest.mark.parametrize(("pooling", "number"), POOLINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_text_longer_than_a_pass_is_read_in_spans_beside_others(
    tmp_path: Path, opened: list[Engine], architecture: str, pooling: str, number: int
) -> None:
    path = write_tiny(tmp_path / "d.gguf", architecture)
    engine = Engine(path, pooling, ubatch_size=64, context=1024)
    opened.append(engine)
    found = engine.run(Embed(1, (LONG, TEXTS[0])), Embed(2, TEXTS))
    expected = reference(path, number, [LONG, *TEXTS], 1024)
    assert_same(found[1], expected[:2])
    assert_same(found[2], expected[1:])


def test_a_decoder_whose_tokens_see_all_of_their_text_reads_it_at_once(
    tmp_path: Path, opened: list[Engine]
) -> None:
    metadata = {"llama.attention.causal": False, "llama.pooling_type": 1}
    path = write_tiny(tmp_path / "d.gguf", metadata=metadata)
    engine = Engine(path, "mean", generates=False, causal=False, ubatch_size=64)
    opened.append(engine)
    expected = reference(path, 1, [LONG[:400], *TEXTS])
    assert_same(engine.run(Embed(1, (LONG[:400], *TEXTS)))[1], expected)


@pytest.mark.parametrize(("context", "rows"), [(100, 64), (514, 512), (100, 30), (256, 70)])
@pytest.mark.parametrize("causal", [False, True])
def test_a_context_and_a_pass_may_be_of_any_length(
    tmp_path: Path, opened: list[Engine], context: int, rows: int, causal: bool
) -> None:
    """llama.cpp ends the process where a pass for means is no multiple of the sequences."""
    path = tmp_path / "any.gguf"
    write_tiny(path) if causal else write_encoder(path, context_length=context)
    engine = Engine(path, "mean", generates=False, causal=causal, context=context, ubatch_size=rows)
    opened.append(engine)
    longest = ([CLS, *range(5, 50)] * 12)[:context]
    assert len(engine.run(Embed(1, (longest, [5, 6, 7])))[1]) == 2


def test_an_encoder_reads_a_text_as_long_as_its_context_at_once(
    tmp_path: Path, opened: list[Engine]
) -> None:
    path = write_encoder(tmp_path / "e.gguf", context_length=512)
    engine = Engine(path, "mean", generates=False, causal=False, context=512, ubatch_size=32)
    opened.append(engine)
    longest = [CLS, *range(5, 50)] * 12
    longest = longest[:512]
    assert len(engine.run(Embed(1, (longest, "blue")))[1]) == 2
    assert engine.embedder.add(Embed(2, ([*longest, 5],))) is None
    _, news = engine.embedder.step(None, lambda _: None)
    failure = news[0].failure
    assert failure is not None
    assert failure.code == "context_length_exceeded"


def test_a_long_batch_gives_signs_of_life(tmp_path: Path, opened: list[Engine]) -> None:
    engine = Engine(write_tiny(tmp_path / "d.gguf"), "mean")
    opened.append(engine)
    engine.beats = 0
    engine.run(Embed(1, ("blue",)))
    assert engine.beats == 0
    engine.run(Embed(2, (LONG,)))
    assert engine.beats > 0


def score_of(path: Path, tokens: list[int]) -> float:
    """Compute by the same library, one call after the other, with nothing of ours."""
    llama = llama_cpp.Llama(
        str(path), embedding=True, n_ctx=128, n_batch=128, flash_attn=True, verbose=False
    )
    llama._batch.add_sequence(tokens, 0, True)
    llama._ctx.decode(llama._batch)
    score = float(llama_cpp.llama_get_embeddings_seq(llama._ctx.ctx, 0)[0])
    llama.close()
    return score


def test_the_scores_of_a_reranker_are_llama_cpps_for_pairs_as_its_server_writes_them(
    tmp_path: Path, opened: list[Engine]
) -> None:
    path = write_encoder(tmp_path / "r.gguf", pooling=4, head=True)
    engine = Engine(path, "rank", generates=False, causal=False, context=128)
    opened.append(engine)
    assert (engine.pooled.dimensions, engine.info.dimensions) == (1, 0)
    words = engine.llama.vocabulary.tokenize

    def plain(text: str) -> list[int]:
        return words(text, add_special=False, parse_special=False)

    # BERT's vocabulary wants a beginning and separators, and no end: [CLS] query [SEP] document.
    pairs = [[CLS, *plain("deep sea"), SEP, *plain(text)] for text in TEXTS]
    assert engine.pooled.pair("deep sea", TEXTS[0]) == pairs[0]
    found = engine.run(Embed(1, TEXTS, query="deep sea"), Embed(2, TEXTS[:2], query="deep sea"))
    expected = [score_of(path, pair) for pair in pairs]
    assert [float(score[0]) for score in found[1]] == pytest.approx(expected, abs=1e-3)
    assert [float(score[0]) for score in found[2]] == pytest.approx(expected[:2], abs=1e-3)
    assert len(set(expected)) == len(expected)


def test_a_reranker_with_a_template_of_its_own_is_asked_by_it(
    tmp_path: Path, opened: list[Engine]
) -> None:
    template = "[CLS] {query} [SEP] is {document} {query} [SEP]"
    metadata = {"tokenizer.chat_template.rerank": template, "tokenizer.chat_template": "{{ x }}"}
    path = write_encoder(tmp_path / "r.gguf", pooling=4, head=True, metadata=metadata)
    engine = Engine(path, "rank", generates=False, causal=False, context=128)
    opened.append(engine)
    written = "[CLS] red {document} [SEP] is blue {query} red {document} [SEP]"
    expected = engine.llama.vocabulary.tokenize(written, add_special=False, parse_special=True)
    assert engine.pooled.pair("red {document}", "blue {query}") == expected
    assert (expected[0], expected[-1]) == (CLS, SEP)


def test_a_reranker_that_reads_from_left_to_right_scores_long_documents_in_spans(
    tmp_path: Path, opened: list[Engine]
) -> None:
    path = write_decoder_reranker(tmp_path / "q.gguf", "<|im_start|>{query}\n{document}<|im_end|>")
    header = read_header(path)
    assert (header.pooling, header.ranks, header.causal) == ("rank", True, True)
    engine = Engine(path, "rank", generates=False, ubatch_size=32)
    opened.append(engine)
    assert engine.pooled.dimensions == 2, "yes and no; the score is the first"
    documents = (*TEXTS, LONG[:150])
    found = engine.run(Embed(1, documents, query="the deep sea"), Embed(2, TEXTS, query="red"))
    pairs = [engine.pooled.pair("the deep sea", document) for document in documents]
    # llama.cpp gives the probability of yes; the score is its logit, as other rerankers have it.
    expected = [math.log(yes / (1 - yes)) for yes in (score_of(path, pair) for pair in pairs)]
    assert len(pairs[-1]) > 32
    assert [float(score[0]) for score in found[1]] == pytest.approx(expected, abs=5e-3)
    assert max(expected) - min(expected) > 0.1
    assert len(found[2]) == len(TEXTS)


def test_a_document_may_be_empty_and_a_text_not(tmp_path: Path, opened: list[Engine]) -> None:
    engine = Engine(
        write_encoder(tmp_path / "r.gguf", pooling=4, head=True),
        "rank",
        generates=False,
        causal=False,
        context=128,
    )
    opened.append(engine)
    assert len(engine.run(Embed(1, ("", "blue"), query="deep sea"))[1]) == 2


def test_no_text_reads_what_another_one_left(tmp_path: Path, opened: list[Engine]) -> None:
    """Many times the cells of the context, with texts that are dropped half way."""
    engine = Engine(write_tiny(tmp_path / "d.gguf"), "last", ubatch_size=64, context=256)
    opened.append(engine)
    (first,) = engine.run(Embed(1, (TEXTS[2],)))[1]
    for id in range(2, 30):
        assert engine.embedder.add(Embed(id, (LONG[:200], "blue"))) is None
        engine.embedder.step(None, lambda _: None)
        if id in engine.embedder:
            engine.embedder.drop(id)
    (last,) = engine.run(Embed(99, (TEXTS[2],)))[99]
    assert cosine(first, last) > 0.9999
