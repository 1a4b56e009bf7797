"""The table of sources, and the reading of MODEL: a file of this machine, or one of a source.

Pure text work, except that a relative path that could also be a Hub file is looked up on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from gguf_worker.errors import ConfigError
from gguf_worker.models.source import hub, web
from gguf_worker.models.source.protocol import AnySource, SourceAccess, SourceKind
from gguf_worker.models.source.reference import LocalFile, NotAReference, Reference

SOURCES: tuple[SourceKind, ...] = (
    hub.KIND,
    web.KIND,
)
"""Every kind of source, in the order in which a message lists their forms."""

_LOCAL_FORM = "a file (/models/my-model.gguf or ./my-model.gguf)"
_LOCAL_BEGINNINGS = ("/", "./", "../", "~")
_LONGEST = 1024
_BY_SCHEME: Mapping[str, SourceKind] = {kind.scheme: kind for kind in SOURCES}


@contextmanager
def open_sources(access: SourceAccess) -> Iterator[Mapping[str, AnySource]]:
    """Yield all sources by their names, and close them in the end. No server is asked yet."""
    with ExitStack() as stack:
        yield {kind.name: stack.enter_context(closing(kind.open(access))) for kind in SOURCES}


def parse_reference(text: str, *, setting: str = "MODEL") -> Reference:
    """Read the value of MODEL, or of another `setting` that takes references.

    Raises ConfigError, whose message has an example of each form if the setting is MODEL.
    """
    try:
        return _parsed(text.strip())
    except NotAReference as exc:
        forms = f" {_forms()}." if setting == "MODEL" else ""
        raise ConfigError(f"{setting}={exc}.{forms}", param=setting) from exc


def is_path(text: str) -> bool:
    """Return whether a text can only mean a path of this machine."""
    return text.startswith(_LOCAL_BEGINNINGS)


def _parsed(given: str) -> Reference:
    if not given:
        raise NotAReference(given, "is empty")
    scheme, separator, _ = given.partition("://")
    kind = _BY_SCHEME.get(scheme.lower()) if scheme and separator else None
    if kind is not None:
        return kind.read(given)
    if not given.isprintable() or len(given) > _LONGEST:
        raise NotAReference(given, f"has unprintable characters or is longer than {_LONGEST}")
    if separator:
        schemes = " or ".join(each for each in _BY_SCHEME if each)
        raise NotAReference(given, f"is a URL, and none of {schemes}")
    if is_path(given) or _is_gguf_here(given):
        return LocalFile(_expanded(given))
    return _BY_SCHEME[""].read(given)


def _forms() -> str:
    forms = [_LOCAL_FORM, *(form for kind in SOURCES for form in kind.forms)]
    return f"MODEL takes {', '.join(forms[:-1])}, or {forms[-1]}"


def _is_gguf_here(given: str) -> bool:
    if not given.lower().endswith(".gguf"):
        return False
    # A bare file name cannot be on the Hub, whether the file is there or not.
    return "/" not in given or Path(given).is_file()


def _expanded(given: str) -> Path:
    try:
        return Path(given).expanduser()
    except RuntimeError as exc:
        raise NotAReference(given, "names a home directory that does not exist") from exc
