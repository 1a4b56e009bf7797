"""How a model is written to and read: its chat template, the tools and calls in it, and what it answers.

Text in, text out: knows no tokens, no engine, no model file and no wire format.
"""

from gguf_worker.chat.output import (
    CallArguments,
    CallBegun,
    CallEnded,
    Event,
    Family,
    Parser,
    Text,
    Thinking,
    family_for,
    instructions,
    plain_messages,
)
from gguf_worker.chat.override import check_text, read_template
from gguf_worker.chat.template import ChatTemplate, Rendered

__all__ = [
    "CallArguments",
    "CallBegun",
    "CallEnded",
    "ChatTemplate",
    "Event",
    "Family",
    "Parser",
    "Rendered",
    "Text",
    "Thinking",
    "check_text",
    "family_for",
    "instructions",
    "plain_messages",
    "read_template",
]
