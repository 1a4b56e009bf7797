"""The text of answers, with the thoughts and tool calls that models write in it.

Text comes in as it is generated, and events go out: content, reasoning, calls. `family_table` finds
the family of a model; a notation of calls is read in the module of its kind (`json_calls`,
`tag_calls`, `python_calls`, `gemma_calls`, `harmony`), and `grammar` constrains an answer to it.
The package depends on no tokeniser, engine or wire format.
"""

from gguf_worker.chat.output.events import (
    AnswerEvent,
    AnswerText,
    CallArguments,
    CallBegun,
    CallEnded,
)
from gguf_worker.chat.output.family import Family
from gguf_worker.chat.output.family_table import family_for
from gguf_worker.chat.output.grammar import Thinking
from gguf_worker.chat.output.parser import AnswerParser

__all__ = [
    "AnswerEvent",
    "AnswerParser",
    "AnswerText",
    "CallArguments",
    "CallBegun",
    "CallEnded",
    "Family",
    "Thinking",
    "family_for",
]
