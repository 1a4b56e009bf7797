"""LoRA adapters in llama.cpp itself, against the same change merged into the weights of the model's
file.

Merged weights are rounded to half precision, so what is compared differs in its last bits; without
the adapter it differs by tenths.
"""

from __future__ import annotations

import shutil
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gguf_worker.engine.cells.unified import Trim
from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.llama.native_log import LlamaError
from gguf_worker.engine.llama.pooling_context import PoolingContext
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.messages import Embed, EngineSpec
from gguf_worker.engine.texts.spans import EmbedProgress, EmbedText, Span
from tests.tiny_gguf import merge, write_adapter, write_tiny

pytestmark = pytest.mark.llama

NAMES = ["blk.0.attn_q.weight", "blk.1.attn_v.weight", "blk.0.ffn_up.weight", "output.weight"]
TOKENS = [ord(each) for each in "the sea is deep and blue"]
ALPHA, RANK = 2.0, 4
TOLERANCE = 2e-2

Logits = npt.NDArray[np.float32]


def open_with(path: Path, *adapters: tuple[str, float], pooling: str = "none") -> Llama:
    spec = EngineSpec(path=str(path), context=256, sequences=3, adapters=adapters, pooling=pooling)
    return Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)


def logits_of(llama: Llama) -> list[Logits]:
    """After the same tokens, in each of three sequences of one step."""
    chunks = []
    for slot in range(3):
        prompt = Sequence(
            id=slot, tokens=TOKENS, prompt_length=len(TOKENS), max_tokens=1, slot=slot
        )
        chunks.append(Chunk(prompt, 0, len(TOKENS), True))
    code, rows = llama.decode(chunks)
    assert code == 0
    found = list(llama.logits(len(rows)).copy())
    llama.arrange([Trim(slot, 0) for slot in range(3)])
    llama.close()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two adapters of it, and the model with the one in full and half of the other
    merged."""
    folder = tmp_path_factory.mktemp("adapters")
    model = write_tiny(folder / "model.gguf")
    shutil.copy(model, folder / "merged.gguf")
    for name, names, scale in (("a", NAMES[:2], 1.0), ("b", NAMES[1:], 0.5)):
        pairs = write_adapter(
            folder / f"{name}.gguf", model, names, rank=RANK, alpha=ALPHA, seed=ord(name)
        )
        merge(folder / "merged.gguf", pairs, scale * ALPHA / RANK)
    return folder


def both(folder: Path) -> tuple[tuple[str, float], ...]:
    return ((str(folder / "a.gguf"), 1.0), (str(folder / "b.gguf"), 0.5))


def test_every_sequence_is_computed_with_the_adapters_by_their_scales(folder: Path) -> None:
    plain = logits_of(open_with(folder / "model.gguf"))
    merged = logits_of(open_with(folder / "merged.gguf"))
    adapted = logits_of(open_with(folder / "model.gguf", *both(folder)))
    assert np.abs(plain[0] - merged[0]).max() > 20 * TOLERANCE
    for one, other in zip(adapted, merged, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_an_adapter_of_scale_zero_changes_nothing(folder: Path) -> None:
    plain = logits_of(open_with(folder / "model.gguf"))
    adapted = logits_of(open_with(folder / "model.gguf", (str(folder / "a.gguf"), 0.0)))
    np.testing.assert_array_equal(plain[0], adapted[0])


def test_embeddings_are_computed_with_the_adapters_too(folder: Path) -> None:
    vectors = []
    for path, adapters in (("model", ()), ("merged", ()), ("model", both(folder))):
        llama = open_with(folder / f"{path}.gguf", *adapters, pooling="mean")
        spec = EngineSpec(path="", context=256, sequences=3, pooling="mean")
        pooled = PoolingContext(llama, spec)
        text = EmbedText(EmbedProgress(Embed(1, (TOKENS,))), array("i", TOKENS))
        vector = pooled.compute([Span(text, 0, 0, len(TOKENS))])[0]
        vectors.append(vector / np.linalg.norm(vector))
        pooled.close()
        llama.close()
    plain, merged, adapted = vectors
    assert plain @ merged < 0.99
    assert adapted @ merged > 0.9999


@pytest.mark.parametrize("problem", ["shape", "missing", "cut"])
def test_an_adapter_that_llama_cpp_cannot_apply_is_refused(
    folder: Path, tmp_path: Path, problem: str
) -> None:
    path = tmp_path / "adapter.gguf"
    other = write_tiny(tmp_path / "other.gguf", vocabulary=600, layers=4)
    name = "blk.3.attn_q.weight" if problem == "missing" else "output.weight"
    write_adapter(path, folder / "model.gguf" if problem == "cut" else other, [name])
    if problem == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LlamaError, match=r"cannot apply the adapter .*adapter\.gguf to") as refused:
        open_with(folder / "model.gguf", (str(path), 1.0))
    # A file that was cut is seen by its size at the next start.
    assert refused.value.permanent is (problem != "cut")
    assert refused.value.code == (
        "engine_start_failed" if problem == "cut" else "model_unsupported"
    )
