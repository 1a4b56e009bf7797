"""Schemas that Python's libraries make of types, as they make them today."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import msgspec
from pydantic import (
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    HttpUrl,
    Json,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    conlist,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    street: str
    city: str = Field(description="Where it is", examples=["Ankara"])
    zip_code: Annotated[str, StringConstraints(pattern=r"^\d{5}(-\d{4})?$")]


class Person(BaseModel):
    """A person, as books about schemas have it."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=12)]
    age: Annotated[int, Field(ge=0, lt=150)]
    address: Address | None = None
    tags: set[str] = set()
    friends: list[Person] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Household(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: list[Cat | Dog]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: str | None = None


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    first_name: str
    last_seen_at: dt.datetime


class OpenRecord(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int


class TypedExtra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]

    id: int


class Documented(BaseModel):
    model_config = ConfigDict(
        title="A title (with brackets) [x]", json_schema_extra={"examples": [{"a": 1}]}
    )

    a: Annotated[int, Field(json_schema_extra={"x-order": 1})] = 3


class Tree(BaseModel):
    value: int
    left: Tree | None = None
    right: Tree | None = None


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Nothing(BaseModel):
    pass


class Everything(BaseModel):
    date: dt.date
    time: dt.time
    moment: AwareDatetime
    length: dt.timedelta
    id: uuid.UUID
    price: decimal.Decimal
    site: HttpUrl
    link: AnyUrl
    v4: ipaddress.IPv4Address
    any_ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    path: pathlib.Path
    file: FilePath
    secret: SecretStr
    data: Base64Bytes
    raw: bytes
    parsed: Json[dict[str, int]]


class Steps(BaseModel):
    """As OpenAI's guide has it."""

    class Step(BaseModel):
        explanation: str
        output: str

    steps: list[Step]
    final_answer: str


TYPES: dict[str, Any] = {
    "person": Person,
    "household": Household,
    "page of persons": Page[Person],
    "page of a union": Page[Cat | Dog | int],
    "page of pages": Page[Page[int]],
    "camel": Camel,
    "open": OpenRecord,
    "typed extra": TypedExtra,
    "documented": Documented,
    "tree": Tree,
    "movie": Movie,
    "point": Point,
    "nothing": Nothing,
    "steps": Steps,
    "everything": Everything,
    "colour": Colour,
    "level": Level,
    "a set": set[int],
    "a set of at most one": Annotated[set[int], Field(max_length=1)],
    "frozen": frozenset[Colour],
    "tuple": tuple[int, str, bool],
    "long tuple": tuple[int, ...],
    "list": conlist(int, min_length=2, max_length=3),
    "map": dict[str, int],
    "map of an enum": dict[Colour, int],
    "map of literals": dict[Literal["a", "b"], int],
    "map of patterns": dict[Annotated[str, StringConstraints(pattern="^x-")], str],
    "map of lengths": dict[Annotated[str, StringConstraints(min_length=2, max_length=4)], int],
    "map of ids": dict[uuid.UUID, int],
    "map of integers": dict[int, str],
    "big map": Annotated[dict[str, int], Field(min_length=2)],
    "mixed literal": Literal["a", 1, None, True],
    "one literal": Literal["only"],
    "optional": int | None,
    "any": Any,
    "union": int | str | list[int] | dict[str, bool],
    "bounds": Annotated[float, Field(gt=0, le=1)],
    "multiple": Annotated[int, Field(multiple_of=5)],
    "cents": Annotated[decimal.Decimal, Field(max_digits=6, decimal_places=2)],
    "strict pattern": Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}\d{4}$")],
    "list of models": list[Address],
    "map of lists": dict[str, list[Address]],
    "list of optional": list[int | None],
    "bool": bool,
    "null": None,
    "bytes": bytes,
    "email-like": Annotated[str, Field(json_schema_extra={"format": "email"})],
    "url-like": Annotated[str, Field(json_schema_extra={"format": "url"})],
}


class Item(msgspec.Struct, tag=True):
    price: Annotated[float, msgspec.Meta(gt=0)]
    tags: frozenset[str] = frozenset()


class Service(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, pattern="^[a-z]")]
    when: dt.datetime | None = None


class Order(msgspec.Struct, rename="camel"):
    order_lines: list[Item | Service]
    by_name: dict[str, Item] = {}


class Pair(msgspec.Struct, array_like=True):
    a: int
    b: str = ""


STRUCTS: dict[str, Any] = {
    "item": Item,
    "order": Order,
    "pair": Pair,
    "literal": Literal["a", "b"],
    "optional order": Order | None,
    "tuple": tuple[int, str],
    "map": dict[str, Annotated[int, msgspec.Meta(ge=0)]],
    "bounded list": Annotated[list[int], msgspec.Meta(min_length=1, max_length=3)],
    "id": uuid.UUID,
    "bytes": bytes,
}


def python_schemas() -> Iterator[tuple[str, Any]]:
    """Yield the schemas by a name."""
    for name, each in TYPES.items():
        yield f"pydantic {name}", TypeAdapter(each).json_schema()
    for name in ("person", "everything", "camel", "household"):
        yield f"pydantic {name} out", TypeAdapter(TYPES[name]).json_schema(mode="serialization")
        reference = "#/components/schemas/{model}"
        yield f"openapi {name}", _with_components(TYPES[name], reference)
    for name, each in STRUCTS.items():
        yield f"msgspec {name}", msgspec.json.schema(each)


def _with_components(model: Any, reference: str) -> dict[str, Any]:
    """Return a model's schema as FastAPI cuts it out of an OpenAPI document."""
    schema = TypeAdapter(model).json_schema(ref_template=reference)
    definitions = schema.pop("$defs", {})
    return {**schema, "components": {"schemas": definitions}} if definitions else schema
