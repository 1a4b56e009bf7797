from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguf_worker.config import Machine, Settings
from gguf_worker.errors import ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf import read_header, with_weights_of
from gguf_worker.models.gguf.adapters import check_goes_with, read_adapter
from gguf_worker.models.memory import fit
from tests.tiny_gguf import write_adapter

NAMES = ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"]


def test_an_adapter_says_what_it_changes_and_how_much_it_takes(
    tiny_model: Path, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "a.gguf", tiny_model, NAMES, rank=4)
    header = read_adapter(tmp_path / "a.gguf")
    assert header.architecture == "llama"
    assert header.tensor_bytes == {NAMES[0]: 4 * 4 * (64 + 64), NAMES[1]: 4 * 4 * (128 + 64)}
    check_goes_with(header, read_header(tiny_model))


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"general.type": "model"}, "is no adapter"),
        ({"adapter.type": "control_vector"}, "of type 'control_vector', not a LoRA"),
        ({"adapter.lora.alpha": 8}, "adapter.lora.alpha that is no fraction"),
    ],
)
def test_a_file_that_is_no_lora_is_refused(
    tiny_model: Path, tmp_path: Path, metadata: dict[str, Any], says: str
) -> None:
    write_adapter(tmp_path / "a.gguf", tiny_model, NAMES, metadata=metadata)
    with pytest.raises(ModelUnsupported, match=rf"{says}.*LORA_ADAPTERS takes"):
        read_adapter(tmp_path / "a.gguf")


def test_a_model_is_no_adapter(tiny_model: Path) -> None:
    with pytest.raises(ModelUnsupported, match="is no adapter"):
        read_adapter(tiny_model)
    with pytest.raises(ModelUnavailable):
        read_adapter(tiny_model.with_name("none.gguf"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "has no matrices"),
        (["blk.0.attn_q.weight.lora_a"], "only half of the matrices for 'blk.0.attn_q.weight'"),
        (["blk.0.attn_q.weight"], "'blk.0.attn_q.weight', which no LoRA has"),
        (["blk.0.attn_norm.weight"], "has no matrices"),
    ],
)
def test_matrices_come_in_pairs(tmp_path: Path, names: list[str], says: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    for name in names:
        writer.add_tensor(name, np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnsupported, match=says):
        read_adapter(tmp_path / "a.gguf")


def test_an_activated_adapter_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_array("adapter.alora.invocation_tokens", [1, 2])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelUnsupported, match="activated LoRA"):
        read_adapter(tmp_path / "a.gguf")


def test_an_adapter_of_another_architecture_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    write_adapter(
        tmp_path / "a.gguf", tiny_model, NAMES, metadata={"general.architecture": "qwen3"}
    )
    with pytest.raises(ModelUnsupported, match="architecture 'qwen3', and the model's is 'llama'"):
        check_goes_with(read_adapter(tmp_path / "a.gguf"), read_header(tiny_model))


def test_what_adapters_take_is_counted_with_the_model(tiny_model: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.gguf", tiny_model, [*NAMES, "token_embd.weight"], rank=64)
    adapter = read_adapter(tmp_path / "a.gguf")
    plain = read_header(tiny_model)
    header = with_weights_of(plain, [adapter, adapter])
    added = 2 * sum(adapter.tensor_bytes.values())
    assert header.tensor_bytes == plain.tensor_bytes + added
    assert header.block_bytes[0] == plain.block_bytes[0] + 2 * adapter.tensor_bytes[NAMES[0]]
    embedding = plain.embedding_bytes + 2 * adapter.tensor_bytes["token_embd.weight"]
    assert header.embedding_bytes == embedding
    machine = Machine(cores=2, memory_bytes=1 << 33, memory_available=1 << 33, gpus=())
    one, other = (
        fit(Settings(model="m"), machine, each, gpu_offload=False) for each in (plain, header)
    )
    assert other.host_bytes - one.host_bytes == other.weights_bytes - one.weights_bytes == added
