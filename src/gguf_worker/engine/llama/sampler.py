"""llama.cpp's samplers: the chain that draws one request's tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp as L
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing import Banned, Stage, history_length, is_argmax, stages
from gguf_worker.engine.llama.vocabulary import Vocabulary
from gguf_worker.generation import Sampling


class ChainSampler:
    """Draws the tokens of one request from the logits of `context`, llama.cpp's pointer.

    Stateful: penalties, random numbers, mirostat's surprise. `length` is the number of tokens that
    a request may have, which bounds how far samplers look back; `prompt` has the tokens that they
    look back on at first.
    """

    def __init__(
        self,
        context: Any,
        vocabulary: Vocabulary,
        length: int,
        sampling: Sampling,
        seed: int,
        prompt: Sequence[int],
    ) -> None:
        self._context = context
        needs_chain = not is_argmax(sampling)
        self._chain = _chain(vocabulary, stages(sampling, seed, length)) if needs_chain else None
        self.passes = int(needs_chain)
        self._bias_tokens = np.array([token for token, _ in sampling.logit_bias], np.int32)
        self._bias = np.array([bias for _, bias in sampling.logit_bias], np.float32)
        if needs_chain and (known := history_length(sampling, length)):
            for token in prompt[-known:]:
                L.llama_sampler_accept(self._chain, token)

    def sample(self, row: int, logits: npt.NDArray[np.float32], banned: Banned) -> int:
        """Return the next token, or -1 if no logit is valid (all are NaN or banned).

        `logits`, of shape (vocabulary,), are those of batch row `row`; biases and bans are written
        into them.
        """
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
        """Free the chain."""
        if self._chain is not None:
            L.llama_sampler_free(self._chain)
            self._chain = None


def _chain(vocabulary: Vocabulary, chosen: Sequence[Stage]) -> Any:
    """Make a sampler chain, to be freed by the caller; it owns its samplers."""
    chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
    for stage in chosen:
        L.llama_sampler_chain_add(chain, _sampler(vocabulary, stage))
    return chain


def _sampler(vocabulary: Vocabulary, stage: Stage) -> Any:
    arguments: list[Any] = list(stage.arguments)
    if stage.name in ("penalties", "mirostat"):
        arguments.insert(0, len(vocabulary))
    if stage.name == "dry":
        *arguments, breakers = arguments
        texts = [text.encode() for text in breakers]
        array = (ctypes.c_char_p * len(texts))(*texts)
        arguments = [vocabulary.handle, *arguments, array, len(texts)]
    return getattr(L, f"llama_sampler_init_{stage.name}")(*arguments)
