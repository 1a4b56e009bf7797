"""Resolve pyproject.toml into the lock files beside this script: exact versions, files' hashes.

The locks hold for every supported Python and platform; other scripts install them.

    requirements.txt        what the worker runs with, the HTTP front included
    requirements-dev.txt    what its developers need on top
    requirements-llama.txt  llama-cpp-python alone: the one package that is compiled, by ACCEL
    requirements-cuda.txt   NVIDIA's compiler and libraries, for a base without a registry
    requirements-cuobjdump.txt  NVIDIA's program that lists the code in an image
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = Path("builder")
PROJECT = "pyproject.toml"
ENVIRONMENT = Path(".cache/lock")
TOOL = "uv==0.13.8"
COMPILED = "llama-cpp-python"


def blocks(lock: str) -> dict[str, str]:
    """Return a lock's entries with their hashes and comments, by their pins (markers included)."""
    starts = [match.start() for match in re.finditer(r"^[A-Za-z0-9]", lock, re.MULTILINE)]
    entries = [lock[a:b] for a, b in zip(starts, [*starts[1:], len(lock)], strict=True)]
    return {entry.splitlines()[0].removesuffix(" \\"): entry for entry in entries}


def _resolver(environment: Path) -> Path:
    """Return the resolver, after installing it away from the worker's own packages."""
    if not environment.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", TOOL], check=True)
    return environment / "bin/uv"


def _resolve(resolver: Path, *options: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = str(project["requires-python"]).removeprefix(">=")
    command = [str(resolver), "pip", "compile", "--quiet"]
    command += ["--universal", "--python-version", oldest, "--generate-hashes", "--no-header"]
    # One version for every Python, so that what is tested on one is what runs on another.
    command += ["--fork-strategy", "fewest"]
    return subprocess.check_output([*command, *options], cwd=ROOT, text=True)


def _write(name: str, entries: list[str]) -> None:
    head = "# Written by `make lock` from pyproject.toml; not to be edited.\n"
    (ROOT / LOCKS / name).write_text(head + "".join(entries))
    print(f"{LOCKS / name}: {len(entries)} pins")


def main() -> None:
    resolver = _resolver(ROOT / ENVIRONMENT)
    runtime = blocks(_resolve(resolver, PROJECT, "--extra", "http"))
    compiled = {pin for pin in runtime if pin.startswith(f"{COMPILED}==")}
    _write("requirements-llama.txt", [runtime[pin] for pin in compiled])
    _write("requirements.txt", [entry for pin, entry in runtime.items() if pin not in compiled])

    # The same versions for both, so that what is tested is what the worker runs with.
    (ROOT / ENVIRONMENT / "runtime.txt").write_text("\n".join(runtime))
    same = ("--constraint", f"{ENVIRONMENT}/runtime.txt")
    developers = blocks(_resolve(resolver, PROJECT, "--extra", "dev", *same))
    _write("requirements-dev.txt", [developers[pin] for pin in developers if pin not in runtime])

    for group in ("cuda", "cuobjdump"):
        packages = blocks(_resolve(resolver, "--group", group))
        _write(f"requirements-{group}.txt", list(packages.values()))


if __name__ == "__main__":
    main()
