"""The format of an answer: OpenAI's, vLLM's and llama.cpp's words for it, as one grammar.

A schema is translated into one that the answer can be held to. Grammars are not checked here: the
engine compiles or refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from gguf_worker.api.reading.strict_model import (
    TOO_NESTED,
    StrictModel,
    field_fault,
    too_nested,
)
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Grammar
from gguf_worker.schemas import translated

MAX_GRAMMAR = Grammar.MOST_CHARACTERS
"""Characters of a schema (as JSON), a regular expression or a grammar."""

MAX_CHOICES = 1024


def _bounded(value: Any) -> Any:
    if len(json.dumps(value)) > MAX_GRAMMAR:
        raise field_fault(f"is larger than {MAX_GRAMMAR} characters")
    return value


def _schema(value: Any) -> Any:
    """Return the schema, parsed if it was sent as text, as vLLM allows."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_GRAMMAR:
        raise field_fault(f"is larger than {MAX_GRAMMAR} characters")
    try:
        schema = json.loads(value)
        msgspec.json.encode(schema)
    except (ValueError, RecursionError):  # half a surrogate pair is a ValueError too
        raise field_fault("is text, but not that of a JSON schema") from None
    if too_nested(schema):
        raise field_fault(TOO_NESTED)
    return schema


Schema = Annotated[dict[str, Any] | bool, AfterValidator(_bounded)]
SchemaOrText = Annotated[Schema, BeforeValidator(_schema)]
GrammarText = Annotated[str, StringConstraints(max_length=MAX_GRAMMAR)]
"""A grammar's text; an empty one means no grammar, as with llama.cpp."""
Choices = Annotated[
    list[Annotated[str, StringConstraints(min_length=1)]],
    Field(min_length=1, max_length=MAX_CHOICES),
    AfterValidator(_bounded),
]


@dataclass(frozen=True, slots=True)
class SentSchema:
    """A schema as it was sent; `strict`: it is followed as a whole or refused."""

    schema: Mapping[str, Any] | bool
    strict: bool = False
    within: str = ""
    """The path to it from the field that it is in."""

    def grammar(self, field: str, warnings: list[str]) -> Grammar:
        """Return the grammar. Adds to `warnings` what it leaves out, or raises InvalidRequest."""
        result = translated(self.schema)
        if result.relaxed.grave and self.strict:
            param = field + self.within
            raise InvalidRequest(
                f"`{param}` is strict, and an answer cannot be held to "
                f"{result.relaxed.summary()}. Leave that out, or send `strict` as false.",
                param=param,
            )
        warnings += result.relaxed.warnings("the answer")
        return Grammar("json_schema", result.text)


class NamedSchema(StrictModel):
    """OpenAI's `json_schema` of a response format. Its name is for people, and may be any."""

    name: str | None = None
    described: Annotated[Schema | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None


def _described(value: Any) -> Any:
    """Return a schema that was sent where its name and it should stand, with no name."""
    bare = isinstance(value, dict) and "schema" not in value and not _OF_SCHEMAS.isdisjoint(value)
    return {"schema": value} if bare else value


_OF_SCHEMAS = {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum"}


class ResponseFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[NamedSchema | None, BeforeValidator(_described)] = Field(
        default=None, validate_default=True
    )
    described: Annotated[Schema | None, Field(alias="schema")] = None
    """A schema beside `json_object`, as llama.cpp has it."""

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None and self.described is None:
            raise field_fault("has the type json_schema and no `json_schema`")
        return self

    def wanted(self) -> SentSchema | None:
        """Return the schema, or None if the format asks for free text."""
        if self.type == "text":
            return None
        if self.json_schema is not None and self.type == "json_schema":
            strict = self.json_schema.strict is True
            described = self.json_schema.described
            return SentSchema(True if described is None else described, strict, ".json_schema")
        return SentSchema({"type": "object"} if self.described is None else self.described)


class StructuredOutputs(StrictModel):
    """vLLM's `structured_outputs`: send one of its fields."""

    json_: Annotated[SchemaOrText | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: GrammarText | None = None
    choice: Choices | None = None
    grammar: GrammarText | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len(list(self.wanted())) > 1:
            raise field_fault("names several things to match; send one")
        return self

    def wanted(self) -> Iterator[SentSchema | Grammar]:
        """Yield a schema or a grammar for each field that was sent."""
        if self.json_ is not None:
            yield SentSchema(self.json_)
        if self.json_object:
            yield SentSchema({"type": "object"})
        if self.regex:
            yield Grammar("regex", self.regex)
        if self.choice is not None:
            yield _of_choices(self.choice)
        if self.grammar:
            yield Grammar("lark", self.grammar)


class AnswerFormat(StrictModel):
    """The fields of a body that constrain the format of its answer."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: GrammarText | None = None
    guided_choice: Choices | None = None
    guided_grammar: GrammarText | None = None
    json_schema: Schema | None = None
    grammar: GrammarText | None = None

    def wanted(self, warnings: list[str]) -> tuple[str, Grammar] | None:
        """Return the field that was sent and its grammar, or None.

        Adds to `warnings` what an answer is not held to. Two fields that want the same are one; two
        that differ raise InvalidRequest.
        """
        said: list[str] = []
        found = {
            field: each.grammar(field, said) if isinstance(each, SentSchema) else each
            for field, each in self._all()
        }
        warnings += dict.fromkeys(said)
        if len(set(found.values())) > 1:
            first, second = _two_that_differ(found)
            raise InvalidRequest(
                f"`{first}` and `{second}` both say what the answer has to match; "
                "send one of them.",
                param=second,
            )
        return next(iter(found.items()), None)

    def _all(self) -> Iterator[tuple[str, SentSchema | Grammar]]:
        if self.response_format and (schema := self.response_format.wanted()):
            yield "response_format", schema
        if self.structured_outputs:
            for wanted in self.structured_outputs.wanted():
                yield "structured_outputs", wanted
        for name in ("guided_json", "json_schema"):
            if (described := getattr(self, name)) is not None:
                yield name, SentSchema(described)
        if self.guided_regex:
            yield "guided_regex", Grammar("regex", self.guided_regex)
        if self.guided_choice is not None:
            yield "guided_choice", _of_choices(self.guided_choice)
        for name in ("guided_grammar", "grammar"):
            if text := getattr(self, name):
                yield name, Grammar("lark", text)


def _two_that_differ(found: Mapping[str, Grammar]) -> tuple[str, str]:
    first, *others = found
    return first, next(name for name in others if found[name] != found[first])


def _of_choices(choices: list[str]) -> Grammar:
    return Grammar("lark", f"start: {' | '.join(map(json.dumps, choices))}")
