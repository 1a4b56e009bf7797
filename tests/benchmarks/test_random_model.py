from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from benchmarks.prompts import Prompts, Vocabulary, WrongModel
from benchmarks.random_model import EOS, SHAPES, Weights, write
from gguf_worker.models.gguf import read_header

SMALL = [name for name in SHAPES if name.startswith("tiny")]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(write(tmp_path_factory.mktemp("model") / "tiny.gguf", SHAPES["tiny"]))


@pytest.mark.llama
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("weights", ["F16", "Q8_0", "Q4_0"])
def test_every_small_shape_is_computed_and_gives_sane_numbers(
    tmp_path: Path, name: str, weights: Weights
) -> None:
    shape = dataclasses.replace(SHAPES[name], weights=weights)
    path = write(tmp_path / "model.gguf", shape)
    llama = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
    try:
        llama.eval(llama.tokenize(b"the sea and the harbour"))
        logits = llama.scores[: llama.n_tokens]
        assert np.isfinite(logits).all()
        assert 0.5 < logits.std() < 4
    finally:
        llama.close()


def test_the_same_seed_writes_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    one, same, other = (
        write(tmp_path / f"{number}.gguf", SHAPES["tiny"], seed=seed).read_bytes()
        for number, seed in enumerate((1, 1, 2))
    )
    assert one == same
    assert one != other


def test_a_hollow_file_is_as_large_and_says_the_same(tmp_path: Path) -> None:
    full = write(tmp_path / "full.gguf", SHAPES["tiny"])
    hollow = write(tmp_path / "hollow.gguf", SHAPES["tiny"], hollow=True)
    assert hollow.stat().st_size == full.stat().st_size
    assert dataclasses.replace(read_header(hollow), path=full) == read_header(full)


@pytest.mark.parametrize("weights", ["Q8_0", "Q4_0"])
def test_quantised_weights_have_the_spread_that_plain_ones_have(
    tmp_path: Path, weights: Weights
) -> None:
    shape = dataclasses.replace(SHAPES["tiny"], weights=weights)
    reader = gguf.GGUFReader(write(tmp_path / "model.gguf", shape))
    (tensor,) = [t for t in reader.tensors if t.name == "blk.0.attn_q.weight"]
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    assert values.std() == pytest.approx(shape.embedding**-0.5, rel=0.05)


def test_large_shapes_fill_whole_blocks() -> None:
    for shape in SHAPES.values():
        widths = (shape.embedding, shape.feed_forward, shape.heads * shape.head, shape.inner)
        assert all(width % 32 == 0 for width in widths)


@pytest.mark.llama
def test_a_vocabulary_counts_and_knows_the_ends(vocabulary: Vocabulary) -> None:
    assert vocabulary.count("") == 0
    assert vocabulary.count("the") == 1
    assert EOS in vocabulary.ends


@pytest.mark.llama
def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(WrongModel, match=r"cannot load broken\.gguf"):
        Vocabulary(path)


@pytest.mark.llama
@pytest.mark.parametrize("tokens", [60, 700, 2000])
def test_a_text_has_about_the_tokens_that_were_asked_for(
    vocabulary: Vocabulary, tokens: int
) -> None:
    text = Prompts(vocabulary, "a").text(tokens)
    assert vocabulary.count(text) == pytest.approx(tokens, rel=0.1)


@pytest.mark.llama
def test_texts_are_the_same_for_the_same_seed_and_never_twice_the_same(
    vocabulary: Vocabulary,
) -> None:
    one, again, other = (Prompts(vocabulary, seed) for seed in ("a", "a", "b"))
    texts = [one.text(30) for _ in range(20)]
    assert texts == [again.text(30) for _ in range(20)]
    beginnings = {text[:25] for text in [*texts, *(other.text(30) for _ in range(20))]}
    assert len(beginnings) == 40
