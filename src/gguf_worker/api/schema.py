"""What callers may send: bodies checked strictly and turned into requests.

Every fault becomes an InvalidRequest whose `param` is the path of the field in the caller's own words.
Nothing that would change the answer is silently ignored. Knows no model: names are checked elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from gguf_worker.api.formats import Format
from gguf_worker.api.shapes import MAX_NESTING, TOO_NESTED, Shape, fault, small, too_nested
from gguf_worker.api.tools import LONG_NAMES, Tools
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Sampling
from gguf_worker.providers import SEEDS, GenerationRequest, Priority

MAX_FIELDS = 8192
MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_ALL_PARTS = 16_384
"""Of all messages together: a million empty ones would hold up everybody for seconds."""
MAX_BIAS = 1024
MAX_ANSWERS = 16
MAX_STOPS = 16
MAX_USER = 256
MAX_PROMPTS = 128
MAX_CALLS = 128
MAX_PROMPT_TOKENS = 2**22
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5
MAX_TIMEOUT = 7 * 24 * 3600.0
"""Seconds; the longest that RunPod lets a job run."""

S = TypeVar("S", bound=Shape)

_INT32 = 2**31 - 1
_MAX_WARNINGS = 16
_MAX_NAME = 64
_DIGITS = re.compile(f"[0-9]{{1,{_MAX_NAME}}}")  # longer ones cost int() more than they are worth

_NESTED = "sampling_params"

ALIASES = {
    "max_completion_tokens": "max_tokens",
    "repetition_penalty": "repeat_penalty",
    "typ_p": "typical_p",
}
"""Other names of fields."""

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "bad_words": ([],),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "prompt_logprobs": (),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Fields that would change the answer, with the values that do not (null never does)."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checked body: the generation, and how its answer is wanted."""

    generation: GenerationRequest
    stream: bool
    include_usage: bool
    model: str | None
    unknown: tuple[str, ...]
    """Paths of fields that nobody here knows; they had no effect."""
    grammar_field: str | None = None
    """What the caller calls the generation's grammar."""

    @property
    def warnings(self) -> tuple[str, ...]:
        named = [f"unknown field {name!r} was ignored" for name in self.unknown[:_MAX_WARNINGS]]
        more = len(self.unknown) - len(named)
        return (*named, f"{more} more unknown fields were ignored") if more else tuple(named)


def read_native(body: Mapping[str, Any], *, id: str, deadline: float | None) -> Request:
    """A job's own input: `prompt` or `messages`, with sampling settings beside them or nested."""
    fields = _Fields(body, nested=True)
    fields.checked(_Native)
    logprobs = fields.checked(_ChatLogprobs).wanted()
    return _request(fields, ("prompt", "messages"), id, deadline, logprobs)


def read_chat(
    body: Mapping[str, Any], *, id: str, deadline: float | None, long_names: bool = False
) -> Request:
    """The body of OpenAI's /v1/chat/completions; with `long_names` a tool's may have 128 characters, not 64."""
    fields = _Fields(body)
    logprobs = fields.checked(_ChatLogprobs).wanted()
    return _request(fields, ("messages",), id, deadline, logprobs, long_names)


def read_completion(body: Mapping[str, Any], *, id: str, deadline: float | None) -> Request:
    """The body of OpenAI's /v1/completions."""
    fields = _Fields(body)
    logprobs = fields.checked(_CompletionLogprobs).logprobs
    return _request(fields, ("prompt",), id, deadline, logprobs)


def read_shape(body: Mapping[str, Any], shape: type[S]) -> S:
    """A body of some other route, by its shape alone: what that knows is supported there."""
    return _Fields(body, own=shape.model_fields).checked(shape)


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _token_keys(value: Any) -> Any:
    """JSON's keys are strings: "15043" is a token id."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIAS:  # looked at before the entries: a fault of each would be remembered
        raise fault(f"should have at most {MAX_BIAS} tokens")
    biases: dict[Any, Any] = {}
    for key, bias in value.items():
        token = int(key) if isinstance(key, str) and _DIGITS.fullmatch(key) else key
        if token in biases:  # as "5" and "05"
            raise fault(f"has token {token} twice")
        biases[token] = bias
    return biases


def _limit(value: int) -> int | None:
    if value == 0:
        raise fault("should be at least 1 (-1: as many tokens as fit)")
    return None if value < 0 else value


def _seed(value: int) -> int | None:
    return None if value < 0 else value % SEEDS


def _prompts(value: Any) -> Any:
    """OpenAI's four forms as one: a list of texts and lists of token ids."""
    one = not isinstance(value, list) or (value and type(value[0]) is int)
    prompts = [value] if one else value
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise fault(f"should have 1 to {MAX_PROMPTS} prompts")
    return [_one_prompt(each) for each in prompts]


def _one_prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if (
        isinstance(value, list)
        and 0 < len(value) <= MAX_PROMPT_TOKENS
        and all(type(token) is int and 0 <= token <= _INT32 for token in value)
    ):
        return tuple(value)
    raise fault("should be text, token ids, or a list of these, and none of them empty")


Unit = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0, le=100)]
Penalty = Annotated[float, Field(ge=-10, le=10)]
Reach = Annotated[int, Field(ge=-1, le=_INT32)]
Breaker = Annotated[str, StringConstraints(min_length=1, max_length=40)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=_INT32)]
Bias = Annotated[float, Field(ge=-100, le=100)]
User = Annotated[str, StringConstraints(max_length=MAX_USER)]


class _Sampler(Shape):
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_k: Reach | None = None
    top_p: Unit | None = None
    min_p: Unit | None = None
    typical_p: Unit | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, le=100)] | None = None
    xtc_probability: Unit | None = None
    xtc_threshold: Unit | None = None
    dry_multiplier: Factor | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, le=_INT32)] | None = None
    dry_penalty_last_n: Reach | None = None
    dry_sequence_breakers: Annotated[list[Breaker], Field(max_length=16)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    repeat_last_n: Reach | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    dynatemp_range: Annotated[float, Field(ge=0, le=10)] | None = None
    dynatemp_exponent: Factor | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: Factor | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=10)] | None = None
    logit_bias: (
        Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIAS), BeforeValidator(_token_keys)]
        | None
    ) = None
    seed: Annotated[int, AfterValidator(_seed)] | None = None


class _StreamOptions(Shape):
    include_usage: bool | None = None


class _Common(Shape):
    model: str | None = None
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    max_tokens: Annotated[int, Field(ge=-1, le=_INT32), AfterValidator(_limit)] | None = None
    stop: Annotated[list[StopText], Field(max_length=MAX_STOPS), BeforeValidator(_stops)] = Field(
        default=[]
    )
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] = 1
    echo: bool = False
    best_of: int | None = None
    priority: Literal["low", "normal", "high"] = "normal"
    user: User | None = None
    safety_identifier: User | None = None
    """OpenAI's newer name for `user`; where both are sent, they need not agree."""

    @field_validator("best_of")
    @classmethod
    def _all(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value != info.data.get("n"):
            raise fault("is not supported by this version unless it equals `n`; leave it out")
        return value


class _Native(Shape):
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT)] | None = None
    task: None = None


class _Prompt(Shape):
    prompt: Annotated[list[str | tuple[int, ...]], BeforeValidator(_prompts)]
    suffix: str = ""


class _ChatLogprobs(Shape):
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def wanted(self) -> int | None:
        """As in a generation."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "`top_logprobs` needs `logprobs` to be true.", param="top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None


class _CompletionLogprobs(Shape):
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None


class _CalledFunction(Shape):
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str | dict[str, Any] = ""


class _Call(Shape):
    """A call that an assistant's turn made. Some clients leave out its type."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: _CalledFunction


class _Message(Shape):
    """One turn; what else it carries (`name`, `tool_call_id`...) is the template's business."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = Field(default=None, validate_default=True)
    tool_calls: Annotated[list[_Call], Field(max_length=MAX_CALLS)] = Field(default=[])

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("role", "assistant") != "assistant":
            raise fault("should be text: only an assistant's message may have none")
        return _joined(value) if isinstance(value, list) else value

    def plain(self) -> dict[str, Any]:
        more = {
            name: value for name, value in (self.model_extra or {}).items() if value is not None
        }
        # OpenAI renamed the role; templates know the old name.
        role = "system" if self.role == "developer" else self.role
        calls = {"tool_calls": [call.model_dump() for call in self.tool_calls]}
        content = self.content if self.content is not None or self.tool_calls else ""
        return {**more, **(calls if self.tool_calls else {}), "role": role, "content": content}


class _Chat(Shape):
    messages: Annotated[
        list[_Message],
        FailFast(),
        Field(
            min_length=1,
            max_length=MAX_MESSAGES,
            examples=[[{"role": "user", "content": "How many days are in a week?"}]],
        ),
    ]
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(small)] = Field(default={})
    reasoning_effort: Annotated[str, StringConstraints(max_length=_MAX_NAME)] | None = None
    enable_thinking: bool | None = None
    """Qwen's own service has it beside the messages; its templates, and other servers, among the options."""

    def options(self) -> dict[str, Any]:
        named = self.model_dump(include={"reasoning_effort", "enable_thinking"}, exclude_none=True)
        return named | self.chat_template_kwargs


CHAT_SHAPES = (_Chat, _Common, _Sampler, _ChatLogprobs, Tools, Format)
"""What checks the body of a chat, together."""
COMPLETION_SHAPES = (_Prompt, _Common, _Sampler, _CompletionLogprobs, Format)

_KNOWN = frozenset(_UNSUPPORTED).union(
    *(
        shape.model_fields
        for shape in (_Sampler, _Common, _Native, _Prompt, _Chat, _ChatLogprobs, Tools, Format)
    )
)


class _Fields:
    """The fields that were sent, under one name each, and what the caller called them."""

    def __init__(
        self, body: Mapping[str, Any], *, nested: bool = False, own: Collection[str] = ()
    ) -> None:
        self.values: dict[str, Any] = {}
        self._paths: dict[str, str] = {}
        _require_few(body)
        for name, value in body.items():
            if nested and name == _NESTED and value is not None:
                self._add_nested(value)
            else:
                self._add(name, value, name)
        self._refuse_unsupported(own)

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(self._paths[name][:_MAX_NAME] for name in self.values if name not in _KNOWN)

    def checked(self, shape: type[S], context: Mapping[str, Any] | None = None) -> S:
        try:
            return shape.model_validate(self.values, context=context)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            path = self._path(first["loc"])
        text, named = first["msg"], f"`{path}`"
        text = text.replace("Input", named, 1) if text.startswith("Input") else f"{named}: {text}"
        # Not chained: pydantic's error quotes what was sent, and errors may be logged.
        raise InvalidRequest(f"{text}.", param=path)

    def _add_nested(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"`{_NESTED}` should be an object.", param=_NESTED)
        _require_few(value)
        for name, each in value.items():
            self._add(name, each, f"{_NESTED}.{name}")

    def _add(self, name: str, value: Any, path: str) -> None:
        if value is None:
            return
        _require_sound(name, value, path)
        name = ALIASES.get(name, name)
        if name in self.values and not _same(self.values[name], value):
            raise InvalidRequest(
                f"`{path}` and `{self._paths[name]}` mean the same and differ; send one of them.",
                param=path,
            )
        self.values[name] = value
        self._paths[name] = path

    def _refuse_unsupported(self, own: Collection[str]) -> None:
        for name, value in self.values.items():
            harmless = _UNSUPPORTED.get(name, (value,))
            if name not in own and not any(_same(value, each) for each in harmless):
                path = self._paths[name]
                raise InvalidRequest(
                    f"`{path}` is not supported by this version; leave it out.", param=path
                )

    def _path(self, location: tuple[int | str, ...]) -> str:
        """`messages[2].content`, in the caller's words."""
        name, *rest = map(str, location)
        path, value = self._paths.get(name, name), self.values.get(name)
        for step in rest:
            if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                path, value = f"{path}[{step}]", value[int(step)]
            elif isinstance(value, Mapping) and (step in value or _is_field(step)):
                path, value = f"{path}.{step[:_MAX_NAME]}", value.get(step)
            else:
                break
        return path


_KINDS = frozenset({"bool", "str", "int", "float", "none"})


def _is_field(step: str) -> bool:
    """Could a step into an object be the name of a field that is missing, and not a kind that was tried?"""
    return step.isidentifier() and not step.startswith("_") and step not in _KINDS


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one type: false is no 0."""
    return type(one) is type(other) and bool(one == other)


def _request(
    fields: _Fields,
    sources: tuple[str, ...],
    id: str,
    deadline: float | None,
    logprobs: int | None,
    long_names: bool = False,
) -> Request:
    _require_one_source(fields, sources)
    common = fields.checked(_Common)
    prompt = fields.checked(_Prompt) if "prompt" in fields.values else None
    prompts = prompt.prompt if prompt else []
    chat = fields.checked(_Chat) if "messages" in fields.values else None
    tools = fields.checked(Tools, {LONG_NAMES: long_names})
    choice = tools.choice()
    field, grammar = fields.checked(Format).wanted() or (None, None)
    _require_sense(common, len(prompts), tools, field, logprobs)
    generation = GenerationRequest(
        id=id,
        sampling=_sampling(fields),
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
    return Request(
        generation=generation,
        stream=common.stream,
        include_usage=bool(common.stream_options.include_usage),
        model=common.model,
        unknown=fields.unknown,
        grammar_field=field,
    )


def _suffix(prompt: _Prompt | None, fields: _Fields) -> str:
    """What comes behind the answer; only a text can have it."""
    suffix = prompt.suffix if prompt else str(fields.values.get("suffix") or "")
    if suffix and (prompt is None or not all(isinstance(each, str) for each in prompt.prompt)):
        raise InvalidRequest("`suffix` needs a `prompt` that is text.", param="suffix")
    return suffix


def _require_sense(
    common: _Common,
    count: int,
    tools: Tools,
    format: str | None,
    logprobs: int | None,
) -> None:
    """Fields that are right alone and mean nothing together; `count` prompts, of which a chat has none."""
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
    if format is None:
        return
    if common.ignore_eos:
        raise InvalidRequest(
            f"`ignore_eos` and `{format}` cannot be sent together: what is complete has to end.",
            param="ignore_eos",
        )


def _require_one_source(fields: _Fields, sources: tuple[str, ...]) -> None:
    given = [name for name in ("prompt", "messages") if name in fields.values]
    wanted = " or ".join(f"`{name}`" for name in sources)
    if not given:
        raise InvalidRequest(f"{wanted} is missing.", param=sources[0])
    for name in given:
        if name not in sources:
            raise InvalidRequest(f"`{name}` has no place here; send {wanted}.", param=name)
    if len(given) > 1:
        raise InvalidRequest("Send `prompt` or `messages`, not both.", param="messages")


def _sampling(fields: _Fields) -> Sampling:
    sent = fields.checked(_Sampler).model_dump(exclude_unset=True)
    if "logit_bias" in sent:
        sent["logit_bias"] = tuple(sorted(sent["logit_bias"].items()))
    if "dry_sequence_breakers" in sent:
        sent["dry_sequence_breakers"] = tuple(sent["dry_sequence_breakers"])
    return Sampling(**sent)


def _joined(parts: list[Any]) -> str:
    """The text of content parts, a line each, as other servers join them."""
    if not 1 <= len(parts) <= MAX_PARTS:
        raise fault(f"should have 1 to {MAX_PARTS} parts")
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            name = repr(kind[:_MAX_NAME]) if isinstance(kind, str) else "no known type"
            raise fault(f"has a part of {name}, which is not supported by this version; send text")
        if not isinstance(part.get("text"), str):
            raise fault("has a part without `text`")
        texts.append(part["text"])
    return "\n".join(texts)


def _require_few(body: Mapping[str, Any]) -> None:
    if len(body) > MAX_FIELDS:
        raise InvalidRequest(f"There are more than {MAX_FIELDS} fields.")


def _count_parts(value: Any) -> int:
    """Content parts of as many messages as there may be; of anything else there are none."""
    if not isinstance(value, list):
        return 0
    few = value[:MAX_MESSAGES]  # of other things there may be millions
    contents = (each.get("content") for each in few if isinstance(each, dict))
    return sum(len(content) for content in contents if isinstance(content, list))


def _require_sound(name: str, value: Any, path: str) -> None:
    """Refuses what cannot travel on: text that is not Unicode, bottomless nesting, parts without number."""
    if _count_parts(value) > MAX_ALL_PARTS:
        raise InvalidRequest(
            f"`{path}` has more than {MAX_ALL_PARTS} content parts in all.", param=path
        )
    try:
        msgspec.json.encode(name)
    except UnicodeEncodeError as exc:
        raise InvalidRequest("A field's name is not valid Unicode.") from exc
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"`{path}` has text that is not valid Unicode.", param=path) from exc
    except RecursionError:
        text = None
    # Brackets are counted first: a prompt of a million tokens is not worth a look at each.
    if text is None or (_brackets(text) > MAX_NESTING and too_nested(value)):
        raise InvalidRequest(f"`{path}` {TOO_NESTED}.", param=path)


def _brackets(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")
