"""What the readers of other APIs share: their bodies become that of a chat completion, and its faults theirs.

So all settings and limits are checked in one place, whatever they are called. Knows neither API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from gguf_worker.api.schema import Request, read_chat
from gguf_worker.api.shapes import Shape
from gguf_worker.errors import InvalidRequest, WorkerError

_MAX_SHOWN = 64

S = TypeVar("S", bound=Shape)


@dataclass(frozen=True, slots=True)
class Words:
    """What an API calls the fields of a chat completion: patterns of our paths, each with its own."""

    patterns: Sequence[tuple[str, str]]

    def path(self, path: str) -> str:
        """The caller's path for ours; of several patterns the first that fits counts."""
        for pattern, words in self.patterns:
            if found := re.match(pattern, path):
                return found.expand(words) + path[found.end() :]
        return path

    def retell(self, error: WorkerError) -> None:
        """Rewrites a failure of the translated request for whoever sent the original."""
        if error.param is not None:
            error.param = self.path(error.param)
        error.message = re.sub("`([^`]+)`", lambda name: f"`{self.path(name[1])}`", error.message)
        error.args = (error.message,)

    @contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except WorkerError as error:
            self.retell(error)
            raise


def read_translated(
    body: Mapping[str, Any],
    words: Words,
    *,
    id: str,
    deadline: float | None,
    long_names: bool = False,
) -> Request:
    """Reads a body that has become a chat completion's; its faults are told in `words`.

    `long_names`: those of tools may have 128 characters.
    """
    with words.told():
        request = read_chat(body, id=id, deadline=deadline, long_names=long_names)
    return replace(request, grammar_field=words.path(request.grammar_field or "") or None)


def refuse_foreign(body: Mapping[str, Any], foreign: Mapping[str, str]) -> None:
    """Refuses fields that are a chat completion's own; each is said with what is to be done instead."""
    for name, advice in foreign.items():
        if body.get(name) is not None:
            raise InvalidRequest(f"`{name}` has no place here; {advice}.", param=name)


def checked(shape: type[S], value: Any, path: str) -> S:
    """The object at `path`, checked; null fields count as not sent."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"`{path}` should be an object.", param=path)
    sent = {name: each for name, each in value.items() if each is not None}
    try:
        return shape.model_validate(sent)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
    where = _path(path, value, first["loc"])
    text, named = first["msg"], f"`{where}`"
    text = text.replace("Input", named, 1) if text.startswith("Input") else f"{named}: {text}"
    # Not chained: pydantic's error quotes what was sent, and errors may be logged.
    raise InvalidRequest(f"{text}.", param=where)


def _path(path: str, value: Any, location: Sequence[int | str]) -> str:
    """Where in the value at `path` a fault is, as far as the caller's own nesting goes."""
    for step in location:
        if isinstance(value, list) and isinstance(step, int):
            path, value = f"{path}[{step}]", value[step]
        elif isinstance(value, Mapping) and isinstance(step, str):
            path, value = f"{path}.{step[:_MAX_SHOWN]}", value.get(step)
        else:
            break
    return path
