"""The weights of a model and its adapters, which several contexts may use."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp as L

from gguf_worker.engine.llama.load_verdicts import is_lack, is_of_the_file
from gguf_worker.engine.llama.native_log import LlamaError, NativeLog
from gguf_worker.engine.messages import EngineSpec

_LOAD_READ = 0  # read() into buffers: for a GPU, the page faults of a memory map are slow
_LOAD_AUTO = -1
_ALL_LAYERS = 2**31 - 1
_NO_DEVICES = (ctypes.c_void_p * 1)(None)
"""An empty list of GPUs, as C ends it."""


class Weights:
    """An opened model with its adapters. Raises LlamaError if one of them cannot be opened.

    `progress` is called with the fraction of the model that has been read.
    """

    def __init__(self, spec: EngineSpec, log: NativeLog, progress: Callable[[float], None]) -> None:
        self._log = log
        self.on_gpu = bool(spec.gpu_layers != 0 and L.llama_supports_gpu_offload())
        self.handle = self._open(spec, progress)
        self._adapters = [self._open_adapter(spec, path) for path, _ in spec.adapters]
        self._scales = [scale for _, scale in spec.adapters]
        self.recurrent = bool(L.llama_model_is_recurrent(self.handle))
        self.has_state = self.recurrent or bool(L.llama_model_is_hybrid(self.handle))
        self.sliding_window = int(L.llama_model_n_swa(self.handle))
        self.trained_context = int(L.llama_model_n_ctx_train(self.handle))

    @property
    def rollback(self) -> bool:
        """Tells whether a sequence can be cut at any token: not with recurrent states or sliding
        windows."""
        return not self.has_state and self.sliding_window <= 0

    @property
    def description(self) -> str:
        """The kind, size and quantisation of the model, in llama.cpp's words."""
        text = ctypes.create_string_buffer(256)
        L.llama_model_desc(self.handle, text, len(text))
        return text.value.decode("utf-8", "replace")

    @property
    def architecture(self) -> str:
        """The name of the model's architecture; "" where the file does not say."""
        buffer = ctypes.create_string_buffer(64)
        L.llama_model_meta_val_str(self.handle, b"general.architecture", buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def apply_adapters(self, context: Any) -> None:
        """Apply the adapters to everything that is computed in a context of this model."""
        if self._adapters:
            count = len(self._adapters)
            L.llama_set_adapters_lora(
                context,
                (L.llama_adapter_lora_p_ctypes * count)(*self._adapters),
                count,
                (ctypes.c_float * count)(*self._scales),
            )

    def close(self) -> None:
        """Free the model and its adapters; its contexts must have been freed before."""
        L.llama_model_free(self.handle)

    def _open(self, spec: EngineSpec, progress: Callable[[float], None]) -> Any:
        params = L.llama_model_default_params()
        if spec.gpu_layers == 0:  # else llama.cpp reads prompts on a GPU, with memory of its own
            params.devices = ctypes.addressof(_NO_DEVICES)
        params.n_gpu_layers = _ALL_LAYERS if spec.gpu_layers < 0 else spec.gpu_layers
        params.load_mode = _LOAD_READ if self.on_gpu else _LOAD_AUTO
        # The AMX kernels of this llama.cpp crash on prompts of a few tokens (seen with Q4_1).
        params.use_extra_bufts = b"AMX_INT8 = 1" not in L.llama_print_system_info()

        def on_progress(fraction: float, _: Any) -> bool:
            progress(fraction)
            return True

        callback = L.llama_progress_callback(on_progress)
        params.progress_callback = callback
        handle = L.llama_model_load_from_file(spec.path.encode(), params)
        if not handle:
            raise self._refusal("engine_start_failed", f"llama.cpp cannot load {spec.path}")
        if L.llama_model_has_encoder(handle) or L.llama_model_is_diffusion(handle):
            raise LlamaError(
                "model_unsupported",
                f"{spec.path} is an encoder-decoder or diffusion model; this worker generates text "
                "token by token. Set MODEL to a decoder-only model.",
                permanent=True,
            )
        return handle

    def _open_adapter(self, spec: EngineSpec, path: str) -> Any:
        adapter = L.llama_adapter_lora_init(self.handle, path.encode())
        if not adapter:
            what = f"llama.cpp cannot apply the adapter {path} to {spec.path}"
            raise self._refusal("model_unsupported", what)
        return adapter

    def _refusal(self, code: str, what: str) -> LlamaError:
        """Return the error for a file that was not opened, by what the log says of it."""
        tail = self._log.tail()
        permanent = is_of_the_file(tail)
        return LlamaError(
            code if permanent else "engine_start_failed",
            f"{what}: {tail}",
            permanent=permanent,
            lacking=is_lack(tail),
        )
