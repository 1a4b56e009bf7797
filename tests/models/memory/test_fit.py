from __future__ import annotations

import dataclasses

import pytest

from gguf_worker.config import Machine, Settings
from gguf_worker.errors import ConfigError
from gguf_worker.models.gguf import Header
from gguf_worker.models.gguf.architectures import Layer
from gguf_worker.models.memory import Choice, fit, machine_with_less
from tests.models.memory.conftest import fit_of, host, sized, with_gpu


def test_a_model_for_embeddings_has_no_cells_and_reads_texts_of_its_trained_length(
    encoder: Header,
) -> None:
    found = fit_of(encoder, host(64))
    assert found.context == Choice(8192, "as the model was trained")
    assert found.kv_cells == Choice(0, "nothing is generated")
    assert found.sequences == Choice(8, "the default without a GPU")
    assert (found.kv_bytes, found.idle_sequences.value, found.kv_layout.value) == (0, 0, "unified")
    assert found.ubatch_size.value == 512
    assert found.max_queue.value == 32
    assert found.compute_bytes > 8192 * 250_002 * 4, "llama.cpp's place for logits is counted"


def test_a_fit_for_embeddings_says_what_it_reads(encoder: Header, tiny_header: Header) -> None:
    line = fit_of(encoder, host()).explain()
    assert line.startswith("embeddings by mean (as the model says), texts of up to 8192 tokens (")
    assert "KV cells" not in line
    assert fit_of(encoder, host()).pooling == Choice("mean", "as the model says")
    both = fit_of(sized(tiny_header), host(), pooling="last").explain()
    assert both.startswith("embeddings by last (set), context 8192 (")


# Defaults.


def test_without_a_gpu_a_modest_engine_is_chosen(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), host(64, cores=6))
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


def test_with_a_large_gpu_a_large_one_is(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), with_gpu(141))
    assert found.context == Choice(16_384, "the default on a GPU, of 131072 trained")
    assert found.sequences == Choice(32, "the default on a GPU")
    assert found.kv_cells == Choice(
        33 * 16_384, "KV_LAYOUT: a context for every sequence and one to rest in"
    )
    assert found.gpu_layers == Choice(-1, "the whole model fits")
    assert found.threads == Choice(4, "the GPU does the work")
    assert (found.batch_size.value, found.ubatch_size.value) == (2048, 512)
    assert found.max_queue.value == 128


def test_a_gpu_that_llama_cpp_was_not_built_for_is_left_alone(tiny_header: Header) -> None:
    found = fit(Settings(model="/m.gguf"), with_gpu(80), sized(tiny_header), gpu_offload=False)
    assert found.gpu_layers.value == 0
    assert found.batch_size.value == 512


# What turned out to be too much.


@pytest.mark.parametrize(
    "machine", [host(6), host(64), with_gpu(8), with_gpu(80), with_gpu(8, count=2)]
)
def test_a_step_down_takes_about_half_of_the_cache_and_leaves_the_layers_where_they_are(
    tiny_header: Header, machine: Machine
) -> None:
    found = fit_of(sized(tiny_header), machine)
    smaller = fit_of(sized(tiny_header), machine_with_less(machine, found))
    assert 0.3 * found.kv_bytes < smaller.kv_bytes < 0.6 * found.kv_bytes
    assert smaller.gpu_layers.value == found.gpu_layers.value
    assert smaller.fits


# What is set.


@pytest.mark.parametrize("layers", [33, 99, 10_000])
def test_a_number_beyond_the_models_layers_means_all(tiny_header: Header, layers: int) -> None:
    found = fit_of(sized(tiny_header, blocks=32), with_gpu(80), gpu_layers=layers)
    assert found.gpu_layers == Choice(-1, "set; the model has 33")
    assert "all layers on the GPU (set; the model has 33), 4 threads" in found.explain()
    named = fit_of(sized(tiny_header, blocks=32), with_gpu(80), gpu_layers=-1)
    assert found == dataclasses.replace(named, gpu_layers=found.gpu_layers)


def test_all_layers_but_the_output_are_not_all(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header, blocks=32), with_gpu(80), gpu_layers=32)
    assert found.gpu_layers == Choice(32, "set")


def test_what_is_set_is_taken(tiny_header: Header) -> None:
    found = fit_of(
        sized(tiny_header),
        with_gpu(80),
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


def test_each_request_has_cells_of_its_own_where_that_takes_nothing_away(
    tiny_header: Header,
) -> None:
    found = fit_of(sized(tiny_header), with_gpu(141))
    assert found.kv_layout == Choice("partitioned", "a context for every sequence fits into memory")
    assert found.idle_sequences.value == 1
    assert found.kv_cells.value == found.context.value * (found.sequences.value + 1)


def test_where_memory_is_short_all_requests_share_one_pool(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), with_gpu(40))
    assert found.kv_layout.value == "unified"
    assert found.context.value == 16_384
    assert found.sequences.value == 32


def test_without_a_gpu_cells_for_each_are_not_worth_a_long_start(smollm: Header) -> None:
    assert fit_of(smollm, host(), ctx_size=8192).kv_layout.value == "unified"
    found = fit_of(smollm, host(), ctx_size=2048)
    assert (found.kv_layout.value, found.kv_cells.value) == ("partitioned", 9 * 2048)


@pytest.mark.parametrize("layout", ["unified", "partitioned"])
def test_a_layout_that_is_set_is_taken(tiny_header: Header, layout: str) -> None:
    found = fit_of(sized(tiny_header), with_gpu(141), kv_layout=layout)
    assert found.kv_layout == Choice(layout, "set")


@pytest.mark.parametrize(
    "layer", [Layer(1024, 1024, 0, sliding=True), Layer(0, 0, 2528)], ids=["window", "recurrent"]
)
def test_a_memory_with_states_is_never_split(tiny_header: Header, layer: Layer) -> None:
    found = fit_of(
        sized(tiny_header, layer=layer, sliding_window=1024), with_gpu(80), kv_layout="partitioned"
    )
    assert found.kv_layout == Choice("unified", "this model's memory can't be copied in parts")


def test_a_step_of_a_model_with_a_sliding_window_is_one_pass(tiny_header: Header) -> None:
    header = sized(tiny_header, layer=Layer(1024, 1024, 0, sliding=True), sliding_window=1024)
    found = fit_of(header, with_gpu(80), batch_size=4096, ubatch_size=256)
    assert found.batch_size == Choice(256, "one pass, for this model has a sliding window")
    assert found.ubatch_size == Choice(256, "set")


def test_a_step_has_room_for_every_sequence(tiny_header: Header) -> None:
    assert fit_of(sized(tiny_header), host(256), max_concurrency=256).batch_size.value == 512
    assert fit_of(sized(tiny_header), host(256), ubatch_size=1024).batch_size.value == 1024
    small = fit_of(sized(tiny_header), host(), batch_size=64)
    assert (small.batch_size.value, small.ubatch_size.value) == (64, 64)


def test_a_quantised_cache_needs_heads_it_can_be_cut_into(tiny_header: Header) -> None:
    header = sized(tiny_header, key_length=80, value_length=80)
    with pytest.raises(ConfigError, match=r"KV_TYPE=q8_0 needs .* 80 long") as refused:
        fit_of(header, host(), kv_type="q8_0")
    assert refused.value.param == "KV_TYPE"


def test_a_fit_explains_itself_in_one_line(tiny_header: Header) -> None:
    line = fit_of(sized(tiny_header), with_gpu(80)).explain()
    assert line.isprintable()
    assert line.startswith("context 16384 (the default on a GPU, of 131072 trained), 32 sequences")
    assert "all layers on the GPU (the whole model fits)" in line
    assert "partitioned (a context for every sequence fits into memory), alternate steps" in line
    assert "weights 4.00 GiB, KV 66.00 GiB, compute 152.3 MiB: " in line
    assert line.endswith(": 69.88 GiB of GPU memory and 296.9 MiB of memory")
    assert "GPU memory" not in fit_of(sized(tiny_header), host()).explain()
