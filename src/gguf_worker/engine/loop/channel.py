"""The engine process's end of the socket: whole messages in, whole messages out.

Knows the framing, not what the messages mean.
"""

from __future__ import annotations

import select
import socket

import msgspec

from gguf_worker.engine.messages import Framed, FromEngine, ToEngine

_READ_BYTES = 1 << 20


class Channel:
    """Blocking writes, polled reads. EOFError: the parent is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._ready = select.poll()  # not select.select, which knows no descriptor beyond 1023
        self._ready.register(connection, select.POLLIN)
        self._framed: Framed[ToEngine] = Framed(msgspec.msgpack.Decoder(ToEngine))
        self._encoder = msgspec.msgpack.Encoder()

    def receive(self, timeout: float) -> list[ToEngine]:
        """What has come, waiting up to `timeout` seconds for the first."""
        messages: list[ToEngine] = []
        while self._ready.poll(timeout * 1000):
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise EOFError("the parent closed the connection")
            messages += self._framed.feed(data)
            timeout = 0.0
        return messages

    def send(self, message: FromEngine) -> None:
        data = self._encoder.encode(message)
        self._socket.sendall(Framed.HEADER.pack(len(data)) + data)
