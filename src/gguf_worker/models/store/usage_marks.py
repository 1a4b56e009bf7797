"""Marks of use: a small file beside a model for each use, written again while it lasts.

    <file>.use.<machine>-<pid>-<began>-<number>   changed when the model was last used

A mark is valid for ten minutes after it was last written, by the file server's clock, since the
clocks of machines differ; that of a process of this machine is valid as long as the process runs.
One file remains, so that the time of last use is known. The purpose of a use is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gguf_worker.errors import NO_ROOM
from gguf_worker.models.store.entry import NO_WRITING
from gguf_worker.models.store.lease import process_identity, process_lives

log = logging.getLogger("gguf_worker.models")

BEAT_SECONDS = 60.0
"""The time between two writes of a mark."""
EXPIRY_SECONDS = 600.0
"""The time without a write after which the process that made a mark is taken for dead."""

_MARK = ".use."
_numbers = itertools.count(1)
"""Numbers of marks: two models of one process may use the same file, each with a mark of its own.
"""


class UsageMark:
    """A mark that this process uses the model whose first file is `path`, from `begin` to `close`.

    Not thread-safe.
    """

    def __init__(self, path: Path, *, identity: Mapping[str, Any] | None = None) -> None:
        self._model = path
        self._identity = dict(process_identity() if identity is None else identity)
        self._path = path.with_name(f"{path.name}{_MARK}{_named(self._identity)}-{next(_numbers)}")
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Write the mark, unless the volume is read-only, and remove marks that are not valid."""
        if not self._try(self._identity):
            return
        self._sweep()
        self._closed.clear()
        self._thread = threading.Thread(target=self._keep_writing, name="use", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the use now. Safe at any time."""
        if self._thread is None:
            return
        self._closed.set()
        self._thread.join()
        self._thread = None
        self._try({**self._identity, "over": True})

    def _now(self) -> float:
        """Return the file server's time, that of this mark, which was written just now."""
        return self._path.stat().st_mtime

    def _sweep(self) -> None:
        with contextlib.suppress(OSError):
            for mark in _marks(self._model):
                if mark != self._path and not _counts(mark, self._now):
                    mark.unlink(missing_ok=True)

    def _keep_writing(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            if not self._try(self._identity):
                return

    def _try(self, value: Mapping[str, Any]) -> bool:
        """Write the mark, or log why not. Returns False if another try cannot help either."""
        try:
            self._write(value)
        except OSError as error:
            log.warning(
                "cannot note that %s is in use, so others may remove it: %s",
                self._model,
                error.strerror,
            )
            return error.errno not in (*NO_WRITING, errno.ENOENT)
        return True

    def _write(self, value: Mapping[str, Any]) -> None:
        """Write in place: a mark that is read half written is valid by its time alone."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.utime(descriptor)  # works on a full disk too
            data = json.dumps(value).encode()
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
        except OSError as error:
            if error.errno not in NO_ROOM:  # its time was set, which is enough
                raise
        finally:
            os.close(descriptor)


def in_use(path: Path) -> bool:
    """Return whether any process uses the model whose first file is `path`."""
    clock = _server_clock(path.parent)
    return any(_counts(mark, clock) for mark in _marks(path))


def last_used(path: Path) -> float:
    """Return the time when the model whose first file is `path` was last used, else fetched.

    It is in seconds since the epoch by the file server's clock; 0 if there is no such model.
    """
    times = []
    for mark in (*_marks(path), path):
        with contextlib.suppress(OSError):
            times.append(mark.stat().st_mtime)
    return max(times, default=0.0)


def _marks(path: Path) -> list[Path]:
    prefix = path.name + _MARK
    try:
        names = os.listdir(path.parent)
    except OSError:
        return []
    return [path.with_name(name) for name in sorted(names) if name.startswith(prefix)]


def _counts(mark: Path, now: Callable[[], float]) -> bool:
    """Return whether a mark is of a process that still uses the model."""
    try:
        written = mark.stat().st_mtime
        identity = json.loads(mark.read_bytes())
    except FileNotFoundError:  # just removed
        return False
    except OSError as error:  # it is there: what it says must not be taken for unsaid
        log.warning("cannot read %s, so it counts: %s", mark, error.strerror)
        return True
    except ValueError:
        identity = {}
    if isinstance(identity, dict):
        if identity.get("over") is True:
            return False
        if identity.get("machine") == process_identity()["machine"]:
            return process_lives(identity)
    return now() - written < EXPIRY_SECONDS


def _server_clock(folder: Path) -> Callable[[], float]:
    """Return a clock of the file server's time, or of this machine's if nothing can be written."""

    def now() -> float:
        probe = folder / f".clock.{secrets.token_hex(8)}"  # empty, so that a full disk has it too
        try:
            probe.touch(exist_ok=False)
            try:
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)
        except OSError:
            return time.time()

    return now


def _named(identity: Mapping[str, Any]) -> str:
    machine = hashlib.sha256(str(identity["machine"]).encode()).hexdigest()[:12]
    return f"{machine}-{identity['pid']}-{identity['began']}"
