"""A call for generated text, and the function that reads one from a body's fields."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.api.reading.answer_format import AnswerFormat
from gguf_worker.api.reading.bounds import MAX_PROMPTS
from gguf_worker.api.reading.generation_fields import (
    ChatLogprobs,
    CommonFields,
    JobFields,
    PromptFields,
)
from gguf_worker.api.reading.message_fields import ChatFields
from gguf_worker.api.reading.sampling_fields import SamplerFields
from gguf_worker.api.reading.sent_fields import UNSUPPORTED, SentFields
from gguf_worker.api.reading.tool_fields import LONG_NAMES, ToolFields
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import GenerationRequest, Priority

KNOWN_FIELDS = frozenset(UNSUPPORTED).union(
    *(
        model.model_fields
        for model in (
            SamplerFields,
            CommonFields,
            JobFields,
            PromptFields,
            ChatFields,
            ChatLogprobs,
            ToolFields,
            AnswerFormat,
        )
    )
)
"""Fields that at least one reader of generations knows."""


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """A checked body: the request for the provider, and the form of its answer."""

    request: GenerationRequest
    stream: bool
    include_usage: bool
    model: str | None
    warnings: tuple[str, ...] = ()
    """Sentences about what was ignored, or not read as it was sent."""
    grammar_field: str | None = None
    """The caller's name for the request's grammar."""


def read_generation(
    fields: SentFields,
    sources: tuple[str, ...],
    *,
    id: str,
    deadline: float | None,
    logprobs: int | None,
    long_names: bool = False,
) -> GenerationCall:
    """Return the call made of the fields. Raises InvalidRequest for the first that is wrong.

    `sources`: those of `prompt` and `messages` that the route takes; exactly one must be sent.
    `long_names`: the names of tools may have 128 characters, not 64.
    """
    _require_one_source(fields, sources)
    common = fields.checked(CommonFields)
    prompt = fields.checked(PromptFields) if "prompt" in fields.values else None
    prompts = prompt.prompt if prompt else []
    chat = fields.checked(ChatFields) if "messages" in fields.values else None
    tools = fields.checked(ToolFields, {LONG_NAMES: long_names})
    choice = tools.choice()
    fields.warnings += tools.loosened(choice)
    field, grammar = fields.checked(AnswerFormat).wanted(fields.warnings) or (None, None)
    _require_sense(common, len(prompts), tools, field, logprobs)
    request = GenerationRequest(
        id=id,
        sampling=fields.checked(SamplerFields).sampling(),
        prompts=tuple(prompts),
        suffix=_suffix(prompt, fields),
        messages=tuple(each.plain() for each in chat.messages) if chat else None,
        template_options=chat.options() if chat else {},
        max_tokens=common.max_tokens,
        stop=tuple(common.stop),
        ignore_eos=common.ignore_eos,
        deadline=deadline,
        n=common.n,
        priority=Priority[common.priority.upper()],
        user=common.user or common.safety_identifier or "",
        tools=tools.offered(),
        tool_choice=choice,
        parallel_calls=tools.parallel_tool_calls,
        grammar=grammar,
        logprobs=logprobs,
        echo=common.echo,
    )
    return GenerationCall(
        request=request,
        stream=common.stream,
        include_usage=bool(common.stream_options.include_usage),
        model=common.model,
        warnings=(*fields.warnings, *fields.unknown_warnings(KNOWN_FIELDS)),
        grammar_field=field,
    )


def _suffix(prompt: PromptFields | None, fields: SentFields) -> str:
    """Return the text that follows the answer. Raises InvalidRequest if the prompt is not text."""
    suffix = prompt.suffix if prompt else str(fields.values.get("suffix") or "")
    if suffix and (prompt is None or not all(isinstance(each, str) for each in prompt.prompt)):
        raise InvalidRequest("`suffix` needs a `prompt` that is text.", param="suffix")
    return suffix


def _require_sense(
    common: CommonFields,
    count: int,
    tools: ToolFields,
    format_field: str | None,
    logprobs: int | None,
) -> None:
    """Raise InvalidRequest for fields that exclude each other; `count` prompts, 0 in a chat."""
    chat = count == 0
    if tools.tools and not chat:
        raise InvalidRequest("`tools` need `messages`: only a chat calls them.", param="tools")
    if count * common.n > MAX_PROMPTS:
        raise InvalidRequest(
            f"{count} prompts with {common.n} answers each are more than {MAX_PROMPTS} answers.",
            param="n",
        )
    if common.echo and chat:
        raise InvalidRequest("`echo` has no place in a chat.", param="echo")
    if common.echo and logprobs is not None:
        raise InvalidRequest("`echo` and `logprobs` cannot be sent together.", param="echo")
    if format_field is not None and common.ignore_eos:
        raise InvalidRequest(
            f"`ignore_eos` and `{format_field}` cannot be sent together: "
            "what is complete has to end.",
            param="ignore_eos",
        )


def _require_one_source(fields: SentFields, sources: tuple[str, ...]) -> None:
    given = [name for name in ("prompt", "messages") if name in fields.values]
    wanted = " or ".join(f"`{name}`" for name in sources)
    if not given:
        raise InvalidRequest(f"{wanted} is missing.", param=sources[0])
    for name in given:
        if name not in sources:
            raise InvalidRequest(f"`{name}` has no place here; send {wanted}.", param=name)
    if len(given) > 1:
        raise InvalidRequest("Send `prompt` or `messages`, not both.", param="messages")
