"""The servers that are compared: their commands, the fields they need in a body, their starts.

All get the same model file, threads, context and number of requests at once, and beyond that their
defaults.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import build
from benchmarks.client import Client, Refused

OURS, LLAMA_SERVER, EXAMPLE, PACKAGED, NAIVE = PEERS = (
    "ours",
    "llama-server",
    "example",
    "packaged",
    "naive",
)
"""The peers' names.

`example` is the batching server under llama-cpp-python's examples, `packaged` is
`python -m llama_cpp.server`.
"""

_LOGS = build.CACHE / "logs"
_PROGRAMS = build.ROOT / "benchmarks" / "programs"
_READY_SECONDS = 300.0
_STOP_SECONDS = 10.0
_NEVER = -100.0
"""A bias with which a token is never drawn."""
_EXAMPLE_BATCH = 512
"""Rows of a step of the example server, as in its own configurations for larger machines."""


class PeerFailed(Exception):
    """A server that is not built, did not start, or does not answer."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of every peer. `context`: tokens of one request; `slots`: requests at once."""

    model: Path
    threads: int
    context: int
    slots: int
    ends: tuple[int, ...] = ()
    """Tokens that end an answer, for servers that draw them unless a bias forbids it."""
    plain_buffers: bool = False
    """Whether llama.cpp is kept from the AMX kernels, which crash."""

    @property
    def cells(self) -> int:
        return self.context * self.slots


@dataclass(frozen=True, slots=True)
class Launch:
    """A server's command, its environment, and the extra fields of every body sent to it."""

    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


def why_missing(peer: str) -> str | None:
    """Return what is missing of a peer and what to do, or None."""
    needed = {
        OURS: build.ROOT / "handler.py",
        LLAMA_SERVER: build.LLAMA_SERVER,
        EXAMPLE: build.example_server() or build.SOURCES / "…/examples/server/server.py",
    }.get(peer, build.PYTHON)
    if needed.exists():
        return None
    return f"{peer} is not built ({needed.relative_to(build.ROOT)} is missing): run `make bench`"


def launch(peer: str, setup: Setup, port: int, scratch: Path) -> Launch:
    """Return the command of a peer on a port. `scratch`: a folder for its files."""
    return _LAUNCHES[peer](setup, port, scratch)


def _ours(setup: Setup, port: int, scratch: Path) -> Launch:
    environ = {
        "WORKER_MODE": "http",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MODEL": str(setup.model),
        "THREADS": str(setup.threads),
        "CTX_SIZE": str(setup.context),
        "MAX_CONCURRENCY": str(setup.slots),
        "LOG_LEVEL": "warning",
    }
    command = (sys.executable, str(build.ROOT / "handler.py"))
    return Launch(command, environ, {"ignore_eos": True})


def _llama_server(setup: Setup, port: int, scratch: Path) -> Launch:
    options = ["--model", str(setup.model), "--host", "127.0.0.1", "--port", str(port)]
    options += ["--ctx-size", str(setup.cells), "--parallel", str(setup.slots)]
    options += ["--threads", str(setup.threads), "--threads-batch", str(setup.threads)]
    options += ["--no-repack"] if setup.plain_buffers else []
    return Launch((str(build.LLAMA_SERVER), *options), extras={"ignore_eos": True})


def _example(setup: Setup, port: int, scratch: Path) -> Launch:
    script = build.example_server()
    assert script is not None
    model = {
        "path": str(setup.model),
        "n_ctx": setup.cells,
        "max_seq_len": setup.context,
        "n_seq_max": setup.slots,
        "n_batch": _EXAMPLE_BATCH,
        "n_ubatch": _EXAMPLE_BATCH,
        "threads": setup.threads,
        "threads_batch": setup.threads,
        "n_gpu_layers": -1,
        "store_logits": False,
    }
    config = scratch / "example.json"
    config.write_text(json.dumps({"server": {"host": "127.0.0.1", "port": port}, "model": model}))
    bias = {str(token): _NEVER for token in setup.ends}
    return Launch(_python(setup, str(script), "-C", str(config)), extras={"logit_bias": bias})


def _packaged(setup: Setup, port: int, scratch: Path) -> Launch:
    options = ["--model", str(setup.model), "--host", "127.0.0.1", "--port", str(port)]
    options += ["--n_ctx", str(setup.context), "--n_gpu_layers", "-1"]
    options += ["--n_threads", str(setup.threads), "--n_threads_batch", str(setup.threads)]
    # By default the next request breaks off the one that runs.
    options += ["--interrupt_requests", "false"]
    return Launch(_python(setup, "-m", "llama_cpp.server", *options))


def _naive(setup: Setup, port: int, scratch: Path) -> Launch:
    script = str(_PROGRAMS / "naive_server.py")
    options = ["--model", str(setup.model), "--port", str(port), "--context", str(setup.context)]
    return Launch(_python(setup, script, *options, "--threads", str(setup.threads)))


_LAUNCHES: Mapping[str, Callable[[Setup, int, Path], Launch]] = {
    OURS: _ours,
    LLAMA_SERVER: _llama_server,
    EXAMPLE: _example,
    PACKAGED: _packaged,
    NAIVE: _naive,
}


def _python(setup: Setup, *arguments: str) -> tuple[str, ...]:
    """Return a command on the peers' Python.

    The bindings have no option for plain buffers, so a wrapper script sets it.
    """
    wrapper = [str(_PROGRAMS / "plain_buffers.py")] if setup.plain_buffers else []
    return (str(build.PYTHON), *wrapper, *arguments)


@contextlib.asynccontextmanager
async def running(peer: str, setup: Setup) -> AsyncIterator[Client]:
    """Start a peer and give its client once it has answered; end it when the block is left."""
    missing = why_missing(peer)
    if missing:
        raise PeerFailed(missing)
    _LOGS.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    started = launch(peer, setup, port, _LOGS)
    log = _LOGS / f"{peer}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            started.command,
            cwd=build.ROOT,
            env={**os.environ, **started.environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        async with Client(f"http://127.0.0.1:{port}", started.extras) as client:
            await _ready(peer, process, client, log)
            yield client
    finally:
        await asyncio.to_thread(_stop, process)


async def _ready(peer: str, process: subprocess.Popen[bytes], client: Client, log: Path) -> None:
    """Wait for the first answer, which is also the warm-up."""
    deadline = time.monotonic() + _READY_SECONDS
    refusal = "it does not listen"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerFailed(f"{peer} ended with status {process.returncode}:\n{_tail(log)}")
        try:
            await client.ask([{"role": "user", "content": "Hello"}], 2)
        except Refused as error:
            refusal = str(error)
            await asyncio.sleep(0.1)
        else:
            return
    raise PeerFailed(f"{peer} does not answer ({refusal}):\n{_tail(log)}")


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, because some servers leave children."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
