from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.gguf.architectures import Layer
from tests.models.memory.conftest import GIB, MIB, fit_of, host, sized, with_gpu
from tests.tiny_gguf import ARCHITECTURES, write_encoder, write_tiny

# The KV cache's size, as llama.cpp prints it.


@pytest.mark.parametrize(
    ("kv_type", "mib"),
    [("f32", 180.0), ("f16", 90.0), ("bf16", 90.0), ("q8_0", 47.8125), ("q4_0", 25.3125)],
)
def test_the_kv_cache_has_the_size_that_llama_cpp_gives_it(
    smollm: Header, kv_type: str, mib: float
) -> None:
    found = fit_of(smollm, host(), kv_type=kv_type, kv_size=4096)
    assert found.kv_bytes / MIB == mib


def test_layers_with_a_window_keep_everything_for_the_snapshots(tiny_header: Header) -> None:
    layers = (Layer(32, 32, 0, sliding=True),) * 5 + (Layer(32, 32, 0),)
    header = dataclasses.replace(tiny_header, sliding_window=32, layers=layers, block_count=6)
    found = fit_of(header, host(), kv_size=32_768, max_concurrency=16, ubatch_size=512)
    assert found.kv_bytes == 6 * 32_768 * 64 * 2


def test_a_recurrent_state_counts_for_each_running_and_ended_request_and_not_for_cells(
    tiny_header: Header,
) -> None:
    header = dataclasses.replace(tiny_header, layers=(Layer(0, 0, 2528),) * 2)
    found = fit_of(header, host(), max_concurrency=8)
    assert found.idle_sequences.value == 8
    assert found.kv_bytes == (8 + 8) * 2 * 2528 * 4


_MEASURE = """
import ctypes, json, re, sys
import llama_cpp as L

lines = []

@L.llama_log_callback
def note(level, text, data):
    lines.append(text.decode(errors="replace"))

L.llama_log_set(note, ctypes.c_void_p(0))
path, cells, sequences, ubatch, flash, pooling = sys.argv[1], *map(int, sys.argv[2:])
model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
params = L.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_ubatch = cells, ubatch, ubatch
params.n_seq_max = params.n_outputs_max = sequences
params.kv_unified, params.swa_full, params.flash_attn_type = True, True, flash
if pooling:
    params.embeddings, params.pooling_type, params.n_outputs_max = True, pooling, 0
context = L.llama_init_from_model(model, params)
assert context
if pooling:  # its buffer for outputs grows with the first batch
    lines[:] = [line for line in lines if "output buffer" not in line]
    tokens = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    floats = ubatch * (tokens + L.llama_model_n_embd(model))
    lines.append(f"output buffer size = {floats * 4 / 2**20:.2f} MiB")
log = "".join(lines)
sizes = lambda name: sum(map(float, re.findall(name + r" buffer size = +([\\d.]+) MiB", log)))
print(json.dumps({"kv": sizes("KV") + sizes("RS"), "compute": sizes("compute") + sizes("output")}))
"""


def _measured(*arguments: object) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, arguments)], capture_output=True, check=True
    )
    measured: dict[str, float] = json.loads(run.stdout)
    return measured


@pytest.mark.llama
@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_estimate_agrees_with_llama_cpp(tmp_path: Path, architecture: str, flash: str) -> None:
    """The cache to the printed digit; test_compute.py has models of real sizes."""
    path = write_tiny(tmp_path / "a.gguf", architecture)
    cells, sequences, ubatch = 16_384, 8, 512
    header = read_header(path)
    found = fit_of(
        header,
        host(),
        kv_size=cells,
        max_concurrency=sequences,
        ubatch_size=ubatch,
        flash_attention=flash,
    )
    ids = sequences + found.idle_sequences.value
    true = _measured(path, cells, ids, ubatch, int(flash == "on"), 0)
    assert found.kv_bytes / MIB == pytest.approx(true["kv"], abs=0.016)
    assert found.compute_bytes / MIB == pytest.approx(true["compute"], rel=0.05)


@pytest.mark.llama
@pytest.mark.parametrize("flash", ["on", "off"])
def test_the_estimate_of_an_encoder_agrees_with_llama_cpp(tmp_path: Path, flash: str) -> None:
    path = write_encoder(tmp_path / "a.gguf", context_length=2048)
    found = fit_of(read_header(path), host(), flash_attention=flash)
    assert found.kv_bytes == 0
    true = _measured(path, 2048, 64, 2048, int(flash == "on"), 1)
    assert found.compute_bytes / MIB == pytest.approx(true["compute"], rel=0.05)


@pytest.mark.llama
@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_estimate_of_a_decoder_that_embeds_agrees_with_llama_cpp(
    tmp_path: Path, architecture: str, flash: str
) -> None:
    path = write_tiny(
        tmp_path / "a.gguf", architecture, metadata={f"{architecture}.pooling_type": 3}
    )
    found = fit_of(read_header(path), host(), flash_attention=flash)
    rows, texts = found.ubatch_size.value, 8 if architecture in ("lfm2", "mamba2") else 64
    true = _measured(path, 4096 + rows, texts, rows, int(flash == "on"), 3)
    assert found.kv_bytes / MIB == pytest.approx(true["kv"], abs=0.016)
    assert found.compute_bytes / MIB == pytest.approx(true["compute"], rel=0.05)


def test_embeddings_of_a_chat_model_take_memory_of_their_own(tiny_header: Header) -> None:
    header = sized(tiny_header)
    plain, both = (fit_of(header, host(), pooling=pooling) for pooling in (None, "mean"))
    assert both.purpose.generates
    assert both.sequences == plain.sequences
    assert both.kv_bytes - plain.kv_bytes == 32 * (8192 + 512) * 2048 * 2
    assert both.compute_bytes > plain.compute_bytes


def test_a_gpu_with_all_layers_leaves_the_embeddings_inputs_and_outputs_to_the_host(
    tiny_header: Header,
) -> None:
    header = sized(tiny_header)
    found = fit_of(header, with_gpu(141))
    seen, ids = 16_384, 33
    rows = 16 * ids
    inputs, outputs = rows * (4096 * 4 + seen * 2 + 32), ids * 128_256 * 4
    assert found.host_bytes == header.embedding_bytes + inputs + outputs
    assert found.gpu_bytes == (
        header.tensor_bytes
        - header.embedding_bytes
        + found.kv_bytes
        + found.compute_bytes
        - outputs
    )


def test_without_a_gpu_everything_is_on_the_host(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), host())
    assert found.gpu_bytes == 0
    assert found.host_bytes == found.weights_bytes + found.kv_bytes + found.compute_bytes


def test_a_gpu_with_a_part_of_the_layers_has_room_for_a_block_that_visits_it(
    tiny_header: Header,
) -> None:
    header = sized(tiny_header)
    found = fit_of(header, with_gpu(80), gpu_layers=9, kv_size=8192, max_concurrency=1)
    block, kv = header.block_bytes[0], found.kv_bytes // 32
    outputs = (1 + found.idle_sequences.value) * 128_256 * 4
    rest = header.tensor_bytes - sum(header.block_bytes) - header.embedding_bytes
    buffer = found.compute_bytes - outputs
    assert found.gpu_bytes == 8 * (block + kv) + rest + buffer + block
    assert found.host_bytes == 24 * (block + kv) + header.embedding_bytes + buffer + outputs


def test_each_of_several_gpus_has_a_compute_buffer(tiny_header: Header) -> None:
    one, two = (
        fit_of(sized(tiny_header), with_gpu(80, count=count), kv_size=8192, max_concurrency=1)
        for count in (1, 2)
    )
    outputs = (1 + one.idle_sequences.value) * 128_256 * 4
    assert two.gpu_bytes - one.gpu_bytes > one.compute_bytes - outputs


def test_tied_embeddings_are_copied_to_the_gpu(tiny_header: Header) -> None:
    """The same file needs more of a GPU when its output layer is the embeddings."""
    own, tied = (
        fit_of(
            sized(tiny_header, weights=40 * GIB, tied_embeddings=tied), with_gpu(24)
        ).gpu_layers.value
        for tied in (False, True)
    )
    assert tied < own
