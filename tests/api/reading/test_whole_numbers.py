"""Whole numbers, as JSON has them: 16.0 is 16, and null is nothing, on every route.

Made from the models that check the routes' bodies, so that a new field is tried by itself.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gguf_worker.api.reading.strict_model import whole_numbers
from gguf_worker.api.routes import ROUTES, GenerationAnswerer, ObjectAnswerer, Route
from gguf_worker.errors import InvalidRequest

VALUES: tuple[Any, ...] = (1, 0, 64, [1, 2], [[1, 2], [3]], [])
"""Values of which one is right for each field that takes whole numbers."""


def takes_integers(annotation: Any) -> bool:
    """Tell whether a type is an integer, or made of some."""
    if annotation is int:
        return True
    inside = typing.get_args(annotation)
    is_table = typing.get_origin(annotation) is dict
    return not is_table and any(
        takes_integers(each) for each in inside if not isinstance(each, types.EllipsisType)
    )


def fields() -> Iterator[tuple[Route, str]]:
    for route in ROUTES:
        if route.document is None:
            continue
        names = {
            name
            for model in route.document.models
            for name, field in model.model_fields.items()
            if takes_integers(field.annotation) and name not in route.document.without
        }
        names |= BY_HAND.get(route.path, set())
        yield from ((route, name) for name in sorted(names))


BY_HAND = {"/v1/embeddings": {"input"}}
"""Fields that are checked by hand, so that no type tells what they take."""

FIELDS = list(fields())


def read(route: Route, **more: Any) -> Any:
    assert isinstance(route.answerer, GenerationAnswerer | ObjectAnswerer)
    assert route.document is not None
    body = {**route.document.example, **more}
    body.pop("stream", None)
    return route.answerer.read(body, id="r1", deadline=None)


def as_floats(value: Any) -> Any:
    return list(map(as_floats, value)) if isinstance(value, list) else float(value)


def right_value(route: Route, name: str) -> Any:
    for value in VALUES:
        try:
            read(route, **{name: value})
        except InvalidRequest:
            continue
        return value
    raise AssertionError(f"{route.path} takes none of {VALUES} as {name}")


def test_there_are_such_fields_on_every_kind_of_route() -> None:
    assert {"max_tokens", "seed", "n", "stop_token_ids", "prompt", "dimensions", "top_n"} <= {
        name for _, name in FIELDS
    }


@pytest.mark.parametrize(("route", "name"), FIELDS, ids=lambda each: getattr(each, "path", each))
def test_a_float_that_is_a_whole_number_is_that_number(route: Route, name: str) -> None:
    value = right_value(route, name)
    assert read(route, **{name: as_floats(value)}) == read(route, **{name: value})


@pytest.mark.parametrize(("route", "name"), FIELDS, ids=lambda each: getattr(each, "path", each))
def test_null_is_as_good_as_nothing(route: Route, name: str) -> None:
    assert route.document is not None
    without: Mapping[str, Any] = {
        key: value for key, value in route.document.example.items() if key != name
    }
    assert isinstance(route.answerer, GenerationAnswerer | ObjectAnswerer)
    outcomes = []
    for body in (without, {**without, name: None}):
        try:
            outcomes.append(route.answerer.read(body, id="r1", deadline=None))
        except InvalidRequest as error:
            outcomes.append((error.param, error.message))
    assert outcomes[0] == outcomes[1]


NO_WHOLE_NUMBERS: tuple[Any, ...] = (1.5, math.nan, math.inf, 1e300, True, "1", {})
WRONG = [
    pytest.param(route, name, wrong, id=f"{route.path}-{name}-{wrong}")
    for route, name in FIELDS
    for wrong in NO_WHOLE_NUMBERS
    if not (isinstance(wrong, str) and name in ("input", "prompt"))  # a text is right there
]


@pytest.mark.parametrize(("route", "name", "wrong"), WRONG)
def test_other_numbers_and_what_is_none_are_no_whole_numbers(
    route: Route, name: str, wrong: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(route, **{name: wrong})
    assert caught.value.param is not None
    assert caught.value.param.startswith(name)


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        (16.0, 16),
        (-1.0, -1),
        (0.5, 0.5),
        (1e300, 1e300),
        (True, True),
        ("16.0", "16.0"),
        ([1, 2.0, 3], [1, 2, 3]),
        ([1.0, 2.5], [1, 2.5]),
        ([], []),
        (["a", 1.0], ["a", 1.0]),
        ({"a": 1.0}, {"a": 1.0}),
    ],
)
def test_only_numbers_and_lists_of_them_are_changed(value: Any, whole: Any) -> None:
    changed = whole_numbers(value)
    assert (changed, str(changed)) == (whole, str(whole)), "of the same types"


def test_a_list_without_floats_is_not_copied() -> None:
    tokens = [1, 2, 3]
    assert whole_numbers(tokens) is tokens
