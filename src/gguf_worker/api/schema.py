"""What callers may send: bodies checked strictly and turned into wishes.

Every fault becomes an InvalidRequest whose `param` is the path of the field in the caller's own words.
Nothing that would change the answer is silently ignored. Knows no model: names are checked elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import SEEDS, Priority, Sampling, Wish

MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_BIAS = 1024
MAX_ANSWERS = 16
MAX_USER = 256
MAX_TIMEOUT = 7 * 24 * 3600.0
"""Seconds; the longest that RunPod lets a job run."""

_INT32 = 2**31 - 1
_MAX_OPTIONS = 64 * 1024
_MAX_WARNINGS = 16
_MAX_NAME = 64
_DIGITS = re.compile(f"[0-9]{{1,{_MAX_NAME}}}")  # longer ones cost int() more than they are worth

_NESTED = "sampling_params"

_ALIASES = {
    "max_completion_tokens": "max_tokens",
    "repetition_penalty": "repeat_penalty",
    "typ_p": "typical_p",
}

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "bad_words": ([],),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": (),
    "logprobs": (False,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Fields that would change the answer, with the values that do not (null never does)."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checked body: the wish, and how its answer is wanted."""

    wish: Wish
    stream: bool
    include_usage: bool
    model: str | None
    unknown: tuple[str, ...]
    """Paths of fields that nobody here knows; they had no effect."""

    @property
    def warnings(self) -> tuple[str, ...]:
        named = [f"unknown field {name!r} was ignored" for name in self.unknown[:_MAX_WARNINGS]]
        more = len(self.unknown) - len(named)
        return (*named, f"{more} more unknown fields were ignored") if more else tuple(named)


def read_native(body: Mapping[str, Any], *, id: str, deadline: float | None) -> Request:
    """A job's own input: `prompt` or `messages`, with sampling settings beside them or nested."""
    fields = _Fields(body, nested=True)
    fields.checked(_Native)
    return _request(fields, ("prompt", "messages"), id, deadline)


def read_chat(body: Mapping[str, Any], *, id: str, deadline: float | None) -> Request:
    """The body of OpenAI's /v1/chat/completions."""
    return _request(_Fields(body), ("messages",), id, deadline)


def read_completion(body: Mapping[str, Any], *, id: str, deadline: float | None) -> Request:
    """The body of OpenAI's /v1/completions."""
    return _request(_Fields(body), ("prompt",), id, deadline)


def _fault(text: str) -> PydanticCustomError:
    return PydanticCustomError("value", "Input {text}", {"text": text})


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _token_keys(value: Any) -> Any:
    """JSON's keys are strings: "15043" is a token id."""
    if not isinstance(value, dict):
        return value
    return {
        int(key) if isinstance(key, str) and _DIGITS.fullmatch(key) else key: bias
        for key, bias in value.items()
    }


def _limit(value: int) -> int | None:
    if value == 0:
        raise _fault("should be at least 1 (-1: as many tokens as fit)")
    return None if value < 0 else value


def _seed(value: int) -> int | None:
    return None if value < 0 else value % SEEDS


def _one_prompt(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) == 1 and isinstance(value[0], str):
        return value[0]
    if value and all(isinstance(each, str) for each in value):
        raise _fault("has several prompts; send one request for each")
    raise _fault("should be text; token ids are not supported by this version")


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(msgspec.json.encode(value)) > _MAX_OPTIONS:
        raise _fault(f"is larger than {_MAX_OPTIONS} bytes")
    return value


Unit = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0, le=100)]
Penalty = Annotated[float, Field(ge=-10, le=10)]
Reach = Annotated[int, Field(ge=-1, le=_INT32)]
Breaker = Annotated[str, StringConstraints(min_length=1, max_length=40)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=_INT32)]
Bias = Annotated[float, Field(ge=-100, le=100)]
User = Annotated[str, StringConstraints(max_length=MAX_USER)]


class _Shape(BaseModel):
    """Strict: "5" is no number, true is no 1; but an integer is a fine float.

    Null means the default everywhere and never gets here, nor do the defaults below get out: what
    was not sent is left to the wish.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Sampler(_Shape):
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


class _StreamOptions(_Shape):
    include_usage: bool | None = None


class _Common(_Shape):
    model: str | None = None
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    max_tokens: Annotated[int, Field(ge=-1, le=_INT32), AfterValidator(_limit)] | None = None
    stop: Annotated[list[StopText], Field(max_length=16), BeforeValidator(_stops)] = []
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] = 1
    best_of: int | None = None
    priority: Literal["low", "normal", "high"] = "normal"
    user: User | None = None
    safety_identifier: User | None = None
    """OpenAI's newer name for `user`; where both are sent, they need not agree."""

    @field_validator("best_of")
    @classmethod
    def _all(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value != info.data.get("n"):
            raise _fault("is not supported by this version unless it equals `n`; leave it out")
        return value


class _Native(_Shape):
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT)] | None = None
    task: None = None


class _Prompt(_Shape):
    prompt: Annotated[str, StringConstraints(min_length=1), BeforeValidator(_one_prompt)]


class _Message(_Shape):
    """One turn; what else it carries (`name`, `tool_calls`...) is the template's business."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = Field(default=None, validate_default=True)

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("role", "assistant") != "assistant":
            raise _fault("should be text: only an assistant's message may have none")
        return _joined(value) if isinstance(value, list) else value

    def plain(self) -> dict[str, Any]:
        more = {
            name: value for name, value in (self.model_extra or {}).items() if value is not None
        }
        # OpenAI renamed the role; templates know the old name.
        role = "system" if self.role == "developer" else self.role
        content = self.content if self.content is not None or more.get("tool_calls") else ""
        return {**more, "role": role, "content": content}


class _Chat(_Shape):
    messages: Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_small)] = {}
    reasoning_effort: Annotated[str, StringConstraints(max_length=_MAX_NAME)] | None = None

    def options(self) -> dict[str, Any]:
        effort = (
            {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        )
        return effort | self.chat_template_kwargs


_KNOWN = frozenset(_UNSUPPORTED).union(
    *(shape.model_fields for shape in (_Sampler, _Common, _Native, _Prompt, _Chat))
)

S = TypeVar("S", bound=_Shape)


class _Fields:
    """The fields that were sent, under one name each, and what the caller called them."""

    def __init__(self, body: Mapping[str, Any], *, nested: bool = False) -> None:
        self.values: dict[str, Any] = {}
        self._paths: dict[str, str] = {}
        for name, value in body.items():
            if nested and name == _NESTED and value is not None:
                self._add_nested(value)
            else:
                self._add(name, value, name)
        self._refuse_unsupported()

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(self._paths[name][:_MAX_NAME] for name in self.values if name not in _KNOWN)

    def checked(self, shape: type[S]) -> S:
        try:
            return shape.model_validate(self.values)
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
        for name, each in value.items():
            self._add(name, each, f"{_NESTED}.{name}")

    def _add(self, name: str, value: Any, path: str) -> None:
        if value is None:
            return
        _require_sound(name, value, path)
        name = _ALIASES.get(name, name)
        if name in self.values and self.values[name] != value:
            raise InvalidRequest(
                f"`{path}` and `{self._paths[name]}` mean the same and differ; send one of them.",
                param=path,
            )
        self.values[name] = value
        self._paths[name] = path

    def _refuse_unsupported(self) -> None:
        for name, value in self.values.items():
            harmless = _UNSUPPORTED.get(name, (value,))
            if not any(type(value) is type(each) and value == each for each in harmless):
                path = self._paths[name]
                raise InvalidRequest(
                    f"`{path}` is not supported by this version; leave it out.", param=path
                )

    def _path(self, location: tuple[int | str, ...]) -> str:
        """`messages[2].content`, in the caller's words."""
        name, *rest = map(str, location)
        path, value = self._paths.get(name, name), self.values.get(name)
        for step in rest:
            if isinstance(value, list):
                path, value = f"{path}[{step}]", value[int(step)]
            elif isinstance(value, Mapping):
                path, value = f"{path}.{step[:_MAX_NAME]}", value.get(step)
            else:
                break
        return path


def _request(fields: _Fields, sources: tuple[str, ...], id: str, deadline: float | None) -> Request:
    _require_one_source(fields, sources)
    common = fields.checked(_Common)
    prompt = fields.checked(_Prompt).prompt if "prompt" in fields.values else None
    chat = fields.checked(_Chat) if "messages" in fields.values else None
    wish = Wish(
        id=id,
        sampling=_sampling(fields),
        prompt=prompt,
        messages=tuple(each.plain() for each in chat.messages) if chat else None,
        template_options=chat.options() if chat else {},
        max_tokens=common.max_tokens,
        stop=tuple(common.stop),
        ignore_eos=common.ignore_eos,
        deadline=deadline,
        n=common.n,
        priority=Priority[common.priority.upper()],
        user=common.user or common.safety_identifier or "",
    )
    return Request(
        wish=wish,
        stream=common.stream,
        include_usage=bool(common.stream_options.include_usage),
        model=common.model,
        unknown=fields.unknown,
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
        raise _fault(f"should have 1 to {MAX_PARTS} parts")
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            name = repr(kind[:_MAX_NAME]) if isinstance(kind, str) else "no known type"
            raise _fault(f"has a part of {name}, which is not supported by this version; send text")
        if not isinstance(part.get("text"), str):
            raise _fault("has a part without `text`")
        texts.append(part["text"])
    return "\n".join(texts)


def _require_sound(name: str, value: Any, path: str) -> None:
    """Refuses what cannot travel on: text that is not Unicode, and bottomless nesting."""
    try:
        msgspec.json.encode(name)
    except UnicodeEncodeError as exc:
        raise InvalidRequest("A field's name is not valid Unicode.") from exc
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"`{path}` has text that is not valid Unicode.", param=path) from exc
    except RecursionError as exc:
        raise InvalidRequest(f"`{path}` is nested too deeply.", param=path) from exc
