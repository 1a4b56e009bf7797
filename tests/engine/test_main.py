"""The engine program itself, from outside: `python -m gguf_worker.engine`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.errors import EngineInterrupted, EngineStartFailed, StartError
from gguf_worker.events import EngineBack, Event
from gguf_worker.generation import Sampling
from tests.waiting import until

GREEDY = Sampling(temperature=0)

PARENT = """
import os, socket, subprocess, sys, time
alive = int(sys.argv[1])
ours, theirs = socket.socketpair()
for each in (alive, ours.fileno(), theirs.fileno()):
    os.set_inheritable(each, True)
child = subprocess.Popen(
    [sys.executable, "-m", "gguf_worker.engine", str(theirs.fileno()), str(os.getpid())],
    close_fds=False,
)
print(child.pid, flush=True)
time.sleep(60)
"""
"""A parent whose engine inherits both ends of its socket, so that it never sees an end of file."""


def ignores(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_it_dies_with_its_parent() -> None:
    ours, theirs = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(theirs)], pass_fds=(theirs,), stdout=subprocess.PIPE
    ) as parent:
        os.close(theirs)
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        # That is what it does right after it has tied itself to its parent.
        until(lambda: ignores(engine, signal.SIGTERM))
        parent.kill()
    # The pipe's other end was held by the two of them only.
    assert select.select([ours], [], [], 20)[0]
    assert os.read(ours, 1) == b""
    os.close(ours)


def test_it_ends_when_its_parent_closes_the_connection() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        engine = subprocess.Popen(
            [sys.executable, "-m", "gguf_worker.engine", str(theirs.fileno()), str(os.getpid())],
            pass_fds=(theirs.fileno(),),
        )
    ours.close()
    assert engine.wait(20) == 0


@pytest.mark.parametrize("library", ["libcuda.so.1", None])
def test_a_llama_cpp_that_cannot_be_imported_is_refused_in_one_line(
    tmp_path: Path, library: str | None
) -> None:
    """So it is with one that is linked with CUDA, without a driver."""
    package = tmp_path / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    said = f"Failed to load libllama.so: {library}: cannot open shared object file"
    (package / "__init__.py").write_text(f"raise RuntimeError({said!r})\n")
    if library:
        (package / "lib" / "libggml-cuda.so.0").touch()
    client = EngineClient(
        EngineSpec(path="m.gguf", context=256, sequences=1),
        observe=lambda event: None,
        variables={"PYTHONPATH": str(tmp_path)},
    )
    with (
        contextlib.closing(client),
        pytest.raises(EngineStartFailed, match="cannot be loaded: Failed") as failed,
    ):
        client.start()
    assert "\n" not in failed.value.message
    assert (client.gpu_fault is None) == (library is None)


@pytest.fixture
def client(tiny_model: Path) -> Iterator[tuple[EngineClient, list[Event]]]:
    events: list[Event] = []
    client = EngineClient(
        EngineSpec(path=str(tiny_model), context=256, sequences=4),
        observe=events.append,
        backoff=(0.0,),
    )
    yield client, events
    client.close()


async def text_of(client: EngineClient, prompt: str, max_tokens: int) -> str:
    request = EngineRequest(prompt, GREEDY, max_tokens=max_tokens, ignore_eos=True)
    stream = client.submit(request)
    return "".join([delta.text async for delta in stream])


@pytest.mark.llama
async def test_a_model_answers_the_same_before_and_after_a_crash(
    client: tuple[EngineClient, list[Event]],
) -> None:
    engine, events = client
    info = engine.start()
    assert (info.context, info.sequences, info.vocabulary) == (256, 4, 512)
    before = await text_of(engine, "the sea", max_tokens=12)
    stream = engine.submit(EngineRequest("the sea", GREEDY, ignore_eos=True))
    await anext(stream)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineInterrupted):
        async for _ in stream:
            pass
    assert await text_of(engine, "the sea", max_tokens=12) == before
    assert [event for event in events if isinstance(event, EngineBack)]


@pytest.mark.llama
async def test_signals_meant_for_the_worker_do_not_end_it(
    client: tuple[EngineClient, list[Event]],
) -> None:
    engine, _ = client
    engine.start()
    pid = engine.pid
    assert pid is not None
    for each in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, each)
    await text_of(engine, "the sea", max_tokens=3)
    assert engine.pid == pid


@pytest.mark.llama
def test_a_close_ends_the_program_at_once(
    client: tuple[EngineClient, list[Event]],
) -> None:
    engine, _ = client
    engine.start()
    pid = engine.pid
    assert pid is not None
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 4.0  # after 5 s it would have been killed
    assert not psutil.pid_exists(pid)


@pytest.mark.llama
async def test_a_crowd_is_served_to_the_last(client: tuple[EngineClient, list[Event]]) -> None:
    engine, _ = client
    engine.start()
    texts = await asyncio.gather(
        *(text_of(engine, f"{n} sea and sea", max_tokens=20) for n in range(24))
    )
    assert all(texts)


@pytest.mark.llama
@pytest.mark.parametrize("content", [b"GGUF but not really", None], ids=["garbage", "no file"])
def test_a_file_that_is_no_model_is_a_start_error_and_for_good_if_it_was_read(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    client = EngineClient(
        EngineSpec(path=str(path), context=64, sequences=1), observe=lambda _: None
    )
    with pytest.raises(StartError, match="cannot load") as caught:
        client.start()
    assert caught.value.permanent is (content is not None)
    client.close()
