"""The HTTP front over a bench, asked in memory or through a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from gguf_worker.api.http import build_http
from gguf_worker.api.http.server import server_config
from tests.api_doors import MESSAGES, Bench
from tests.waiting import PAUSE

CHAT = "/v1/chat/completions"
BODY = {"messages": MESSAGES}


def application(bench: Bench, **more: Any) -> Starlette:
    return build_http(bench.gateway, **{"state": lambda: "ready", "default_timeout": 60, **more})


@asynccontextmanager
async def client(app: ASGIApp, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://w", **more) as each:
        yield each


class PromptServer(uvicorn.Server):
    """uvicorn's server, without the tenths of a second that it sleeps before it stops."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(PAUSE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:
                    await asyncio.sleep(PAUSE)
        for task in state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@contextmanager
def served(
    app: Starlette, *, connections: int = 1000, also: Sequence[socket.socket] = ()
) -> Iterator[int]:
    """The application on a real socket, and on others that listen; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = PromptServer(server_config(app, grace=5, connections=connections))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener, *also]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def request_head(length: int, path: str = CHAT) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection


@contextmanager
def posted(port: int, body: dict[str, Any], path: str = CHAT) -> Iterator[socket.socket]:
    """A raw connection on which one request was sent."""
    data = json.dumps(body).encode()
    with connected(port) as connection:
        connection.sendall(request_head(len(data), path) + data)
        yield connection


def read_until(connection: socket.socket, text: str) -> str:
    data = b""
    while text.encode() not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    return data.decode()


def read_all(connection: socket.socket) -> str:
    """The text that comes until the other side has closed."""
    data = b""
    while part := connection.recv(65536):
        data += part
    return data.decode()
