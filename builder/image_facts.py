"""Print what an image for CUDA holds, as one line of JSON. Its own Python runs this inside of it.

    python -I image_facts.py CUOBJDUMP

Only the standard library is there. Nothing is judged here: builder/cuda_verdicts.py does that.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

CUDA, LLAMA = Path("/cuda"), Path("/llama")
NOT_THE_IMAGES = {"/dev", "/proc", "/sys", "/proof"}
"""Folders that a container gets from outside."""


def names() -> Iterator[str]:
    """Give the path of each file and folder of the image."""
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in NOT_THE_IMAGES]
        yield from (os.path.join(folder, name) for name in (*folders, *files))


def binaries() -> list[Path]:
    """Return the files that the loader may be asked for: Python's, the worker's, and CUDA's."""
    modules = Path(str(sysconfig.get_config_var("DESTSHARED")))
    found = {Path(sys.executable).resolve()}
    for root in (Path(sys.prefix), modules, CUDA, LLAMA):
        found.update(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if _is_elf(path))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def said(*command: str) -> str:
    """Return all that a command prints, whatever its exit status."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    return done.stdout


def cudart() -> int:
    """Return the version of CUDA's runtime library, such as 12080; 0 if there is none."""
    version = ctypes.c_int()
    for path in CUDA.glob("libcudart.so.*"):
        ctypes.CDLL(str(path)).cudaRuntimeGetVersion(ctypes.byref(version))
    return version.value


def main(cuobjdump: str) -> None:
    found = binaries()
    kernels = [str(path) for path in found if path.name.startswith("libggml-cuda.so")]
    facts = {
        "names": sorted(names()),
        "links": {str(path): said("ldd", "-v", str(path)) for path in found},
        "real": "".join(said(cuobjdump, "--list-elf", path) for path in kernels),
        "ptx": "".join(said(cuobjdump, "--list-ptx", path) for path in kernels),
        "glibc": os.confstr("CS_GNU_LIBC_VERSION"),
        "cudart": cudart(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
