"""The server: sockets, signals, and the number of connections at one time."""

from __future__ import annotations

import logging
import math
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from gguf_worker.api.http.connection import HEAD_BYTES, Connection

log = logging.getLogger("gguf_worker.api.http")

MAX_CONNECTIONS = 4096
SPARE_FILES = 128
"""Files that the worker opens beside its connections: the engine's, the model's, the log's."""

KEEP_ALIVE = 65
"""Seconds for which an idle connection stays open: longer than proxies keep theirs, usually 60, so
that they close it first, and never send a request into a closing one."""

BACKLOG = 2048


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    health_port: int | None = None,
    grace: float,
    on_shutdown: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: running requests get `grace` seconds to end.

    `on_shutdown` is called when the signal comes. Raises SystemExit if an address is taken.
    """
    server = uvicorn.Server(server_config(app, grace=grace, connections=connection_limit()))
    stop = server.handle_exit

    def begin_shutdown(sig: int, frame: FrameType | None) -> None:
        if not server.should_exit:
            on_shutdown()
        stop(sig, frame)

    server.handle_exit = begin_shutdown  # type: ignore[method-assign]
    ports = [port] if health_port is None else [port, health_port]
    with ExitStack() as opened:
        # Our handlers are needed too: a signal may come before uvicorn's are set, and after its
        # drain uvicorn raises the caught signal again, which would end the program.
        opened.enter_context(_signals_to(begin_shutdown))
        server.run(sockets=[opened.enter_context(_listener(host, each)) for each in ports])


def server_config(app: ASGIApp, *, grace: float, connections: int) -> uvicorn.Config:
    """Return uvicorn's configuration; `grace` is seconds, `connections` the most at one time."""
    return uvicorn.Config(
        app,
        http=Connection,
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=connections,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, math.ceil(grace)),
        access_log=False,
        log_config=None,
        # Clients' mistakes are answered, not logged: any client could flood the log.
        log_level="error",
        server_header=False,
        ws="none",
    )


def connection_limit() -> int:
    """Return the most connections at one time; raises the limit of open files if it can."""
    wanted = MAX_CONNECTIONS + SPARE_FILES
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < wanted:
        files = wanted if most < 0 else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return (
        MAX_CONNECTIONS if files < 0 else min(MAX_CONNECTIONS, max(files - SPARE_FILES, files // 2))
    )


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        log.error("cannot listen on %s, port %d: %s", host, port, exc.strerror)
        raise SystemExit(1) from exc
    log.info("listening on %s, port %d", host, listener.getsockname()[1])
    return listener


@contextmanager
def _signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
