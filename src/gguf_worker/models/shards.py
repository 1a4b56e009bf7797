"""The names of the parts of a model that was split into several files, as llama.cpp writes and reads them.

    model-00001-of-00003.gguf, model-00002-of-00003.gguf, model-00003-of-00003.gguf

The first part stands for the model. Pure text work.
"""

from __future__ import annotations

import re

MOST_PARTS = 999

_ENDING = re.compile(r"\.gguf$", re.IGNORECASE)
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def parts_of(name: str) -> tuple[str, ...]:
    """The names of all parts of the model that `name` (a path, with slashes) is a part of; itself alone
    where it is none."""
    found = _PART.fullmatch(name)
    count = int(found["count"]) if found else 0
    if found is None or not 1 <= int(found["number"]) <= count <= MOST_PARTS:
        return (name,)
    return tuple(f"{found['stem']}-{at:05d}-of-{count:05d}.gguf" for at in range(1, count + 1))


def stem_of(name: str) -> str:
    """The name without its ending, and without what says which part it is."""
    found = _PART.fullmatch(name)
    return found["stem"] if found else _ENDING.sub("", name)
