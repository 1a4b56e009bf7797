"""Texts of a wanted number of tokens that no server has seen, the same ones for every peer.

They are counted with the tokeniser of the model under test, loaded without its weights.
"""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import llama_cpp

_WORDS = (
    "the sea wind harbour letter morning stone river garden window answer paper quiet early bridge "
    "summer winter market teacher engine station yellow silver simple heavy gentle famous narrow "
    "travel remember measure follow gather promise wander carry listen between under across during "
    "island mountain valley village kitchen library number question picture history weather machine"
)


_SILENCE = llama_cpp.llama_log_callback(lambda level, text, data: None)
"""A sink for llama.cpp's log; our own errors name what it refuses."""


class WrongModel(Exception):
    """A file that llama.cpp cannot load, or that is not there."""


class Vocabulary:
    """The tokeniser of a model file. Raises WrongModel for a file that is none."""

    def __init__(self, model: Path) -> None:
        llama_cpp.llama_log_set(_SILENCE, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(model).encode(), params)
        if not self._model:
            raise WrongModel(f"llama.cpp cannot load {model.name}: is it a whole GGUF file?")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self.ends: tuple[int, ...] = tuple(
            token for token in range(size) if llama_cpp.llama_vocab_is_eog(self._vocabulary, token)
        )
        """The tokens with which an answer ends."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without special ones."""
        data = text.encode()
        # Given an array of length 0, llama.cpp returns the negated number that there would be.
        none = (llama_cpp.llama_token * 1)()
        return -int(
            llama_cpp.llama_tokenize(self._vocabulary, data, len(data), none, 0, False, False)
        )


class Prompts:
    """A stream of texts; another `seed` gives other texts."""

    def __init__(self, vocabulary: Vocabulary, seed: str) -> None:
        self._count = vocabulary.count
        self._random = random.Random(seed)
        self._number = 0

    def text(self, tokens: int) -> str:
        """Return a text of about so many tokens, whose first words no other text has."""
        self._number += 1
        name = f"Notebook {self._random.getrandbits(32):08x} page {self._number}:"
        words = self._random.choices(_WORDS.split(), k=tokens)
        # A word is at least one token, so there are enough; counting once tells how many to keep.
        per_word = self._count(" ".join(words)) / tokens
        wanted = (tokens - self._count(name)) / per_word
        return " ".join([name, *words[: max(1, round(wanted))]])
