"""What MODEL may say: a file on disk, a file on the Hugging Face Hub, or one at an https address.

Pure text work: whether a Hub repository exists, and which of its files a quantisation means, is
not known here. Of the disk it asks one thing: whether a relative path that could also be a Hub
file is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gguf_worker.errors import ConfigError
from gguf_worker.models.gguf import parts_of


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A GGUF file of this machine, used where it lies."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class HubQuant:
    """A repository's file of one quantisation; `quant` None: the one that suits most."""

    repo: str
    quant: str | None = None

    def __str__(self) -> str:
        return self.repo if self.quant is None else f"{self.repo}:{self.quant}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository, by its path there."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}"


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file at an https address; `name` is its own. What is behind a question mark may be a secret."""

    url: str
    name: str

    def __str__(self) -> str:
        return self.url.partition("?")[0]


Reference = LocalFile | HubQuant | HubFile | WebFile

_FORMS = (
    "MODEL takes a file (/models/my-model.gguf or ./my-model.gguf), a Hugging Face repository with "
    "a quantisation (Qwen/Qwen3-8B-GGUF:Q4_K_M) or alone (Qwen/Qwen3-8B-GGUF), one file of a "
    "repository (Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf), or an address "
    "(https://example.com/my-model.gguf) with MODEL_SHA256"
)
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_LOCAL = ("/", "./", "../", "~")
# The Hub's own rules for a name, so that nothing but a name reaches a URL or a folder.
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_SEGMENT = re.compile(r"(?!\.)[\w.+=@,()\[\] -]+(?<![. ])")
# Bytes of a name, so that a volume takes it with an ending of ours behind it.
_LONGEST = 200
_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")


def parse_reference(text: str, *, setting: str = "MODEL") -> Reference:
    """Read the value of MODEL, or of what `setting` names likewise.

    Raises ConfigError; for MODEL with an example of each form.
    """
    try:
        return _parsed(text.strip())
    except _Refused as exc:
        forms = f" {_FORMS}." if setting == "MODEL" else ""
        raise ConfigError(f"{setting}={exc}.{forms}", param=setting) from exc


class _Refused(Exception):
    """What was given and why it is no reference; a sentence without its stop."""

    def __init__(self, given: str, why: str) -> None:
        shown = without_secrets(given)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(f"{shown!r} {why}")


def _parsed(given: str) -> Reference:
    if not given:
        raise _Refused(given, "is empty")
    if given.lower().startswith("https://"):
        return _on_the_web(given)
    if not given.isprintable() or len(given) > 1024:
        raise _Refused(given, "has unprintable characters or is longer than 1024")
    if "://" in given:
        raise _Refused(given, "is a URL, and none of https")
    if is_path(given) or _is_gguf_here(given):
        return LocalFile(_expanded(given))
    return _on_the_hub(given)


def without_secrets(text: str) -> str:
    """A text that may be an address, without its password and what is behind a question mark."""
    return re.sub(r"://[^/?\s]*@", "://", text.partition("?")[0])


def is_path(text: str) -> bool:
    """Whether a text can only mean a path of this machine."""
    return text.startswith(_LOCAL)


def is_plain_path(file: str) -> bool:
    """Whether a path inside a repository is made of ordinary names, and so stays inside a folder."""
    parts = file.split("/")
    return all(_SEGMENT.fullmatch(part) and len(part.encode()) <= _LONGEST for part in parts)


def _is_gguf_here(given: str) -> bool:
    if not given.lower().endswith(".gguf"):
        return False
    # A bare file name cannot be on the Hub, whether the file is there or not.
    return "/" not in given or Path(given).is_file()


def _expanded(given: str) -> Path:
    try:
        return Path(given).expanduser()
    except RuntimeError as exc:
        raise _Refused(given, "names a home directory that does not exist") from exc


def _on_the_hub(given: str) -> HubQuant | HubFile:
    org, slash, rest = given.partition("/")
    name, deeper, file = rest.partition("/")
    name, colon, quant = name.partition(":")
    if not slash or not all(_NAME.fullmatch(part) for part in (org, name)):
        raise _Refused(given, "is neither a file nor the name of a repository")
    repo = f"{org}/{name}"
    if colon:
        if deeper or not _QUANT.fullmatch(quant):
            raise _Refused(given, "has something after the colon that is no quantisation")
        return HubQuant(repo, quant)
    if not deeper:
        return HubQuant(repo)
    if not file.lower().endswith(".gguf"):
        raise _Refused(given, "names a file that does not end in .gguf")
    if not is_plain_path(file):
        raise _Refused(given, "has an empty part, a hidden one, '..' or an unusual character in it")
    return HubFile(repo, file)


def _on_the_web(given: str) -> WebFile:
    shown = given.partition("?")[0]
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not given.isascii() or not given.isprintable() or " " in given:
        raise _Refused(shown, "is no web address")
    if parts.username is not None or parts.fragment:
        raise _Refused(host, "has a password or a fragment in its address")
    if host in _HUB_HOSTS:
        raise _Refused(
            shown,
            "is a URL of the Hub; leave out the server's part, and write org/repo/file.gguf",
        )
    name = unquote(parts.path).rpartition("/")[2]
    if not name.lower().endswith(".gguf") or not is_plain_path(name):
        raise _Refused(shown, "does not end in the name of a .gguf file")
    if len(parts_of(name)) > 1:
        raise _Refused(
            shown, "is a part of a split model, which is fetched from the Hub or read from a disk"
        )
    return WebFile(given, name)
