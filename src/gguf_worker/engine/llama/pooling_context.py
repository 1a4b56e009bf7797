"""A second llama.cpp context on the weights of an opened model, which joins the tokens of texts to vectors or
scores.

It has no cells, ids or batches in common with the context that generates. Whose texts they are is not known
here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence

import llama_cpp as L
import msgspec
import numpy as np

from gguf_worker.engine.llama.context import FLASH_ATTENTION, KV_TYPES, Batch, Llama, LlamaError
from gguf_worker.engine.messages import EngineInfo, EngineSpec
from gguf_worker.engine.texts import Span, Vectors

_POOLINGS = {"mean": 1, "cls": 2, "last": 3, "rank": 4}
_CAUSAL, _NON_CAUSAL = 0, 1
_TEXTS, _TEXTS_WITH_STATES = 64, 8
_SOFTMAX = ("qwen3", "qwen3vl")
"""Architectures whose classes llama.cpp puts through a softmax (llm_graph_context::build_pooling)."""
_LEAST = np.float32(1e-30)
_LONG = 32
"""Rows from which on a batch is long enough that it has to give signs of life."""


class PoolingContext:
    """Computes texts for the Embedder; `close` before the model's own `close`.

    Raises LlamaError if there is no memory for it.
    """

    def __init__(self, llama: Llama, spec: EngineSpec) -> None:
        self._llama = llama
        self.pooling = spec.pooling
        self.causal = spec.causal
        self.longest = spec.context or L.llama_model_n_ctx_train(llama.model)
        self.rows = spec.ubatch_size
        # No more ids than rows of a pass: llama.cpp ends the process where there is no output for each.
        recurrent = L.llama_model_is_recurrent(llama.model) or L.llama_model_is_hybrid(llama.model)
        self.slots = min(_TEXTS_WITH_STATES if recurrent else _TEXTS, self.rows)
        if spec.pooling == "rank":
            self.dimensions = int(L.llama_model_n_cls_out(llama.model))
        else:
            self.dimensions = int(L.llama_model_n_embd_out(llama.model))
        # Of these llama.cpp gives the probabilities of yes and no, where all others have the logit of a score.
        self._odds = (
            spec.pooling == "rank" and self.dimensions == 2 and llama.architecture in _SOFTMAX
        )
        self._context = self._open(spec)
        self._memory = L.llama_get_memory(self._context)
        self._batch = Batch(L.llama_n_batch(self._context))
        self._beating = False
        template = L.llama_model_chat_template(llama.model, b"rerank")
        self._template = template.decode("utf-8", "replace") if template else None
        self._warm_up()

    def _open(self, spec: EngineSpec) -> int:
        params = L.llama_context_default_params()
        # One vector comes of a text in each pass, and one that sees all of its text can't be cut.
        passed = self.rows if self.causal else max(self.rows, self.longest)
        params.n_batch = params.n_ubatch = passed
        # Where there is a memory it holds a batch, and a text that is read in pieces beside it.
        params.n_ctx = self.longest + passed if self.causal else passed
        params.n_seq_max = self.slots
        params.n_threads = params.n_threads_batch = spec.threads
        params.embeddings = True
        params.pooling_type = _POOLINGS[spec.pooling]
        params.attention_type = _CAUSAL if self.causal else _NON_CAUSAL
        params.type_k = params.type_v = KV_TYPES[spec.kv_type]
        params.flash_attn_type = FLASH_ATTENTION[spec.flash_attention]
        params.kv_unified = True
        params.swa_full = True
        handle = L.llama_init_from_model(self._llama.model, params)
        if not handle:
            raise LlamaError(
                "engine_start_failed",
                f"llama.cpp cannot make a context for texts of {self.longest} tokens: "
                f"{self._llama.log_tail()}. Try a smaller CTX_SIZE.",
                permanent=False,
            )
        self._llama.adapt(handle)
        return int(handle)

    def _warm_up(self) -> None:
        """Compute one token, so that the first request does not pay for page faults and kernels."""
        token = max(L.llama_vocab_bos(self._llama.vocab), 0)
        self._decode([_OneToken(token)])
        self.clear(0)

    def described(self, info: EngineInfo) -> EngineInfo:
        """What was opened, with what this adds to it."""
        dimensions = 0 if self.pooling == "rank" else self.dimensions
        return msgspec.structs.replace(info, pooling=self.pooling, dimensions=dimensions)

    def fewest_tokens(self, text: str) -> int:
        """A lower bound of the token count of `text`, without looking at it."""
        return self._llama.fewest_tokens(text)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, begun and ended as the model wants it; special tokens may be spelled."""
        return self._llama.tokenize(text, add_special=True, parse_special=True)

    def pair(self, query: str, document: str) -> list[int]:
        """The tokens of a query and a document as a reranker reads them: as llama.cpp's server has them
        (format_prompt_rerank)."""
        if self._template is not None:
            values = {"{query}": query, "{document}": document}
            filled = re.sub(
                r"\{query\}|\{document\}", lambda found: values[found[0]], self._template
            )
            return self._llama.tokenize(filled, add_special=False, parse_special=True)
        vocab = self._llama.vocab
        eos, sep = L.llama_vocab_eos(vocab), L.llama_vocab_sep(vocab)
        end = [sep if eos < 0 else eos] if L.llama_vocab_get_add_eos(vocab) else []
        between = [sep] if L.llama_vocab_get_add_sep(vocab) else []
        begin = [L.llama_vocab_bos(vocab)] if L.llama_vocab_get_add_bos(vocab) else []
        asked, told = (
            self._llama.tokenize(text, add_special=False, parse_special=False)
            for text in (query, document)
        )
        pair = [*begin, *asked, *end, *between, *told, *end]
        return [token for token in pair if token >= 0]  # a vocabulary may want what it has not got

    def compute(self, pieces: Sequence[Span]) -> Vectors:
        """The vectors of the pieces, (pieces, dimensions). The ids of those that are the last of their text are
        empty again."""
        self._decode(pieces)
        vectors = np.empty((len(pieces), self.dimensions), np.float32)
        for row, piece in enumerate(pieces):
            pointer = L.llama_get_embeddings_seq(self._context, piece.slot)
            vectors[row] = np.ctypeslib.as_array(pointer, (self.dimensions,))
            if piece.last:
                self.clear(piece.slot)
        if self._odds:
            yes, no = np.maximum(vectors[:, :2], _LEAST).T
            vectors[:, 0] = np.log(yes / no)
        return vectors

    def clear(self, slot: int) -> None:
        """Forget what an id holds."""
        if self._memory:
            L.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def _decode(self, pieces: Sequence[Span | _OneToken]) -> None:
        self._batch.fill(pieces)
        rows = self._batch.c.n_tokens
        self._batch.output[:rows] = 1  # pooling needs every token
        self._watch(rows)
        code = L.llama_decode(
            self._context, self._batch.c
        )  # llama_encode, where there is no memory
        L.llama_synchronize(self._context)
        if code != 0:
            raise LlamaError(
                "generation_failed",
                f"llama_decode returned {code} for {rows} tokens of texts: {self._llama.log_tail()}",
                permanent=False,
            )

    def _watch(self, rows: int) -> None:
        long = rows >= _LONG
        if long != self._beating:
            callback = self._llama.on_node if long else L.ggml_abort_callback()
            L.llama_set_abort_callback(self._context, callback, ctypes.c_void_p(0))
            self._beating = long

    def close(self) -> None:
        self._batch.close()
        L.llama_free(self._context)


class _OneToken:
    """What the context is warmed up with."""

    start, slot, rows, output = 0, 0, 1, True

    def __init__(self, token: int) -> None:
        self.tokens = [token]
