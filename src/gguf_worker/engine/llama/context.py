"""A model's llama.cpp context for generation: steps of many sequences, their logits, the KV cache.

Owns the C pointers of the model, the context and the batch. Many misuses of the library end the
process (an assertion, a C++ exception) or give silently wrong results, so every call here meets the
library's preconditions by construction. Knows nothing of requests or text streams.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llama_cpp as L
import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.cells import Clear, Copy, Operation, Trim
from gguf_worker.engine.llama.backends import load_backends
from gguf_worker.engine.llama.batch import Batch
from gguf_worker.engine.llama.heartbeat import Heartbeat
from gguf_worker.engine.llama.native_log import LlamaError, NativeLog
from gguf_worker.engine.llama.sampler import ChainSampler, SamplerMaker
from gguf_worker.engine.llama.vocabulary import Vocabulary
from gguf_worker.engine.llama.weights import Weights
from gguf_worker.engine.loop import Chunk
from gguf_worker.engine.loop import Sequence as Prompt
from gguf_worker.engine.messages import EngineInfo, EngineSpec, GpuSupport
from gguf_worker.generation import Sampling

Logits = npt.NDArray[np.float32]

KV_TYPES = {
    "f32": L.GGML_TYPE_F32,
    "f16": L.GGML_TYPE_F16,
    "bf16": 30,  # not named by the bindings
    "q8_0": L.GGML_TYPE_Q8_0,
    "q5_1": L.GGML_TYPE_Q5_1,
    "q5_0": L.GGML_TYPE_Q5_0,
    "q4_1": L.GGML_TYPE_Q4_1,
    "q4_0": L.GGML_TYPE_Q4_0,
}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_SLOW_ROWS = 32
"""Number of rows beyond which a step gives signs of life."""
_SLOW_SECONDS = 0.5
"""Duration of a step from which the next one gives signs of life."""


class Llama:
    """One loaded model with one context that holds many sequences.

    A model that does not generate has no context, and its methods for computing must not be called.
    `beat` (an attribute) is called now and then while a long step runs; `progress` with the
    fraction of the model that has been read; `log` with llama.cpp's warnings. Raises LlamaError if
    the model cannot be opened, or is to be on a GPU that cannot be used.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        progress: Callable[[float], None],
        beat: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self._log = NativeLog(log)
        _check_support(load_backends(self._log, gpu=spec.gpu_layers != 0), spec)
        L.llama_backend_init()
        began = time.monotonic()
        self.weights = Weights(spec, self._log, progress)
        self._rollback = self.weights.rollback
        self._unified = spec.unified or not self._rollback
        self.asynchronous = self.weights.on_gpu
        self.beat = beat
        self._logits_at = 0
        self._logits: Logits = np.empty((0, 0), np.float32)
        self._seconds_of_last = 0.0
        with ThreadPoolExecutor(1, "vocabulary") as aside:
            reading = aside.submit(Vocabulary, self.weights.handle)
            if spec.generates:
                self.context: Any = self._open_context(spec)
                self._memory = L.llama_get_memory(self.context)
                self._batch = Batch(L.llama_n_batch(self.context))
                self._heartbeat = Heartbeat(self.context, lambda: self.beat())
            loaded = time.monotonic()
            if spec.generates:
                self._warm_up()
            self.vocabulary = reading.result()
        self.info = self._describe(spec, loaded - began, time.monotonic() - loaded)
        if spec.generates:
            self._samplers = SamplerMaker(self.context, self.vocabulary, self.info.context)

    # Opening

    def _open_context(self, spec: EngineSpec) -> Any:
        params = L.llama_context_default_params()
        context = spec.context or self.weights.trained_context
        ids = spec.sequences + spec.idle_sequences
        contexts = spec.sequences if self._unified else ids
        params.n_ctx = spec.kv_cells or context * contexts
        params.n_batch = min(spec.batch_size, params.n_ctx)
        params.n_ubatch = min(spec.ubatch_size, params.n_batch)
        if self.weights.sliding_window > 0:
            # When a step takes several passes, this llama.cpp frees cells for the second that are
            # in the window of the first, and silently computes nonsense. So a step is one pass.
            params.n_batch = params.n_ubatch = max(params.n_ubatch, spec.sequences)
        params.n_seq_max = params.n_outputs_max = ids
        params.n_threads = params.n_threads_batch = spec.threads
        params.type_k = params.type_v = KV_TYPES[spec.kv_type]
        params.flash_attn_type = FLASH_ATTENTION[spec.flash_attention]
        params.kv_unified = self._unified
        # Snapshots keep cells beyond their windows: in a cache sized for windows only, the next
        # step may find no cell, and llama.cpp then tries in several passes, with the result
        # described above.
        params.swa_full = True
        handle = L.llama_init_from_model(self.weights.handle, params)
        if not handle:
            raise LlamaError(
                "engine_start_failed",
                f"llama.cpp cannot make a context of {params.n_ctx} tokens for {spec.sequences} "
                f"sequences: {self._log.tail()}. Try a smaller CTX_SIZE, MAX_CONCURRENCY or "
                "KV_SIZE, or KV_TYPE=q8_0.",
                permanent=False,
                lacking=True,
            )
        self.weights.apply_adapters(handle)
        return handle

    def _describe(self, spec: EngineSpec, load_seconds: float, warmup_seconds: float) -> EngineInfo:
        info = EngineInfo(
            description=self.weights.description,
            context=spec.context or self.weights.trained_context,
            sequences=spec.sequences,
            kv_cells=0,
            batch_size=spec.ubatch_size,
            ubatch_size=spec.ubatch_size,
            vocabulary=len(self.vocabulary),
            model_bytes=L.llama_model_size(self.weights.handle),
            parameters=L.llama_model_n_params(self.weights.handle),
            gpu_offload=self.asynchronous,
            threads=spec.threads,
            load_seconds=load_seconds,
            warmup_seconds=warmup_seconds,
            unified=self._unified,
            rollback=self._rollback,
            infill=self.vocabulary.infill,
            special=self.vocabulary.special,
            generates=spec.generates,
        )
        return self._with_context(info) if spec.generates else info

    def _with_context(self, info: EngineInfo) -> EngineInfo:
        """Complete a description with the values that llama.cpp settled on."""
        cells = L.llama_n_ctx(self.context)
        if self.weights.recurrent:
            cells = info.sequences * info.context
        one = cells if self._unified else L.llama_n_ctx_seq(self.context)
        return msgspec.structs.replace(
            info,
            context=min(info.context, one),
            kv_cells=cells,
            batch_size=L.llama_n_batch(self.context),
            ubatch_size=L.llama_n_ubatch(self.context),
            threads=L.llama_n_threads(self.context),
            idle_sequences=L.llama_n_seq_max(self.context) - info.sequences,
        )

    def _warm_up(self) -> None:
        """Compute one token, so that the first request does not pay for page faults and kernels."""
        bos = L.llama_vocab_bos(L.llama_model_get_vocab(self.weights.handle))
        prompt = Prompt(id=0, tokens=[max(bos, 0)], prompt_length=1, max_tokens=1, slot=0)
        self._seconds_of_last = _SLOW_SECONDS  # first calls are slow and must give signs of life
        code, _ = self.decode([Chunk(prompt, 0, 1, True)])
        self.wait()
        if code != 0:
            raise LlamaError(
                "engine_start_failed",
                f"the first step failed with code {code}: {self._log.tail()}",
                permanent=False,
                lacking=True,
            )
        self.arrange([Trim(0, 0)])

    # Computing

    def decode(self, chunks: Sequence[Chunk]) -> tuple[int, list[int]]:
        """Begin one step; returns llama_decode's code and the batch rows that will have logits.

        0: done, after `wait` where the backend is asynchronous; 1: no KV cells, nothing changed;
        any other code leaves the context unusable.
        """
        outputs = self._batch.fill(chunks)
        slow = self._batch.c.n_tokens > _SLOW_ROWS or self._seconds_of_last >= _SLOW_SECONDS
        self._heartbeat.switch(slow)
        self._began = time.monotonic()
        code = L.llama_decode(self.context, self._batch.c)
        self._seconds_of_last = time.monotonic() - self._began
        return code, outputs

    def wait(self) -> None:
        """Wait until the step is computed."""
        L.llama_synchronize(self.context)
        self._seconds_of_last = time.monotonic() - self._began

    def logits(self, outputs: int) -> Logits:
        """Return the logits of the last step, of shape (outputs, vocabulary), writable and valid
        until the next step."""
        pointer = L.llama_get_logits(self.context)
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_at:  # llama.cpp keeps its buffer while that is large enough
            shape = (L.llama_n_seq_max(self.context), len(self.vocabulary))
            self._logits = np.ctypeslib.as_array(pointer, shape)
            self._logits_at = address
        return self._logits[:outputs]

    def arrange(self, operations: Iterable[Operation]) -> None:
        """Copy, trim and clear sequences in the cache, in order, as the next step needs them."""
        for operation in operations:
            if isinstance(operation, Copy):
                self._copy(operation)
            elif isinstance(operation, Clear):
                # With the data: what is masked still counts where it is no number.
                L.llama_memory_clear(self._memory, True)
            else:
                start = operation.length or -1  # -1: all of it, which every kind of memory can drop
                L.llama_memory_seq_rm(self._memory, operation.id, start, -1)

    def _copy(self, copy: Copy) -> None:
        if self._unified and self._rollback:
            L.llama_memory_seq_cp(self._memory, copy.source, copy.target, 0, copy.length)
            return
        # States are copied whole, and so are the cells where each sequence has a pool of its own.
        L.llama_memory_seq_cp(self._memory, copy.source, copy.target, -1, -1)
        if self._rollback:
            L.llama_memory_seq_rm(self._memory, copy.target, copy.length, -1)

    def held(self, id: int) -> int:
        """Return how many tokens llama.cpp has of a sequence: the position after its last one."""
        return int(L.llama_memory_seq_pos_max(self._memory, id)) + 1

    def sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> ChainSampler:
        """Return a sampler for one request, to be closed by the caller; it may not be ready yet."""
        return self._samplers.sampler(sampling, seed, prompt)

    def log_tail(self) -> str:
        """Return the last lines of llama.cpp's own log."""
        return self._log.tail()

    def close(self) -> None:
        """Free everything. Samplers must have been closed before."""
        if self.info.generates:
            self._samplers.close()
            self._batch.close()
            L.llama_free(self.context)
        self.weights.close()


def _check_support(support: GpuSupport, spec: EngineSpec) -> None:
    """Refuse to compute on the CPU what is to be on a GPU: llama.cpp itself would, and say
    nothing."""
    if spec.gpu_layers != 0 and support.faulty:
        raise LlamaError(
            "engine_start_failed",
            f"llama.cpp can use no GPU: {support.reason}.",
            permanent=False,
            lacking=True,
            gpu=support,
        )
