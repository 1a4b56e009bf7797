from __future__ import annotations

from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.events import (
    AnswerEvent,
    AnswerText,
    CallArguments,
    CallBegun,
    CallEnded,
)
from gguf_worker.generation import Channel


def content(text: str) -> AnswerEvent:
    return AnswerText(Channel.CONTENT, text)


def test_text_that_is_written_in_one_go_is_one_event() -> None:
    writer = EventWriter()
    writer.content("a")
    writer.content("b")
    writer.reasoning("c")
    writer.content("d")
    assert writer.take() == [content("ab"), AnswerText(Channel.REASONING, "c"), content("d")]
    assert writer.take() == []


def test_whitespace_waits_for_what_follows_and_belongs_to_the_text_at_the_end() -> None:
    writer = EventWriter()
    writer.content("a \n")
    assert writer.take() == [content("a")]
    writer.content("b ")
    assert writer.take() == [content(" \nb")]
    writer.end()
    assert writer.take() == [content(" ")]


def test_whitespace_on_either_side_of_a_call_is_dropped_and_texts_are_parted() -> None:
    writer = EventWriter()
    writer.content("a \n")
    writer.begin_call("f", None)
    writer.arguments("{")
    writer.arguments("}")
    writer.end_call()
    writer.content(" \n")
    writer.content(" b")
    writer.end()
    assert writer.take() == [
        content("a"),
        CallBegun("f", None),
        CallArguments("{}"),
        CallEnded(),
        content("\n\nb"),
    ]


def test_a_channel_is_blank_until_something_can_be_seen_in_it() -> None:
    writer = EventWriter()
    writer.content(" \n")
    writer.reasoning("a")
    assert writer.blank
    writer.content("b")
    assert not writer.blank
