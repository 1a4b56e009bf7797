"""llama.cpp's samplers: the chains that draw the tokens of requests.

A chain that takes long to make is made on a thread, beside the loop: one with DRY, which walks the
whole vocabulary for each of its breakers, and one that looks back on a long prompt.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import llama_cpp as L
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing import Banned, Stage, history_length, is_argmax, stages
from gguf_worker.engine.llama.vocabulary import Vocabulary
from gguf_worker.generation import Sampling

_LONG_HISTORY = 2048
"""Length of the history, in tokens, from which a chain is made on the thread: half a microsecond
for each."""
_PROTOTYPES = 8
"""Number of DRY samplers that are kept to be copied."""


class ChainSampler:
    """Draws the tokens of one request from the logits of `context`, llama.cpp's pointer.

    Stateful: penalties, random numbers, mirostat's surprise. `chain` is the chain or its future,
    and this sampler's own; None: the largest logit is drawn.
    """

    def __init__(self, context: Any, sampling: Sampling, chain: Any) -> None:
        self._context = context
        self._making: Future[Any] | None = chain if isinstance(chain, Future) else None
        self._chain = None if self._making is not None else chain
        self.passes = int(chain is not None)
        self._bias_tokens = np.array([token for token, _ in sampling.logit_bias], np.int32)
        self._bias = np.array([bias for _, bias in sampling.logit_bias], np.float32)

    @property
    def ready(self) -> bool:
        """Tells whether the chain is made: until then, nothing may be drawn."""
        if self._making is not None and self._making.done():
            self._chain, self._making = self._making.result(), None
        return self._making is None

    def sample(self, row: int, logits: npt.NDArray[np.float32], banned: Banned) -> int:
        """Return the next token, or -1 if no logit is valid (all are NaN or banned).

        `logits`, of shape (vocabulary,), are those of batch row `row`; biases and bans are written
        into them.
        """
        assert self._making is None
        if len(self._bias):
            logits[self._bias_tokens] += self._bias
        if len(banned):
            logits[banned] = -np.inf
        if self._chain is None:
            token = int(logits.argmax())
        else:
            token = int(L.llama_sampler_sample(self._chain, self._context, row))
        return token if logits[token] > -np.inf else -1  # False for NaN too

    def close(self) -> None:
        """Free the chain, also one that is being made."""
        if self._making is not None and not self._making.cancel():
            self._making.add_done_callback(lambda made: L.llama_sampler_free(made.result()))
        if self._chain is not None:
            L.llama_sampler_free(self._chain)
        self._chain = self._making = None


class SamplerMaker:
    """Makes the samplers of one context.

    `length` is the number of tokens that a request may have, which bounds how far samplers look
    back. DRY samplers are copies of prototypes, which only the thread touches.
    """

    def __init__(self, context: Any, vocabulary: Vocabulary, length: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._length = length
        self._thread: ThreadPoolExecutor | None = None
        self._prototypes: OrderedDict[Stage, Any] = OrderedDict()

    def sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> ChainSampler:
        """Return a sampler, to be closed before the maker; `prompt` has the tokens that it looks
        back on at first."""
        if is_argmax(sampling):
            return ChainSampler(self._context, sampling, None)
        chosen = stages(sampling, seed, self._length)
        known = history_length(sampling, self._length)
        history = prompt[-known:] if known else ()
        if len(history) < _LONG_HISTORY and all(stage.name != "dry" for stage in chosen):
            return ChainSampler(self._context, sampling, self._chain(chosen, history))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "samplers")
        chain = self._thread.submit(self._chain, chosen, history)
        return ChainSampler(self._context, sampling, chain)

    def close(self) -> None:
        """End the thread, and free the prototypes."""
        if self._thread is not None:
            self._thread.shutdown()
        while self._prototypes:
            L.llama_sampler_free(self._prototypes.popitem()[1])

    def _chain(self, chosen: Sequence[Stage], history: Sequence[int]) -> Any:
        """Make a sampler chain that has seen `history`; it owns its samplers."""
        chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
        for stage in chosen:
            sampler = self._dry(stage) if stage.name == "dry" else self._plain(stage)
            L.llama_sampler_chain_add(chain, sampler)
        for token in history:
            L.llama_sampler_accept(chain, token)
        return chain

    def _plain(self, stage: Stage) -> Any:
        arguments: list[Any] = list(stage.arguments)
        if stage.name in ("penalties", "mirostat"):
            arguments.insert(0, len(self._vocabulary))
        return getattr(L, f"llama_sampler_init_{stage.name}")(*arguments)

    def _dry(self, stage: Stage) -> Any:
        """Copy the prototype of a DRY sampler, made if it is not known."""
        prototype = self._prototypes.pop(stage, None) or self._new_dry(stage)
        self._prototypes[stage] = prototype
        if len(self._prototypes) > _PROTOTYPES:
            L.llama_sampler_free(self._prototypes.popitem(last=False)[1])
        return L.llama_sampler_clone(prototype)

    def _new_dry(self, stage: Stage) -> Any:
        *arguments, breakers = stage.arguments
        assert isinstance(breakers, tuple)
        texts = [text.encode("utf-8", "replace") for text in breakers]
        array = (ctypes.c_char_p * len(texts))(*texts)
        return L.llama_sampler_init_dry(self._vocabulary.handle, *arguments, array, len(texts))
