"""A model's vocabulary: the bytes of its tokens, and the conversion of texts to tokens and back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import llama_cpp as L
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.llama.deep_stack import with_deep_stack
from gguf_worker.engine.llama.special_marks import Special, SpecialMarks

Tokens = npt.NDArray[np.int32]

_PIECE_BYTES = 1024
_CONTROL = L.LLAMA_TOKEN_ATTR_CONTROL | L.LLAMA_TOKEN_ATTR_UNKNOWN
_STRIPS_BEFORE, _STRIPS_AFTER = L.LLAMA_TOKEN_ATTR_LSTRIP, L.LLAMA_TOKEN_ATTR_RSTRIP
_POINTER = ctypes.POINTER(L.llama_token)


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
        self._kind = int(L.llama_vocab_type(self._handle))
        self._drops_white_space = _name(model) == "whitespace"
        self.bos = int(L.llama_vocab_bos(self._handle))
        """The token that begins a text; negative where there is none."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        tokens = range(L.llama_vocab_n_tokens(self._handle))
        self.pieces = [self._piece(token, buffer, False) for token in tokens]
        ends = [token for token in tokens if L.llama_vocab_is_eog(self._handle, token)]
        self.ends = np.array(ends, np.int32)
        self.suppressed = self._suppressed()

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
        """Return a lower bound of the token count of `text`, from its length alone; 0 for
        tokenisers that leave out some of a text."""
        return -(-len(text) // self._longest_piece) if self._longest_piece else 0

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of `text`; BOS comes only once, even if the text begins with it.

        Raises InvalidRequest and Overloaded as `with_deep_stack` does.
        """
        tokens = self._tokenize(text, add_special, parse_special)
        return list(tokens[self._doubled(tokens) :].tolist())

    def pieces_of(self, text: str, *, parse_special: bool) -> Iterator[str]:
        """Yield `text` in pieces that can be tokenised one by one: it is cut before special
        tokens."""
        return self._marks[parse_special].pieces(text)

    def tokens_of(self, piece: str, *, parse_special: bool) -> Tokens:
        """Return the tokens of a piece of a text. Those of all pieces together, between those of
        `frame`, are the tokens of the text, but for a second BOS. Raises as `tokenize` does."""
        return self._tokenize(piece, False, parse_special)

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The tokens that are added before and after a text."""
        added = self._tokenize("", True, False).tolist()
        adds_bos = self._kind == L.LLAMA_VOCAB_TYPE_WPM or L.llama_vocab_get_add_bos(self._handle)
        count = 1 if adds_bos else 0
        return added[:count], added[count:]

    def _doubled(self, tokens: Tokens) -> int:
        """Return 1 if the tokens begin with two BOS, of which the first is left out, else 0."""
        return int(len(tokens) > 1 and tokens[0] == tokens[1] == self.bos)

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> Tokens:
        return with_deep_stack(text, lambda: self._read(text, add_special, parse_special))

    def _read(self, text: str, add_special: bool, parse_special: bool) -> Tokens:
        data = text.encode("utf-8", "replace")
        count = -(len(data) + 8)
        while count < 0:  # the buffer was too small
            size = -count
            tokens = np.empty(size, np.int32)
            pointer = tokens.ctypes.data_as(_POINTER)
            count = L.llama_tokenize(
                self._handle, data, len(data), pointer, size, add_special, parse_special
            )
        return tokens[:count]

    @cached_property
    def _marks(self) -> dict[bool, SpecialMarks]:
        """The special tokens that a text may spell, by whether control tokens are read as such."""
        specials = self._specials
        plain = (special for special, attributes in specials if not attributes & _CONTROL)
        return {True: SpecialMarks(special for special, _ in specials), False: SpecialMarks(plain)}

    @cached_property
    def _specials(self) -> list[tuple[Special, int]]:
        """The tokens that llama.cpp looks for before it reads a text, and their attributes."""
        found = []
        for token in range(len(self.pieces)):
            attributes = int(L.llama_vocab_get_attr(self._handle, token))
            if attributes & (_CONTROL | L.LLAMA_TOKEN_ATTR_USER_DEFINED):
                text = _spelling(L.llama_vocab_get_text(self._handle, token))
                before, after = attributes & _STRIPS_BEFORE, attributes & _STRIPS_AFTER
                found.append((Special(text, bool(before), bool(after)), attributes))
        return found

    @cached_property
    def _longest_piece(self) -> int:
        """Most characters of a text that one token can stand for; 0: there is no limit."""
        complete = self._kind in (L.LLAMA_VOCAB_TYPE_SPM, L.LLAMA_VOCAB_TYPE_RWKV) or (
            # A character of which a byte has no token is left out.
            self._kind == L.LLAMA_VOCAB_TYPE_BPE
            and not self._drops_white_space
            and {bytes([value]) for value in range(256)} <= set(self.pieces)
        )
        strips = any(each.strips_before or each.strips_after for each, _ in self._specials)
        return max(map(len, self.spelled)) if complete and not strips else 0

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens of the vocabulary, special ones as they are spelled."""
        count = len(tokens)
        ids = np.array(tokens, np.int32).ctypes.data_as(_POINTER)
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


def _name(model: Any) -> str:
    """Return the name of the model's tokeniser in its file."""
    buffer = ctypes.create_string_buffer(64)
    L.llama_model_meta_val_str(model, b"tokenizer.ggml.model", buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def _spelling(text: bytes) -> str:
    """Return a token's spelling; "" where it is no Unicode, so that no text can have it."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return ""
