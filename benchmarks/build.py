"""Builds of the peers, from the sources that the worker itself is pinned to, and their paths.

One Python environment holds everything that runs on Python (never the worker's own). llama-server
comes from the llama.cpp tree inside llama-cpp-python's source distribution, with the flags of the
worker's own build. Everything lies under .cache/bench; what is there already is not made again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
PYTHON = CACHE / "venv" / "bin" / "python"
SOURCES = CACHE / "src"
SERVER_BUILD = CACHE / "llama-server"
LLAMA_SERVER = SERVER_BUILD / "bin" / "llama-server"

_REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
_LLAMA_LOCK = ROOT / "builder" / "requirements-llama.txt"
_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
"""Flags of llama-cpp-python's own build, whose GGML options are all defaults.

The rest turns off what needs a network.
"""
_CUDA_FLAGS = ("-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native")


class BuildFailed(Exception):
    """A peer that cannot be made; the message says what to do."""


def example_server() -> Path | None:
    """Return the script of llama-cpp-python's example server, once its sources are there."""
    return next(SOURCES.glob("*/examples/server/server.py"), None)


def build(accel: str) -> None:
    """Make what is missing, for `accel`: auto, cpu or cuda. Raises BuildFailed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not _stamped(CACHE / "venv", _REQUIREMENTS.read_text()):
        _make_environment()
    # The worker's own script, which knows by itself whether there is anything to do.
    _run("sh", "builder/llama.sh", CACHE / "venv", accel)
    if not _stamped(SOURCES, _LLAMA_LOCK.read_text()):
        _fetch_sources()
    flags = (*_FLAGS, *(_CUDA_FLAGS if _choice(accel) == "cuda" else ()))
    if not _stamped(SERVER_BUILD, " ".join(flags) + _LLAMA_LOCK.read_text()):
        _build_server(flags)


def _make_environment() -> None:
    shutil.rmtree(CACHE / "venv", ignore_errors=True)
    _run(sys.executable, "-m", "venv", CACHE / "venv")
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check")
    _shown("Installing the peers' packages", *pip, "install", "--no-deps", "-r", _REQUIREMENTS)
    _stamp(CACHE / "venv", _REQUIREMENTS.read_text())


def _fetch_sources() -> None:
    shutil.rmtree(SOURCES, ignore_errors=True)
    SOURCES.mkdir()
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps")
    options = ("--no-binary", ":all:", "--require-hashes", "-r", _LLAMA_LOCK, "-d", SOURCES)
    _shown("Fetching llama-cpp-python's sources", *pip, *options)
    (archive,) = SOURCES.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(SOURCES, filter="data")
    archive.unlink()
    _stamp(SOURCES, _LLAMA_LOCK.read_text())


def _build_server(flags: tuple[str, ...]) -> None:
    (tree,) = SOURCES.glob("*/vendor/llama.cpp")
    tools = PYTHON.parent
    ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
    cmake = tools / "cmake"
    shutil.rmtree(SERVER_BUILD, ignore_errors=True)
    _run(cmake, "-G", "Ninja", "-S", tree, "-B", SERVER_BUILD, ninja, *flags, quiet=True)
    _shown(
        "Building llama-server; minutes the first time",
        *("nice", cmake, "--build", SERVER_BUILD, "--target", "llama-server", "--parallel"),
    )
    _stamp(SERVER_BUILD, " ".join(flags) + _LLAMA_LOCK.read_text())


def _choice(accel: str) -> str:
    found = subprocess.run(
        ["sh", "builder/accel.sh", accel], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode:
        raise BuildFailed(found.stderr.strip())
    return found.stdout.split()[0]


def _stamped(folder: Path, wanted: str) -> bool:
    stamp = folder / ".made-from"
    return stamp.exists() and stamp.read_text() == wanted


def _stamp(folder: Path, made_from: str) -> None:
    (folder / ".made-from").write_text(made_from)


def _shown(message: str, *command: str | Path) -> None:
    _run("sh", "builder/progress.sh", message, *command)


def _run(*command: str | Path, quiet: bool = False) -> None:
    words = [str(word) for word in command]
    output = subprocess.DEVNULL if quiet else sys.stderr
    done = subprocess.run(words, cwd=ROOT, stdout=output)
    if done.returncode:
        raise BuildFailed(f"`{' '.join(words[:4])} …` ended with status {done.returncode}")
