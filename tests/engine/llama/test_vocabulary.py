"""The tokens of tiny models: texts to tokens and back, and the special ones."""

from __future__ import annotations

import pytest

from gguf_worker.engine.llama.vocabulary import Vocabulary
from tests.engine.llama.conftest import Open
from tests.tiny_gguf import BOS, EOS

pytestmark = pytest.mark.llama

TEXTS = ["the sea", "deniz 🌊 ığüş", "海の詩", "a\n\tb  c", "<|im_end|>", "the and the" * 20]


@pytest.fixture
def vocabulary(open_tiny: Open) -> Vocabulary:
    return open_tiny("llama").vocabulary


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_text_join_to_the_text(text: str, vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokenize(text, add_special=True, parse_special=False)
    assert b"".join(vocabulary.pieces[token] for token in tokens).decode() == text


def test_a_special_token_is_read_as_such_only_where_asked(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize("<|im_end|>", add_special=False, parse_special=True) == [EOS]
    plain = vocabulary.tokenize("<|im_end|>", add_special=False, parse_special=False)
    assert EOS not in plain
    assert len(plain) > 1


@pytest.mark.parametrize("text", ["sea", "<|endoftext|>sea"])
def test_a_prompt_begins_with_one_bos_and_never_with_two(text: str, open_tiny: Open) -> None:
    llama = open_tiny("llama", {"tokenizer.ggml.add_bos_token": True})
    tokens = llama.vocabulary.tokenize(text, add_special=True, parse_special=True)
    assert tokens[0] == BOS
    assert tokens.count(BOS) == 1


@pytest.mark.parametrize("text", ["", *TEXTS])
def test_a_text_comes_back_from_its_tokens_with_special_ones_as_spelled(
    text: str, vocabulary: Vocabulary
) -> None:
    tokens = vocabulary.tokenize(text, add_special=False, parse_special=True)
    assert vocabulary.detokenize(tokens) == text


def test_special_tokens_are_spelled_where_pieces_have_nothing(vocabulary: Vocabulary) -> None:
    assert (vocabulary.pieces[EOS], vocabulary.spelled[EOS]) == (b"", b"<|im_end|>")
    others = [at for at, piece in enumerate(vocabulary.pieces) if piece]
    assert [vocabulary.spelled[at] for at in others] == [vocabulary.pieces[at] for at in others]


def test_half_a_character_is_a_replacement_character(vocabulary: Vocabulary) -> None:
    (first, *_) = vocabulary.tokenize("🌊", add_special=False, parse_special=False)
    text = vocabulary.detokenize([first])
    assert text in ("🌊", "\N{REPLACEMENT CHARACTER}")


def test_an_empty_text_has_no_tokens(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize("", add_special=True, parse_special=True) == []


def test_control_tokens_have_no_text_and_end_tokens_are_known(vocabulary: Vocabulary) -> None:
    assert vocabulary.pieces[EOS] == vocabulary.pieces[BOS] == b""
    assert EOS in vocabulary.ends
    assert len(vocabulary.pieces) == len(vocabulary)


def test_special_tokens_are_listed_as_they_are_spelled(vocabulary: Vocabulary) -> None:
    special = dict(vocabulary.special)
    assert special
    for text, token in special.items():
        assert vocabulary.tokenize(text, add_special=False, parse_special=True) == [token]
        assert vocabulary.pieces[token] == b""


def test_a_vocabulary_may_have_tokens_for_filling_in_the_middle(open_tiny: Open) -> None:
    ids = dict(zip(("pre", "suf", "mid"), (65, 66, 67), strict=True))
    metadata = {f"tokenizer.ggml.fim_{name}_token_id": id for name, id in ids.items()}
    infill = open_tiny(metadata=metadata).info.infill
    assert len(infill) == len(set(infill)) == 3
    assert open_tiny(metadata=dict(list(metadata.items())[:2])).info.infill == ()


def test_most_vocabularies_have_none(vocabulary: Vocabulary) -> None:
    assert vocabulary.infill == ()
