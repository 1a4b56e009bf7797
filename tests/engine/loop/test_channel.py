"""The engine process's end of the socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from gguf_worker.engine.loop.channel import SocketChannel
from gguf_worker.engine.messages import Cancel, Framed, FromEngine, Loading, Refused, Stop, ToEngine


@pytest.fixture
def pair() -> Iterator[tuple[SocketChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield SocketChannel(ours), theirs


def frame(message: ToEngine) -> bytes:
    data = msgspec.msgpack.encode(message)
    return Framed.HEADER.pack(len(data)) + data


def test_all_that_has_come_is_received_at_once(pair: tuple[SocketChannel, socket.socket]) -> None:
    channel, parent = pair
    parent.sendall(frame(Cancel(1)) + frame(Cancel(2)) + frame(Stop()))
    assert channel.receive(1.0) == [Cancel(1), Cancel(2), Stop()]


def test_without_news_it_comes_back_empty(pair: tuple[SocketChannel, socket.socket]) -> None:
    channel, _ = pair
    assert channel.receive(0.0) == []
    assert channel.receive(0.01) == []


def test_half_a_message_waits_for_the_other_half(pair: tuple[SocketChannel, socket.socket]) -> None:
    channel, parent = pair
    data = frame(Cancel(1))
    parent.sendall(data[:5])
    assert channel.receive(1.0) == []
    parent.sendall(data[5:])
    assert channel.receive(1.0) == [Cancel(1)]


def test_a_parent_that_is_gone_is_an_end_of_file(pair: tuple[SocketChannel, socket.socket]) -> None:
    channel, parent = pair
    parent.close()
    with pytest.raises(EOFError):
        channel.receive(1.0)


def test_a_message_larger_than_the_socket_takes_is_sent_whole(
    pair: tuple[SocketChannel, socket.socket],
) -> None:
    channel, parent = pair
    message = Refused("model_corrupt", "x" * 3_000_000, True)
    messages: list[FromEngine] = [message, Loading(1.0)]

    def send() -> None:
        for each in messages:
            channel.send(each)

    sending = threading.Thread(target=send)
    sending.start()
    framed: Framed[FromEngine] = Framed(msgspec.msgpack.Decoder(FromEngine))
    received: list[FromEngine] = []
    while len(received) < 2:
        received += framed.feed(parent.recv(65536))
    sending.join()
    assert received == messages
