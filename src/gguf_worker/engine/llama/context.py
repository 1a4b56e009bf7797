"""llama.cpp through llama-cpp-python's low-level bindings: a model, and the context that generates.

Owns the C pointers: model, context, batch, sampler chains. Many misuses of the library end the process (an
assertion, a C++ exception) or give silently wrong results, so every call here is one whose conditions are met
by construction. It knows nothing of requests, text streams or messages.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, ClassVar, Protocol

import llama_cpp as L
import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.cells import Copy, Operation, Trim
from gguf_worker.engine.drawing import Banned, Stage, history_length, is_argmax, stages
from gguf_worker.engine.loop import Chunk
from gguf_worker.engine.loop import Sequence as Prompt
from gguf_worker.engine.messages import EngineInfo, EngineSpec
from gguf_worker.generation import Sampling

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]

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
_LOAD_READ = 0  # read() into buffers: page faults of a memory map are slow when all goes to a GPU
_LOAD_AUTO = -1
_ALL_LAYERS = 2**31 - 1
_LOG_WARN = 3
_PIECE_BYTES = 1024
_LONGEST_SPECIAL = (
    128  # bytes; `pieces` has nothing for special tokens, but a prompt may spell them
)
_FIRST_SIGN_OF_LIFE = 0.5


class LlamaError(Exception):
    """llama.cpp refused; the message ends with its own last log lines. `permanent`: it will again."""

    def __init__(self, code: str, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.code = code
        self.permanent = permanent


class _Log:
    """llama.cpp's log: warnings go on to `write`, the rest is kept a while for when something fails."""

    installed: ClassVar[_Log | None] = None  # kept: C holds its callback, also after a failed start

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._recent: deque[str] = deque(maxlen=40)
        self._callback = L.llama_log_callback(self._on_line)
        L.llama_log_set(self._callback, ctypes.c_void_p(0))
        _Log.installed = self

    def _on_line(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if not line.strip("."):
            return
        self._recent.append(line)
        if level in (_LOG_WARN, _LOG_WARN + 1):
            self._write(line)

    def tail(self) -> str:
        return " | ".join(list(self._recent)[-6:])


class Rows(Protocol):
    """Tokens of one sequence that go into a batch together, from position `start`; the last is an output if
    `output`."""

    @property
    def tokens(self) -> Iterable[int]: ...
    @property
    def start(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def output(self) -> bool: ...


class Batch:
    """A `llama_batch` of `size` rows with one sequence id each, filled through numpy views."""

    def __init__(self, size: int) -> None:
        self.c = L.llama_batch_init(size, 0, 1)
        self.token = np.ctypeslib.as_array(self.c.token, (size,))
        self.pos = np.ctypeslib.as_array(self.c.pos, (size,))
        self.output = np.ctypeslib.as_array(self.c.logits, (size,))
        np.ctypeslib.as_array(self.c.n_seq_id, (size,))[:] = 1
        self.slot = np.zeros(size, np.int32)
        self._last: tuple[list[int], list[int]] = ([], [])
        # Row i's id list becomes slot[i:i+1], once; llama_batch_free needs the old pointers back.
        table = ctypes.cast(self.c.seq_id, ctypes.POINTER(ctypes.c_uint64))
        self._pointers = np.ctypeslib.as_array(table, (size,))
        self._original = self._pointers.copy()
        self._pointers[:] = self.slot.ctypes.data + 4 * np.arange(size, dtype=np.uint64)

    def fill(self, chunks: Sequence[Rows]) -> list[int]:
        """Put the rows in; the batch indices of the outputs, in order."""
        # One assignment for each array: numpy's price is one for each call. Decoding steps have the same rows
        # again and again, so ids and flags stay as they are.
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[int] = []
        for chunk in chunks:
            tokens += chunk.tokens
            positions += range(chunk.start, chunk.start + chunk.rows)
            slots += [chunk.slot] * chunk.rows
            if chunk.output:
                outputs.append(len(tokens) - 1)
        rows = len(tokens)
        self.token[:rows] = tokens
        self.pos[:rows] = positions
        if self._last != (slots, outputs):
            self.slot[:rows] = slots
            self.output[:rows] = 0
            self.output[outputs] = 1
            self._last = (slots, outputs)
            self.c.n_tokens = rows
        return outputs

    def close(self) -> None:
        self._pointers[:] = self._original
        L.llama_batch_free(self.c)


class Sampler:
    """Draws the tokens of one request. Stateful: penalties, random numbers, mirostat's surprise."""

    def __init__(self, llama: Llama, sampling: Sampling, seed: int, prompt: Sequence[int]) -> None:
        self._llama = llama
        self._chain = None if is_argmax(sampling) else llama.chain(sampling, seed)
        self.passes = 0 if self._chain is None else 1
        self._bias_tokens = np.array([t for t, _ in sampling.logit_bias], np.int32)
        self._bias = np.array([b for _, b in sampling.logit_bias], np.float32)
        if self._chain is not None and (length := history_length(sampling, llama.info.context)):
            for token in prompt[-length:]:
                L.llama_sampler_accept(self._chain, token)

    def sample(self, row: int, logits: Logits, banned: Banned) -> int:
        """The next token, from the logits of batch row `row`, which it may change; -1 if they are NaN."""
        if len(self._bias):
            logits[self._bias_tokens] += self._bias
        if len(banned):
            logits[banned] = -np.inf
        if self._chain is None:
            token = int(logits.argmax())
        else:
            token = int(L.llama_sampler_sample(self._chain, self._llama.context, row))
        return token if logits[token] > -np.inf else -1  # False for NaN too

    def close(self) -> None:
        if self._chain is not None:
            L.llama_sampler_free(self._chain)
            self._chain = None


class Llama:
    """One loaded model with one context that holds many sequences; none for a model that does not generate,
    whose methods for computing must not be called then.

    `beat` (an attribute) is called now and then while a long step runs.
    Raises LlamaError if the model cannot be opened.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        progress: Callable[[float], None],
        beat: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self._log = _Log(log)
        L.llama_backend_init()
        began = time.monotonic()
        self.model = self._open_model(spec, progress)
        self._adapters = self._open_adapters(spec)
        self.vocab = L.llama_model_get_vocab(self.model)
        self.rollback = not (
            L.llama_model_is_recurrent(self.model)
            or L.llama_model_is_hybrid(self.model)
            or L.llama_model_n_swa(self.model) > 0
        )
        self._unified = spec.unified or not self.rollback
        self.asynchronous = bool(spec.gpu_layers != 0 and L.llama_supports_gpu_offload())
        self.beat = beat
        self.on_node = L.ggml_abort_callback(self._beat_on_node)  # kept: C holds the pointer
        self._logits_at = 0
        self._logits: Logits = np.empty((0, 0), np.float32)
        self._beating = False
        self._seconds_of_last = 0.0
        self.vocabulary: int = L.llama_vocab_n_tokens(self.vocab)
        with ThreadPoolExecutor(1, "vocabulary") as aside:
            # Some 100,000 short calls, while llama.cpp is in long ones.
            read = aside.submit(self._read_vocabulary)
            if spec.generates:
                self.context: Any = self._open_context(spec)
                self._memory = L.llama_get_memory(self.context)
                self._batch = Batch(L.llama_n_batch(self.context))
            loaded = time.monotonic()
            if spec.generates:
                self._warm_up()
            self.pieces, self.ends = read.result()
        self.suppressed = self._suppressed()
        self._longest_piece = max(_LONGEST_SPECIAL, *map(len, self.pieces))
        self.info = self._describe(spec, loaded - began, time.monotonic() - loaded)

    # Opening

    def _open_model(self, spec: EngineSpec, progress: Callable[[float], None]) -> Any:
        params = L.llama_model_default_params()
        gpu = spec.gpu_layers != 0 and L.llama_supports_gpu_offload()
        params.n_gpu_layers = _ALL_LAYERS if spec.gpu_layers < 0 else spec.gpu_layers
        params.load_mode = _LOAD_READ if gpu else _LOAD_AUTO
        # The AMX kernels of this llama.cpp crash on prompts of a few tokens (seen with Q4_1).
        params.use_extra_bufts = b"AMX_INT8 = 1" not in L.llama_print_system_info()

        def on_progress(fraction: float, _: Any) -> bool:
            progress(fraction)
            return True

        callback = L.llama_progress_callback(on_progress)
        params.progress_callback = callback
        model = L.llama_model_load_from_file(spec.path.encode(), params)
        if not model:
            raise LlamaError(
                "engine_start_failed",
                f"llama.cpp cannot load {spec.path}: {self._log.tail()}",
                permanent="alloc" not in self._log.tail(),
            )
        if L.llama_model_has_encoder(model) or L.llama_model_is_diffusion(model):
            raise LlamaError(
                "model_unsupported",
                f"{spec.path} is an encoder-decoder or diffusion model; this worker generates text token by "
                "token. Set MODEL to a decoder-only model.",
                permanent=True,
            )
        return model

    def _open_adapters(self, spec: EngineSpec) -> list[tuple[Any, float]]:
        """Freed with the model."""
        opened = []
        for path, scale in spec.adapters:
            adapter = L.llama_adapter_lora_init(self.model, path.encode())
            if not adapter:
                raise LlamaError(
                    "model_unsupported",
                    f"llama.cpp cannot apply the adapter {path} to {spec.path}: {self._log.tail()}",
                    permanent=True,
                )
            opened.append((adapter, scale))
        return opened

    def adapt(self, context: Any) -> None:
        """Apply the adapters to whatever is computed in a context of this model."""
        if self._adapters:
            adapters, scales = zip(*self._adapters, strict=True)
            count = len(adapters)
            L.llama_set_adapters_lora(
                context,
                (L.llama_adapter_lora_p_ctypes * count)(*adapters),
                count,
                (ctypes.c_float * count)(*scales),
            )

    def _open_context(self, spec: EngineSpec) -> Any:
        params = L.llama_context_default_params()
        context = spec.context or L.llama_model_n_ctx_train(self.model)
        ids = spec.sequences + spec.idle_sequences
        contexts = spec.sequences if self._unified else ids
        params.n_ctx = spec.kv_cells or context * contexts
        params.n_batch = min(spec.batch_size, params.n_ctx)
        params.n_ubatch = min(spec.ubatch_size, params.n_batch)
        if L.llama_model_n_swa(self.model) > 0:
            # Looking for cells for a second pass, this llama.cpp drops some of the window that the first one
            # still needs, and computes nonsense without a word. So a step is one pass.
            params.n_batch = params.n_ubatch = max(params.n_ubatch, spec.sequences)
        params.n_seq_max = params.n_outputs_max = ids
        params.n_threads = params.n_threads_batch = spec.threads
        params.type_k = params.type_v = KV_TYPES[spec.kv_type]
        params.flash_attn_type = FLASH_ATTENTION[spec.flash_attention]
        params.kv_unified = self._unified
        # Snapshots hold on to more than their windows: in a cache of windows only, the next step may find no
        # cell, and llama.cpp then tries in several passes, with the result described above.
        params.swa_full = True
        handle = L.llama_init_from_model(self.model, params)
        if not handle:
            raise LlamaError(
                "engine_start_failed",
                f"llama.cpp cannot make a context of {params.n_ctx} tokens for {spec.sequences} "
                f"sequences: {self._log.tail()}. Try a smaller CTX_SIZE, MAX_CONCURRENCY or KV_SIZE, "
                "or KV_TYPE=q8_0.",
                permanent=False,
            )
        self.adapt(handle)
        return handle

    def _describe(self, spec: EngineSpec, load_seconds: float, warmup_seconds: float) -> EngineInfo:
        text = ctypes.create_string_buffer(256)
        L.llama_model_desc(self.model, text, 256)
        context = spec.context or L.llama_model_n_ctx_train(self.model)
        info = EngineInfo(
            description=text.value.decode("utf-8", "replace"),
            context=context,
            sequences=spec.sequences,
            kv_cells=0,
            batch_size=spec.ubatch_size,
            ubatch_size=spec.ubatch_size,
            vocabulary=self.vocabulary,
            model_bytes=L.llama_model_size(self.model),
            parameters=L.llama_model_n_params(self.model),
            gpu_offload=self.asynchronous,
            threads=spec.threads,
            load_seconds=load_seconds,
            warmup_seconds=warmup_seconds,
            unified=self._unified,
            rollback=self.rollback,
            infill=self._infill(),
            special=tuple(
                (self.spelled[token].decode("utf-8", "replace"), token)
                for token, piece in enumerate(self.pieces)
                if not piece and self.spelled[token]
            ),
            generates=spec.generates,
        )
        return self._with_context(info) if spec.generates else info

    def _with_context(self, info: EngineInfo) -> EngineInfo:
        """The values that llama.cpp settled on."""
        cells = L.llama_n_ctx(self.context)
        if L.llama_model_is_recurrent(self.model):
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
        bos = L.llama_vocab_bos(self.vocab)
        prompt = Prompt(id=0, tokens=[max(bos, 0)], prompt_length=1, max_tokens=1, slot=0)
        self._seconds_of_last = _FIRST_SIGN_OF_LIFE  # first calls are slow: let them beat
        code, _ = self.decode([Chunk(prompt, 0, 1, True)])
        self.wait()
        if code != 0:
            raise LlamaError(
                "engine_start_failed",
                f"the first step failed with code {code}: {self._log.tail()}",
                permanent=False,
            )
        self.arrange([Trim(0, 0)])

    # Vocabulary

    def _read_vocabulary(self) -> tuple[list[bytes], Tokens]:
        """The bytes of every token, once, since a call per sampled token would cost 20 times a list access;
        and the tokens that end an answer."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        tokens = range(self.vocabulary)
        pieces = [self._piece(token, buffer, False) for token in tokens]
        ends = [token for token in tokens if L.llama_vocab_is_eog(self.vocab, token)]
        return pieces, np.array(ends, np.int32)

    @cached_property
    def spelled(self) -> list[bytes]:
        """The bytes of every token, special ones as they are spelled; made when first needed."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        return [piece or self._piece(at, buffer, True) for at, piece in enumerate(self.pieces)]

    def _infill(self) -> tuple[str, ...]:
        """The spelling of the tokens for filling in the middle, where the vocabulary has them all."""
        marks = (L.llama_vocab_fim_pre, L.llama_vocab_fim_suf, L.llama_vocab_fim_mid)
        tokens = [mark(self.vocab) for mark in marks]
        if any(token < 0 for token in tokens):
            return ()
        return tuple(self.spelled[token].decode("utf-8", "replace") for token in tokens)

    def _piece(self, token: int, buffer: Any, special: bool) -> bytes:
        """The bytes of one token; `buffer` is used if it is large enough."""
        size = L.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = L.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return ctypes.string_at(buffer, size)

    @property
    def tokenizer_addresses(self) -> tuple[int, int]:
        """Where the C vocabulary and `llama_tokenize` are, for other libraries; valid until `close`."""
        function = ctypes.cast(L.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
        vocabulary = ctypes.cast(self.vocab, ctypes.c_void_p).value
        assert function is not None
        assert vocabulary is not None
        return vocabulary, function

    def _suppressed(self) -> Tokens:
        """Tokens that the model says it must never give."""
        count = ctypes.c_int32(0)
        tokens = L.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(count))
        return np.array([tokens[i] for i in range(count.value)], np.int32)

    def fewest_tokens(self, text: str) -> int:
        """A lower bound of the token count of `text`, without looking at it."""
        return -(-len(text) // self._longest_piece)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The tokens of `text`; never two BOS at the front, as when the text already begins with it."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        tokens = (L.llama_token * size)()
        count = L.llama_tokenize(
            self.vocab, data, len(data), tokens, size, add_special, parse_special
        )
        if count < 0:
            tokens = (L.llama_token * -count)()
            count = L.llama_tokenize(
                self.vocab, data, len(data), tokens, -count, add_special, parse_special
            )
        bos = L.llama_vocab_bos(self.vocab)
        doubled = count > 1 and tokens[0] == bos and tokens[1] == bos
        return list(tokens[1 if doubled else 0 : count])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens of the vocabulary, special ones as they are spelled."""
        count = len(tokens)
        ids = (L.llama_token * count)(*tokens)
        size = sum(len(self.spelled[token]) for token in tokens) + 8
        buffer = ctypes.create_string_buffer(size)
        length = L.llama_detokenize(self.vocab, ids, count, buffer, size, False, True)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = L.llama_detokenize(self.vocab, ids, count, buffer, -length, False, True)
        return ctypes.string_at(buffer, length).decode("utf-8", "replace")

    # Computing

    def decode(self, chunks: Sequence[Chunk]) -> tuple[int, list[int]]:
        """Begin one step: llama_decode's code, and the batch rows that will have logits.

        0 done, after `wait` where the backend is asynchronous; 1 no KV slot, nothing changed; anything
        else leaves the context unusable.
        """
        outputs = self._batch.fill(chunks)
        self._watch(self._batch.c.n_tokens)
        self._began = time.monotonic()
        code = L.llama_decode(self.context, self._batch.c)
        self._seconds_of_last = time.monotonic() - self._began
        return code, outputs

    def wait(self) -> None:
        """Until the step is computed."""
        L.llama_synchronize(self.context)
        self._seconds_of_last = time.monotonic() - self._began

    def _watch(self, rows: int) -> None:
        """Signs of life during a slow step; the callback costs a fast one too much (one per graph node)."""
        slow = rows > 32 or self._seconds_of_last >= _FIRST_SIGN_OF_LIFE
        if slow != self._beating:
            callback = self.on_node if slow else L.ggml_abort_callback()
            L.llama_set_abort_callback(self.context, callback, ctypes.c_void_p(0))
            self._beating = slow

    def _beat_on_node(self, _: Any) -> bool:
        self.beat()
        return False  # True would abort the step

    def logits(self, outputs: int) -> Logits:
        """The logits of the last step, (outputs, vocabulary), writable, valid until the next step."""
        pointer = L.llama_get_logits(self.context)
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_at:  # llama.cpp keeps its buffer while that is large enough
            shape = (L.llama_n_seq_max(self.context), self.vocabulary)
            self._logits = np.ctypeslib.as_array(pointer, shape)
            self._logits_at = address
        return self._logits[:outputs]

    def arrange(self, operations: Iterable[Operation]) -> None:
        """Copy and trim sequences in the cache, in order, as the next step needs them."""
        for operation in operations:
            if isinstance(operation, Copy):
                self._copy(operation)
            else:
                start = operation.length or -1  # -1: the whole of it, which every memory can drop
                L.llama_memory_seq_rm(self._memory, operation.id, start, -1)

    def _copy(self, copy: Copy) -> None:
        if self._unified and self.rollback:
            L.llama_memory_seq_cp(self._memory, copy.source, copy.target, 0, copy.length)
            return
        # A state is copied whole, and so are the cells of a sequence with cells of its own.
        L.llama_memory_seq_cp(self._memory, copy.source, copy.target, -1, -1)
        if self.rollback:
            L.llama_memory_seq_rm(self._memory, copy.target, copy.length, -1)

    def held(self, id: int) -> int:
        """Tokens that llama.cpp has of a sequence: the position after its last one."""
        return int(L.llama_memory_seq_pos_max(self._memory, id)) + 1

    def sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> Sampler:
        """What draws the tokens of one request; closed by whoever asked for it."""
        return Sampler(self, sampling, seed, prompt)

    def chain(self, sampling: Sampling, seed: int) -> Any:
        """A sampler chain for these settings; freed by whoever asked for it."""
        chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
        for stage in stages(sampling, seed, self.info.context):
            L.llama_sampler_chain_add(chain, self._stage(stage))
        return chain

    def _stage(self, stage: Stage) -> Any:
        arguments: list[Any] = list(stage.arguments)
        if stage.name in ("penalties", "mirostat"):
            arguments.insert(0, self.vocabulary)
        if stage.name == "dry":
            *arguments, breakers = arguments
            texts = [text.encode() for text in breakers]
            arguments = [
                self.vocab,
                *arguments,
                (ctypes.c_char_p * len(texts))(*texts),
                len(texts),
            ]
        return getattr(L, f"llama_sampler_init_{stage.name}")(*arguments)

    @property
    def architecture(self) -> str:
        """The name by which llama.cpp knows the model's kind; "" where the file does not say."""
        buffer = ctypes.create_string_buffer(64)
        L.llama_model_meta_val_str(self.model, b"general.architecture", buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def log_tail(self) -> str:
        """The last lines of llama.cpp's own log."""
        return self._log.tail()

    def close(self) -> None:
        """Free everything. Samplers must have been closed before."""
        if self.info.generates:
            self._batch.close()
            L.llama_free(self.context)
        L.llama_model_free(self.model)
