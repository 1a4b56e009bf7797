from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnsupported
from gguf_worker.models.gguf import header_of, read_container, read_header
from gguf_worker.models.gguf.architectures import Layer
from tests import tiny_gguf
from tests.tiny_gguf import write_encoder, write_tiny


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model of the test's own, to be damaged."""
    return Path(shutil.copy(tiny_model, tmp_path / "tiny.gguf"))


def test_a_header_says_what_the_model_is(model: Path) -> None:
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


def test_a_file_of_only_the_layers_that_predict_ahead_is_a_draft(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "a.gguf", metadata={"llama.nextn_predict_layers": 1})
    assert read_header(path).architecture == "llama"
    whole = read_container(path)
    last = tuple(each for each in whole.tensors if not each.name.startswith("blk.0."))
    with pytest.raises(ModelUnsupported, match=r"draft head .* name that model"):
        header_of(replace(whole, tensors=last))


@pytest.mark.parametrize("architecture", tiny_gguf.ARCHITECTURES)
def test_sizes_agree_with_the_gguf_packages_own_reader(tmp_path: Path, architecture: str) -> None:
    path = write_tiny(tmp_path / "a.gguf", architecture)
    reader = gguf.GGUFReader(path)
    header = read_header(path)
    assert header.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert header.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)


def test_the_weights_are_counted_by_where_they_go(tmp_path: Path) -> None:
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


def test_named_templates_are_known_by_their_names(tmp_path: Path) -> None:
    metadata = {
        "tokenizer.chat_template.tool_use": "{{ tools }}",
        "tokenizer.chat_template.rag": "{{ documents }}",
        "tokenizer.chat_template.empty": "",
        "tokenizer.chat_templates": ["tool_use", "rag"],
    }
    header = read_header(write_tiny(tmp_path / "a.gguf", metadata=metadata))
    assert header.chat_template == tiny_gguf.CHATML
    assert header.named_templates == {"tool_use": "{{ tools }}", "rag": "{{ documents }}"}


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
        (
            {"tokenizer.ggml.pre": "new-2027"},
            ModelUnsupported,
            r"pre-tokeniser \(tokenizer.ggml.pre\) 'new-2027', .* newer release",
        ),
        (
            {"tokenizer.ggml.pre": "whitespace"},
            ModelUnsupported,
            "'whitespace' beside the tokeniser 'gpt2', .* two spaces",
        ),
        ({"tokenizer.ggml.model": "new"}, ModelUnsupported, "tokeniser 'new', .* newer release"),
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
