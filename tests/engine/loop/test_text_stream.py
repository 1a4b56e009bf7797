"""Text that may be sent, from bytes: whole characters, and nothing of a stop string."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from gguf_worker.engine.loop.text_stream import TextStream
from gguf_worker.generation import Outline, Phase, PhaseMark

CUT = "\N{REPLACEMENT CHARACTER}"


def stream(pieces: list[bytes], stop: tuple[str, ...]) -> tuple[str, str | None]:
    """All the text that comes out, and the stop string that ended it."""
    text = TextStream(stop)
    out = "".join(text.feed(piece) for piece in pieces)
    return out + text.flush(), text.stopped_by


def cuts(data: bytes) -> list[list[bytes]]:
    """`data` in one piece, in two at every border, in bytes, and in some random ways."""
    ways = [[data], [data[i : i + 1] for i in range(len(data))]]
    ways += [[data[:i], data[i:]] for i in range(1, len(data))]
    chance = random.Random(len(data))
    for _ in range(20):
        reuse_points = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(4))})
        ways.append([data[a:b] for a, b in pairwise(reuse_points)])
    return ways


EXAMPLES = [
    ("hello world", (), "hello world", None),
    ("The sea 🌊 and a family 👨‍👩‍👧‍👦 at 🏖️.", (), "The sea 🌊 and a family 👨‍👩‍👧‍👦 at 🏖️.", None),
    ("海は広いな、大きいな。바다", (), "海は広いな、大きいな。바다", None),
    ("İstanbul'da çığlık, şöyle: ığüş", (), "İstanbul'da çığlık, şöyle: ığüş", None),
    ("hello world", ("lo w",), "hel", "lo w"),
    ("hello world", ("world",), "hello ", "world"),
    ("hello", ("hello",), "", "hello"),
    ("hello world", ("lo x", "xyz"), "hello world", None),
    # The stop string that is complete first counts, not the one that begins first.
    ("abcd", ("abcd", "bc"), "a", "bc"),
    # Complete at the same place: the longer one.
    ("abcd", ("cd", "bcd"), "a", "bcd"),
    # A failed beginning that holds the beginning of another.
    ("ababac", ("abac",), "ab", "abac"),
    ("aaab", ("aab",), "a", "aab"),
    ("aaaa", ("aaaaa",), "aaaa", None),
    ("one\n\ntwo", ("\n\n",), "one", "\n\n"),
    ("User: hi\nUser: ho", ("\nUser:",), "User: hi", "\nUser:"),
    ("deniz 🌊 ve 🐚 son", ("🐚",), "deniz 🌊 ve ", "🐚"),
    ("海の詩。終わり", ("。",), "海の詩", "。"),
    ("ends like a stop <|im_", ("<|im_end|>",), "ends like a stop <|im_", None),
    ("I: ıI", ("ıI",), "I: ", "ıI"),
]


@pytest.mark.parametrize(("text", "stop", "expected", "stopped_by"), EXAMPLES)
def test_how_the_bytes_are_cut_makes_no_difference(
    text: str, stop: tuple[str, ...], expected: str, stopped_by: str | None
) -> None:
    for pieces in cuts(text.encode()):
        assert stream(pieces, stop) == (expected, stopped_by)


def test_random_texts_and_stop_strings_come_out_the_same_however_they_are_cut() -> None:
    chance = random.Random(5)
    for _ in range(150):
        text = "".join(chance.choices("abé🌊", k=chance.randrange(1, 14)))
        stop = tuple(
            "".join(chance.choices("abé🌊", k=chance.randrange(1, 4)))
            for _ in range(chance.randrange(3))
        )
        ends = [text.find(s) + len(s) for s in stop if s in text]
        results = {stream(pieces, stop) for pieces in cuts(text.encode())}
        assert len(results) == 1
        ((out, stopped_by),) = results
        assert (stopped_by is not None) is bool(ends)
        assert text.startswith(out + (stopped_by or ""))
        assert not any(s in out for s in stop)
        assert stopped_by is not None or out == text


def test_bytes_that_are_no_text_come_out_the_same_however_they_are_cut() -> None:
    chance = random.Random(6)
    for _ in range(100):
        data = bytes(chance.choices(b"a\xc3\xa9\xf0\x9f\x8c\x8a\xff\xe2\x82", k=8))
        expected = data.decode("utf-8", "replace")
        assert {stream(pieces, ()) for pieces in cuts(data)} == {(expected, None)}


def test_text_is_given_out_as_soon_as_it_is_certain() -> None:
    text = TextStream(("stop",))
    assert [text.feed(piece) for piece in (b"a", b"s", b"t", b"x", b"st", b"st", b"op")] == [
        "a",
        "",
        "",
        "stx",
        "",
        "st",
        "",
    ]
    assert text.stopped_by == "stop"


def test_a_character_waits_for_its_last_byte() -> None:
    text = TextStream()
    assert [text.feed(bytes([byte])) for byte in "🌊é".encode()] == ["", "", "", "🌊", "", "é"]


def test_a_flush_gives_out_what_was_held_back() -> None:
    text = TextStream(("stop",))
    assert text.feed(b"non-st") == "non-"
    assert text.flush() == "st"
    assert text.flush() == ""


@pytest.mark.parametrize("stop", [(), ("zz",), ("ab",)])
def test_an_unfinished_character_becomes_a_replacement_character(stop: tuple[str, ...]) -> None:
    text = TextStream(stop)
    assert text.feed(b"a\xf0\x9f\x8c") + text.flush() == "a" + CUT
    assert text.stopped_by is None


def test_after_a_stop_string_nothing_comes_any_more() -> None:
    text = TextStream(("b",))
    assert text.feed(b"abc") == "a"
    assert text.feed("more é".encode()) == ""
    assert text.feed(b"\xf0") == ""
    assert text.flush() == ""


def test_a_piece_without_bytes_changes_nothing() -> None:
    text = TextStream(("xy",))
    assert (text.feed(b"x"), text.feed(b""), text.feed(b"z")) == ("", "", "xz")


@pytest.mark.parametrize(("text", "stop", "expected", "stopped_by"), EXAMPLES)
def test_the_stop_string_may_be_a_part_of_the_text(
    text: str, stop: tuple[str, ...], expected: str, stopped_by: str | None
) -> None:
    for pieces in cuts(text.encode()):
        stream = TextStream(stop, inclusive=True)
        out = "".join(map(stream.feed, pieces)) + stream.flush()
        assert (out, stream.stopped_by) == (expected + (stopped_by or ""), stopped_by)


def test_no_stop_string_is_looked_for_in_what_is_skipped() -> None:
    stream = TextStream(("b", "cd"))
    assert [stream.skip(b"ab"), stream.skip("\u00e9".encode()[:1])] == ["ab", ""]
    assert stream.feed("\u00e9".encode()[1:] + b"c") == "\u00e9"
    assert stream.skip(b"d") == "cd", "what was held back comes with it"
    assert (stream.feed(b"xb"), stream.stopped_by) == ("x", "b")


def test_the_bytes_held_back_are_counted_whole_characters_or_not() -> None:
    stream = TextStream(("xy",))
    assert stream.feed(b"a") == "a"
    assert stream.held_bytes == 0
    stream.feed(b"x")
    stream.feed("\u00e9".encode()[:1])
    assert stream.held_bytes == 2


# Content, thoughts and calls

MARKS = Outline(
    (
        Phase("content", (PhaseMark("<t>", 1, first=True), PhaseMark("<c>", 2))),
        Phase("thought", (PhaseMark("</t>", 0),)),
        Phase("other", (PhaseMark("</c>", 0),)),
    ),
    closings=("</t>",),
)
THINKING = Outline(MARKS.phases, begin=1, closings=MARKS.closings)

OUTLINED = [
    # Asleep in thoughts and calls.
    ("<t>a stop b</t>c stop d", ("stop",), MARKS, "<t>a stop b</t>c ", "stop"),
    ("a stop</t>c stop d", ("stop",), THINKING, "a stop</t>c ", "stop"),
    ("a<c>stop</c>b stop", ("stop",), MARKS, "a<c>stop</c>b ", "stop"),
    ("a<c>stop", ("stop",), MARKS, "a<c>stop", None),
    # The marks themselves are no content.
    ("<t>a</t>b<c>c</c>d", ("<", "t>", "</", "c>"), MARKS, "<t>a</t>b<c>c</c>d", None),
    ("a < b<c>", (" <",), MARKS, "a", " <"),
    ("a <d", ("<",), MARKS, "a ", "<"),
    ("a <", ("<",), MARKS, "a ", "<"),
    # A stop string does not span a border.
    ("a st</t>op b", ("stop",), THINKING, "a st</t>op b", None),
    ("ast<c>x</c>op stop", ("stop",), MARKS, "ast<c>x</c>op ", "stop"),
    ("ab</t>cd", ("b</t>c", "</t>"), THINKING, "ab</t>cd", None),
    # The white space behind a mark belongs to the notation.
    ("a</t>\n\nb\n\nc", ("\n\n",), THINKING, "a</t>\n\nb", "\n\n"),
    ("<t></t>\n\n", ("\n",), MARKS, "<t></t>\n\n", None),
    ("a</t> \n Q: b\nQ:", ("\nQ:",), THINKING, "a</t> \n Q: b", "\nQ:"),
    # A thought that is no longer one.
    ("a <t>stop</t>", ("stop",), MARKS, "a <t>", "stop"),
    (" \n<t>stop</t>b", ("stop",), MARKS, " \n<t>stop</t>b", None),
    ("<t>a</t><t>stop</t>b", ("stop",), MARKS, "<t>a</t><t>stop</t>b", None),
    # An open end.
    ("a stop </", ("stop",), THINKING, "a stop </", None),
    ("a🌊</t>🐚🌊", ("🌊",), THINKING, "a🌊</t>🐚", "🌊"),
]


@pytest.mark.parametrize(("text", "stop", "outline", "expected", "stopped_by"), OUTLINED)
def test_stop_strings_end_content_and_neither_thoughts_nor_calls(
    text: str, stop: tuple[str, ...], outline: Outline, expected: str, stopped_by: str | None
) -> None:
    for pieces in cuts(text.encode()):
        each = TextStream(stop, outline)
        out = "".join(each.feed(piece) for piece in pieces) + each.flush()
        assert (out, each.stopped_by) == (expected, stopped_by), pieces


def test_random_texts_with_marks_come_out_the_same_however_they_are_cut() -> None:
    chance = random.Random(7)
    parts = ["<t>", "</t>", "<c>", "</c>", "<", "a", "st", "op", " ", "\n", "é🌊"]
    for _ in range(300):
        text = "".join(chance.choices(parts, k=chance.randrange(1, 9)))
        stop = tuple("".join(chance.choices(parts[4:], k=2)) for _ in range(chance.randrange(3)))
        outline = chance.choice((MARKS, THINKING))
        results = set()
        for pieces in cuts(text.encode()):
            each = TextStream(stop, outline)
            out = "".join(each.feed(piece) for piece in pieces) + each.flush()
            results.add((out, each.stopped_by))
        ((out, stopped_by),) = results
        assert text.startswith(out + (stopped_by or ""))
        assert stopped_by is not None or out == text


def test_a_thought_is_open_between_its_marks() -> None:
    text = TextStream((), MARKS)
    seen = []
    for letter in "<t>ab</t>c<t>":
        text.feed(letter.encode())
        seen.append(text.thinking)
    assert seen == [False] * 2 + [True] * 6 + [False] * 5
    assert TextStream((), THINKING).thinking


def test_text_outside_of_marks_is_given_out_at_once() -> None:
    text = TextStream((), MARKS)
    pieces = ["<t", ">", "a", "<", "b", "</t", ">", "c", "<", "c>", "d"]
    assert [text.feed(piece.encode()) for piece in pieces] == [
        *("", "<t>", "a", "", "<b", "", "</t>", "c", "", "<c>", "d"),
    ]
