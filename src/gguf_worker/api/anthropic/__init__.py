"""Anthropic's dialect: messages, the count of their tokens, and errors in its shape.

A body is rewritten as a chat completion's. The package depends on no model and no provider.
"""

from gguf_worker.api.anthropic.messages_reader import (
    MESSAGES_FOREIGN,
    MESSAGES_WORDS,
    MessagesBody,
    read_messages,
    read_token_count,
)
from gguf_worker.api.anthropic.messages_writer import (
    ANTHROPIC_ERRORS,
    messages_writer,
    write_token_count,
)

__all__ = [
    "ANTHROPIC_ERRORS",
    "MESSAGES_FOREIGN",
    "MESSAGES_WORDS",
    "MessagesBody",
    "messages_writer",
    "read_messages",
    "read_token_count",
    "write_token_count",
]
