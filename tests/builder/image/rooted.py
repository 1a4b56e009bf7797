"""Scripts of an image's build that believe a folder to be the root of their machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.paths import ROOT

_ROOTED = re.compile(r"(?<=[ ='\"])/(build|compiled|etc|tmp|run/secrets|usr/local/cuda)(?=[/\s])")


def add_script(name: str, root: Path, folder: Path) -> Path:
    """Copy a script of builder/image into `folder`; its absolute paths become paths in `root`."""
    folder.mkdir(parents=True, exist_ok=True)
    script = (ROOT / "builder/image" / name).read_text()
    copy = folder / name
    copy.write_text(_ROOTED.sub(lambda found: f"{root}{found[0]}", script))
    return copy


def add_program(path: Path, body: str) -> None:
    """Add a program, as the body of a shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def add_tools(folder: Path, *names: str) -> None:
    """Add programs of this machine to a folder that is a PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)


def is_system(root: Path, id: str, version: str, codename: str) -> None:
    """Be this system: its id, version and code name in /etc/os-release."""
    (root / "etc").mkdir(parents=True, exist_ok=True)
    named = f'ID={id}\nVERSION_ID="{version}"\nVERSION_CODENAME={codename}\n'
    (root / "etc/os-release").write_text(named)
