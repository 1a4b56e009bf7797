"""A model's vocabulary: the bytes of its tokens, and the conversion of texts to tokens and back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import llama_cpp as L
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.llama.deep_stack import with_deep_stack

_PIECE_BYTES = 1024
_LONGEST_SPECIAL = 128
"""Most bytes of a special token's spelling: it has no piece, but a prompt may spell it."""


class Vocabulary:
    """The vocabulary of an opened model, `model`, which must outlive it.

    Reading it takes some 100,000 short calls, so it is done once, on a thread beside other work.
    """

    pieces: list[bytes]
    """The bytes of every token, empty for special ones. A call for each sampled token would cost 20
    times a list access."""
    ends: npt.NDArray[np.int32]
    """Tokens that end an answer."""
    suppressed: npt.NDArray[np.int32]
    """Tokens that must never be drawn, by the model's own list."""

    def __init__(self, model: Any) -> None:
        self._handle = L.llama_model_get_vocab(model)
        self.bos = int(L.llama_vocab_bos(self._handle))
        """The token that begins a text; negative where there is none."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        tokens = range(L.llama_vocab_n_tokens(self._handle))
        self.pieces = [self._piece(token, buffer, False) for token in tokens]
        ends = [token for token in tokens if L.llama_vocab_is_eog(self._handle, token)]
        self.ends = np.array(ends, np.int32)
        self.suppressed = self._suppressed()
        self._longest_piece = max(_LONGEST_SPECIAL, *map(len, self.pieces))

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.pieces)

    @property
    def handle(self) -> Any:
        """llama.cpp's pointer to the vocabulary."""
        return self._handle

    @cached_property
    def spelled(self) -> list[bytes]:
        """The bytes of every token, special ones as they are spelled; made when first needed."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        return [piece or self._piece(at, buffer, True) for at, piece in enumerate(self.pieces)]

    @property
    def special(self) -> tuple[tuple[str, int], ...]:
        """The spelling and the id of each token that has no piece."""
        return tuple(
            (self.spelled[token].decode("utf-8", "replace"), token)
            for token, piece in enumerate(self.pieces)
            if not piece and self.spelled[token]
        )

    @property
    def infill(self) -> tuple[str, ...]:
        """The spellings of the fill-in-the-middle tokens (prefix, suffix, middle); empty unless the
        vocabulary has all three."""
        marks = (L.llama_vocab_fim_pre, L.llama_vocab_fim_suf, L.llama_vocab_fim_mid)
        tokens = [mark(self._handle) for mark in marks]
        if any(token < 0 for token in tokens):
            return ()
        return tuple(self.spelled[token].decode("utf-8", "replace") for token in tokens)

    @property
    def tokenizer_addresses(self) -> tuple[int, int]:
        """The addresses of the C vocabulary and of `llama_tokenize`, for other libraries."""
        function = ctypes.cast(L.llama_tokenize, ctypes.c_void_p).value
        vocabulary = ctypes.cast(self._handle, ctypes.c_void_p).value
        assert function is not None
        assert vocabulary is not None
        return vocabulary, function

    def fewest_tokens(self, text: str) -> int:
        """Return a lower bound of the token count of `text`, from its length alone."""
        return -(-len(text) // self._longest_piece)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of `text`; BOS comes only once, even if the text begins with it.

        Raises InvalidRequest and Overloaded as `with_deep_stack` does.
        """
        return with_deep_stack(text, lambda: self._tokenize(text, add_special, parse_special))

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        tokens = (L.llama_token * size)()
        count = L.llama_tokenize(
            self._handle, data, len(data), tokens, size, add_special, parse_special
        )
        if count < 0:
            tokens = (L.llama_token * -count)()
            count = L.llama_tokenize(
                self._handle, data, len(data), tokens, -count, add_special, parse_special
            )
        doubled = count > 1 and tokens[0] == self.bos and tokens[1] == self.bos
        return list(tokens[1 if doubled else 0 : count])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens of the vocabulary, special ones as they are spelled."""
        count = len(tokens)
        ids = (L.llama_token * count)(*tokens)
        size = sum(len(self.spelled[token]) for token in tokens) + 8
        buffer = ctypes.create_string_buffer(size)
        length = L.llama_detokenize(self._handle, ids, count, buffer, size, False, True)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = L.llama_detokenize(self._handle, ids, count, buffer, -length, False, True)
        return ctypes.string_at(buffer, length).decode("utf-8", "replace")

    def _piece(self, token: int, buffer: Any, special: bool) -> bytes:
        """Return the bytes of one token; `buffer` is used if it is large enough."""
        size = L.llama_token_to_piece(self._handle, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = L.llama_token_to_piece(self._handle, token, buffer, len(buffer), 0, special)
        return ctypes.string_at(buffer, size)

    def _suppressed(self) -> npt.NDArray[np.int32]:
        count = ctypes.c_int32(0)
        tokens = L.llama_vocab_get_suppress_tokens(self._handle, ctypes.byref(count))
        return np.array([tokens[i] for i in range(count.value)], np.int32)
