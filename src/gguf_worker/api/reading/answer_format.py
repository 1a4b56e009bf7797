"""The format of an answer: OpenAI's, vLLM's and llama.cpp's words for it, as one grammar.

Schemas and grammars are not checked here: the engine compiles or refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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


class NamedSchema(StrictModel):
    """OpenAI's `json_schema` of a response format. `strict: false` has no effect."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    described: Annotated[Schema, Field(alias="schema")] = True
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = Field(default=None, validate_default=True)
    described: Annotated[Schema | None, Field(alias="schema")] = None
    """A schema beside `json_object`, as llama.cpp has it."""

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None and self.described is None:
            raise field_fault("has the type json_schema and no `json_schema`")
        return self

    def grammar(self) -> Grammar | None:
        """Return the grammar, or None if the format asks for free text."""
        if self.type == "text":
            return None
        if self.json_schema is not None and self.type == "json_schema":
            return _of_schema(self.json_schema.described)
        return _of_schema({"type": "object"} if self.described is None else self.described)


class StructuredOutputs(StrictModel):
    """vLLM's `structured_outputs`: send one of its fields."""

    json_: Annotated[SchemaOrText | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: GrammarText | None = None
    choice: Choices | None = None
    grammar: GrammarText | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len(list(self.grammars())) > 1:
            raise field_fault("names several things to match; send one")
        return self

    def grammars(self) -> Iterator[Grammar]:
        """Yield a grammar for each field that was sent."""
        if self.json_ is not None:
            yield _of_schema(self.json_)
        if self.json_object:
            yield _of_schema({"type": "object"})
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

    def wanted(self) -> tuple[str, Grammar] | None:
        """Return the field that was sent and its grammar, or None. Two raise InvalidRequest."""
        found = dict(self._all())
        if len(found) > 1:
            first, second = list(found)[:2]
            raise InvalidRequest(
                f"`{first}` and `{second}` both say what the answer has to match; "
                "send one of them.",
                param=second,
            )
        return next(iter(found.items()), None)

    def _all(self) -> Iterator[tuple[str, Grammar]]:
        if self.response_format and (grammar := self.response_format.grammar()):
            yield "response_format", grammar
        if self.structured_outputs:
            for grammar in self.structured_outputs.grammars():
                yield "structured_outputs", grammar
        for name in ("guided_json", "json_schema"):
            if (schema := getattr(self, name)) is not None:
                yield name, _of_schema(schema)
        if self.guided_regex:
            yield "guided_regex", Grammar("regex", self.guided_regex)
        if self.guided_choice is not None:
            yield "guided_choice", _of_choices(self.guided_choice)
        for name in ("guided_grammar", "grammar"):
            if text := getattr(self, name):
                yield name, Grammar("lark", text)


def _of_schema(schema: Mapping[str, Any] | bool) -> Grammar:
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def _of_choices(choices: list[str]) -> Grammar:
    return Grammar("lark", f"start: {' | '.join(map(json.dumps, choices))}")
