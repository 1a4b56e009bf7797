"""What llama.cpp's log says of a file: words about the file, and words about the machine."""

from __future__ import annotations

import pytest

from gguf_worker.engine.llama.load_verdicts import is_lack, is_of_the_file

LOADING = "llama_model_load: error loading model: "
OF_THE_FILE = [
    LOADING + "error loading model architecture: unknown model architecture: 'nobody'",
    LOADING + "unknown model architecture: 'nobody'",
    LOADING + "error loading model hyperparameters: key not found in model: llama.block_count",
    LOADING + "error loading model vocabulary: unknown pre-tokenizer type: 'none-such'",
    LOADING + "missing tensor 'blk.0.attn_q.weight'",
    LOADING + "check_tensor_dims: tensor 'output.weight' has wrong shape; expected 64, 4, got 8, 4",
    LOADING + "done_getting_tensors: wrong number of tensors; expected 12, got 11",
    "gguf_init_from_file: invalid magic characters: '<htm', expected 'GGUF' | failed to load model",
    "llama_adapter_lora_init: failed to apply lora adapter: LoRA tensor 'x' does not exist in base "
    "model (hint: maybe wrong base model?)",
]
OF_THE_MACHINE = [
    LOADING + "mmap failed: No such device",
    LOADING + "read error: Input/output error",
    LOADING + "unexpectedly reached end of file",
    LOADING + "tensor 'output.weight' data is not within the file bounds, model is corrupted or "
    "incomplete",
    "gguf_init_from_file: failed to open GGUF file 'm.gguf' (Stale file handle)",
    "gguf_init_from_reader: failed to read key-value pairs | failed to load model",
    "ggml_cuda_init: failed to initialize CUDA: cudaErrorSystemNotReady | failed to load model",
    "llama_model_load_from_file_impl: failed to load model",
    "load: missing pre-tokenizer type, using: 'default' | failed to load model",
    "",
]
LACKING = [
    LOADING + "unable to allocate CUDA0 buffer",
    "cudaMalloc failed: out of memory | alloc_tensor_range: failed",
    LOADING + "error loading model vocabulary: std::bad_alloc",
    LOADING + "mmap failed: Cannot allocate memory",
]


@pytest.mark.parametrize("log", OF_THE_FILE)
def test_what_is_said_of_the_content_is_so_on_every_host(log: str) -> None:
    assert is_of_the_file(log)
    assert not is_lack(log)


@pytest.mark.parametrize("log", OF_THE_MACHINE)
def test_whatever_else_is_said_another_host_may_do(log: str) -> None:
    assert not is_of_the_file(log)
    assert not is_lack(log)


@pytest.mark.parametrize("log", LACKING)
def test_too_little_memory_is_known_and_never_the_files_fault(log: str) -> None:
    assert is_lack(log)
    assert not is_of_the_file(log)
