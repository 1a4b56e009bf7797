"""llama.cpp's back ends, the code for a CPU or for GPUs: linked into it, or loaded as modules.

An image has modules, so that llama.cpp itself needs no driver; nobody else loads them. What is
compiled for one machine has them linked in.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import llama_cpp as L
from llama_cpp.llama_cpp import _lib as libllama

from gguf_worker.engine.llama.native_log import LlamaError, NativeLog
from gguf_worker.engine.messages import GpuSupport

_CUDA, _CPU = "cuda", "cpu"
_MISSING = re.compile(r"(\S+): cannot open shared object file")
_NO_DEVICES = "failed to initialize CUDA: "
_IN_PLAIN_WORDS = {
    "no CUDA-capable device is detected": "the NVIDIA driver finds no GPU",
    "CUDA driver version is insufficient for CUDA runtime version": "this machine's NVIDIA driver "
    "is older than llama.cpp's CUDA needs (CUDA driver version is insufficient)",
}

_FOLDER = Path(L.__file__).parent / "lib"

# Of the very libggml that libllama is linked with: a wheel has copies where there were links, and
# what is loaded into llama_cpp's own second copy, libllama does not see.
_load = libllama.ggml_backend_load
_load.argtypes, _load.restype = [ctypes.c_char_p], ctypes.c_void_p
_by_name = libllama.ggml_backend_reg_by_name
_by_name.argtypes, _by_name.restype = [ctypes.c_char_p], ctypes.c_void_p


def load_backends(log: NativeLog, *, gpu: bool, folder: Path = _FOLDER) -> GpuSupport:
    """Load the modules in `folder` whose back ends are not there yet; return what can be done with
    GPUs.

    To be called before anything else of llama.cpp, which would look for modules by itself, in wrong
    places. `gpu`: without it, a module for GPUs is left alone, and so is the driver. Raises
    LlamaError if there is no code for the CPU, without which nothing runs.
    """
    fault = _load_module(_CUDA, folder, log) if gpu else None
    if (without_cpu := _load_module(_CPU, folder, log)) is not None:
        raise LlamaError(
            "engine_start_failed",
            f"llama.cpp's code for the CPU cannot be loaded: {without_cpu}. The installation of "
            "llama-cpp-python is incomplete, or damaged.",
            permanent=False,
        )
    if L.llama_supports_gpu_offload():
        return GpuSupport("ready")
    if _by_name(_CUDA.encode()):
        return GpuSupport("no_device", _no_devices(log))
    if fault is None or not _module(_CUDA, folder).exists():
        return GpuSupport("not_built")
    return GpuSupport("not_loaded", fault)


def _load_module(name: str, folder: Path, log: NativeLog) -> str | None:
    """Load a back end that is not there yet. Returns what is wrong, None if it is there now."""
    if _by_name(name.encode()):
        return None
    path = _module(name, folder)
    if not path.exists():
        return f"{path} is missing"
    try:
        ctypes.CDLL(str(path))  # only it says what is wrong, without a way through the log
    except OSError as error:
        missing = _MISSING.search(str(error))
        return f"{missing[1]} is missing on this machine" if missing else str(error)
    return None if _load(str(path).encode()) else log.tail()


def _module(name: str, folder: Path) -> Path:
    return folder / f"libggml-{name}.so"


def _no_devices(log: NativeLog) -> str:
    """Return the reason why CUDA has no device, in plain words where it is a known one."""
    reason = log.last(_NO_DEVICES).partition(_NO_DEVICES)[2]
    return _IN_PLAIN_WORDS.get(reason, reason or "CUDA finds no GPU")
