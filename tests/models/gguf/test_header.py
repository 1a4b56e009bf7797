from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf import read_header
from gguf_worker.models.gguf.architectures import Layer
from gguf_worker.models.gguf import TENSOR_TYPES
from tests import tiny_gguf
from tests.tiny_gguf import write_encoder, write_tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf")


def test_a_header_tells_what_the_model_is(model: Path) -> None:
    header = read_header(model)
    assert header.path == model
    assert header.version == 3
    assert header.architecture == "llama"
    assert header.name == "tiny llama"
    assert header.quantization == "F16"
    assert header.file_bytes == model.stat().st_size
    assert (header.context_length, header.block_count, header.embedding_length) == (4096, 2, 64)
    assert header.vocabulary == 512
    assert header.head_count == (4, 4)
    assert header.head_count_kv == (2, 2)
    assert (header.key_length, header.value_length) == (16, 16)
    assert header.chat_template == tiny_gguf.CHATML
    assert (header.bos_id, header.eos_id, header.eot_id) == (256, 258, None)
    assert (header.bos_token, header.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert header.add_bos is False


@pytest.mark.parametrize("architecture", tiny_gguf.ARCHITECTURES)
def test_sizes_agree_with_the_gguf_packages_own_reader(tmp_path: Path, architecture: str) -> None:
    path = write_tiny(tmp_path / "a.gguf", architecture)
    reader = gguf.GGUFReader(path)
    header = read_header(path)
    assert header.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert header.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)


def test_the_weights_are_told_apart_by_where_they_go(tmp_path: Path) -> None:
    own = read_header(write_tiny(tmp_path / "own.gguf"))
    tied = read_header(write_tiny(tmp_path / "tied.gguf", tied=True))
    assert own.embedding_bytes == 512 * 64 * 2
    assert not own.tied_embeddings
    assert tied.tied_embeddings
    output_norm = 64 * 4
    blocks = sum(own.block_bytes)
    assert own.tensor_bytes == blocks + 2 * own.embedding_bytes + output_norm
    assert tied.tensor_bytes == blocks + own.embedding_bytes + output_norm
    assert len(set(own.block_bytes)) == 1


@pytest.mark.parametrize("number", sorted(TENSOR_TYPES))
def test_every_tensor_type_has_the_size_that_the_gguf_package_gives_it(number: int) -> None:
    name, block, size = TENSOR_TYPES[number]
    known = {int(kind): (kind.name, sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    if name in ("Q2_0", "Q8_1"):
        # The one is newer than the package, of the other the package has an outdated size.
        assert known.get(number, (name, None))[1] != (block, size)
        return
    assert known[number] == (name, (block, size))


def test_the_quantisation_comes_from_the_heaviest_type_where_the_file_does_not_say(
    tmp_path: Path,
) -> None:
    path = write_tiny(tmp_path / "a.gguf", metadata={"general.file_type": 999})
    assert read_header(path).quantization == "F16"


def test_a_guessed_file_type_is_still_that_type(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "a.gguf", metadata={"general.file_type": 1024 + 15})
    assert read_header(path).quantization == "Q4_K_M"


def test_a_model_without_template_or_special_tokens_has_none(tmp_path: Path) -> None:
    path = write_tiny(
        tmp_path / "a.gguf",
        chat_template=None,
        metadata={"tokenizer.ggml.bos_token_id": 2**32 - 1, "tokenizer.ggml.eos_token_id": 100_000},
    )
    header = read_header(path)
    assert header.chat_template is None
    assert (header.bos_id, header.bos_token) == (None, "")
    assert (header.eos_id, header.eos_token) == (100_000, "")


def test_experts_count_together_into_the_width_of_a_pass(tmp_path: Path) -> None:
    experts = {"llama.expert_used_count": 8, "llama.expert_feed_forward_length": 96}
    path = write_tiny(tmp_path / "a.gguf", metadata=experts)
    assert read_header(path).feed_forward_length == 8 * 96


def test_experts_without_a_width_of_their_own_have_the_layers(tmp_path: Path) -> None:
    experts = {"llama.expert_count": 8, "llama.expert_used_count": 2}
    header = read_header(write_tiny(tmp_path / "a.gguf", metadata=experts))
    assert (header.feed_forward_length, header.experts_used) == (2 * 128, 2)


def test_a_gate_is_seen_by_its_matrix(tmp_path: Path) -> None:
    assert read_header(write_tiny(tmp_path / "a.gguf")).gated
    assert not read_header(write_encoder(tmp_path / "b.gguf")).gated


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    """GGUFReader takes seconds for it."""
    path = write_tiny(tmp_path / "a.gguf", vocabulary=150_000)
    began = time.process_time()
    assert read_header(path).vocabulary == 150_000
    assert time.process_time() - began < 0.3


# What must be refused.


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"there is no file .*nothing\.gguf"):
        read_header(tmp_path / "nothing.gguf")


def test_a_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="Is a directory"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b'{"error":"Repository not found"}', "server's error message"),
        (b"GGML\x01\x02\x03\x04", "begins with b'GGML'"),
        (b"GG", "begins with b'GG'"),
    ],
)
def test_what_is_no_gguf_file_is_recognised(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelCorrupt, match=says) as refused:
        read_header(path)
    assert "Delete it" in str(refused.value)


def test_a_truncated_file_is_refused_with_both_sizes(model: Path) -> None:
    whole = model.stat().st_size
    with model.open("r+b") as file:
        file.truncate(whole - 64)
    with pytest.raises(ModelCorrupt) as refused:
        read_header(model)
    message = str(refused.value)
    assert f"is {whole - 64:,} bytes, but its tensors need" in message
    assert "the download was cut" in message


def test_a_file_cut_anywhere_in_its_header_is_refused(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(200), *range(200, 18_000, 311)]:
        cut.write_bytes(content[:length])
        with pytest.raises(ModelCorrupt):
            read_header(cut)


def test_no_changed_byte_of_a_header_causes_anything_but_a_verdict(
    model: Path, tmp_path: Path
) -> None:
    """A header with one bit flipped is read or refused, never an unforeseen error."""
    content = bytearray(model.read_bytes())
    flipped = tmp_path / "flipped.gguf"
    verdicts: list[str] = []
    for position in range(0, 18_000, 37):
        content[position] ^= 1 << position % 8
        flipped.write_bytes(content)
        content[position] ^= 1 << position % 8
        try:
            read_header(flipped)
        except (ModelCorrupt, ModelUnsupported) as error:
            verdicts.append(str(error))
    assert len(verdicts) > 50
    assert all(verdict.isprintable() for verdict in verdicts)


Patch = Callable[[bytearray], None]


def _write_at(position: int, shape: str, value: int) -> Patch:
    return lambda content: struct.pack_into(shape, content, position, value)


@pytest.mark.parametrize(
    ("patch", "error", "says"),
    [
        (_write_at(4, "<I", 1), ModelUnsupported, "version 1, which llama.cpp no longer reads"),
        (_write_at(4, "<I", 4), ModelUnsupported, "GGUF version 4"),
        (_write_at(4, ">I", 3), ModelUnsupported, "big-endian"),
        (_write_at(8, "<Q", 2**60), ModelCorrupt, "tensors, more than it has room for"),
        (_write_at(16, "<Q", 2**60), ModelCorrupt, "metadata keys, more than it has room for"),
        (_write_at(24, "<Q", 2**63), ModelCorrupt, "ends, or goes wrong, inside its header"),
        (_write_at(24, "<Q", 0), ModelCorrupt, "or an empty one"),
    ],
)
def test_impossible_figures_at_the_start_are_refused(
    model: Path, patch: Patch, error: type[Exception], says: str
) -> None:
    content = bytearray(model.read_bytes())
    patch(content)
    model.write_bytes(content)
    with pytest.raises(error, match=says):
        read_header(model)


def _at(content: bytes, name: str) -> int:
    """The position right behind a key or a tensor's name."""
    return content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)


@pytest.mark.parametrize(
    ("name", "offset", "shape", "value", "error", "says"),
    [
        # behind a tensor's name: dimensions, lengths, type, offset
        ("output_norm.weight", 0, "<I", 5, ModelCorrupt, "with 5 dimensions"),
        ("output_norm.weight", 4, "<Q", 2**62, ModelCorrupt, "its tensors need|where .* is due"),
        ("output_norm.weight", 12, "<I", 4, ModelUnsupported, "of type 4"),
        ("output_norm.weight", 12, "<I", 14, ModelCorrupt, "impossible|with the shape"),
        ("output_norm.weight", 16, "<Q", 96, ModelCorrupt, "at 96 where"),
        # behind a metadata key: type, value
        ("llama.block_count", 0, "<I", 77, ModelCorrupt, "of an unknown type, 77"),
        ("llama.block_count", 4, "<I", 0, ModelCorrupt, "impossible value for llama.block_count"),
        ("llama.block_count", 4, "<I", 10**9, ModelCorrupt, "impossible value"),
        ("llama.block_count", 0, "<I", 6, ModelCorrupt, "must be a whole number"),
        ("tokenizer.ggml.tokens", 4, "<I", 9, ModelCorrupt, "list .* of an unknown type, 9"),
        ("tokenizer.ggml.tokens", 8, "<Q", 2**40, ModelCorrupt, "items in the metadata"),
        ("tokenizer.ggml.tokens", 8, "<Q", 2**24, ModelCorrupt, "inside its header"),
        ("tokenizer.ggml.token_type", 8, "<Q", 2**24, ModelCorrupt, "inside its header"),
    ],
)
def test_impossible_figures_inside_are_refused(
    model: Path,
    name: str,
    offset: int,
    shape: str,
    value: int,
    error: type[Exception],
    says: str,
) -> None:
    content = bytearray(model.read_bytes())
    struct.pack_into(shape, content, _at(bytes(content), name) + offset, value)
    model.write_bytes(content)
    with pytest.raises(error, match=says):
        read_header(model)


@pytest.mark.parametrize(
    ("metadata", "error", "says"),
    [
        (
            {"general.type": "mmproj"},
            ModelUnsupported,
            r"is a projector \(mmproj\), .* Name the language",
        ),
        ({"general.type": "adapter"}, ModelUnsupported, "'adapter' and no model"),
        ({"adapter.type": "lora"}, ModelUnsupported, "and this one in LORA_ADAPTERS"),
        ({"split.count": 3}, ModelUnsupported, "one of 3 parts of a split model"),
        ({"general.alignment": 24}, ModelCorrupt, "alignment of 24"),
        ({"llama.attention.head_count_kv": [2]}, ModelCorrupt, "1 usable counts for 2 blocks"),
    ],
)
def test_metadata_that_makes_a_file_unfit_is_named(
    tmp_path: Path, metadata: dict[str, Any], error: type[Exception], says: str
) -> None:
    path = write_tiny(tmp_path / "a.gguf", metadata=metadata)
    with pytest.raises(error, match=says):
        read_header(path)


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("brand-new", "'brand-new', which this worker's llama.cpp does not know"),
        ("t5", "encoder-decoder"),
        ("t5encoder", "the encoder of an encoder-decoder model"),
        ("clip", "mmproj"),
    ],
)
def test_an_architecture_that_is_not_served_is_named_with_the_reason(
    tmp_path: Path, architecture: str, says: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", architecture)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnsupported, match=says):
        read_header(tmp_path / "a.gguf")


def test_a_vocabulary_without_weights_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelUnsupported, match="no weights"):
        read_header(tmp_path / "a.gguf")


@pytest.mark.parametrize("needed", ["llama.context_length", "tokenizer.ggml.model"])
def test_missing_metadata_is_named(model: Path, needed: str) -> None:
    content = model.read_bytes()
    model.write_bytes(content.replace(needed.encode(), needed[:-1].encode() + b"_"))
    with pytest.raises(ModelCorrupt, match=needed.replace(".", r"\.")):
        read_header(model)


def test_a_key_given_twice_is_refused(model: Path) -> None:
    content = model.read_bytes()
    model.write_bytes(content.replace(b"llama.rope.freq_base", b"llama.context_length"))
    with pytest.raises(ModelCorrupt, match=r"'llama\.context_length' twice"):
        read_header(model)


def test_a_header_never_takes_more_memory_than_the_file_is_large(tmp_path: Path) -> None:
    """A string of a claimed gigabyte in a large sparse file is refused, not read."""
    path = tmp_path / "a.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1 << 30))
        file.truncate(2 << 30)
    with pytest.raises(ModelCorrupt, match="which no model has"):
        read_header(path)


def test_an_encoder_says_how_its_texts_become_vectors(tmp_path: Path) -> None:
    header = read_header(write_encoder(tmp_path / "e.gguf", pooling=2, context_length=96))
    assert (header.embeds_only, header.causal, header.ranks) == (True, False, False)
    assert (header.pooling, header.context_length, header.tied_embeddings) == ("cls", 96, False)
    assert header.layers == (Layer(0, 0, 0),) * 2


def test_a_reranker_has_a_head(tmp_path: Path) -> None:
    header = read_header(write_encoder(tmp_path / "e.gguf", pooling=4, head=True))
    assert (header.pooling, header.ranks) == ("rank", True)


@pytest.mark.parametrize(
    ("metadata", "pooling", "causal"),
    [
        ({}, None, True),
        ({"llama.pooling_type": 3}, "last", True),
        ({"llama.pooling_type": 99}, None, True),
        ({"llama.attention.causal": False}, None, False),
    ],
)
def test_a_decoder_may_name_a_pooling_and_how_it_attends(
    tmp_path: Path, metadata: dict[str, Any], pooling: str | None, causal: bool
) -> None:
    header = read_header(write_tiny(tmp_path / "a.gguf", metadata=metadata))
    assert (header.pooling, header.causal, header.embeds_only) == (pooling, causal, False)
