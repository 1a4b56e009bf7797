"""The sampler's fields, under llama.cpp's names."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from gguf_worker.api.reading.bounds import MAX_BIAS, MAX_INT32, MAX_NAME
from gguf_worker.api.reading.strict_model import StrictModel, field_fault
from gguf_worker.generation import Sampling
from gguf_worker.providers import SEEDS

_DIGITS = re.compile(f"[0-9]{{1,{MAX_NAME}}}")  # longer ones are no token ids, only slow


def _token_keys(value: Any) -> Any:
    """Return biases by token id. JSON's keys are strings: "15043" is a token id."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIAS:  # before the entries, as pydantic collects a fault of each
        raise field_fault(f"should have at most {MAX_BIAS} tokens")
    biases: dict[Any, Any] = {}
    for key, bias in value.items():
        token = int(key) if isinstance(key, str) and _DIGITS.fullmatch(key) else key
        if token in biases:  # as "5" and "05"
            raise field_fault(f"has token {token} twice")
        biases[token] = bias
    return biases


def _seed(value: int) -> int | None:
    return None if value < 0 else value % SEEDS


Unit = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0, le=100)]
Penalty = Annotated[float, Field(ge=-10, le=10)]
LastTokens = Annotated[int, Field(ge=-1, le=MAX_INT32)]
"""A count of tokens; -1: all."""
SequenceBreaker = Annotated[str, StringConstraints(min_length=1, max_length=40)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class SamplerFields(StrictModel):
    """The settings of one generation's sampler."""

    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_k: LastTokens | None = None
    top_p: Unit | None = None
    min_p: Unit | None = None
    typical_p: Unit | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, le=100)] | None = None
    xtc_probability: Unit | None = None
    xtc_threshold: Unit | None = None
    dry_multiplier: Factor | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    dry_penalty_last_n: LastTokens | None = None
    dry_sequence_breakers: Annotated[list[SequenceBreaker], Field(max_length=16)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    repeat_last_n: LastTokens | None = None
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

    def sampling(self) -> Sampling:
        """Return the settings that were sent; the others keep their defaults."""
        sent = self.model_dump(exclude_unset=True)
        if "logit_bias" in sent:
            sent["logit_bias"] = tuple(sorted(sent["logit_bias"].items()))
        if "dry_sequence_breakers" in sent:
            sent["dry_sequence_breakers"] = tuple(sent["dry_sequence_breakers"])
        return Sampling(**sent)
