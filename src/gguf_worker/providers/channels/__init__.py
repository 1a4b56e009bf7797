"""How models write thoughts and tool calls: text in, pieces out."""

from gguf_worker.providers.channels.events import (
    CallArguments,
    CallBegun,
    CallEnded,
    Event,
    Text,
)
from gguf_worker.providers.channels.families import Family, family_for
from gguf_worker.providers.channels.grammar import Thinking
from gguf_worker.providers.channels.parser import Parser
from gguf_worker.providers.channels.teaching import instructions, plain_messages

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
