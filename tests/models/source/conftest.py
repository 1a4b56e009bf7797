"""A Hub of this machine, and a source that asks it and never really sleeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gguf_worker.models.source import Hub
from gguf_worker.models.source.hub_reference import HubFile
from gguf_worker.models.source.remote import RemoteFile
from tests.fake_hub import FakeHub

REPO = "org/Model-GGUF"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        yield fake


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def hub(fake: FakeHub, slept: list[float]) -> Iterator[Hub]:
    hub = Hub(fake.url, None, timeout=5, sleep=slept.append, jitter=lambda: 1.0)
    yield hub
    hub.close()


def add_files(fake: FakeHub, *names: str) -> None:
    """Publish files of CONTENT in REPO."""
    for name in names:
        fake.add(REPO, name, CONTENT)


def remote_file(fake: FakeHub, hub: Hub) -> RemoteFile:
    """Publish a file and resolve it."""
    add_files(fake, "a.gguf")
    return only(hub.resolve(HubFile(REPO, "a.gguf"), "main"))


def only(files: tuple[RemoteFile, ...]) -> RemoteFile:
    """Return the one file that there is."""
    (file,) = files
    return file


def read_from(hub: Hub, remote: RemoteFile, offset: int = 0) -> bytes:
    """Return the file's bytes from a position to its end."""
    return b"".join(hub.open_range(remote, offset))
