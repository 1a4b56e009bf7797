"""Texts to a model and from it: its chat template, and the notation of its answers.

A chat becomes a prompt by the model's own template, with tools and calls in the form that the
template takes; an answer's text becomes content, thoughts and calls. Text comes in and text goes
out: the package depends on no tokeniser, engine, model file or wire format.
"""

from gguf_worker.chat.output import (
    AnswerEvent,
    AnswerParser,
    AnswerText,
    CallArguments,
    CallBegun,
    CallEnded,
    Family,
    Thinking,
    family_for,
)
from gguf_worker.chat.override import check_text, read_template
from gguf_worker.chat.template import ChatTemplate, Rendered, thinking_options
from gguf_worker.chat.tool_instructions import plain_messages

__all__ = [
    "AnswerEvent",
    "AnswerParser",
    "AnswerText",
    "CallArguments",
    "CallBegun",
    "CallEnded",
    "ChatTemplate",
    "Family",
    "Rendered",
    "Thinking",
    "check_text",
    "family_for",
    "plain_messages",
    "read_template",
    "thinking_options",
]
