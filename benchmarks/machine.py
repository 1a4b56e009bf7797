"""Facts about the machine of a run, to be published: none of them holds a path of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp

from benchmarks.build import ROOT


def facts(model: Path, threads: int) -> dict[str, Any]:
    """Return what a reader has to know about a run: hardware, versions, commit, model, threads."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "system": platform.system(),
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "llama.cpp": llama_cpp.llama_print_system_info().decode().strip(" |"),
        "commit": _commit(),
        "model": model.name,
        "model_bytes": model.stat().st_size,
        "threads": threads,
    }


def amx_crashes() -> bool:
    """Return whether this processor has AMX, whose kernels crash in this llama.cpp."""
    return b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info()


def shown(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return a command behind its settings, with files by their names alone."""
    words = [f"{name}={value}" for name, value in environ.items()] + list(command)
    return " ".join("=".join(_name(part) for part in word.split("=")) for word in words)


def _name(word: str) -> str:
    return Path(word).name if os.path.isabs(word) else word


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    if not llama_cpp.llama_supports_gpu_offload():
        return []
    return _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()


def _commit() -> str:
    commit = _said("git", "rev-parse", "--short", "HEAD") or "unknown"
    return commit + ("+" if _said("git", "status", "--porcelain") else "")


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
