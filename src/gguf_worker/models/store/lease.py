"""Leases: the right to write one thing, for one process among all machines of a file system.

On many network file systems the kernel's file locks are not seen by other machines, so a lease is a
numbered file, which only one process can create, and which that process writes to as long as it
lives. The highest number counts; when its holder has given it back, or died, another process may
create the next. No process ever removes a file that may still count, so the lease is never given to
two, however slow they are. A waiting process times the signs of life by its own clock, since the
clocks of machines differ. Knows nothing of the files that a lease protects.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("gguf_worker.models")

BEAT_SECONDS = 1.0
"""The time between two signs of life of a holder."""
SILENCE_SECONDS = 20.0
"""The time without a sign of life after which a holder is taken for dead.

A network file system may delay another machine's writes by some seconds.
"""

Note = Mapping[str, Any]


class LeaseLost(Exception):
    """Another process took the lease over, since it saw no sign of life from this one."""


class Lease:
    """The lease named by `path`, in a folder that exists.

    One object is one holder; not thread-safe. Its file is `path` with a number appended; the last
    one remains.

    `waiting` is called about once in `BEAT_SECONDS` with the holder's last note, while another has
    the lease. `silence`: seconds without a sign of life after which a holder is taken for dead.
    `alive` returns whether the process of an `identity`, on this machine, still runs.
    """

    def __init__(
        self,
        path: Path,
        *,
        waiting: Callable[[Note], None] = lambda note: None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        silence: float = SILENCE_SECONDS,
        identity: Mapping[str, Any] | None = None,
        alive: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self._path = path
        self._waiting = waiting
        self._now = now
        self._sleep = sleep
        self._silence = silence
        self._identity = dict(process_identity() if identity is None else identity)
        self._alive = alive or process_lives
        self._note: Note = {}
        self._number = 0
        self._beats = 0
        self._descriptor = -1
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Wait until this process holds the lease. Raises OSError if its file cannot be created."""
        seen, since = (-1, b""), self._now()
        while True:
            latest = self._latest()
            if latest != seen:
                seen, since = latest, self._now()
            number, text = latest
            holder = _parsed(text)
            if self._is_free(number, holder, self._now() - since) and self._take(number + 1):
                break
            self._waiting(holder.get("note") or {})
            self._sleep(BEAT_SECONDS)
        self._released.clear()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)
        self._thread.start()

    def note(self, note: Note) -> None:
        """Set the note for waiting processes, which is written with the next sign of life."""
        self._note = note

    def check(self) -> None:
        """Raise LeaseLost if this process no longer holds the lease."""
        if self._latest()[0] != self._number:
            raise LeaseLost(f"another worker has taken over {self._path}")

    def release(self) -> None:
        """Give the lease back. Safe at any time, also when another has taken it over."""
        if self._thread is None:
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        try:
            self._write({**self._identity, "released": True})
        except OSError as error:  # others take over when the silence is long enough
            log.warning("cannot give %s back: %s", self._path, error.strerror)
        os.close(self._descriptor)

    # Parts

    def _latest(self) -> tuple[int, bytes]:
        """Return the highest number that was taken, 0 for none, and the content of its file."""
        number = max(self._numbers(), default=0)
        try:
            return number, self._file(number).read_bytes() if number else b""
        except OSError:  # just removed, or not readable at the moment
            return number, b""

    def _numbers(self) -> list[int]:
        prefix = self._path.name + "."
        endings = (
            name.removeprefix(prefix)
            for name in os.listdir(self._path.parent)
            if name.startswith(prefix)
        )
        return [int(ending) for ending in endings if ending.isascii() and ending.isdecimal()]

    def _file(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _is_free(self, number: int, holder: Mapping[str, Any], silent: float) -> bool:
        """Return whether the lease is free: the file `number` is given back, or its holder dead."""
        if number == 0 or holder.get("released") is True:
            return True
        if silent >= self._silence:
            log.warning("%s: no sign of life of its holder for %.0f seconds", self._path, silent)
            return True
        same_machine = holder.get("machine") == self._identity["machine"]
        return same_machine and not self._alive(holder)

    def _take(self, number: int) -> bool:
        """Create the file of that number, unless it exists, and remove those of lower numbers.

        Returns whether this process holds the lease now.
        """
        file = self._file(number)
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            self._beat()
            numbers = self._numbers()
        except OSError:  # such as a full disk: no process must wait for a lease that none holds
            self._drop(file)
            raise
        if max(numbers, default=0) != number:  # this process was slow: others took higher numbers
            self._drop(file)
            return False
        self._number = number
        for below in numbers:
            if below < number:
                self._file(below).unlink(missing_ok=True)
        return True

    def _drop(self, file: Path) -> None:
        os.close(self._descriptor)
        file.unlink(missing_ok=True)

    def _beat(self) -> None:
        self._beats += 1
        self._write({**self._identity, "beat": self._beats, "note": dict(self._note)})

    def _write(self, value: Mapping[str, Any]) -> None:
        """Write through the descriptor, since the file loses its name once another takes over."""
        data = json.dumps(value).encode().ljust(_LEAST_BYTES)
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
        os.fsync(self._descriptor)

    def _keep_beating(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                self._beat()
            except OSError as error:  # it may pass; else others take over after the silence
                log.warning("cannot write to %s: %s", self._path, error.strerror)


_LEAST_BYTES = 512
"""Least length of the file, so that a short note never leaves the end of a longer one behind it."""


def _parsed(data: bytes) -> dict[str, Any]:
    """Return the content of a lock file; empty while it is being written."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def process_identity() -> dict[str, Any]:
    """Return this process's identity, by which others of its machine can tell whether it runs."""
    pid = os.getpid()
    return {"machine": _machine(), "host": socket.gethostname(), "pid": pid, "began": _began(pid)}


def process_lives(identity: Mapping[str, Any]) -> bool:
    """Return whether the process of an identity, on this machine, still runs."""
    pid = identity.get("pid")
    return isinstance(pid, int) and _began(pid) == identity.get("began") is not None


def _machine() -> str:
    """Return the kernel's boot id and PID namespace, of which each container has its own."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return secrets.token_hex(16)  # matches no machine, so that only silence counts


def _began(pid: int) -> str | None:
    """Return the time when a process began, in clock ticks since boot; None if it does not run.

    A zombie does not count as running.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]
