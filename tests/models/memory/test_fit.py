from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.config import Gpu, Machine, Settings
from gguf_worker.errors import ConfigError, ModelUnsupported
from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.gguf.architectures import Layer
from gguf_worker.models.memory import Choice, Fit, fit
from tests.tiny_gguf import ARCHITECTURES, write_encoder, write_tiny

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Header:
    return read_header(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


def _sized(
    tiny: Header,
    *,
    blocks: int = 32,
    weights: int = 4 * GIB,
    layer: Layer = Layer(1024, 1024, 0),  # noqa: B008 - frozen
    **changes: Any,
) -> Header:
    """A model of about eight billion parameters, unless said otherwise."""
    facts: dict[str, Any] = {
        "tensor_bytes": weights,
        "embedding_bytes": weights // 16,
        "block_bytes": (weights * 14 // 16 // blocks,) * blocks,
        "block_count": blocks,
        "layers": (layer,) * blocks,
        "head_count": (32,) * blocks,
        "head_count_kv": (8,) * blocks,
        "key_length": 128,
        "value_length": 128,
        "context_length": 131_072,
        "embedding_length": 4096,
        "feed_forward_length": 14336,
        "vocabulary": 128_256,
    }
    return dataclasses.replace(tiny, **(facts | changes))


@pytest.fixture
def smollm(tiny: Header) -> Header:
    return _sized(
        tiny,
        blocks=30,
        weights=92 * MIB,
        layer=Layer(192, 192, 0),
        head_count=(9,) * 30,
        context_length=8192,
        embedding_length=576,
        feed_forward_length=1536,
        vocabulary=49_152,
        key_length=64,
        value_length=64,
    )


def _host(gib: float = 64, cores: int = 8) -> Machine:
    return Machine(cores, int(gib * GIB), int(gib * GIB))


def _with_gpu(gib: float, *, host: float = 64, count: int = 1) -> Machine:
    gpus = tuple(Gpu(index, "GPU", int(gib * GIB), int(gib * GIB)) for index in range(count))
    return dataclasses.replace(_host(host), gpus=gpus)


def _fit(header: Header, machine: Machine, **settings: Any) -> Fit:
    chosen = Settings(model="/m.gguf", **settings)
    return fit(chosen, machine, header, gpu_offload=bool(machine.gpus))


# The KV cache's size, as llama.cpp prints it.


@pytest.mark.parametrize(
    ("kv_type", "mib"),
    [("f32", 180.0), ("f16", 90.0), ("bf16", 90.0), ("q8_0", 47.8125), ("q4_0", 25.3125)],
)
def test_the_kv_cache_has_the_size_that_llama_cpp_gives_it(
    smollm: Header, kv_type: str, mib: float
) -> None:
    found = _fit(smollm, _host(), kv_type=kv_type, kv_size=4096)
    assert found.kv_bytes / MIB == mib


def test_layers_with_a_window_keep_everything_for_the_snapshots(tiny: Header) -> None:
    layers = (Layer(32, 32, 0, sliding=True),) * 5 + (Layer(32, 32, 0),)
    header = dataclasses.replace(tiny, sliding_window=32, layers=layers, block_count=6)
    found = _fit(header, _host(), kv_size=32_768, max_concurrency=16, ubatch_size=512)
    assert found.kv_bytes == 6 * 32_768 * 64 * 2


def test_a_recurrent_state_counts_for_each_running_and_ended_request_and_not_for_cells(
    tiny: Header,
) -> None:
    header = dataclasses.replace(tiny, layers=(Layer(0, 0, 2528),) * 2)
    found = _fit(header, _host(), max_concurrency=8)
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
    floats = ubatch * (L.llama_vocab_n_tokens(L.llama_model_get_vocab(model)) + L.llama_model_n_embd(model))
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
    found = _fit(
        header,
        _host(),
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
    found = _fit(read_header(path), _host(), flash_attention=flash)
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
    found = _fit(read_header(path), _host(), flash_attention=flash)
    rows, texts = found.ubatch_size.value, 8 if architecture in ("lfm2", "mamba2") else 64
    true = _measured(path, 4096 + rows, texts, rows, int(flash == "on"), 3)
    assert found.kv_bytes / MIB == pytest.approx(true["kv"], abs=0.016)
    assert found.compute_bytes / MIB == pytest.approx(true["compute"], rel=0.05)


# Embeddings.


@pytest.fixture
def encoder(tmp_path: Path) -> Header:
    """One of the size of bge-m3."""
    header = read_header(write_encoder(tmp_path / "e.gguf"))
    return _sized(
        header,
        blocks=24,
        weights=1100 * MIB,
        layer=Layer(0, 0, 0),
        context_length=8192,
        embedding_length=1024,
        feed_forward_length=4096,
        head_count=(16,) * 24,
        vocabulary=250_002,
    )


def test_a_model_for_embeddings_has_no_cells_and_reads_texts_of_its_trained_length(
    encoder: Header,
) -> None:
    found = _fit(encoder, _host(64))
    assert found.context == Choice(8192, "as the model was trained")
    assert found.kv_cells == Choice(0, "nothing is generated")
    assert found.sequences == Choice(8, "the default without a GPU")
    assert (found.kv_bytes, found.idle_sequences.value, found.kv_layout.value) == (0, 0, "unified")
    assert found.ubatch_size.value == 512
    assert found.max_queue.value == 32
    assert found.compute_bytes > 8192 * 250_002 * 4, "llama.cpp's place for logits is counted"


def test_a_small_memory_shortens_the_texts(encoder: Header) -> None:
    found = _fit(encoder, _host(6))
    assert found.context.reason == "what memory allows"
    assert 512 <= found.context.value < 8192
    used = found.weights_bytes + found.compute_bytes
    assert used <= 6 * GIB * 9 // 10


def test_an_encoder_never_reads_beyond_the_positions_that_it_knows(encoder: Header) -> None:
    found = _fit(encoder, _host(), ctx_size=10_000)
    assert found.context == Choice(8192, "the model can read no more than 8192")
    assert _fit(encoder, _host(), ctx_size=1000).context == Choice(1000, "set")


def test_the_requests_of_a_model_for_embeddings_can_be_set(encoder: Header) -> None:
    found = _fit(encoder, _with_gpu(24), max_concurrency=3, max_queue=7)
    assert (found.sequences, found.max_queue) == (Choice(3, "set"), Choice(7, "set"))
    assert found.gpu_layers == Choice(-1, "the whole model fits")


def test_an_encoder_that_does_not_fit_is_refused_with_the_numbers(encoder: Header) -> None:
    with pytest.raises(ModelUnsupported, match="does not fit on this machine"):
        _fit(encoder, _host(1))


def test_embeddings_of_a_chat_model_take_memory_of_their_own(tiny: Header) -> None:
    header = _sized(tiny)
    plain, both = (_fit(header, _host(), pooling=pooling) for pooling in (None, "mean"))
    assert both.purpose.generates
    assert both.sequences == plain.sequences
    assert both.kv_bytes - plain.kv_bytes == 32 * (8192 + 512) * 2048 * 2
    assert both.compute_bytes > plain.compute_bytes


def test_where_memory_is_short_a_chat_model_with_embeddings_generates_less(tiny: Header) -> None:
    header, machine = _sized(tiny), _host(8)
    plain, both = (_fit(header, machine, pooling=pooling) for pooling in (None, "mean"))
    assert both.kv_cells.value < plain.kv_cells.value
    assert both.weights_bytes + both.kv_bytes + both.compute_bytes <= 8 * GIB * 9 // 10


def test_a_fit_for_embeddings_says_what_it_reads(encoder: Header, tiny: Header) -> None:
    line = _fit(encoder, _host()).explain()
    assert line.startswith("embeddings by mean (as the model says), texts of up to 8192 tokens (")
    assert "KV cells" not in line
    assert _fit(encoder, _host()).pooling == Choice("mean", "as the model says")
    both = _fit(_sized(tiny), _host(), pooling="last").explain()
    assert both.startswith("embeddings by last (set), context 8192 (")


# Defaults.


def test_without_a_gpu_a_modest_engine_is_chosen(tiny: Header) -> None:
    found = _fit(_sized(tiny), _host(64, cores=6))
    assert found.context == Choice(8192, "the default without a GPU, of 131072 trained")
    assert found.sequences == Choice(8, "the default without a GPU")
    assert found.kv_cells == Choice(16_384, "2 full contexts, shared by all sequences")
    assert found.gpu_layers.value == 0
    assert found.kv_type == Choice("f16", "the default")
    assert found.flash_attention.value == "auto"
    assert found.threads == Choice(6, "the cores that may be used")
    assert (found.batch_size.value, found.ubatch_size.value, found.prefill_chunk.value) == (
        512,
        512,
        192,
    )
    assert found.max_queue == Choice(32, "4 for each sequence")


def test_with_a_large_gpu_a_large_one_is(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(141))
    assert found.context == Choice(16_384, "the default on a GPU, of 131072 trained")
    assert found.sequences == Choice(32, "the default on a GPU")
    assert found.kv_cells == Choice(
        33 * 16_384, "KV_LAYOUT: a context for every sequence and one to rest in"
    )
    assert found.gpu_layers == Choice(-1, "the whole model fits")
    assert found.threads == Choice(4, "the GPU does the work")
    assert (found.batch_size.value, found.ubatch_size.value) == (2048, 512)
    assert found.max_queue.value == 128


def test_the_trained_context_is_not_exceeded_by_default(tiny: Header) -> None:
    found = _fit(_sized(tiny, context_length=2048), _host())
    assert found.context == Choice(2048, "as the model was trained")


def test_a_gpu_that_llama_cpp_was_not_built_for_is_left_alone(tiny: Header) -> None:
    found = fit(Settings(model="/m.gguf"), _with_gpu(80), _sized(tiny), gpu_offload=False)
    assert found.gpu_layers.value == 0
    assert found.batch_size.value == 512


# Memory that is short. A token of this model takes 128 KiB of cache, 16,384 tokens 2 GiB.


def test_cells_are_what_memory_allows_and_shared(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(24))
    assert found.context.value == 16_384
    assert found.sequences.value == 32
    assert found.kv_cells.reason == "what memory allows, shared by all sequences"
    assert 16_384 * 5 < found.kv_cells.value < 16_384 * 9
    assert found.kv_cells.value % 256 == 0


def test_all_that_is_planned_fits_into_nine_tenths(tiny: Header) -> None:
    header = _sized(tiny)
    for gib in (6.5, 8, 12, 16, 24, 48):
        found = _fit(header, _with_gpu(gib))
        used = header.tensor_bytes - header.embedding_bytes + found.kv_bytes
        assert found.gpu_layers.value == -1
        assert used < gib * GIB * 9 / 10 - 512 * MIB


def test_fewer_sequences_share_a_small_cache(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(8))
    assert found.gpu_layers.value == -1
    assert found.sequences.reason == "what memory allows"
    assert 1 <= found.sequences.value < 32
    assert found.kv_cells.value >= found.context.value


def test_a_small_memory_shortens_the_context(tiny: Header) -> None:
    found = _fit(_sized(tiny), _host(5.5))
    assert found.context.reason == "what memory allows"
    assert 512 <= found.context.value < 8192
    assert found.kv_cells.value >= found.context.value


def test_more_memory_never_makes_an_engine_smaller(tiny: Header) -> None:
    header = _sized(tiny)
    before = (0, 0, 0)
    for step in range(40):
        found = _fit(header, _host(5.5 + step / 4))
        now = (found.context.value, found.sequences.value, found.kv_cells.value)
        assert now[0] >= before[0]
        assert now[2] >= before[2]
        before = now


def test_a_model_larger_than_the_gpu_is_offloaded_in_part(tiny: Header) -> None:
    found = _fit(_sized(tiny, weights=16 * GIB), _with_gpu(12), threads=None)
    assert 0 < found.gpu_layers.value < 33
    assert found.gpu_layers.reason.startswith("as many of 33 as fit into 10.")
    assert found.threads.value == 8
    assert found.context.value >= 4096
    assert found.sequences.value >= 1


def test_a_gpu_with_all_layers_leaves_the_embeddings_inputs_and_outputs_to_the_host(
    tiny: Header,
) -> None:
    header = _sized(tiny)
    found = _fit(header, _with_gpu(141))
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


def test_without_a_gpu_everything_is_on_the_host(tiny: Header) -> None:
    found = _fit(_sized(tiny), _host())
    assert found.gpu_bytes == 0
    assert found.host_bytes == found.weights_bytes + found.kv_bytes + found.compute_bytes


def test_a_gpu_with_a_part_of_the_layers_has_room_for_a_block_that_visits_it(tiny: Header) -> None:
    header = _sized(tiny)
    found = _fit(header, _with_gpu(80), gpu_layers=9, kv_size=8192, max_concurrency=1)
    block, kv = header.block_bytes[0], found.kv_bytes // 32
    outputs = (1 + found.idle_sequences.value) * 128_256 * 4
    rest = header.tensor_bytes - sum(header.block_bytes) - header.embedding_bytes
    buffer = found.compute_bytes - outputs
    assert found.gpu_bytes == 8 * (block + kv) + rest + buffer + block
    assert found.host_bytes == 24 * (block + kv) + header.embedding_bytes + buffer + outputs


def test_each_of_several_gpus_has_a_compute_buffer(tiny: Header) -> None:
    one, two = (
        _fit(_sized(tiny), _with_gpu(80, count=count), kv_size=8192, max_concurrency=1)
        for count in (1, 2)
    )
    outputs = (1 + one.idle_sequences.value) * 128_256 * 4
    assert two.gpu_bytes - one.gpu_bytes > one.compute_bytes - outputs


def test_several_gpus_are_counted_together(tiny: Header) -> None:
    header = _sized(tiny, weights=16 * GIB)
    assert _fit(header, _with_gpu(12, count=2)).gpu_layers.value == -1


def test_tied_embeddings_are_copied_to_the_gpu(tiny: Header) -> None:
    """The same file needs more of a GPU when its output layer is the embeddings."""
    own, tied = (
        _fit(_sized(tiny, weights=40 * GIB, tied_embeddings=tied), _with_gpu(24)).gpu_layers.value
        for tied in (False, True)
    )
    assert tied < own


def test_a_model_that_does_not_fit_at_all_is_refused_with_the_numbers(tiny: Header) -> None:
    with pytest.raises(ModelUnsupported) as refused:
        _fit(_sized(tiny), _host(4))
    message = str(refused.value)
    assert "does not fit on this machine" in message
    assert "context of only 512 tokens it needs 4." in message
    assert "of memory with 3.41 GiB usable" in message
    assert "smaller quantisation" in message


def test_layers_that_were_set_and_do_not_fit_are_refused(tiny: Header) -> None:
    with pytest.raises(ModelUnsupported, match=r"of GPU memory with 1\.30 GiB usable"):
        _fit(_sized(tiny), _with_gpu(2), gpu_layers=-1)


# What is set.


def test_what_is_set_is_taken(tiny: Header) -> None:
    found = _fit(
        _sized(tiny),
        _with_gpu(80),
        ctx_size=5000,
        max_concurrency=3,
        kv_size=9000,
        gpu_layers=10,
        kv_type="q8_0",
        flash_attention="on",
        threads=2,
        batch_size=1024,
        ubatch_size=256,
        max_queue=0,
        prefill_chunk=100,
        step_mixing="alternate",
    )
    chosen = {
        field.name: getattr(found, field.name)
        for field in dataclasses.fields(found)
        if isinstance(getattr(found, field.name), Choice)
    }
    assert {name: choice.value for name, choice in chosen.items()} == {
        "context": 5000,
        "sequences": 3,
        "kv_cells": 9216,
        "gpu_layers": 10,
        "kv_type": "q8_0",
        "flash_attention": "on",
        "threads": 2,
        "batch_size": 1024,
        "ubatch_size": 256,
        "max_queue": 0,
        "prefill_chunk": 100,
        "step_mixing": "alternate",
        "kv_layout": "unified",
        "idle_sequences": 16,
    }
    derived = {chosen.pop("kv_layout").reason, chosen.pop("idle_sequences").reason}
    assert derived == {"KV_SIZE is shared by all", "what is worth its memory"}
    assert {choice.reason for choice in chosen.values()} == {"set"}


def test_each_request_has_cells_of_its_own_where_that_takes_nothing_away(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(141))
    assert found.kv_layout == Choice("partitioned", "a context for every sequence fits into memory")
    assert found.idle_sequences.value == 1
    assert found.kv_cells.value == found.context.value * (found.sequences.value + 1)


def test_where_memory_is_short_all_requests_share_one_pool(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(40))
    assert found.kv_layout.value == "unified"
    assert found.context.value == 16_384
    assert found.sequences.value == 32


def test_without_a_gpu_cells_for_each_are_not_worth_a_long_start(smollm: Header) -> None:
    assert _fit(smollm, _host(), ctx_size=8192).kv_layout.value == "unified"
    found = _fit(smollm, _host(), ctx_size=2048)
    assert (found.kv_layout.value, found.kv_cells.value) == ("partitioned", 9 * 2048)


@pytest.mark.parametrize("layout", ["unified", "partitioned"])
def test_a_layout_that_is_set_is_taken(tiny: Header, layout: str) -> None:
    found = _fit(_sized(tiny), _with_gpu(141), kv_layout=layout)
    assert found.kv_layout == Choice(layout, "set")


def test_cells_that_are_set_for_each_shrink_with_memory(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(24), kv_layout="partitioned")
    assert found.kv_cells.value == (found.sequences.value + 1) * found.context.value
    assert found.sequences.value < 32
    assert found.context.value == 16_384


def test_a_context_shrinks_until_as_many_sequences_as_are_set_have_one_each(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(24), kv_layout="partitioned", max_concurrency=32)
    assert found.sequences.value == 32
    assert found.context.reason == "what memory allows"
    assert 512 <= found.context.value < 16_384
    assert found.kv_cells.value == 33 * found.context.value
    assert "KV_LAYOUT: a context for every sequence" in found.kv_cells.reason


def test_cells_for_each_that_cannot_fit_are_tried_and_remarked(tiny: Header) -> None:
    found = _fit(
        _sized(tiny), _with_gpu(24), kv_layout="partitioned", max_concurrency=32, ctx_size=16_384
    )
    assert found.kv_cells.value == 33 * 16_384
    assert "more than seems to fit" in found.kv_cells.reason


@pytest.mark.parametrize(
    "layer", [Layer(1024, 1024, 0, sliding=True), Layer(0, 0, 2528)], ids=["window", "recurrent"]
)
def test_a_memory_with_states_is_never_split(tiny: Header, layer: Layer) -> None:
    found = _fit(
        _sized(tiny, layer=layer, sliding_window=1024), _with_gpu(80), kv_layout="partitioned"
    )
    assert found.kv_layout == Choice("unified", "this model's memory can't be copied in parts")


def test_layers_set_to_none_leave_the_gpu_alone(tiny: Header) -> None:
    found = _fit(_sized(tiny), _with_gpu(80), gpu_layers=0)
    assert found.gpu_layers == Choice(0, "set")
    assert found.context.value == 8192
    assert found.threads.value == 8


def test_a_context_beyond_the_training_is_taken_and_remarked(tiny: Header) -> None:
    found = _fit(_sized(tiny, context_length=4096), _host(), ctx_size=8192)
    assert found.context.value == 8192
    assert "trained on 4096" in found.context.reason


def test_a_context_is_never_longer_than_the_cache_that_was_set(tiny: Header) -> None:
    found = _fit(_sized(tiny), _host(), kv_size=2048)
    assert found.context == Choice(2048, "KV_SIZE holds no more")


def test_a_context_that_was_set_gets_its_cells_even_where_memory_seems_short(
    tiny: Header,
) -> None:
    found = _fit(_sized(tiny), _host(6), ctx_size=32_768)
    assert found.context == Choice(32_768, "set")
    assert found.kv_cells.value == 32_768
    assert "more than seems to fit" in found.kv_cells.reason


def test_a_step_of_a_model_with_a_sliding_window_is_one_pass(tiny: Header) -> None:
    header = _sized(tiny, layer=Layer(1024, 1024, 0, sliding=True), sliding_window=1024)
    found = _fit(header, _with_gpu(80), batch_size=4096, ubatch_size=256)
    assert found.batch_size == Choice(256, "one pass, for this model has a sliding window")
    assert found.ubatch_size == Choice(256, "set")


def test_a_step_has_room_for_every_sequence(tiny: Header) -> None:
    assert _fit(_sized(tiny), _host(256), max_concurrency=256).batch_size.value == 512
    assert _fit(_sized(tiny), _host(256), ubatch_size=1024).batch_size.value == 1024
    small = _fit(_sized(tiny), _host(), batch_size=64)
    assert (small.batch_size.value, small.ubatch_size.value) == (64, 64)


def test_a_quantised_cache_needs_heads_it_can_be_cut_into(tiny: Header) -> None:
    header = _sized(tiny, key_length=80, value_length=80)
    with pytest.raises(ConfigError, match=r"KV_TYPE=q8_0 needs .* 80 long") as refused:
        _fit(header, _host(), kv_type="q8_0")
    assert refused.value.param == "KV_TYPE"


def test_a_fit_explains_itself_in_one_line(tiny: Header) -> None:
    line = _fit(_sized(tiny), _with_gpu(80)).explain()
    assert line.isprintable()
    assert line.startswith("context 16384 (the default on a GPU, of 131072 trained), 32 sequences")
    assert "all layers on the GPU (the whole model fits)" in line
    assert "partitioned (a context for every sequence fits into memory), alternate steps" in line
    assert "weights 4.00 GiB, KV 66.00 GiB, compute 152.3 MiB: " in line
    assert line.endswith(": 69.88 GiB of GPU memory and 296.9 MiB of memory")
    assert "GPU memory" not in _fit(_sized(tiny), _host()).explain()
