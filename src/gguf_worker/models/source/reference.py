"""A reference: the name of a model in a setting such as MODEL, and what is asked of it.

Each source has references of its own, in its own module (see `registry`). Here is what they have in
common, and the one that needs no source: a file of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


class Reference:
    """A model as a setting names it. `str` gives it as it was written, without secrets."""

    __slots__ = ()

    source: ClassVar[str]
    """The name of its source in the registry; "" for a file of this machine, which needs none."""
    in_repository: ClassVar[bool] = False
    """Other files lie beside the model, and a revision names all of them: see `companion`."""
    names_a_file: ClassVar[bool] = True
    """One file is meant; False: which of a repository's files, the source finds out."""
    needs_sha256: ClassVar[bool] = False
    """A sha256 has to be given with it, for it does not say what it should hold."""
    hides_secrets: ClassVar[bool] = False
    """The text that was written may hold a secret: show `str` of the reference instead."""

    @property
    def local_path(self) -> Path | None:
        """The file itself, where it is one of this machine."""
        return None

    @property
    def folder(self) -> str:
        """The folder of the store that its files are kept in: two names with a slash between them.

        One that begins with a plus sign is no repository's (see `is_repository`).
        """
        raise NotImplementedError

    def version(self, revision: str, sha256: str | None) -> str:
        """Return the word in messages for the content that is meant.

        It comes from MODEL_REVISION and MODEL_SHA256.
        """
        return revision

    def among(self, files: Sequence[str], commit: str) -> Sequence[str]:
        """Return the files of one commit that are meant, of those that the store has of it.

        Of a split model that is the first part. Raises ConfigError when several fit and one is
        meant.
        """
        raise NotImplementedError

    def companion(self, name: str) -> Reference:
        """Return the reference of another file of the repository, which need not be a model."""
        raise ValueError(f"{self} is in no repository")


@dataclass(frozen=True, slots=True)
class LocalFile(Reference):
    """A GGUF file of this machine, used where it lies."""

    source: ClassVar[str] = ""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def local_path(self) -> Path:
        return self.path


class NotAReference(Exception):
    """A text that was given and why it is no reference; a sentence without its stop."""

    def __init__(self, given: str, why: str) -> None:
        shown = without_secrets(given)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(f"{shown!r} {why}")


_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_SEGMENT = re.compile(r"(?!\.)[\w.+=@,()\[\] -]+(?<![. ])")
_LONGEST = 200
"""Bytes of a name, so that a volume takes it with an ending of ours behind it."""


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit or another hash, whose content never changes."""
    return _COMMIT.fullmatch(revision) is not None


def is_plain_path(file: str) -> bool:
    """Return whether a repository's path has ordinary names only, and so stays inside a folder."""
    parts = file.split("/")
    return all(_SEGMENT.fullmatch(part) and len(part.encode()) <= _LONGEST for part in parts)


def is_repository(folder: str) -> bool:
    """Return whether a folder of the store is a repository's, and so half of a name for MODEL."""
    return not folder.startswith("+")


def without_secrets(text: str) -> str:
    """Return a text that may be an address without its password and query."""
    return re.sub(r"://[^/?\s]*@", "://", text.partition("?")[0])
