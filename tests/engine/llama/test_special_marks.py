"""Texts that are read in pieces: they have the tokens that one call would give."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import llama_cpp as L
import pytest

from benchmarks.random_model import byte_alphabet
from gguf_worker.engine.llama import lone_characters, special_marks, vocabulary
from gguf_worker.engine.llama.special_marks import Special, SpecialMarks
from gguf_worker.engine.llama.vocabulary import Vocabulary
from gguf_worker.errors import InvalidRequest
from gguf_worker.models.gguf.tokenizers import PRE_TOKENIZERS
from tests.tiny_gguf import write_tiny

pytestmark = pytest.mark.llama

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
SPELLED = {
    "<unk>": UNKNOWN,
    "<s>": CONTROL,
    "</s>": CONTROL,
    "<|endoftext|>": CONTROL,
    "<|im|>": CONTROL,
    "<|im|>x": USER,
    "<mask>": CONTROL,
    "\n": USER,
    "\n\n": USER,
    "\n\n\n": USER,
    " \n": USER,
    "  ": CONTROL,
    "ab": USER,
    "aba": CONTROL,
    "abcd": USER,
    "cdab": USER,
    "dé": CONTROL,
    "\u2581\u2581": USER,
}
"""Special tokens that overlap, contain one another, or are white space."""
WORDS = [
    *SPELLED,
    *("a", "b", "c", "d", "x", "é", "海", " ", "\t", "<", ">", "|im|>", "12", ".", "the", " the"),
    "\ufeff",
    "Ö\u0308",
]

Opened = Callable[..., Vocabulary]


def bytes_as_tokens() -> list[tuple[str, int]]:
    return [(f"<0x{value:02X}>", BYTE) for value in range(256)]


def pieces(mark: str) -> list[tuple[str, int]]:
    """Letters and words behind `mark`, where they begin a word."""
    words = [
        "a",
        "b",
        "c",
        "d",
        "x",
        "th",
        "the",
        "e",
        "t",
        "h",
        "1",
        "2",
        "12",
        ".",
        "é",
        "<",
        ">",
    ]
    marked = [mark + word for word in words if mark] + [mark] if mark else [" ", " the"]
    return [(word, NORMAL) for word in [*words, *marked]]


def metadata_of(kind: str) -> dict[str, Any]:
    """The keys of a vocabulary with all of SPELLED."""
    name, _, pre = kind.partition("/")
    special = list(SPELLED.items())
    if name == "gpt2":
        alphabet = byte_alphabet()
        del alphabet[4]  # many vocabularies lack some control characters
        plain = [(each, NORMAL) for each in [*alphabet, "th", "Ġthe"]]
    elif name in ("llama", "plamo2"):
        plain = bytes_as_tokens() + pieces("\u2581" if name == "llama" else "")
    elif name == "rwkv":
        plain = [(f"\\x{value:02x}", NORMAL) for value in range(256)] + pieces("")
    else:
        plain = pieces("\u2581")
    known = dict(special) | {word: kind for word, kind in plain if word not in SPELLED}
    tokens = list(known)
    tokens += [f"[unused{number}]" for number in range(512 - len(tokens))]
    kinds = [*known.values(), *[5] * (512 - len(known))]
    return {
        "general.name": "Phi-3 tiny" if pre == "strips" else "tiny",
        "tokenizer.ggml.model": name,
        "tokenizer.ggml.pre": pre if pre not in ("", "strips") else "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [-float(number % 17) for number in range(512)],
        "tokenizer.ggml.merges": ["t h", "Ġ t", "a b"],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": name == "t5",
    }


STRIPPING = ("jina-v2-code", "jina-v2-de", "jina-v2-es")
"""Pre-tokenisers of which a token takes away white space."""
KINDS = (
    "gpt2/gpt-2",
    "gpt2/tekken",
    "gpt2/gemma4",
    "gpt2/superbpe",
    "gpt2/jina-v2-code",
    "llama",
    "llama/strips",
    "bert",
    "t5",
    "rwkv",
    "plamo2",
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Opens a vocabulary of a kind."""
    folder = tmp_path_factory.mktemp("vocabularies")
    models: dict[str, Any] = {}

    def open_kind(
        kind: str, more: Mapping[str, Any] | None = None, vocabulary: int = 512
    ) -> Vocabulary:
        key = f"{kind} {more}"
        if key not in models:
            path = Path(folder / f"{len(models)}.gguf")
            metadata = metadata_of(kind) | dict(more or {})
            write_tiny(path, layers=1, vocabulary=vocabulary, metadata=metadata)
            parameters = L.llama_model_default_params()
            parameters.vocab_only = True
            models[key] = L.llama_model_load_from_file(str(path).encode(), parameters)
            assert models[key]
        return Vocabulary(models[key])

    yield open_kind
    for model in models.values():
        L.llama_model_free(model)


def texts(seed: int, count: int) -> Iterator[str]:
    chance = random.Random(seed)
    for number in range(count):
        some = chance.sample(WORDS, chance.randint(1, len(WORDS)))
        yield "".join(chance.choices(some, k=chance.randint(0, 3 + number % 50)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parse_special", [True, False])
def test_the_pieces_of_a_text_have_the_tokens_of_the_whole(
    kind: str, parse_special: bool, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(kind)
    cut = 0
    for number, text in enumerate(texts(7, 1500)):
        monkeypatch.setattr(special_marks, "_MARKS", number % 3)
        monkeypatch.setattr(special_marks, "_CHARACTERS", (1, 99, 5)[number % 3])
        monkeypatch.setattr(special_marks, "_WINDOW", (1, 7, 64 * 1024)[number % 3])
        monkeypatch.setattr(lone_characters, "_CHARACTERS", 1 + number % 3)
        monkeypatch.setattr(lone_characters, "_WINDOW", (1, 7, 64 * 1024)[number % 3])
        flags = {"add_special": number % 5 > 0, "parse_special": parse_special}
        monkeypatch.setattr(vocabulary, "_WHOLE", len(text))
        whole = model.tokenize(text, **flags)
        monkeypatch.setattr(vocabulary, "_WHOLE", -1)
        parts = list(model.read(text, **flags))
        assert [token for part in parts for token in part] == whole, repr(text)
        cut += len(parts) > 4
    assert cut > 300, "most texts were read as a whole"


def test_characters_without_tokens_are_read_in_short_pieces(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's time for them grows with the square of their number: minutes for a long text."""
    longest = 0
    model = opened("llama")
    read = model._tokenize

    def noted(text: str, add_special: bool, parse_special: bool) -> vocabulary.Tokens:
        nonlocal longest
        longest = max(longest, len(text))
        return read(text, add_special, parse_special)

    monkeypatch.setattr(model, "_tokenize", noted)
    for text in ("海" * 20_000, "a海" * 20_000, "<|im|> 海" * 4000):
        parts = model.read(text, add_special=True, parse_special=True)
        assert sum(map(len, parts)) > 20_000
        assert longest < 2048


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parse_special", [True, False])
def test_no_text_has_fewer_tokens_than_promised(
    kind: str, parse_special: bool, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(kind)
    monkeypatch.setattr(vocabulary, "_SHORT", -1)
    some = ["a", " ", "海", "\4", "é\4", "abcd", "Ö\u0308", "\ufeff", "<|im|>", "<|im|>  "]
    for text in [*texts(8, 500), *(each * 3000 for each in some)]:
        tokens = model.tokenize(text, add_special=False, parse_special=parse_special)
        assert model.fewest_tokens(text) <= len(tokens), repr(text[:99])


def test_a_long_text_is_known_to_have_many_tokens(opened: Opened) -> None:
    for kind in ("gpt2/gpt-2", "llama", "rwkv"):
        model = opened(kind)
        assert model.fewest_tokens("a" * 1_000_000) == 1_000_000 // len("<|endoftext|>") + 1
        assert model.fewest_tokens("a" * 4096) == 0, "it is as soon read"


def test_the_longest_mark_is_a_token_and_may_begin_a_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(special_marks, "_MARKS", 0)
    marks = SpecialMarks(map(Special, ["ab", "bcd", "<a>", "\n", "\n\n", "xy", "yz"]))
    cuts = {
        "1<a>2<a>3": ["1", "<a>2", "<a>3"],
        "1ab2": ["1", "ab2"],
        "1abcd2": ["1abcd2"],  # "bcd" is longer, so that "a" belongs to "1"
        "1\n\n2": ["1", "\n\n2"],
        "1\n\n\n2\n": ["1", "\n\n\n2", "\n"],
        "1xyz2": ["1xyz2"],  # which of the two is found first is not known
        "": [],
    }
    assert {text: list(marks.pieces(text)) for text in cuts} == cuts


def test_a_text_is_not_cut_before_marks_that_take_away_white_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(special_marks, "_MARKS", 0)
    marks = SpecialMarks([Special("<a>", strips_before=True), Special("<b>"), Special("\n")])
    assert list(marks.pieces("1 <a>\n2 <b>3")) == ["1 <a>\n2 ", "<b>3"]


def test_pieces_have_some_marks_or_some_length() -> None:
    marks = SpecialMarks([Special("<a>")])
    assert max(map(len, marks.pieces("<a>" * 9999))) == 128 * 3
    assert list(marks.pieces("1<a>" * 3)) == ["1<a>" * 3]
    assert len(list(marks.pieces(("1" * 5000 + "<a>") * 8))) == 3


def test_without_marks_a_text_is_one_piece() -> None:
    assert list(SpecialMarks([]).pieces("1<a>" * 9999)) == ["1<a>" * 9999]
    assert list(SpecialMarks([Special("")]).pieces("abc")) == ["abc"]


def test_a_character_that_would_end_the_process_is_refused(
    opened: Opened,
) -> None:
    """In a vocabulary without bytes, as SentencePiece makes it where nothing else is asked for."""
    tokens = metadata_of("llama")["tokenizer.ggml.tokens"]
    bare = [f"x{token}" if token.startswith("<0x") else token for token in tokens]
    bare[bare.index("x<0x0A>")] = "<0x0A>"  # llama.cpp looks it up as it opens the file
    model = opened("llama", {"tokenizer.ggml.tokens": bare})
    assert model.tokenize("the a", add_special=False, parse_special=True)
    with pytest.raises(InvalidRequest, match="no token for 'Z'"):
        model.tokenize("the Z", add_special=False, parse_special=True)


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS - {"whitespace"}))
def test_no_word_goes_on_from_a_line_to_the_next_where_both_have_letters(
    pre: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With merges of letters and line ends, so that a word that goes on would be one token."""
    alphabet = byte_alphabet()
    pairs = [(line, each) for line in (alphabet[10], "\n") for each in "abAB"]
    merges = [f"{one} {other}" for pair in pairs for one, other in (pair, pair[::-1])]
    merges += [f"{alphabet[10]} {alphabet[10]}", f"{alphabet[32]} {alphabet[10]}"]
    known = [*alphabet, "\n", *(merge.replace(" ", "") for merge in merges)]
    tokens = ["<unk>", "<s>", "</s>", *known, *(token for token, _ in bytes_as_tokens())]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[NORMAL] * len(known), *[BYTE] * 256]
    more = {"tokens": tokens, "token_type": kinds, "scores": [0.0] * len(tokens), "merges": merges}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in more.items()}
    model = opened(f"gpt2/{pre}", metadata, vocabulary=len(tokens))
    monkeypatch.setattr(special_marks, "_CHARACTERS", 1)
    chance, cut = random.Random(3), 0
    words = [*"abAB1.'é海-$", "12", "'s", " ", "  ", "\n", "\n\n", "\r\n", "a\nb", "B\na", "b\nB"]
    for _ in range(60):
        text = "\n" * chance.randint(0, 1) + "".join(chance.choices(words, k=30))
        monkeypatch.setattr(vocabulary, "_WHOLE", len(text))
        whole = model.tokenize(text, add_special=False, parse_special=True)
        monkeypatch.setattr(vocabulary, "_WHOLE", -1)
        parts = list(model.read(text, add_special=False, parse_special=True))
        assert [token for part in parts for token in part] == whole, repr(text)
        cut += len(parts) > 2
    assert cut > 30 or pre in ("superbpe", *STRIPPING), "most texts were read as a whole"


def test_lines_end_long_pieces_where_words_end_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(special_marks, "_CHARACTERS", 4)
    text = "abc\ndef 1\n2 abc\n\nabc\nabc\nabc"
    assert list(SpecialMarks([], lines=True).pieces(text)) == [
        "abc\ndef 1\n2 abc\n\nabc\n",
        "abc\nabc",
    ]
    for special in (Special("x\ny"), Special("<a>", strips_after=True)):
        assert list(SpecialMarks([special], lines=True).pieces(text)) == [text]
