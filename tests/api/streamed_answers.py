"""An answer for the writers of named events: its parts, and the replies that they become."""

from __future__ import annotations

from collections.abc import Sequence

from gguf_worker.api.writing import ApiReply, EventText, ResponseWriter
from gguf_worker.generation import Channel
from gguf_worker.providers import Finish, TextDelta, ToolCallDelta
from tests.fakes import USAGE

Part = TextDelta | ToolCallDelta | Finish

STOP = Finish("stop", USAGE)
CUT_OFF = Finish("length", USAGE)
CALLED = Finish("tool_calls", USAGE)

CALLS = [
    ToolCallDelta(0, "", 1, id="call_a", name="weather"),
    ToolCallDelta(0, '{"city":', 1),
    ToolCallDelta(0, '"Ye🦙"}', 1),
    ToolCallDelta(1, "{}", 1, id="call_b", name="time"),
]


def thought(text: str) -> TextDelta:
    """Return a delta of the reasoning channel."""
    return TextDelta(text, 1, channel=Channel.REASONING)


def play(writer: ResponseWriter, parts: Sequence[Part]) -> list[ApiReply]:
    """Return what a writer makes of the parts of an answer."""
    replies: list[ApiReply] = []
    for part in parts:
        match part:
            case TextDelta():
                replies += writer.text(part)
            case ToolCallDelta():
                replies += writer.tool_call(part)
            case Finish():
                replies += writer.finish(part, {"metrics": {"cold": False}})
    return replies


def raw(replies: Sequence[ApiReply]) -> str:
    """Return the stream's bytes as text; each reply has to be one of events."""
    assert all(isinstance(reply, EventText) for reply in replies)
    return "".join(reply.text for reply in replies if isinstance(reply, EventText))
