"""A source of models, as the store sees it.

A new one is a module with a reference and a source of its own, and a row in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from gguf_worker.models.source.hub_reference import HubReference
from gguf_worker.models.source.reference import Reference
from gguf_worker.models.source.remote import RemoteFile

R_contra = TypeVar("R_contra", bound=Reference, contravariant=True)


class FixedPlace(NamedTuple):
    """The place in the store, below the reference's folder, of content that can't change."""

    commit: str
    """A hash in hexadecimal: of the content, or of all that lies with it."""
    file: str


class Source(Protocol[R_contra]):
    """Servers that have models, and their protocol. Used by one thread at a time."""

    title: str
    """The servers as a message names them: "the Hub"."""

    def close(self) -> None:
        """Give up what is open. Safe at any time."""
        ...

    def resolve(
        self,
        reference: R_contra,
        revision: str,
        *,
        sha256: str | None = None,
        brief: bool = False,
    ) -> tuple[RemoteFile, ...]:
        """Ask which file is meant, or which parts of a split model in order, and for their sizes.

        `sha256`: the hash, in lower case, that was given with the reference. `brief`: the store may
        have a copy, so that a server that is down is not worth many tries. Raises StartError:
        ModelUnavailable, ModelUnsupported, ConfigError or DownloadFailed.
        """
        ...

    def open_range(
        self, remote: RemoteFile, offset: int, end: int | None = None
    ) -> Iterator[bytes]:
        """Yield the file's bytes from `offset` to its end, or up to `end`. Raises StartError."""
        ...

    def place(self, reference: R_contra, revision: str, sha256: str | None) -> FixedPlace | None:
        """Return where the store keeps what is meant, as far as that shows without asking a server.

        None where only the server can tell, as what it has may change.
        """
        ...

    def cacheable(self, reference: R_contra) -> HubReference | None:
        """Return the reference that caches in the Hub's layout know; None: they can't have it."""
        ...


AnySource = Source[Any]
"""A source whose references are told by their `source`: none is asked for another's."""


@dataclass(frozen=True, slots=True)
class SourceAccess:
    """The settings that sources need: addresses and credentials."""

    hub_endpoint: str
    hub_token: str | None = None


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A row of the registry: a kind of source, and how it is named in settings."""

    name: str
    """A word for facts in JSON; its references have it as their `source`."""
    scheme: str
    """The word before :// in its references; "" for the one kind whose references have none."""
    forms: tuple[str, ...]
    """The forms of its references, as a sentence about MODEL has them, each with an example."""
    read: Callable[[str], Reference]
    """Reads a text of that scheme. Raises NotAReference."""
    open: Callable[[SourceAccess], AnySource]
