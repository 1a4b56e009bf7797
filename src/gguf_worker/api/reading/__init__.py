"""The parts that all readers share: strict models, bounds, common fields, translation.

A reader turns a body into a checked call; every fault becomes an InvalidRequest whose `param` is
the path of the field in the caller's own words. Nothing that would change the answer is silently
ignored. The package depends on no route and no provider; names of models are checked elsewhere.
"""

from gguf_worker.api.reading.answer_format import AnswerFormat
from gguf_worker.api.reading.bounds import (
    MAX_ALL_PARTS,
    MAX_CHARACTERS,
    MAX_INT32,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_PARTS,
    MAX_STOPS,
    MAX_TIMEOUT,
    MAX_TOKENS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    MAX_USER,
    MAX_WARNINGS,
)
from gguf_worker.api.reading.call_ids import CallIds
from gguf_worker.api.reading.generation_call import GenerationCall, read_generation
from gguf_worker.api.reading.generation_fields import (
    ChatLogprobs,
    CommonFields,
    CompletionLogprobs,
    JobFields,
    PromptFields,
    User,
)
from gguf_worker.api.reading.json_schemas import (
    ANY_OBJECT,
    SOME_TEXT,
    SOME_TOKENS,
    TEXT,
    JsonSchema,
    list_of,
)
from gguf_worker.api.reading.message_fields import ChatFields
from gguf_worker.api.reading.placeholders import (
    Placeholders,
    readable_text,
    text_of_file,
    titled,
)
from gguf_worker.api.reading.sampling_fields import SamplerFields, TokenId
from gguf_worker.api.reading.sent_fields import ALIASES, SentFields, read_model
from gguf_worker.api.reading.strict_model import StrictModel, field_fault, small
from gguf_worker.api.reading.tool_fields import ToolFields, ToolName
from gguf_worker.api.reading.translation import DialectWords, checked_part, refuse_foreign

__all__ = [
    "ALIASES",
    "ANY_OBJECT",
    "MAX_ALL_PARTS",
    "MAX_CHARACTERS",
    "MAX_INT32",
    "MAX_MESSAGES",
    "MAX_NAME",
    "MAX_PARTS",
    "MAX_STOPS",
    "MAX_TIMEOUT",
    "MAX_TOKENS",
    "MAX_TOOLS",
    "MAX_TOP_LOGPROBS",
    "MAX_USER",
    "MAX_WARNINGS",
    "SOME_TEXT",
    "SOME_TOKENS",
    "TEXT",
    "AnswerFormat",
    "CallIds",
    "ChatFields",
    "ChatLogprobs",
    "CommonFields",
    "CompletionLogprobs",
    "DialectWords",
    "GenerationCall",
    "JobFields",
    "JsonSchema",
    "Placeholders",
    "PromptFields",
    "SamplerFields",
    "SentFields",
    "StrictModel",
    "TokenId",
    "ToolFields",
    "ToolName",
    "User",
    "checked_part",
    "field_fault",
    "list_of",
    "read_generation",
    "read_model",
    "readable_text",
    "refuse_foreign",
    "small",
    "text_of_file",
    "titled",
]
