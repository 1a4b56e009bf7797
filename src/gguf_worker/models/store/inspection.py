"""The inspection of a model without its weights: its header, its files and its tensors by type.

Of a model on a server only the header is requested, in a few ranges. References are not resolved
here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_worker.errors import DownloadFailed, ModelCorrupt
from gguf_worker.models.gguf import (
    AGAIN,
    TENSOR_TYPES,
    Container,
    Header,
    Tensor,
    header_of,
    is_adapter,
    join,
    parse_container,
    parts_of,
    read_container,
)
from gguf_worker.models.source import AnySource, RemoteFile

log = logging.getLogger("gguf_worker.models")

_FIRST_BYTES = 1 << 20
"""The bytes of the first request; each further one asks for twice as much, up to `_MOST_BYTES`."""
_MOST_BYTES = 1 << 24
_LARGE_BYTES = 1 << 28
"""The size from which on a model's header is worth requests of its own before the download."""


@dataclass(frozen=True, slots=True)
class TensorShare:
    """All tensors of one type."""

    type: str
    count: int
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelFile:
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model's header, its files in order, and its tensors, the largest share first."""

    header: Header
    where: str
    """The kind of place where it was found: "file", "image", "volume", "cache", or a source.
    """
    source: str
    """The path, or repository, file and commit, or address."""
    files: tuple[ModelFile, ...]
    tensors: tuple[TensorShare, ...]
    fetched_bytes: int
    """Bytes that were fetched from the server for this."""


def inspect_file(path: Path, where: str, source: str) -> Inspection:
    """Inspect a file of this machine and its other parts. Raises as `read_header` does."""
    container = join(read_container(path))
    parts = [path.with_name(name) for name in parts_of(path.name)]
    files = tuple(ModelFile(part.name, part.stat().st_size) for part in parts)
    return _inspection(container, where, source, files, 0)


def inspect_remote(
    server: AnySource, remote: Sequence[RemoteFile], where: str, source: str
) -> Inspection:
    """Inspect a model on a server; `remote` are its parts in order.

    Raises as `read_header` and `Source.open_range` do.
    """
    container, fetched = _read_remote(server, remote)
    files = tuple(ModelFile(each.file, each.size) for each in remote)
    return _inspection(container, where, source, files, fetched)


def _read_remote(server: AnySource, remote: Sequence[RemoteFile]) -> tuple[Container, int]:
    """Return the container of a model on a server, and the bytes that were fetched for it."""
    readers = {Path(each.repo, each.file): _RangeReader(server, each) for each in remote}

    def read(path: Path) -> Container:
        return parse_container(path, readers[path].remote.size, readers[path])

    try:
        container = join(read(next(iter(readers))), read)
    except ModelCorrupt as exc:
        message = exc.message.removesuffix(f" {AGAIN}.")
        raise ModelCorrupt(f"{message} It is so on its server: name another file.") from exc
    return container, sum(reader.fetched for reader in readers.values())


def check_served(server: AnySource, remote: Sequence[RemoteFile]) -> None:
    """Raise ModelUnsupported if a model's header on the server says that it cannot be served.

    The header of a small file is not requested. One that cannot be read now says nothing: the
    download will tell.
    """
    if sum(each.size for each in remote) < _LARGE_BYTES:
        return
    try:
        container, _ = _read_remote(server, remote)
        if not is_adapter(container):
            header_of(container)
    except (DownloadFailed, ModelCorrupt) as exc:
        log.info("the header of %s was not read before the download: %s", remote[0], exc)


class _RangeReader:
    """Reads a remote file from its start, in growing blocks.

    A call returns the next `count` bytes, or fewer at the end.
    """

    def __init__(self, server: AnySource, remote: RemoteFile) -> None:
        self.remote = remote
        self.fetched = 0
        self._server = server
        self._ahead = bytearray()
        self._block = _FIRST_BYTES

    def __call__(self, count: int) -> bytes:
        if len(self._ahead) < count:
            self._fetch(max(count - len(self._ahead), self._block))
            self._block = min(2 * self._block, _MOST_BYTES)
        data = bytes(self._ahead[:count])
        del self._ahead[:count]
        return data

    def _fetch(self, count: int) -> None:
        for data in self._server.open_range(self.remote, self.fetched, self.fetched + count):
            self._ahead += data
            self.fetched += len(data)


def _inspection(
    container: Container,
    where: str,
    source: str,
    files: tuple[ModelFile, ...],
    fetched: int,
) -> Inspection:
    shares = _shares(container.tensors)
    return Inspection(header_of(container), where, source, files, shares, fetched)


def _shares(tensors: Sequence[Tensor]) -> tuple[TensorShare, ...]:
    by_type: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.kind, []).append(tensor)
    shares = [
        TensorShare(
            TENSOR_TYPES[kind][0],
            len(some),
            sum(each.elements for each in some),
            sum(each.bytes for each in some),
        )
        for kind, some in by_type.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.bytes))
