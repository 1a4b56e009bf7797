"""Finds the models of a volume by a name. The Hub is not asked, and no file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gguf_worker.errors import ModelUnavailable
from gguf_worker.models.source import parse_reference
from gguf_worker.models.store import PublishedModel

_COMMIT = re.compile(r"(?P<name>.+)@(?P<commit>[0-9a-f]{7,64})")


def named(
    models: Sequence[PublishedModel],
    names: Sequence[str],
    *,
    elsewhere: Sequence[PublishedModel] = (),
) -> list[PublishedModel]:
    """Return the models that `names` mean, each once.

    A name may end in `@` and the beginning of a commit; without it, all commits are meant. A
    repository alone means all of its models. `elsewhere`: models of the image, which are not meant.
    Raises ModelUnavailable for a name that no model has,
    and ConfigError for a text that is no name.
    """
    found: dict[Path, PublishedModel] = {}
    for name in names:
        matching = list(_matching(models, name))
        if not matching:
            in_image = any(True for _ in _matching(elsewhere, name))
            where = "in the image, where it stays, and not" if in_image else "not"
            raise ModelUnavailable(f"{name} is {where} on the volume. `models list` shows what is.")
        found.update({each.entry.path: each for each in matching})
    return list(found.values())


def _matching(models: Sequence[PublishedModel], name: str) -> Iterator[PublishedModel]:
    pinned = _COMMIT.fullmatch(name)
    plain, commit = (pinned["name"], pinned["commit"]) if pinned else (name, "")
    some = [each for each in models if each.commit.startswith(commit)]
    as_listed = [each for each in some if f"{each.repo}/{each.file}" == plain]
    if as_listed:  # also a model from an address, which has no repository
        yield from as_listed
        return
    reference = parse_reference(plain)
    if (path := reference.local_path) is not None:
        wanted = path.resolve()
        yield from (each for each in some if each.entry.path.resolve() == wanted)
        return
    ours = [each for each in some if each.repo == reference.folder]
    files: dict[str, list[str]] = {}
    for each in ours:
        files.setdefault(each.commit, []).extend(part.file for part in each.entry.parts())
    meant = {(at, file) for at, names in files.items() for file in reference.among(names, at)}
    yield from (each for each in ours if (each.commit, each.file) in meant)
