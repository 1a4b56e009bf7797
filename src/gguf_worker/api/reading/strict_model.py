"""The base of all models that check a body: strict, with faults in the caller's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from gguf_worker.api.reading.bounds import MAX_NAME, MAX_NESTING, MAX_OPTIONS, MAX_WIDTH
from gguf_worker.api.reading.json_schemas import JsonSchema
from gguf_worker.errors import InvalidRequest

Location = Sequence[int | str]

TOO_NESTED = (
    f"is nested too much: {MAX_NESTING} levels may be, and {MAX_WIDTH} objects and lists on one"
)


def document(schema: dict[str, Any], model: type[Any]) -> None:
    """Put the model's own schemas of fields into its schema."""
    for name, documented in model.DOCUMENTED_AS.items():
        schema["properties"][name] = dict(documented)


def document_with_nulls(schema: dict[str, Any], model: type[Any]) -> None:
    """Document a model that takes null for each field that may be left out."""
    document(schema, model)
    for name in set(schema["properties"]).difference(schema.get("required", ())):
        schema["properties"][name] = {"anyOf": [schema["properties"][name], {"type": "null"}]}


class StrictModel(BaseModel):
    """A strict check: "5" is not a number and true is not 1, but an integer is a valid float, and
    16.0 a valid integer.

    Null means the default everywhere; a body's null fields are dropped before this check. A sampler
    setting that was not sent is left to the generation's default.
    """

    model_config = ConfigDict(
        strict=True, extra="ignore", allow_inf_nan=False, json_schema_extra=document
    )

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {}
    """Schemas of fields in the OpenAPI document, instead of those made from their checks."""

    @field_validator("*", mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)


_LARGEST_WHOLE = 2.0**63
"""Beyond it, a number is no count and no id of anything."""

ModelT = TypeVar("ModelT", bound=StrictModel)


def validated(
    model: type[ModelT],
    value: Mapping[str, Any],
    path: Callable[[Location], str],
    context: Mapping[str, Any] | None = None,
) -> ModelT:
    """Return the checked object. Raises InvalidRequest for the first fault, named by `path`."""
    try:
        return model.model_validate(value, context=context)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
    where = path(first["loc"])
    text, named = _message(first), f"`{where}`"
    text = text.replace("Input", named, 1) if text.startswith("Input") else f"{named}: {text}"
    # Not chained: pydantic's error quotes what was sent, and errors may be logged.
    raise InvalidRequest(f"{text}.", param=where)


def _message(fault: ErrorDetails) -> str:
    # Pydantic would name the class that it wanted an instance of, which callers don't know.
    return "Input should be an object" if fault["type"] == "model_type" else fault["msg"]


def path_within(path: str, value: Any, location: Location) -> str:
    """Return the path of a fault within the value at `path`, for example `messages[2].content`.

    Steps that are not in the caller's value, such as a union's member, end the path.
    """
    for step in map(str, location):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            path, value = f"{path}[{step}]", value[int(step)]
        elif isinstance(value, Mapping) and (step in value or _is_field(step)):
            path, value = f"{path}.{step[:MAX_NAME]}", value.get(step)
        else:
            break
    return path


_KINDS = frozenset({"bool", "str", "int", "float", "none"})


def _is_field(step: str) -> bool:
    """Tell a missing field's name from the name of a type that pydantic tried."""
    return step.isidentifier() and not step.startswith("_") and step not in _KINDS


def field_fault(text: str) -> PydanticCustomError:
    """Return a fault of a field, whose name goes before `text`."""
    return PydanticCustomError("value", "Input {text}", {"text": text})


def whole_numbers(value: Any) -> Any:
    """Return a float that is a whole number as an integer, and so those in a list of numbers.

    JSON does not tell 16.0 from 16, and some clients write all numbers as floats.
    """
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) < _LARGEST_WHOLE else value
    if type(value) is list and value and type(value[0]) in (int, float):
        # One pass in C over what may be millions of token ids.
        return [whole_numbers(each) for each in value] if float in map(type, value) else value
    return value


def small(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object. Raises a fault if it has more than MAX_OPTIONS bytes as JSON."""
    if len(msgspec.json.encode(value)) > MAX_OPTIONS:
        raise field_fault(f"is larger than {MAX_OPTIONS} bytes")
    return value


def too_nested(value: Any) -> bool:
    """Tell, without recursion, if a value is deeper than MAX_NESTING or wider than MAX_WIDTH."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [inner for each in level for inner in _nested(each)]
        if not level or len(level) > MAX_WIDTH:
            return bool(level)
    return True


_NESTS = frozenset({dict, list})


def _nested(value: Any) -> Iterable[Any]:
    """Return the objects and lists directly inside a value."""
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or _NESTS.isdisjoint(map(type, inside)):
        return ()  # so a list of a million tokens takes no Python step for each
    return [inner for inner in inside if isinstance(inner, dict | list)]
