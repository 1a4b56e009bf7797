"""The engine process: `python -m gguf_worker.engine FD PARENT`, started by the client.

FD is its end of a socket pair, PARENT the client's process id. Opens the model that the first
message names, reports it, and runs the loop. It dies with its parent, and ends when the parent
closes the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import signal
import socket
import sys
import time
from functools import partial

from gguf_worker.engine.drawing import Compiler, SamplerPool
from gguf_worker.engine.gpu_support import built_for_gpus
from gguf_worker.engine.loop import BEAT_SECONDS, Server, SocketChannel, embedder_for, scheduler_for
from gguf_worker.engine.messages import (
    EngineSpec,
    GpuSupport,
    Loading,
    Ready,
    Refused,
    Start,
    Tokenizing,
)
from gguf_worker.engine.texts import TokenizerPool

_PR_SET_PDEATHSIG = 1
_DRAWING_THREADS = 4
_SWITCH_SECONDS = 0.0005
"""Time after which a thread that computes in Python gives way to the loop, ten times less than
usual."""


def main(descriptor: int, parent: int) -> int:
    """Serve one model over the socket `descriptor` for the process `parent`; returns the exit
    status."""
    _die_with(parent)
    _restore_scheduling()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so is a container's stop signal
    channel = SocketChannel(socket.socket(fileno=descriptor))
    start = _first_message(channel)
    if start is None:
        return 0
    try:
        from gguf_worker.engine.llama import Llama, LlamaError, PoolingContext
    except (ImportError, OSError, RuntimeError) as error:  # what it is linked with may be missing
        channel.send(_cannot_load(error, start.spec))
        return 1
    loading = _LoadingReports(channel)
    try:
        llama = Llama(
            start.spec,
            progress=loading.progress,
            beat=loading.beat,
            log=partial(print, file=sys.stderr),
        )
        pooling = None if start.spec.pooling == "none" else PoolingContext(llama, start.spec)
    except LlamaError as error:
        channel.send(Refused(error.code, str(error), error.permanent, error.lacking, error.gpu))
        return 1
    tokenizers = TokenizerPool(lambda ids: channel.send(Tokenizing(ids)))
    info, embedder = llama.info, None
    if pooling is not None:
        info = pooling.described(info)
        embedder = embedder_for(start.spec, info, pooling, tokenizers)
    server = Server(
        llama,
        channel,
        scheduler_for(start.spec, info),
        compiler=Compiler(llama.vocabulary),
        now=time.monotonic,
        seeds=random.Random(),
        sampler_pool=SamplerPool(min(start.spec.threads, _DRAWING_THREADS)),
        tokenizers=tokenizers,
        interval=start.spec.stream_interval,
        embedder=embedder,
        chunk=start.spec.prefill_chunk or None,
    )
    llama.beat = server.beat
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()  # these objects live as long as the process: no collection has to scan them again
    channel.send(Ready(info))
    server.run()
    # Nothing is freed by hand: the kernel does that faster than llama.cpp, GPU memory included.
    os._exit(0)


def _cannot_load(error: Exception, spec: EngineSpec) -> Refused:
    message = f"llama.cpp cannot be loaded: {error}"
    gpu = GpuSupport("not_loaded", message) if spec.gpu_layers != 0 and built_for_gpus() else None
    lacking = gpu is not None
    return Refused("engine_start_failed", message, permanent=False, lacking=lacking, gpu=gpu)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent had ended before the line above
        os._exit(0)


def _restore_scheduling() -> None:
    """Leave the batch scheduling policy inherited from the parent (see handler.py)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _first_message(channel: SocketChannel) -> Start | None:
    """Wait for the first message; None if the parent closed the socket before it."""
    try:
        while True:
            for message in channel.receive(timeout=60.0):
                assert isinstance(message, Start)
                return message
    except EOFError:
        return None


class _LoadingReports:
    """Signs of life while the model is opened, at most one in BEAT_SECONDS."""

    def __init__(self, channel: SocketChannel) -> None:
        self._channel = channel
        self._reported_at = time.monotonic()
        self._fraction = 0.0

    def progress(self, fraction: float) -> None:
        """Note the fraction of the weights that has been read."""
        self._fraction = fraction
        self.beat()

    def beat(self) -> None:
        """Report to the parent, if it is time."""
        if time.monotonic() - self._reported_at >= BEAT_SECONDS:
            self._reported_at = time.monotonic()
            self._channel.send(Loading(self._fraction))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
