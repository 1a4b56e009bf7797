"""A model's vocabulary: the bytes of its tokens, and the conversion of texts to tokens and back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import llama_cpp as L
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.llama.deep_stack import with_deep_stack
from gguf_worker.engine.llama.lone_characters import LoneCharacters
from gguf_worker.engine.llama.special_marks import Special, SpecialMarks
from gguf_worker.engine.llama.text_rules import TextRules

Tokens = npt.NDArray[np.int32]

_PIECE_BYTES = 1024
_WHOLE = 1024
"""Most characters of a text that is not cut."""
_SHORT = 4096
"""Most characters of a text that is as soon read as its tokens are counted."""
_PART = 64 * 1024
"""Tokens that are made a list at once, or an array of one, holding Python's lock."""
_CONTROL = L.LLAMA_TOKEN_ATTR_CONTROL | L.LLAMA_TOKEN_ATTR_UNKNOWN
_STRIPS_BEFORE, _STRIPS_AFTER = L.LLAMA_TOKEN_ATTR_LSTRIP, L.LLAMA_TOKEN_ATTR_RSTRIP
_CONTINUATIONS = frozenset(bytes([value]) for value in range(0x80, 0xC0))
"""The bytes of which every character beyond ASCII has one."""
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
        name, pre = (_value(model, b"tokenizer.ggml." + key) for key in (b"model", b"pre"))
        self._drops_white_space = name == "whitespace"
        self._reads_lines = name in ("gpt2", "gemma4") and pre != "superbpe"
        self.bos = int(L.llama_vocab_bos(self._handle))
        """The token that begins a text; negative where there is none."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        tokens = range(L.llama_vocab_n_tokens(self._handle))
        self.pieces = [self._piece(token, buffer, False) for token in tokens]
        ends = [token for token in tokens if L.llama_vocab_is_eog(self._handle, token)]
        self.ends = np.array(ends, np.int32)
        self.suppressed = self._suppressed()
        falls_back = self._kind == L.LLAMA_VOCAB_TYPE_SPM
        self._rules = TextRules(self.pieces, falls_back=falls_back, pre=pre)

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
        """Return a lower bound of the token count of `text`, from its length alone; 0 for a short
        text, which is as soon read, and for tokenisers that leave out some of a text."""
        if len(text) <= _SHORT or not self._longest_piece:
            return 0
        read = len(text) - sum(map(text.count, self._left_out))
        return -(-read // self._longest_piece)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of `text`; BOS comes only once, even if the text begins with it.

        Raises InvalidRequest as `TextRules` and `with_deep_stack` do, and Overloaded as the latter.
        """
        parts = self.read(text, add_special=add_special, parse_special=parse_special)
        return list(chain.from_iterable(parts))

    def read(self, text: str, *, add_special: bool, parse_special: bool) -> Iterator[list[int]]:
        """Yield the tokens of `text`, as `tokenize` returns them, in parts that each take a short
        time, unless much of the text has no special tokens."""
        seen, begin = 0, list[int]()
        for part in self._parts(text, add_special, parse_special):
            if seen < 2:  # a second BOS is left out
                begin += part
                seen = len(begin)
                if seen < 2:
                    continue
                part = begin[begin[0] == begin[1] == self.bos :]
            yield part
        if seen < 2:
            yield begin

    def _parts(self, text: str, add_special: bool, parse_special: bool) -> Iterator[list[int]]:
        if len(text) <= _WHOLE:
            yield self._tokenize(text, add_special, parse_special).tolist()
            return
        before, after = self._frame if add_special else ([], [])
        if before:
            yield before
        for piece in self._marks[parse_special].pieces(text):
            for tokens in self._pieces(piece, parse_special):
                for at in range(0, len(tokens), _PART):
                    yield tokens[at : at + _PART].tolist()
        if after:
            yield after

    def _pieces(self, text: str, parse_special: bool) -> Iterator[Tokens]:
        """Yield the tokens of what lies between two cuts at special tokens."""
        if self._lone is None:
            yield self._tokenize(text, False, parse_special)
            return
        first, *others = self._lone.pieces(text)
        yield self._tokenize(first, False, parse_special)
        for piece in others:
            once, twice = (len(self._tokenize(piece[0] * n, False, False)) for n in (1, 2))
            space = 2 * once - twice  # tokens that are put before a text
            yield self._tokenize(piece, False, parse_special)[space:]

    @cached_property
    def _lone(self) -> LoneCharacters | None:
        if self._kind != L.LLAMA_VOCAB_TYPE_SPM:
            return None
        return LoneCharacters(self.spelled, (special.text for special, _ in self._specials))

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """The tokens that are added before and after a text."""
        added = self._tokenize("", True, False).tolist()
        adds_bos = self._kind == L.LLAMA_VOCAB_TYPE_WPM or L.llama_vocab_get_add_bos(self._handle)
        count = 1 if adds_bos else 0
        return added[:count], added[count:]

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> Tokens:
        self._rules.check(text)
        return with_deep_stack(text, lambda: self._call(text, add_special, parse_special))

    def _call(self, text: str, add_special: bool, parse_special: bool) -> Tokens:
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
        every = [special for special, _ in self._specials]
        plain = [special for special, attributes in self._specials if not attributes & _CONTROL]
        return {
            parsed: SpecialMarks(specials, lines=self._reads_lines)
            for parsed, specials in ((True, every), (False, plain))
        }

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
        kinds = (L.LLAMA_VOCAB_TYPE_SPM, L.LLAMA_VOCAB_TYPE_BPE, L.LLAMA_VOCAB_TYPE_RWKV)
        strips = any(each.strips_before or each.strips_after for each, _ in self._specials)
        if self._kind not in kinds or self._drops_white_space or strips:
            return 0
        if self._kind == L.LLAMA_VOCAB_TYPE_BPE and not set(self.pieces) >= _CONTINUATIONS:
            return 0
        return max(map(len, self.spelled))

    @cached_property
    def _left_out(self) -> list[str]:
        """The characters for which there may be no token. Of others one byte has one at least."""
        known = set(self.pieces)
        return [chr(value) for value in range(128) if bytes([value]) not in known]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens of the vocabulary, special ones as they are spelled."""
        count = len(tokens)
        numbers = np.empty(count, np.int32)
        for at in range(0, count, _PART):
            numbers[at : at + _PART] = tokens[at : at + _PART]
        ids = numbers.ctypes.data_as(_POINTER)
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


def _value(model: Any, key: bytes) -> str:
    """Return a text of the model's file; "" where it has none."""
    buffer = ctypes.create_string_buffer(64)
    L.llama_model_meta_val_str(model, key, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def _spelling(text: bytes) -> str:
    """Return a token's spelling; "" where it is no Unicode, so that no text can have it."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return ""
