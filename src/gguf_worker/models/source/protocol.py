"""A source of models, as the store sees it.

A new source is a module with a reference and a source of its own, and a row in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from gguf_worker.models.source.hub_reference import HubReference
from gguf_worker.models.source.reference import Reference
from gguf_worker.models.source.remote import RemoteFile
from gguf_worker.models.source.transfer import Ranges

R_contra = TypeVar("R_contra", bound=Reference, contravariant=True)


class FixedPlace(NamedTuple):
    """The place in the store, below the reference's folder, of content that can't change."""

    commit: str
    """A hash in hexadecimal: the content's sha256, or the commit that the file belongs to."""
    file: str


class Source(Protocol[R_contra]):
    """Servers that have models, and their protocol. But for transfers, used by one thread."""

    title: str
    """The servers as a message names them: "the Hub"."""

    def close(self) -> None:
        """Close what is open. Safe at any time."""
        ...

    def resolve(
        self,
        reference: R_contra,
        revision: str,
        *,
        sha256: str | None = None,
        brief: bool = False,
    ) -> tuple[RemoteFile, ...]:
        """Ask the server for the file that is meant, or all parts of a split model in order.

        `sha256`: the hash, in lower case, that was given with the reference. `brief`: give up after
        seconds, since the store may have a copy. Raises StartError: ModelUnavailable,
        ModelUnsupported, ConfigError or DownloadFailed.
        """
        ...

    def open_range(
        self, remote: RemoteFile, offset: int, end: int | None = None
    ) -> Iterator[bytes]:
        """Yield the file's bytes from `offset` to its end, or up to `end`. Raises StartError."""
        ...

    def transfer(self, remote: RemoteFile, connections: int) -> Ranges:
        """Return the ranges of a file, for so many connections at most; the caller closes them."""
        ...

    def place(self, reference: R_contra, revision: str, sha256: str | None) -> FixedPlace | None:
        """Return the place in the store of the content that is meant, if that can never change.

        Returns None where only the server knows which content is meant now.
        """
        ...

    def cacheable(self, reference: R_contra) -> HubReference | None:
        """Return the reference to look for in caches of the Hub's layout; None: they lack such."""
        ...


AnySource = Source[Any]
"""A source of any kind; a reference goes to the one that its `source` names, never to another."""


@dataclass(frozen=True, slots=True)
class SourceAccess:
    """The settings that sources need: addresses and credentials."""

    hub_endpoint: str
    hub_token: str | None = None


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A row of the registry: a kind of source, and the forms of its references."""

    name: str
    """Its name in JSON output, and the `source` of its references."""
    scheme: str
    """The word before :// in its references; "" for the one kind whose references have none."""
    forms: tuple[str, ...]
    """The forms of its references, each with an example, in words that complete a sentence about
    MODEL."""
    read: Callable[[str], Reference]
    """Reads a reference of that scheme from a text. Raises NotAReference."""
    open: Callable[[SourceAccess], AnySource]
