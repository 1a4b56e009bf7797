"""A second llama.cpp context on a model's weights, which computes vectors or scores of texts.

It has no cells, ids or batches in common with the context for generation. Knows spans of texts, not
the requests that they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import llama_cpp as L
import msgspec
import numpy as np

from gguf_worker.engine.llama.batch import Batch
from gguf_worker.engine.llama.context import FLASH_ATTENTION, KV_TYPES, Llama
from gguf_worker.engine.llama.heartbeat import Heartbeat
from gguf_worker.engine.llama.native_log import LlamaError
from gguf_worker.engine.messages import EngineInfo, EngineSpec
from gguf_worker.engine.texts import Span, Vectors

_POOLINGS = {"mean": 1, "cls": 2, "last": 3, "rank": 4}
_CAUSAL, _NON_CAUSAL = 0, 1
_TEXTS, _TEXTS_WITH_STATES = 64, 8
_SOFTMAX = ("qwen3", "qwen3vl")
"""Architectures whose class logits go through a softmax (llm_graph_context::build_pooling)."""
_LEAST = np.float32(1e-30)
_SLOW_ROWS = 32
"""Number of rows from which a batch gives signs of life."""


class PoolingContext:
    """Computes vectors or scores for the Embedder; has to be closed before the model.

    Raises LlamaError if there is no memory for it.
    """

    def __init__(self, llama: Llama, spec: EngineSpec) -> None:
        self._llama = llama
        self._vocabulary = llama.vocabulary
        self.pooling = spec.pooling
        self.causal = spec.causal
        self.longest = spec.context or llama.weights.trained_context
        self.rows = spec.ubatch_size
        # No more ids than rows of a pass: without an output for each, llama.cpp ends the process.
        most = _TEXTS_WITH_STATES if llama.weights.has_state else _TEXTS
        self.slots = min(most, self.rows)
        ranks = spec.pooling == "rank"
        outputs = L.llama_model_n_cls_out if ranks else L.llama_model_n_embd_out
        self.dimensions = int(outputs(llama.weights.handle))
        # These models give the probabilities of yes and no; other rerankers the logit of a score.
        softmax = llama.weights.architecture in _SOFTMAX
        self._gives_odds = ranks and self.dimensions == 2 and softmax
        self._context = self._open(spec)
        self._memory = L.llama_get_memory(self._context)
        self._batch = Batch(L.llama_n_batch(self._context))
        self._heartbeat = Heartbeat(self._context, lambda: llama.beat())
        template = L.llama_model_chat_template(llama.weights.handle, b"rerank")
        self._template = template.decode("utf-8", "replace") if template else None
        self._warm_up()

    def _open(self, spec: EngineSpec) -> int:
        params = L.llama_context_default_params()
        # Each pass gives a vector for each text, so a text that cannot be read in spans (attention
        # is not causal) has to fit into one pass.
        pass_rows = self.rows if self.causal else max(self.rows, self.longest)
        # llama.cpp ends the process where a pass for means is no multiple of the sequences.
        pass_rows = -(-pass_rows // self.slots) * self.slots
        params.n_batch = params.n_ubatch = pass_rows
        # The memory, where there is one, holds a batch and one text that is read in spans.
        params.n_ctx = self.longest + pass_rows if self.causal else pass_rows
        params.n_seq_max = self.slots
        params.n_threads = params.n_threads_batch = spec.threads
        params.embeddings = True
        params.pooling_type = _POOLINGS[spec.pooling]
        params.attention_type = _CAUSAL if self.causal else _NON_CAUSAL
        params.type_k = params.type_v = KV_TYPES[spec.kv_type]
        params.flash_attn_type = FLASH_ATTENTION[spec.flash_attention]
        params.kv_unified = True
        params.swa_full = True
        handle = L.llama_init_from_model(self._llama.weights.handle, params)
        if not handle:
            raise LlamaError(
                "engine_start_failed",
                f"llama.cpp cannot make a context for texts of {self.longest} tokens: "
                f"{self._llama.log_tail()}. Try a smaller CTX_SIZE.",
                permanent=False,
                lacking=True,
            )
        self._llama.weights.apply_adapters(handle)
        return int(handle)

    def _warm_up(self) -> None:
        """Compute one token, so that the first request does not pay for page faults and kernels."""
        self._decode([_WarmUpToken(max(self._vocabulary.bos, 0))])
        self._clear(0)

    def described(self, info: EngineInfo) -> EngineInfo:
        """Return `info`, completed with the pooling and the length of embeddings."""
        dimensions = 0 if self.pooling == "rank" else self.dimensions
        return msgspec.structs.replace(info, pooling=self.pooling, dimensions=dimensions)

    def fewest_tokens(self, text: str) -> int:
        """Return a lower bound of the token count of `text`, from its length alone."""
        return self._vocabulary.fewest_tokens(text)

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text, with BOS and EOS where the model wants them; spelled special
        tokens are read as such."""
        return self._vocabulary.tokenize(text, add_special=True, parse_special=True)

    def pair(self, query: str, document: str) -> list[int]:
        """Return the tokens of a query and a document as a reranker reads them.

        The format is that of llama.cpp's server (format_prompt_rerank).
        """
        if self._template is not None:
            values = {"{query}": query, "{document}": document}
            filled = re.sub(
                r"\{query\}|\{document\}", lambda found: values[found[0]], self._template
            )
            return self._vocabulary.tokenize(filled, add_special=False, parse_special=True)
        vocab = self._vocabulary.handle
        eos, sep = L.llama_vocab_eos(vocab), L.llama_vocab_sep(vocab)
        end = [sep if eos < 0 else eos] if L.llama_vocab_get_add_eos(vocab) else []
        between = [sep] if L.llama_vocab_get_add_sep(vocab) else []
        begin = [self._vocabulary.bos] if L.llama_vocab_get_add_bos(vocab) else []
        first, second = (
            self._vocabulary.tokenize(text, add_special=False, parse_special=False)
            for text in (query, document)
        )
        pair = [*begin, *first, *end, *between, *second, *end]
        return [token for token in pair if token >= 0]  # some vocabularies want a token they lack

    def compute(self, spans: Sequence[Span]) -> Vectors:
        """Compute spans and return their vectors, of shape (spans, dimensions).

        The sequence ids of spans that end their text are cleared.
        """
        self._decode(spans)
        vectors = np.empty((len(spans), self.dimensions), np.float32)
        for row, span in enumerate(spans):
            pointer = L.llama_get_embeddings_seq(self._context, span.slot)
            vectors[row] = np.ctypeslib.as_array(pointer, (self.dimensions,))
            if span.last:
                self._clear(span.slot)
        if self._gives_odds:
            yes, no = np.maximum(vectors[:, :2], _LEAST).T
            vectors[:, 0] = np.log(yes / no)
        return vectors

    def reset(self) -> None:
        """Drop all tokens, and all that their cells and states held."""
        if self._memory:
            L.llama_memory_clear(self._memory, True)

    def _clear(self, slot: int) -> None:
        if self._memory:
            L.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def _decode(self, spans: Sequence[Span | _WarmUpToken]) -> None:
        self._batch.fill(spans)
        rows = self._batch.c.n_tokens
        self._batch.output[:rows] = 1  # pooling needs every token
        self._heartbeat.switch(rows >= _SLOW_ROWS)
        # Without a memory this is llama_encode.
        code = L.llama_decode(self._context, self._batch.c)
        L.llama_synchronize(self._context)
        if code != 0:
            raise LlamaError(
                "generation_failed",
                f"llama_decode returned {code} for {rows} tokens of texts: "
                f"{self._llama.log_tail()}",
                permanent=False,
            )

    def close(self) -> None:
        """Free the context."""
        self._batch.close()
        L.llama_free(self._context)


class _WarmUpToken:
    """One row, with which the context is warmed up."""

    start, slot, rows, output, scored = 0, 0, 1, True, 0

    def __init__(self, token: int) -> None:
        self.tokens = [token]
