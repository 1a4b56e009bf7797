"""The fields that a caller sent: screened, brought under one name each, and checked by models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gguf_worker.api.reading.bounds import (
    MAX_ALL_PARTS,
    MAX_FIELDS,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_NESTING,
    MAX_WARNINGS,
)
from gguf_worker.api.reading.strict_model import (
    TOO_NESTED,
    Location,
    ModelT,
    path_within,
    too_nested,
    validated,
)
from gguf_worker.errors import InvalidRequest

ALIASES = {
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "repetition_penalty": "repeat_penalty",
    "typ_p": "typical_p",
    **dict.fromkeys(
        (
            "reasoning_budget",
            "reasoning_budget_tokens",
            "thinking_budget_tokens",
            "thinking_token_budget",
        ),
        "thinking_budget",
    ),
}
"""Other names of fields."""

UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "documents": ([],),
    "modalities": (["text"],),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Unsupported fields, with the values that are accepted as they change nothing (null always is)."""

_NESTED = "sampling_params"


class SentFields:
    """The fields of a body under one name each, in `values`, and the caller's names for them.

    `nested`: fields within `sampling_params` count like those beside it. `own`: fields that this
    route supports although others do not. Raises InvalidRequest for unsupported fields.
    """

    def __init__(
        self, body: Mapping[str, Any], *, nested: bool = False, own: Collection[str] = ()
    ) -> None:
        self.values: dict[str, Any] = {}
        self.warnings: list[str] = []
        """Sentences about what a reader took otherwise than it was sent; readers add them."""
        self._paths: dict[str, str] = {}
        _require_few(body)
        for name, value in body.items():
            if nested and name == _NESTED and value is not None:
                self._add_nested(value)
            else:
                self._add(name, value, name)
        self._refuse_unsupported(own)

    def unknown_warnings(self, known: Collection[str]) -> tuple[str, ...]:
        """Return sentences about the fields that are not `known`: one for each of the first
        MAX_WARNINGS, and one for all others."""
        unknown = [self._paths[name][:MAX_NAME] for name in self.values if name not in known]
        named = [f"unknown field {name!r} was ignored" for name in unknown[:MAX_WARNINGS]]
        more = len(unknown) - len(named)
        return (*named, f"{more} more unknown fields were ignored") if more else tuple(named)

    def checked(self, model: type[ModelT], context: Mapping[str, Any] | None = None) -> ModelT:
        """Return the model's fields, checked. Raises InvalidRequest for the first wrong one."""
        return validated(model, self.values, self._path, context)

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
            harmless = UNSUPPORTED.get(name, (value,))
            if name not in own and not any(_same(value, each) for each in harmless):
                path = self._paths[name]
                raise InvalidRequest(
                    f"`{path}` is not supported by this version; leave it out.", param=path
                )

    def _path(self, location: Location) -> str:
        name, *rest = map(str, location)
        return path_within(self._paths.get(name, name), self.values.get(name), rest)


def read_model(
    body: Mapping[str, Any], model: type[ModelT], *, beside: Collection[str] = ()
) -> tuple[ModelT, tuple[str, ...]]:
    """Return the body as one model, and warnings of unknown fields.

    All fields of the model count as supported. `beside`: fields that are read elsewhere.
    """
    fields = SentFields(body, own=model.model_fields)
    return fields.checked(model), fields.unknown_warnings({*model.model_fields, *beside})


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal and of one type: false is no 0."""
    return type(one) is type(other) and bool(one == other)


def _require_few(body: Mapping[str, Any]) -> None:
    if len(body) > MAX_FIELDS:
        raise InvalidRequest(f"There are more than {MAX_FIELDS} fields.")


def _require_sound(name: str, value: Any, path: str) -> None:
    """Raise InvalidRequest for text that is not Unicode, deep nesting, or too many parts."""
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
    # Brackets are counted first, which is cheap: a prompt of a million tokens need not be walked.
    if text is None or (_brackets(text) > MAX_NESTING and too_nested(value)):
        raise InvalidRequest(f"`{path}` {TOO_NESTED}.", param=path)


def _count_parts(value: Any) -> int:
    """Return the number of content parts in the first MAX_MESSAGES messages; 0 for other values."""
    if not isinstance(value, list):
        return 0
    few = value[:MAX_MESSAGES]  # other lists may have millions of items
    contents = (each.get("content") for each in few if isinstance(each, dict))
    return sum(len(content) for content in contents if isinstance(content, list))


def _brackets(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")
