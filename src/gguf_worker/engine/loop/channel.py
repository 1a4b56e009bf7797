"""The engine process's end of the socket: whole messages in, whole messages out.

Knows the framing, not the meaning of the messages.
"""

from __future__ import annotations

import select
import socket
import threading

import msgspec

from gguf_worker.engine.messages import Framed, FromEngine, ToEngine

_READ_BYTES = 1 << 20


class SocketChannel:
    """Blocking writes, from any thread, and polled reads of a socket, from one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._ready = select.poll()  # not select.select, which knows no descriptor beyond 1023
        self._ready.register(connection, select.POLLIN)
        self._framed: Framed[ToEngine] = Framed(msgspec.msgpack.Decoder(ToEngine))
        self._encoder = msgspec.msgpack.Encoder()
        self._sending = threading.Lock()

    def receive(self, timeout: float) -> list[ToEngine]:
        """Return the messages that have come, waiting up to `timeout` seconds for the first.

        Raises EOFError when the parent has closed the connection.
        """
        messages: list[ToEngine] = []
        while self._ready.poll(timeout * 1000):
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise EOFError("the parent closed the connection")
            messages += self._framed.feed(data)
            timeout = 0.0
        return messages

    def send(self, message: FromEngine) -> None:
        """Send a message; blocks while the socket is full."""
        data = self._encoder.encode(message)
        with self._sending:
            self._socket.sendall(Framed.HEADER.pack(len(data)) + data)
