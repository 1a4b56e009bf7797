"""The engine process as its parent holds it: the child, the parent's end of the socket, and stderr.

Knows how a process is started, read and ended, not what messages mean or what follows a loss.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gguf_worker.engine.messages import EngineInfo, Framed, FromEngine

log = logging.getLogger("gguf_worker.engine")

_READ = select.POLLIN
_READ_BYTES = 1 << 20
_PARTS = 64
"""Parts of the outbox that one system call sends."""
_STDERR_LINES = 40
_TAIL_LINES = 6
_STOP_SECONDS = 5.0
_DEATH_SECONDS = 10.0

ENVIRONMENT = {
    # Threads that spin at OpenMP's barriers become very slow once anything else wants a core.
    "GOMP_SPINCOUNT": "1000",
    # A crash must not wait for a debugger.
    "GGML_NO_BACKTRACE": "1",
}
"""Defaults in the child's environment; variables that the user set override them."""

_SPAWNING = threading.Lock()
# Held by each fork too: a fork in the middle of a start, as by the SDK's heartbeat, would inherit
# the pipe by which `Popen` learns of the exec, and `Popen` would wait for ever.
os.register_at_fork(
    before=_SPAWNING.acquire,
    after_in_parent=_SPAWNING.release,
    after_in_child=_SPAWNING.release,
)


class ProcessLost(Exception):
    """The process has ended or is unusable. `cause` is short and stable, the message is for
    people."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class EngineProcess:
    """A started child. It belongs to one thread; others may call `post` and `withdraw` only, under
    a lock that the owner holds when it calls `flush`.

    `command` gets two arguments more: the descriptor of its end of the socket, and the parent's
    process id. The owner sets `info` when the model is open. Raises ProcessLost when the process
    cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], now: Callable[[], float]
    ) -> None:
        self._now = now
        with _SPAWNING:
            self._child = self._started(command, environ)
        assert self._child.stderr is not None
        self._stderr = self._child.stderr
        self._socket.setblocking(False)
        os.set_blocking(self._stderr.fileno(), False)
        # Made once: a new poll object for each message would cost more than the message.
        self._poll = select.poll()
        self._poll.register(self._stderr, _READ)
        self._watched = (-1, 0)
        self._framed: Framed[FromEngine] = Framed(msgspec.msgpack.Decoder(FromEngine))
        self._outbox: deque[bytes | memoryview] = deque()  # headers and messages, in turn
        self._lines: deque[str] = deque(maxlen=_STDERR_LINES)
        self._partial_line = b""
        self.info: EngineInfo | None = None
        self._heard_at = now()

    def _started(
        self, command: Sequence[str], environ: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                return subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={**ENVIRONMENT, **environ},
                )
            except OSError as error:
                self._socket.close()
                detail = f"the engine process cannot be started: {error}"
                raise ProcessLost("spawn", detail) from error

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._child.pid

    @property
    def silent_seconds(self) -> float:
        """Seconds since its last message, or since `excuse_silence`."""
        return self._now() - self._heard_at

    def excuse_silence(self) -> None:
        """Begin to count its silence anew."""
        self._heard_at = self._now()

    def post(self, message: bytes) -> None:
        """Put an encoded message into the outbox."""
        self._outbox += (Framed.HEADER.pack(len(message)), message)

    def withdraw(self, message: bytes) -> bool:
        """Take this very message out of the outbox again; returns whether nothing of it was
        sent."""
        for at, part in enumerate(self._outbox):
            # The first part may be what is left of one.
            if part is message and at and not isinstance(self._outbox[at - 1], memoryview):
                del self._outbox[at], self._outbox[at - 1]
                return True
        return False

    def flush(self) -> None:
        """Send as much of the outbox as the socket takes now."""
        with contextlib.suppress(BlockingIOError, OSError):
            while self._outbox:
                sent = self._socket.sendmsg(itertools.islice(self._outbox, _PARTS))
                while self._outbox and sent >= len(self._outbox[0]):
                    sent -= len(self._outbox.popleft())
                if sent:
                    self._outbox[0] = memoryview(self._outbox[0])[sent:]

    def wait(self, wakeful: int, seconds: float) -> list[FromEngine]:
        """Return the messages that come within `seconds`, or none once the descriptor `wakeful` is
        readable.

        Raises ProcessLost when the process has ended or sends an invalid message.
        """
        watched = (wakeful, _READ | (select.POLLOUT if self._outbox else 0))
        if watched != self._watched:
            self._poll.register(watched[0], _READ)
            self._poll.register(self._socket, watched[1])
            self._watched = watched
        ready = dict(self._poll.poll(seconds * 1000))
        if not self._stderr.closed and self._stderr.fileno() in ready:
            self._read_stderr()
        if ready.get(self._socket.fileno(), 0) & ~select.POLLOUT:
            return self._receive()
        return []

    def _receive(self) -> list[FromEngine]:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            log.debug("engine socket: %s", error)
            data = b""
        if not data:
            raise self._end()
        self._heard_at = self._now()
        try:
            return self._framed.feed(data)
        except msgspec.DecodeError as error:
            raise ProcessLost("garbled", f"the engine sent what cannot be read: {error}") from error

    def _end(self) -> ProcessLost:
        """Return the loss that says how the process ended, after its socket was closed."""
        try:
            status = self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return ProcessLost("closed", "the engine closed its connection without ending")
        while not self._stderr.closed and self._read_stderr():
            pass
        if status < 0:
            how, cause = f"was killed by {_signal_name(-status)}", "signal"
        else:
            how, cause = f"ended with status {status}", "exit"
        tail = " | ".join(list(self._lines)[-_TAIL_LINES:])
        return ProcessLost(cause, f"the engine {how}{': ' if tail else ''}{tail}")

    def _read_stderr(self) -> bool:
        """Keep new lines of stderr; returns False when there is nothing to read, now or ever."""
        try:
            data = os.read(self._stderr.fileno(), 65536)
        except BlockingIOError:
            return False
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        if not data:
            self._poll.unregister(self._stderr)
            self._stderr.close()
            lines += [self._partial_line] if self._partial_line else []
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.append(text)
            log.debug("engine: %s", text)
        return bool(data)

    def reap(self, *, gently: bool) -> None:
        """Wait for the process to end, killing it if needed, and close its pipes.

        `gently`: it was asked to stop, so it gets a moment to end by itself.
        """
        try:
            self._child.wait(_STOP_SECONDS if gently else 0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            try:
                self._child.wait(_DEATH_SECONDS)
            except subprocess.TimeoutExpired:
                # A driver may hold it in the kernel; waiting on would hang every request with it.
                log.error("the engine process %d does not die", self.pid)
        self._socket.close()
        self._stderr.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return f"signal {number}"
