from __future__ import annotations

from gguf_worker.providers.channels.events import CallArguments, CallBegun, CallEnded, Event, Text
from gguf_worker.providers.channels.pen import Pen
from gguf_worker.providers.request import Channel


def content(text: str) -> Event:
    return Text(Channel.CONTENT, text)


def test_what_is_written_in_one_go_is_one_event() -> None:
    pen = Pen()
    pen.content("a")
    pen.content("b")
    pen.reasoning("c")
    pen.content("d")
    assert pen.taken() == [content("ab"), Text(Channel.REASONING, "c"), content("d")]
    assert pen.taken() == []


def test_whitespace_waits_for_what_follows_and_belongs_to_the_text_at_the_end() -> None:
    pen = Pen()
    pen.content("a \n")
    assert pen.taken() == [content("a")]
    pen.content("b ")
    assert pen.taken() == [content(" \nb")]
    pen.end()
    assert pen.taken() == [content(" ")]


def test_whitespace_on_either_side_of_a_call_is_dropped_and_texts_are_parted() -> None:
    pen = Pen()
    pen.content("a \n")
    pen.begin_call("f", None)
    pen.arguments("{")
    pen.arguments("}")
    pen.end_call()
    pen.content(" \n")
    pen.content(" b")
    pen.end()
    assert pen.taken() == [
        content("a"),
        CallBegun("f", None),
        CallArguments("{}"),
        CallEnded(),
        content("\n\nb"),
    ]


def test_a_channel_is_blank_until_something_can_be_seen_in_it() -> None:
    pen = Pen()
    pen.content(" \n")
    pen.reasoning("a")
    assert pen.blank
    pen.content("b")
    assert not pen.blank
