"""The fields that Ollama's chats and prompts have in common, as those of a chat completion.

`options` has the sampler's settings and limits. Those that set up Ollama's own server, such as the
size of the context, are hints without effect: this worker was set up when it started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from gguf_worker.api.reading import (
    ANY_OBJECT,
    MAX_NAME,
    MAX_TOP_LOGPROBS,
    MAX_WARNINGS,
    DialectWords,
    JsonSchema,
    SamplerFields,
    StrictModel,
    field_fault,
    small,
)

_HINTS = frozenset(
    {
        "draft_num_predict",
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_gqa",
        "num_keep",
        "num_thread",
        "numa",
        "rope_frequency_base",
        "rope_frequency_scale",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""Options that set up Ollama's own server."""

_FROM_CHATS = {"num_predict": "max_tokens", "stop": "stop"}
_OPTIONS = {name: name for name in SamplerFields.model_fields} | _FROM_CHATS
"""The options with an effect, each with the name of a chat completion's field."""

OLLAMA_WORDS = DialectWords(
    (
        *((rf"{ours}(?=$|\[|\.)", f"options.{name}") for name, ours in _OPTIONS.items()),
        (r"messages\[(\d+)\]\.reasoning_content", r"messages[\1].thinking"),
        (r"response_format(\.json_schema(\.schema)?|\.type)?", "format"),
        (r"(reasoning_effort|enable_thinking)$", "think"),
    )
)


def _format(value: Any) -> Any:
    if not isinstance(value, dict) and value not in ("", "json"):
        raise field_fault('should be "json" or a JSON schema')
    return value or None


def _think(value: Any) -> Any:
    if not isinstance(value, bool) and value not in _EFFORTS:
        raise field_fault(f"should be true, false, or one of: {', '.join(_EFFORTS)}")
    return value


_EFFORTS = ("low", "medium", "high", "max")


class OllamaFields(StrictModel):
    """The fields that chats and prompts have in common."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "format": {"anyOf": [{"enum": ["", "json"]}, ANY_OBJECT]},
        "think": {"anyOf": [{"type": "boolean"}, {"enum": list(_EFFORTS)}]},
    }

    model: str | None = None
    stream: bool = True
    format: Annotated[Any, AfterValidator(_format)] = None
    think: Annotated[Any, AfterValidator(_think)] = None
    options: Annotated[dict[str, Any], AfterValidator(small)] = Field(default={})
    keep_alive: Any = None
    """A hint: which models stay in memory is the worker's own affair."""
    truncate: bool | None = None
    """A hint: what does not fit is refused, so that nothing of it is lost unseen."""
    shift: bool | None = None
    """A hint: an answer ends where the context does."""
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0

    def completion_fields(self) -> dict[str, Any]:
        """Return these fields as a chat completion has them; None: not sent."""
        return {
            "model": self.model,
            "stream": self.stream,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
            "response_format": self._response_format(),
            **dict(self._effective_options()),
        }

    def thought_fields(self) -> dict[str, Any]:
        """Return whether to think, as a chat completion has it."""
        if self.think is None or isinstance(self.think, bool):
            return {"enable_thinking": self.think}
        return {"enable_thinking": True, "reasoning_effort": self.think}

    def option_warnings(self) -> Iterator[str]:
        """Yield a sentence for each of the first unknown options, and one for all others."""
        unknown = [
            name[:MAX_NAME]
            for name, value in self.options.items()
            if value is not None and name not in _HINTS and name not in _OPTIONS
        ]
        for name in unknown[:MAX_WARNINGS]:
            yield f"unknown option {name!r} was ignored"
        if len(unknown) > MAX_WARNINGS:
            yield f"{len(unknown) - MAX_WARNINGS} more unknown options were ignored"

    def _response_format(self) -> dict[str, Any] | None:
        if self.format is None:
            return None
        if self.format == "json":
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": "format", "schema": self.format}}

    def _effective_options(self) -> Iterator[tuple[str, Any]]:
        for name, value in self.options.items():
            if name not in _OPTIONS or value is None:
                continue
            endless = name == "num_predict" and type(value) is int and value < 0
            yield _OPTIONS[name], -1 if endless else value
