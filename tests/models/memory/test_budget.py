from __future__ import annotations

from gguf_worker.models.gguf import Header
from tests.models.memory.conftest import GIB, MIB, fit_of, sized, with_gpu


def test_all_that_is_planned_fits_into_nine_tenths(tiny_header: Header) -> None:
    header = sized(tiny_header)
    for gib in (6.5, 8, 12, 16, 24, 48):
        found = fit_of(header, with_gpu(gib))
        used = header.tensor_bytes - header.embedding_bytes + found.kv_bytes
        assert found.gpu_layers.value == -1
        assert used < gib * GIB * 9 / 10 - 512 * MIB


def test_several_gpus_are_counted_together(tiny_header: Header) -> None:
    header = sized(tiny_header, weights=16 * GIB)
    assert fit_of(header, with_gpu(12, count=2)).gpu_layers.value == -1
