"""Whether layers can be on GPUs, before there is an engine."""

from __future__ import annotations

import pytest

from gguf_worker.config import Gpu, Machine
from gguf_worker.serving import can_offload

GIB = 1 << 30


@pytest.mark.parametrize("built", [True, False])
def test_a_gpu_counts_before_the_engine_only_if_llama_cpp_was_built_for_it(
    built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_worker.engine.built_for_gpus", lambda: built)
    gpu = Gpu(0, "NVIDIA L4", 24 * GIB, 24 * GIB)
    assert can_offload(Machine(8, GIB, GIB, (gpu,))) is built
    assert not can_offload(Machine(8, GIB, GIB))
