from __future__ import annotations

import pytest

from gguf_worker.errors import EngineStartFailed
from gguf_worker.models.gguf import Header
from gguf_worker.models.memory import Choice
from tests.models.memory.conftest import GIB, fit_of, host, sized, with_gpu


def test_a_small_memory_shortens_the_texts(encoder: Header) -> None:
    found = fit_of(encoder, host(6))
    assert found.context.reason == "what memory allows"
    assert 512 <= found.context.value < 8192
    used = found.weights_bytes + found.compute_bytes
    assert used <= 6 * GIB * 9 // 10


def test_an_encoder_never_reads_beyond_the_positions_that_it_knows(encoder: Header) -> None:
    found = fit_of(encoder, host(), ctx_size=10_000)
    assert found.context == Choice(8192, "the model can read no more than 8192")
    assert fit_of(encoder, host(), ctx_size=1000).context == Choice(1000, "set")


def test_the_requests_of_a_model_for_embeddings_can_be_set(encoder: Header) -> None:
    found = fit_of(encoder, with_gpu(24), max_concurrency=3, max_queue=7)
    assert (found.sequences, found.max_queue) == (Choice(3, "set"), Choice(7, "set"))
    assert found.gpu_layers == Choice(-1, "the whole model fits")


def test_an_encoder_that_does_not_fit_is_refused_with_the_numbers(encoder: Header) -> None:
    with pytest.raises(EngineStartFailed, match="does not fit on this machine"):
        fit_of(encoder, host(1))


def test_where_memory_is_short_a_chat_model_with_embeddings_generates_less(
    tiny_header: Header,
) -> None:
    header, machine = sized(tiny_header), host(8)
    plain, both = (fit_of(header, machine, pooling=pooling) for pooling in (None, "mean"))
    assert both.kv_cells.value < plain.kv_cells.value
    assert both.weights_bytes + both.kv_bytes + both.compute_bytes <= 8 * GIB * 9 // 10


def test_the_trained_context_is_not_exceeded_by_default(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header, context_length=2048), host())
    assert found.context == Choice(2048, "as the model was trained")


# Memory that is short. A token of this model takes 128 KiB of cache, 16,384 tokens 2 GiB.


def test_cells_are_what_memory_allows_and_shared(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), with_gpu(24))
    assert found.context.value == 16_384
    assert found.sequences.value == 32
    assert found.kv_cells.reason == "what memory allows, shared by all sequences"
    assert 16_384 * 5 < found.kv_cells.value < 16_384 * 9
    assert found.kv_cells.value % 256 == 0


def test_fewer_sequences_share_a_small_cache(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), with_gpu(8))
    assert found.gpu_layers.value == -1
    assert found.sequences.reason == "what memory allows"
    assert 1 <= found.sequences.value < 32
    assert found.kv_cells.value >= found.context.value


def test_a_small_memory_shortens_the_context(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), host(5.5))
    assert found.context.reason == "what memory allows"
    assert 512 <= found.context.value < 8192
    assert found.kv_cells.value >= found.context.value


def test_more_memory_never_makes_an_engine_smaller(tiny_header: Header) -> None:
    header = sized(tiny_header)
    before = (0, 0, 0)
    for step in range(40):
        found = fit_of(header, host(5.5 + step / 4))
        now = (found.context.value, found.sequences.value, found.kv_cells.value)
        assert now[0] >= before[0]
        assert now[2] >= before[2]
        before = now


def test_a_model_larger_than_the_gpu_is_offloaded_in_part(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header, weights=16 * GIB), with_gpu(12), threads=None)
    assert 0 < found.gpu_layers.value < 33
    assert found.gpu_layers.reason.startswith("as many of 33 as fit into 10.")
    assert found.threads.value == 8
    assert found.context.value >= 4096
    assert found.sequences.value >= 1


def test_a_model_that_does_not_fit_at_all_is_refused_with_the_numbers(tiny_header: Header) -> None:
    with pytest.raises(EngineStartFailed) as refused:
        fit_of(sized(tiny_header), host(4))
    message = str(refused.value)
    assert "does not fit on this machine" in message
    assert "context of only 512 tokens it needs 4." in message
    assert "of memory with 3.41 GiB usable" in message
    assert "smaller quantisation" in message


def test_layers_that_were_set_and_do_not_fit_are_refused(tiny_header: Header) -> None:
    with pytest.raises(EngineStartFailed, match=r"of GPU memory with 1\.30 GiB usable"):
        fit_of(sized(tiny_header), with_gpu(2), gpu_layers=-1)


def test_cells_that_are_set_for_each_shrink_with_memory(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), with_gpu(24), kv_layout="partitioned")
    assert found.kv_cells.value == (found.sequences.value + 1) * found.context.value
    assert found.sequences.value < 32
    assert found.context.value == 16_384


def test_a_context_shrinks_until_as_many_sequences_as_are_set_have_one_each(
    tiny_header: Header,
) -> None:
    found = fit_of(sized(tiny_header), with_gpu(24), kv_layout="partitioned", max_concurrency=32)
    assert found.sequences.value == 32
    assert found.context.reason == "what memory allows"
    assert 512 <= found.context.value < 16_384
    assert found.kv_cells.value == 33 * found.context.value
    assert "KV_LAYOUT: a context for every sequence" in found.kv_cells.reason


def test_cells_for_each_that_cannot_fit_are_tried_and_remarked(tiny_header: Header) -> None:
    found = fit_of(
        sized(tiny_header),
        with_gpu(24),
        kv_layout="partitioned",
        max_concurrency=32,
        ctx_size=16_384,
    )
    assert found.kv_cells.value == 33 * 16_384
    assert "more than seems to fit" in found.kv_cells.reason


def test_layers_set_to_none_leave_the_gpu_alone(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), with_gpu(80), gpu_layers=0)
    assert found.gpu_layers == Choice(0, "set")
    assert found.context.value == 8192
    assert found.threads.value == 8


def test_a_context_beyond_the_training_is_taken_and_remarked(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header, context_length=4096), host(), ctx_size=8192)
    assert found.context.value == 8192
    assert "trained on 4096" in found.context.reason


def test_a_context_is_never_longer_than_the_cache_that_was_set(tiny_header: Header) -> None:
    found = fit_of(sized(tiny_header), host(), kv_size=2048)
    assert found.context == Choice(2048, "KV_SIZE holds no more")


def test_a_context_that_was_set_gets_its_cells_even_where_memory_seems_short(
    tiny_header: Header,
) -> None:
    found = fit_of(sized(tiny_header), host(6), ctx_size=32_768)
    assert found.context == Choice(32_768, "set")
    assert found.kv_cells.value == 32_768
    assert "more than seems to fit" in found.kv_cells.reason
