"""A call for generated text, and the function that reads one from a body's fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gguf_worker.api.reading.answer_format import AnswerFormat
from gguf_worker.api.reading.bounds import MAX_INT32, MAX_PROMPTS
from gguf_worker.api.reading.generation_fields import (
    ChatLogprobs,
    CommonFields,
    JobFields,
    PromptFields,
)
from gguf_worker.api.reading.message_fields import ChatFields
from gguf_worker.api.reading.sampling_fields import SamplerFields
from gguf_worker.api.reading.sent_fields import UNSUPPORTED, SentFields
from gguf_worker.api.reading.thinking_fields import ThoughtFields
from gguf_worker.api.reading.tool_fields import ToolFields, with_tool_calls
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
    shows_prompt_logprobs: bool = False
    """The prompt's logprobs were asked for by themselves, not as a part of an echo."""


def read_generation(
    fields: SentFields,
    sources: tuple[str, ...],
    *,
    id: str,
    deadline: float | None,
    logprobs: int | None,
) -> GenerationCall:
    """Return the call made of the fields. Raises InvalidRequest for the first that is wrong.

    `sources`: those of `prompt` and `messages` that the route takes; exactly one must be sent.
    """
    _require_one_source(fields, sources)
    common = fields.checked(CommonFields)
    prompt = fields.checked(PromptFields) if "prompt" in fields.values else None
    prompts = prompt.prompt if prompt else []
    if "messages" in fields.values:
        fields.values["messages"] = with_tool_calls(fields.values["messages"])
    chat = fields.checked(ChatFields) if "messages" in fields.values else None
    tools = fields.checked(ToolFields)
    choice = tools.choice()
    fields.warnings += tools.warnings()
    fields.warnings += tools.loosened(choice)
    field, grammar = fields.checked(AnswerFormat).wanted(fields.warnings) or (None, None)
    _require_sense(common, len(prompts), tools, field)
    _require_whole_prompt(common, fields)
    if chat:
        fields.warnings += chat.unread_warnings()
    elif fields.values.get("continue_final_message"):
        raise InvalidRequest(
            "`continue_final_message` needs `messages`.", param="continue_final_message"
        )
    demanded = "tool_choice" if choice.mode == "required" else None
    request = GenerationRequest(
        id=id,
        sampling=fields.checked(SamplerFields).sampling(),
        prompts=tuple(prompts),
        suffix=_suffix(prompt, fields),
        messages=tuple(each.plain() for each in chat.messages) if chat else None,
        template_options=chat.options() if chat else {},
        thinking=chat.thinks() if chat else None,
        thinking_budget=chat.budget() if chat else None,
        ending=chat.ending(field or demanded, fields.warnings) if chat else "turn",
        max_tokens=common.max_tokens,
        stop=tuple(common.stop),
        show_stop=common.include_stop_str_in_output,
        ignore_eos=common.ignore_eos,
        rules=common.rules(),
        show_special=not common.skip_special_tokens,
        truncate=common.truncate_prompt_tokens,
        deadline=deadline,
        n=common.n,
        priority=Priority[common.priority.upper()],
        user=common.user or common.safety_identifier or "",
        tools=tools.offered(),
        tool_choice=choice,
        parallel_calls=tools.parallel(),
        grammar=grammar,
        logprobs=logprobs,
        prompt_logprobs=_prompt_logprobs(common, logprobs),
        echo=common.echo,
    )
    return GenerationCall(
        request=request,
        stream=common.stream,
        include_usage=bool(common.stream_options.include_usage),
        model=common.model,
        warnings=(
            *fields.warnings,
            *(chat.warnings() if chat else _thoughtless(fields)),
            *fields.unknown_warnings(KNOWN_FIELDS),
        ),
        grammar_field=field,
        shows_prompt_logprobs=common.prompt_logprobs is not None,
    )


def _prompt_logprobs(common: CommonFields, logprobs: int | None) -> int | None:
    """Return the likely tokens to report beside each token of the prompt; None: no logprobs."""
    echoed = logprobs if common.echo else None
    asked = common.prompt_logprobs
    if asked is not None and echoed is not None and asked != echoed:
        raise InvalidRequest(
            "With `echo`, `logprobs` and `prompt_logprobs` mean the same and differ; send one of "
            "them.",
            param="prompt_logprobs",
        )
    return echoed if asked is None else asked


def _thoughtless(fields: SentFields) -> Iterator[str]:
    """Yield sentences about fields of thoughts that were sent beside a prompt."""
    for name in ThoughtFields.model_fields:
        if name in fields.values:
            yield f"`{name}` was ignored: a `prompt` is continued as it is, without a chat template"


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
) -> None:
    """Raise InvalidRequest for fields that exclude each other; `count` prompts, 0 in a chat."""
    chat = count == 0
    if (tools.tools or tools.functions) and not chat:
        raise InvalidRequest("`tools` need `messages`: only a chat calls them.", param="tools")
    if count * common.n > MAX_PROMPTS:
        raise InvalidRequest(
            f"{count} prompts with {common.n} answers each are more than {MAX_PROMPTS} answers.",
            param="n",
        )
    if common.echo and chat:
        raise InvalidRequest("`echo` has no place in a chat.", param="echo")
    rule = common.rule_beside_format()
    demanded = format_field or ("tool_choice" if tools.choice().mode == "required" else None)
    if demanded is not None and rule is not None:
        raise InvalidRequest(
            f"`{rule}` and `{demanded}` cannot be sent together: what is complete has to end, and "
            "needs the tokens of its form.",
            param=rule,
        )
    if common.stream and common.prompt_logprobs is not None:
        raise InvalidRequest(
            "`prompt_logprobs` come with a whole answer only; leave out `stream`.",
            param="prompt_logprobs",
        )
    if common.min_tokens > (MAX_INT32 if common.max_tokens is None else common.max_tokens):
        raise InvalidRequest("`min_tokens` is more than `max_tokens`.", param="min_tokens")


def _require_whole_prompt(common: CommonFields, fields: SentFields) -> None:
    """Raise InvalidRequest if the prompt is cut that is to be repeated, or that has a suffix."""
    if common.truncate_prompt_tokens is None:
        return
    for name in ("echo", "suffix"):
        if fields.values.get(name):
            raise InvalidRequest(
                f"`truncate_prompt_tokens` and `{name}` cannot be sent together: the latter needs "
                "the whole prompt.",
                param="truncate_prompt_tokens",
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
