"""References: the names of models in settings such as MODEL.

Each source has references of its own, in its own module (see `registry`). Here is their common
base, and the one that needs no source: a file of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


class Reference:
    """A model as a setting names it. `str` returns it as it was written, without secrets."""

    __slots__ = ()

    source: ClassVar[str]
    """The name of its source in the registry; "" for a file of this machine, which needs none."""
    in_repository: ClassVar[bool] = False
    """Other files accompany the model, and a revision covers all of them: see `companion`."""
    names_a_file: ClassVar[bool] = True
    """It names one file; False: the source chooses one of a repository's files."""
    needs_sha256: ClassVar[bool] = False
    """A sha256 has to be given with it, since it does not determine the file's content."""
    hides_secrets: ClassVar[bool] = False
    """The text as it was written may hold a secret: show `str` of the reference instead."""

    @property
    def local_path(self) -> Path | None:
        """The path of a file of this machine; None for references that need a source."""
        return None

    @property
    def folder(self) -> str:
        """The folder of the store that its files are kept in: two names with a slash between them.

        One that begins with a plus sign is no repository's (see `is_repository`).
        """
        raise NotImplementedError

    def version(self, revision: str, sha256: str | None) -> str:
        """Return the name in messages of the version that is meant.

        It is made of MODEL_REVISION and MODEL_SHA256.
        """
        return revision

    def among(self, files: Sequence[str], commit: str) -> Sequence[str]:
        """Return the files that are meant among `files`, those that the store has of one commit.

        For a split model it is the first part. Raises ConfigError when several fit and one is
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
    """A text is no reference; the message quotes it and says why, without a full stop."""

    def __init__(self, given: str, why: str) -> None:
        shown = without_secrets(given)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(f"{shown!r} {why}")


_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_SEGMENT = re.compile(r"(?!\.)[\w.+=@,()\[\] -]+(?<![. ])")
_LONGEST = 200
"""Most bytes of a name, so that a file system takes it with the ending of a sidecar."""


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit or another hash, whose content never changes."""
    return _COMMIT.fullmatch(revision) is not None


def is_plain_path(file: str) -> bool:
    """Return whether a repository's path has ordinary names only, and so stays inside a folder."""
    parts = file.split("/")
    return all(_SEGMENT.fullmatch(part) and len(part.encode()) <= _LONGEST for part in parts)


def is_repository(folder: str) -> bool:
    """Return whether a folder of the store is a repository's, whose name MODEL may begin with."""
    return not folder.startswith("+")


def without_secrets(text: str) -> str:
    """Return a text, which may be a URL, without a password and a query string."""
    return re.sub(r"://[^/?\s]*@", "://", text.partition("?")[0])
