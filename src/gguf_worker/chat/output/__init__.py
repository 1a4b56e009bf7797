"""How models write thoughts and tool calls: the text of an answer in, events out.

`families` is the table of who writes how. Knows no engine and no wire format.
"""

from gguf_worker.chat.output.events import CallArguments, CallBegun, CallEnded, Event, Text
from gguf_worker.chat.output.families import Family, family_for
from gguf_worker.chat.output.grammar import Thinking
from gguf_worker.chat.output.parser import Parser
from gguf_worker.chat.output.teaching import instructions, plain_messages

__all__ = [
    "CallArguments",
    "CallBegun",
    "CallEnded",
    "Event",
    "Family",
    "Parser",
    "Text",
    "Thinking",
    "family_for",
    "instructions",
    "plain_messages",
]
