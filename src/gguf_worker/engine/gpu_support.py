"""What llama.cpp can do with this machine's GPUs, for the worker, which never loads llama.cpp.

Whether it was built for them is seen from its files; whether they work is asked of a process of its
own, which runs `main` and prints a GpuSupport as JSON.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from gguf_worker.engine.messages import GpuSupport

_PROGRAM = (sys.executable, "-c", f"from {__name__} import main; main()")
_PATIENCE = 60.0
"""Seconds that a driver may take to say that it has no GPU."""


def built_for_gpus() -> bool:
    """Tell whether the installed llama.cpp has a CUDA back end, linked in or as a module."""
    found = find_spec("llama_cpp")
    places = [] if found is None else found.submodule_search_locations or []
    return any(any(Path(place, "lib").glob("libggml-cuda.so*")) for place in places)


def ask_for_gpus(program: Sequence[str] = _PROGRAM, patience: float = _PATIENCE) -> GpuSupport:
    """Return what llama.cpp can do with the GPUs here.

    Takes a second or more, unless llama.cpp was not built for GPUs.
    """
    if not built_for_gpus():
        return GpuSupport("not_built")
    try:
        done = subprocess.run(
            program, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return GpuSupport("not_loaded", f"it could not be tried: {error}")
    try:
        return msgspec.json.decode(done.stdout, type=GpuSupport)
    except msgspec.DecodeError:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        ended = f"the process that tried it ended with status {done.returncode}"
        return GpuSupport("not_loaded", ": ".join([ended, *lines[-1:]]))


def main() -> None:
    """Print what llama.cpp can do with the GPUs that this process may use."""
    sys.stdout.buffer.write(msgspec.json.encode(_tried()))


def _tried() -> GpuSupport:
    try:
        from gguf_worker.engine.llama import LlamaError, NativeLog, load_backends
    except (ImportError, OSError, RuntimeError) as error:
        return GpuSupport("not_loaded", str(error))
    try:
        return load_backends(NativeLog(lambda line: None), gpu=True)
    except LlamaError as error:
        return GpuSupport("not_loaded", str(error))
