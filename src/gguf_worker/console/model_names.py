"""Finds the models of a volume by a name. The Hub is not asked, and no file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from gguf_worker.errors import ModelUnavailable
from gguf_worker.models.source import (
    WEB_FOLDER,
    HubFile,
    HubQuant,
    LocalFile,
    WebFile,
    choose,
    parse_reference,
)
from gguf_worker.models.store import PublishedModel

_COMMIT = re.compile(r"(?P<name>.+)@(?P<commit>[0-9a-f]{7,64})")


def named(models: Sequence[PublishedModel], names: Sequence[str]) -> list[PublishedModel]:
    """Return the models that `names` mean, each once.

    A name may end in `@` and the beginning of a commit; without it, all commits are meant. A
    repository alone means all of its models. Raises ModelUnavailable for a name that no model has,
    and ConfigError for a text that is no name.
    """
    found: dict[tuple[str, str, str], PublishedModel] = {}
    for name in names:
        matching = list(_matching(models, name))
        if not matching:
            raise ModelUnavailable(f"{name} is not on the volume. `models list` shows what is.")
        found.update({(each.repo, each.commit, each.file): each for each in matching})
    return list(found.values())


def _matching(models: Sequence[PublishedModel], name: str) -> Iterator[PublishedModel]:
    pinned = _COMMIT.fullmatch(name)
    plain, commit = (pinned["name"], pinned["commit"]) if pinned else (name, "")
    some = [each for each in models if each.commit.startswith(commit)]
    as_listed = [each for each in some if f"{each.repo}/{each.file}" == plain]
    if as_listed:  # also a model from an address, whose place is no repository's
        yield from as_listed
        return
    reference = parse_reference(plain)
    match reference:
        case LocalFile(path):
            wanted = path.resolve()
            yield from (each for each in some if each.place.beside().resolve() == wanted)
        case HubFile(repo, file):
            yield from (
                each
                for each in some
                if each.repo == repo and file in [part.file for part in each.place.parts()]
            )
        case WebFile(_, file):
            yield from (each for each in some if each.repo == WEB_FOLDER and each.file == file)
        case HubQuant(repo, None):
            yield from (each for each in some if each.repo == repo)
        case HubQuant(repo, _):
            ours = sorted((each for each in some if each.repo == repo), key=_commit_of)
            for _, group in groupby(ours, key=_commit_of):
                yield from _of_quant(list(group), reference)


def _of_quant(models: Sequence[PublishedModel], reference: HubQuant) -> Iterator[PublishedModel]:
    """Those of one commit that the Hub's files of these names would be chosen by."""
    names = [part.file for model in models for part in model.place.parts()]
    try:
        file = choose(reference, models[0].commit, names)
    except ModelUnavailable:
        return
    yield from (each for each in models if each.file == file)


def _commit_of(model: PublishedModel) -> str:
    return model.commit
