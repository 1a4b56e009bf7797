"""The parts that all writers share: replies, the protocol, collected answers, events.

A writer turns the parts of a provider's answer into replies, which a front door delivers. The
package depends on no dialect, and not on jobs, HTTP or the source of an answer.
"""

from gguf_worker.api.writing.collected_answers import (
    CollectedAnswer,
    CollectedCall,
    WholeWriter,
    collecting,
)
from gguf_worker.api.writing.error_shape import PLAIN_ERRORS, ErrorShape, error_object
from gguf_worker.api.writing.figures import metrics_object, usage_object
from gguf_worker.api.writing.fitting import (
    LARGEST_TEXT,
    MOST_LOGPROBS,
    cut_call,
    cut_delta,
    cut_text,
)
from gguf_worker.api.writing.named_events import (
    NamedEvent,
    NamedEventReplies,
    named_event_text,
)
from gguf_worker.api.writing.openai_objects import (
    UNREADABLE,
    call_arguments,
    call_delta,
    chat_logprobs,
    prompt_logprobs,
    shown_logprob,
    shown_token,
    stop_reason,
)
from gguf_worker.api.writing.replies import (
    EVENTS,
    ApiReply,
    Body,
    EventText,
    Failed,
    Item,
    StreamForm,
    json_line,
    server_sent_event,
)
from gguf_worker.api.writing.response_writer import (
    Footer,
    Heading,
    ResponseWriter,
    warnings_field,
)

__all__ = [
    "EVENTS",
    "LARGEST_TEXT",
    "MOST_LOGPROBS",
    "PLAIN_ERRORS",
    "UNREADABLE",
    "ApiReply",
    "Body",
    "CollectedAnswer",
    "CollectedCall",
    "ErrorShape",
    "EventText",
    "Failed",
    "Footer",
    "Heading",
    "Item",
    "NamedEvent",
    "NamedEventReplies",
    "ResponseWriter",
    "StreamForm",
    "WholeWriter",
    "call_arguments",
    "call_delta",
    "chat_logprobs",
    "collecting",
    "cut_call",
    "cut_delta",
    "cut_text",
    "error_object",
    "json_line",
    "metrics_object",
    "named_event_text",
    "prompt_logprobs",
    "server_sent_event",
    "shown_logprob",
    "shown_token",
    "stop_reason",
    "usage_object",
    "warnings_field",
]
