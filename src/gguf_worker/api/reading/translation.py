"""Translation between dialects: a body is rewritten as a chat's, its faults in its own words.

Thus all settings and limits are checked in one place, whatever their names are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gguf_worker.api.reading.strict_model import ModelT, path_within, validated
from gguf_worker.errors import InvalidRequest, WorkerError


@dataclass(frozen=True, slots=True)
class DialectWords:
    """A dialect's names for the fields of a chat: patterns of our paths with replacements.

    `items`: where the caller has an item of a list, by its place in the rewritten list.
    """

    patterns: Sequence[tuple[str, str]]
    items: Mapping[str, str] = field(default_factory=dict)

    def path(self, path: str) -> str:
        """Return the caller's path for ours, by the first pattern that matches."""
        for pattern, words in self.patterns:
            if found := re.match(pattern, path):
                return self._placed(found.expand(words) + path[found.end() :])
        return self._placed(path)

    def with_items(self, name: str, paths: Sequence[str]) -> DialectWords:
        """Return words for a list `name` whose items the caller has at these paths."""
        places = {f"{name}[{at}]": path for at, path in enumerate(paths)}
        return replace(self, items=places)

    def _placed(self, path: str) -> str:
        end = path.find("]") + 1
        return self.items.get(path[:end], path[:end]) + path[end:]

    def translate(self, error: WorkerError) -> None:
        """Rewrite a failure of the translated request for the sender of the original."""
        if error.param is not None:
            error.param = self.path(error.param)
        error.message = re.sub("`([^`]+)`", lambda name: f"`{self.path(name[1])}`", error.message)
        error.args = (error.message,)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate the failures that come out of the block."""
        try:
            yield
        except WorkerError as error:
            self.translate(error)
            raise


def refuse_foreign(body: Mapping[str, Any], foreign: Mapping[str, str]) -> None:
    """Raise InvalidRequest for a field that the dialect lacks, with advice what to do instead."""
    for name, advice in foreign.items():
        if body.get(name) is not None:
            raise InvalidRequest(f"`{name}` has no place here; {advice}.", param=name)


def checked_part(model: type[ModelT], value: Any, path: str) -> ModelT:
    """Return the object at `path`, checked; null fields count as not sent."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"`{path}` should be an object.", param=path)
    sent = {name: each for name, each in value.items() if each is not None}
    return validated(model, sent, lambda location: path_within(path, value, location))
