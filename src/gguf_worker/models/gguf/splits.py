"""Split models: the names of their parts, and the parts' containers joined to one.

Each part of a split model has its own number and the number of parts in its name and in its
metadata. The first has the model's metadata, and each has some of its tensors. Where the parts came
from, and what the metadata means, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from gguf_worker.errors import ModelCorrupt, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf.container import Container, read_container
from gguf_worker.models.gguf.header_bytes import AGAIN

_MOST_PARTS = 999
_ENDING = re.compile(r"\.gguf$", re.IGNORECASE)
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

# Names.


def is_gguf(name: str) -> bool:
    """Return whether a file's name ends in .gguf: a chat template's does not."""
    return name.lower().endswith(".gguf")


def parts_of(name: str) -> tuple[str, ...]:
    """Return the names of all parts of the model that `name` is a part of, in order.

    `name` may be a path, with slashes. The name of a whole model is returned alone.
    """
    found = _PART.fullmatch(name)
    count = int(found["count"]) if found else 0
    if found is None or not 1 <= int(found["number"]) <= count <= _MOST_PARTS:
        return (name,)
    return tuple(f"{found['stem']}-{at:05d}-of-{count:05d}.gguf" for at in range(1, count + 1))


def stem_of(name: str) -> str:
    """Return the name without its ending .gguf, and without the number of its part."""
    found = _PART.fullmatch(name)
    return found["stem"] if found else _ENDING.sub("", name)


# Containers.


def join(first: Container, read: Callable[[Path], Container] = read_container) -> Container:
    """Return the container of a whole model: `first` itself, or with the tensors of all its parts.

    The other parts lie beside it, and `read` reads them. Raises ModelUnavailable when a part is
    missing, ModelCorrupt when the parts are not of one model, ModelUnsupported when `first` is not
    the first part or has no name by which the others are found.
    """
    count = _number(first, "split.count", 0)
    if count <= 1:
        return first
    names = parts_of(first.path.name)
    if len(names) != count or first.path.name != names[0]:
        raise ModelUnsupported(
            f"{first.path} is one of {count} parts of a split model. Name the first part, whose "
            f"name ends in -00001-of-{count:05d}.gguf, and keep the others beside it."
        )
    parts = [first, *(_part(first, name, read) for name in names[1:])]
    for number, part in enumerate(parts):
        if _number(part, "split.count", 0) != count or _number(part, "split.no", 0) != number:
            _corrupt(part, f"is not part {number + 1} of {count}")
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    expected = _number(first, "split.tensors.count", len(tensors))
    if len({tensor.name for tensor in tensors}) != len(tensors) or expected != len(tensors):
        _corrupt(
            first, f"and its parts have {len(tensors)} tensors instead of {expected} different ones"
        )
    return replace(first, tensors=tensors, size=sum(part.size for part in parts))


def _part(first: Container, name: str, read: Callable[[Path], Container]) -> Container:
    try:
        return read(first.path.with_name(name))
    except ModelUnavailable as exc:
        if not exc.permanent:
            raise
        raise ModelUnavailable(
            f"{first.path} is the first part of a split model, and {name} is not beside it."
        ) from exc


def _number(container: Container, key: str, default: int) -> int:
    """Return a whole number of the metadata. Raises ModelCorrupt for anything else."""
    value = container.values.get(key, default)
    if not isinstance(value, int):
        _corrupt(container, f"has {key}, which must be a whole number, as something else")
    return value


def _corrupt(container: Container, what: str) -> NoReturn:
    raise ModelCorrupt(f"{container.path} {what}. {AGAIN}.")
