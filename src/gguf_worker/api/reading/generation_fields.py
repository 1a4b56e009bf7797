"""The fields of a generation apart from messages and sampler: prompts, lengths, counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    FailFast,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from gguf_worker.api.reading.bounds import (
    MAX_ALLOWED,
    MAX_ANSWERS,
    MAX_FIELDS,
    MAX_INT32,
    MAX_PROMPTS,
    MAX_STOP_TOKENS,
    MAX_STOPS,
    MAX_TIMEOUT,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    MAX_USER,
)
from gguf_worker.api.reading.json_schemas import (
    SOME_TEXT,
    SOME_TOKENS,
    TEXT,
    JsonSchema,
    list_of,
)
from gguf_worker.api.reading.sampling_fields import TokenId
from gguf_worker.api.reading.strict_model import StrictModel, field_fault, whole_numbers
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import TokenRules


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _some(tokens: list[int]) -> list[int]:
    if not tokens:
        raise field_fault("should have at least one token id; leave it out to allow all")
    return tokens


def _without_empty(texts: list[str]) -> list[str]:
    """Leave out the empty texts, which stand for nothing."""
    kept = [each for each in texts if each]
    if len(kept) > MAX_STOPS:
        raise field_fault(f"should have at most {MAX_STOPS} texts")
    return kept


def _limit(value: int) -> int | None:
    return None if value < 0 else value


def _kept(value: int) -> int:
    if value == 0:
        raise field_fault("should be at least 1 (-1: as many tokens as fit)")
    return value


def _prompts(value: Any) -> Any:
    """Return OpenAI's four forms as one: a list of texts and lists of token ids."""
    one = not isinstance(value, list) or (value and type(value[0]) in (int, float))
    prompts = [value] if one else value
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise field_fault(f"should have 1 to {MAX_PROMPTS} prompts")
    return [_one_prompt(each) for each in prompts]


def _one_prompt(value: Any) -> str | tuple[int, ...]:
    value = whole_numbers(value)
    if isinstance(value, str) and value:
        return value
    if (
        isinstance(value, list)
        and 0 < len(value) <= MAX_TOKENS
        and all(type(token) is int and 0 <= token <= MAX_INT32 for token in value)
    ):
        return tuple(value)
    raise field_fault("should be text, token ids, or a list of these, and none of them empty")


StopText = Annotated[str, StringConstraints(max_length=256)]
StopTexts = Annotated[
    list[StopText],
    FailFast(),
    Field(max_length=MAX_FIELDS),
    BeforeValidator(_texts),
    AfterValidator(_without_empty),
]
Likeliest = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]
"""The most likely tokens to report beside each one, as a number."""
User = Annotated[str, StringConstraints(max_length=MAX_USER)]


class StreamOptions(StrictModel):
    include_usage: bool | None = None


_TEXTS: JsonSchema = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "maxItems": MAX_STOPS}]}


class CommonFields(StrictModel):
    """The fields that all generations share, from prompts and from messages alike."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "stop": _TEXTS,
        "bad_words": _TEXTS,
        "max_tokens": {
            "anyOf": [{"const": -1}, {"type": "integer", "minimum": 0, "maximum": MAX_INT32}]
        },
    }

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Annotated[int, Field(ge=-1, le=MAX_INT32), AfterValidator(_limit)] | None = None
    stop: StopTexts = Field(default=[])
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] = 0
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] = Field(default=[])
    allowed_token_ids: Annotated[
        list[TokenId], FailFast(), Field(max_length=MAX_ALLOWED), AfterValidator(_some)
    ] = Field(default=[])
    bad_words: StopTexts = Field(default=[])
    skip_special_tokens: bool = True
    truncate_prompt_tokens: (
        Annotated[int, Field(ge=-1, le=MAX_INT32), AfterValidator(_kept)] | None
    ) = None
    prompt_logprobs: Likeliest | None = None
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
            raise field_fault("is not supported by this version unless it equals `n`; leave it out")
        return value

    def rules(self) -> TokenRules:
        """Return the rules about the tokens of the answer."""
        return TokenRules(
            least=self.min_tokens,
            stops=tuple(self.stop_token_ids),
            allowed=tuple(self.allowed_token_ids),
            bad_words=tuple(self.bad_words),
        )

    def rule_beside_format(self) -> str | None:
        """Return the field of a rule that an answer held to a format might not be able to keep."""
        fields = ("ignore_eos", "min_tokens", "allowed_token_ids", "bad_words")
        return next((name for name in fields if getattr(self, name)), None)


class JobFields(StrictModel):
    """The fields that only a plain job's input uses; elsewhere they are accepted without effect."""

    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT)] | None = None
    task: None = None


class PromptFields(StrictModel):
    """The prompts to continue, and the text that follows the answer."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "prompt": {
            "anyOf": [
                SOME_TEXT,
                SOME_TOKENS,
                list_of({"anyOf": [SOME_TEXT, SOME_TOKENS]}),
            ]
        },
    }

    prompt: Annotated[list[str | tuple[int, ...]], BeforeValidator(_prompts)]
    suffix: str = ""


class ChatLogprobs(StrictModel):
    """A chat's request for logprobs, in OpenAI's two fields."""

    logprobs: bool = False
    top_logprobs: Likeliest | None = None

    def wanted(self) -> int | None:
        """Return the alternatives for each token; None: no logprobs. Raises InvalidRequest."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "`top_logprobs` needs `logprobs` to be true.", param="top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionLogprobs(StrictModel):
    """A completion's request for logprobs, in one field."""

    logprobs: Likeliest | None = None
