"""The outbox of a process that reads slowly."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gguf_worker.engine.messages import Reply
from gguf_worker.engine.parent.process import EngineProcess
from tests.waiting import until

READER = """
import os, socket, sys, time
import msgspec
from gguf_worker.engine.messages import Framed, Reply
connection = socket.socket(fileno=int(sys.argv[2]))
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
framed, got = Framed(msgspec.msgpack.Decoder(str)), []
while "end" not in got:
    got += framed.feed(connection.recv(1 << 20))
data = msgspec.msgpack.encode(Reply(1, text=",".join(f"{text[:1]}{len(text)}" for text in got)))
connection.sendall(Framed.HEADER.pack(len(data)) + data)
time.sleep(60)
"""
"""A process that reads nothing until a file exists, and then says what has come."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[EngineProcess]:
    command = (sys.executable, "-c", READER, str(tmp_path / "gate"))
    process = EngineProcess(command, os.environ, lambda: 0.0)
    yield process
    process.reap(gently=False)


def text(letter: str, length: int) -> bytes:
    return msgspec.msgpack.encode(letter * length)


def read(process: EngineProcess, gate: Path) -> str:
    """Let it read, until it says what has come."""
    process.post(msgspec.msgpack.encode("end"))
    gate.touch()
    replies: list[Reply] = []

    def heard() -> bool:
        process.flush()
        replies.extend(each for each in process.wait(0, 0.01) if isinstance(each, Reply))
        return bool(replies)

    until(heard)
    return replies[0].text


def test_messages_arrive_whole_and_in_order_however_large(
    reader: EngineProcess, tmp_path: Path
) -> None:
    for letter, length in [("a", 1), ("b", 3_000_000), ("c", 70_000), ("d", 0)]:
        reader.post(text(letter, length))
        reader.flush()
    assert read(reader, tmp_path / "gate") == "a1,b3000000,c70000,0,e3"


def test_a_message_is_withdrawn_only_if_nothing_of_it_was_sent(
    reader: EngineProcess, tmp_path: Path
) -> None:
    begun, waiting, last = text("a", 3_000_000), text("b", 3_000_000), text("c", 5)
    for message in (begun, waiting, last):
        reader.post(message)
    reader.flush()
    assert [reader.withdraw(message) for message in (begun, waiting, waiting)] == [
        False,
        True,
        False,
    ]
    assert read(reader, tmp_path / "gate") == "a3000000,c5,e3"


def test_the_outbox_of_a_process_that_does_not_read_holds_no_copies(reader: EngineProcess) -> None:
    message = text("a", 1_000_000)
    for _ in range(50):
        reader.post(message)
    assert sum(part is message for part in reader._outbox) == 50


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_elsewhere_waits_until_a_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked process that lives on would keep the pipe open by which Popen learns of the exec."""
    popen, forked = subprocess.Popen, threading.Event()

    def fork() -> None:
        if (pid := os.fork()) == 0:
            os._exit(0)
        forked.set()
        os.waitpid(pid, 0)

    other = threading.Thread(target=fork)
    early: list[bool] = []

    def started(*arguments: Any, **more: Any) -> Any:
        other.start()
        early.append(forked.wait(0.3))
        return popen(*arguments, **more)

    monkeypatch.setattr(subprocess, "Popen", started)
    process = EngineProcess([sys.executable, "-c", "pass"], {}, time.monotonic)
    other.join()
    process.reap(gently=True)
    assert early == [False]
    assert forked.is_set()
