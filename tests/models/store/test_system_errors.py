"""Errors of the system at each call that a store makes: none escapes as it is, and none that may
pass is taken for a lasting one or for a missing file.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.errors import StartError
from gguf_worker.models.source import parse_reference
from tests.fake_hub import COMMIT, FakeHub
from tests.models.store.conftest import FILE, Volume

_CALLS = (
    *("stat", "lstat", "open", "listdir", "scandir", "mkdir", "replace", "rename", "unlink"),
    *("link", "statvfs", "write", "pread", "pwrite", "fsync", "ftruncate", "utime", "preadv"),
)


class Calls:
    """The system calls of one thread, of which the one at `failing` fails with `number`."""

    def __init__(self, number: int, failing: int | None) -> None:
        self.made: list[str] = []
        self._number = number
        self._failing = failing
        self._thread = threading.get_ident()
        self._inside = False

    def note(self, call: str) -> None:
        if threading.get_ident() != self._thread or self._inside:
            return
        self.made.append(call)
        if self._failing == len(self.made) - 1:
            raise OSError(self._number, os.strerror(self._number))

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            self.note(name)
            return function(*given, **more)

        return call

    def opened(self, *given: Any, **more: Any) -> Any:
        self.note("open")
        return _ReadFile(_OPEN(*given, **more), self)


_OPEN = io.open


class _ReadFile:
    """A file whose reading may fail."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self._file = file
        self._calls = calls

    def read(self, *given: Any) -> Any:
        self._calls.note("read")
        return self._file.read(*given)

    def readinto(self, *given: Any) -> Any:
        self._calls.note("read")
        return self._file.readinto(*given)

    def __enter__(self) -> _ReadFile:
        self._file.__enter__()
        return self

    def __exit__(self, *given: Any) -> None:
        self._file.__exit__(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def system_calls(number: int, failing: int | None) -> Iterator[Calls]:
    calls = Calls(number, failing)
    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, calls.wrapped(name, getattr(os, name)))
        patch.setattr(io, "open", calls.opened)
        yield calls


class Start:
    """A start of a store in a state that is made anew each time."""

    def __init__(self, folder: Path, hub: FakeHub, kind: str) -> None:
        self._folder = folder
        self._hub = hub
        self._kind = kind
        self._number = 0

    def run(self, number: int, failing: int | None) -> tuple[Calls, StartError | None]:
        self._number += 1
        root = self._folder / str(self._number)
        volume = Volume(root / "volume", self._hub)
        try:
            self._prepare(volume, root)
            before = len(self._hub.downloads())
            caches = [root / "cache"] if self._kind == "cached" else []
            offline = self._kind == "offline"
            check = "full" if self._kind == "checked" else "stamp"
            store = volume.store(caches=caches, offline=offline, check=check)  # type: ignore[arg-type]
            reference = parse_reference(str(root / "m.gguf")) if self._kind == "path" else FILE
            with system_calls(number, failing) as calls:
                problem = None
                try:
                    store.ensure(reference)
                except StartError as error:
                    problem = error
            if self._kind != "empty" and number != errno.ENOENT:
                assert len(self._hub.downloads()) == before, f"{calls.made[-1]}: fetched again"
            return calls, problem
        finally:
            volume.close()
            shutil.rmtree(root)

    def _prepare(self, volume: Volume, root: Path) -> None:
        if self._kind == "empty":
            root.mkdir()
            return
        with closing(volume.store()) as store:
            path = store.ensure(FILE).path
        if self._kind == "path":
            shutil.copy(path, root / "m.gguf")
        if self._kind == "cached":
            snapshot = root / "cache" / f"models--{FILE.repo.replace('/', '--')}"
            (snapshot / "snapshots" / COMMIT).mkdir(parents=True)
            (snapshot / "refs").mkdir()
            (snapshot / "refs" / "main").write_text(COMMIT)
            shutil.copy(path, snapshot / "snapshots" / COMMIT / FILE.file)


@pytest.mark.parametrize("kind", ["empty", "published", "checked", "offline", "cached", "path"])
@pytest.mark.parametrize("name", ["ESTALE", "EIO", "ENODEV", "ENOSPC", "EROFS"])
def test_no_error_of_the_system_that_may_pass_is_lasting_or_has_a_stored_file_fetched_again(
    tmp_path: Path, fake_hub: FakeHub, kind: str, name: str
) -> None:
    start = Start(tmp_path, fake_hub, kind)
    number = getattr(errno, name)
    calls, problem = start.run(number, None)
    assert problem is None
    assert calls.made
    for at in range(len(calls.made)):
        _, problem = start.run(number, at)
        if problem is not None:
            assert not problem.permanent, f"{calls.made[at]} ({at}): {problem.message}"


@pytest.mark.parametrize("kind", ["empty", "published", "checked"])
def test_a_stored_file_that_is_gone_between_two_looks_is_no_lasting_error(
    tmp_path: Path, fake_hub: FakeHub, kind: str
) -> None:
    """Another worker that makes room gives a file another name, and its own again if it is used."""
    start = Start(tmp_path, fake_hub, kind)
    calls, _ = start.run(errno.ENOENT, None)
    for at in range(len(calls.made)):
        _, problem = start.run(errno.ENOENT, at)
        assert problem is None or not problem.permanent, f"{calls.made[at]} ({at}): {problem}"


@pytest.mark.parametrize("kind", ["empty", "published", "path"])
def test_no_error_of_the_system_that_is_lasting_escapes_as_it_is(
    tmp_path: Path, fake_hub: FakeHub, kind: str
) -> None:
    start = Start(tmp_path, fake_hub, kind)
    calls, _ = start.run(errno.EACCES, None)
    for at in range(len(calls.made)):
        if kind == "empty" or calls.made[at] in ("open", "read"):
            start.run(errno.EACCES, at)
