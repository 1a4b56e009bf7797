"""References to the Hub: a repository, with a quantisation or alone, or one of its files.

Pure text work: whether a repository exists is not known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gguf_worker.errors import ModelUnavailable
from gguf_worker.models.gguf import parts_of
from gguf_worker.models.source.reference import NotAReference, Reference, is_plain_path
from gguf_worker.models.source.selection import choose_named, choose_quant

FORMS = (
    "a Hugging Face repository with a quantisation (Qwen/Qwen3-8B-GGUF:Q4_K_M) or alone "
    "(Qwen/Qwen3-8B-GGUF)",
    "one file of a repository (Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf)",
)
"""The forms of the Hub's references, in words that complete a sentence about MODEL."""

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
"""The Hub's own rules for a name, so that nothing but a name reaches a URL or a folder."""
_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")


class HubReference(Reference):
    """A reference into a repository of the Hub, `repo`: org/name."""

    __slots__ = ()

    source: ClassVar[str] = "hub"
    in_repository: ClassVar[bool] = True

    repo: str

    @property
    def folder(self) -> str:
        return self.repo

    def choose(self, names: Sequence[str], revision: str) -> str:
        """Return the file that is meant among `names`, the repository's files at `revision`.

        For a split model it is the first part. Raises ModelUnavailable when there is no such file
        or a part is missing, ModelUnsupported for a projector, ConfigError when several files fit.
        """
        raise NotImplementedError

    def companion(self, name: str) -> HubCompanion:
        return HubCompanion(self.repo, name)


@dataclass(frozen=True, slots=True)
class HubQuant(HubReference):
    """A repository's file of one quantisation; `quant` None: the default (see `choose_quant`)."""

    names_a_file: ClassVar[bool] = False

    repo: str
    quant: str | None = None

    def __str__(self) -> str:
        return self.repo if self.quant is None else f"{self.repo}:{self.quant}"

    def choose(self, names: Sequence[str], revision: str) -> str:
        return choose_quant(self.repo, self.quant, revision, names)

    def among(self, files: Sequence[str], commit: str) -> Sequence[str]:
        """Return all files if no quantisation is named, else the one that would be chosen."""
        if self.quant is None:
            return files
        try:
            return (self.choose(files, commit),)
        except ModelUnavailable:
            return ()


@dataclass(frozen=True, slots=True)
class HubFile(HubReference):
    """One file of a repository, by its path there."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}"

    def choose(self, names: Sequence[str], revision: str) -> str:
        return choose_named(self.repo, self.file, revision, names)

    def among(self, files: Sequence[str], commit: str) -> Sequence[str]:
        return (parts_of(self.file)[0],) if self.file in files else ()


@dataclass(frozen=True, slots=True)
class HubCompanion(HubReference):
    """A file of a repository that accompanies its models, such as a chat template."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}"

    def choose(self, names: Sequence[str], revision: str) -> str:
        if self.file not in names:
            near = difflib.get_close_matches(self.file, names, n=3, cutoff=0.5) or names[:10]
            raise ModelUnavailable(
                f"the repository {self.repo} has no file {self.file} at {revision}. There is "
                f"{', '.join(near)}."
            )
        return self.file


def read_hub_reference(given: str) -> HubReference:
    """Read org/name:quantisation, org/name, or org/name/file.gguf. Raises NotAReference."""
    org, slash, rest = given.partition("/")
    name, deeper, file = rest.partition("/")
    name, colon, quant = name.partition(":")
    if not slash or not all(_NAME.fullmatch(part) for part in (org, name)):
        raise NotAReference(given, "is neither a file nor the name of a repository")
    repo = f"{org}/{name}"
    if colon:
        if deeper or not _QUANT.fullmatch(quant):
            raise NotAReference(given, "has something after the colon that is no quantisation")
        return HubQuant(repo, quant)
    if not deeper:
        return HubQuant(repo)
    if not file.lower().endswith(".gguf"):
        raise NotAReference(given, "names a file that does not end in .gguf")
    if not is_plain_path(file):
        raise NotAReference(
            given, "has an empty part, a hidden one, '..' or an unusual character in it"
        )
    return HubFile(repo, file)
