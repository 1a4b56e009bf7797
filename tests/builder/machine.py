"""A machine for the shell scripts, with nothing on its PATH but what a test adds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.paths import ROOT

TOOLS = "sh cat cksum date dirname grep mktemp rm sed sleep tail tr"


class Machine:
    """A machine with the programs that every script needs, and those that a test adds."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.scripts = folder / "builder"
        shutil.copytree(ROOT / "builder", self.scripts)
        self.environment = {
            "PATH": str(self.bin),
            "CUDA_HOME": str(folder / "no-cuda"),
            "TMPDIR": str(folder),
        }
        self.has(*TOOLS.split())

    def has(self, *tools: str) -> None:
        """Add programs of this machine to the PATH."""
        for tool in tools:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)

    def add(self, program: str, body: str) -> None:
        """Add a program, as the body of a shell script."""
        path = self.bin / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def add_apt(self, status: int = 0) -> Path:
        """Add Debian's package manager, and return the file where it notes down what worked."""
        calls = self.bin.parent / "apt-calls"
        self.add("apt-get", f'[ {status} = 0 ] || exit {status}; echo "$*" >>"{calls}"')
        return calls

    def log_in(self, user: int) -> None:
        """Let scripts believe that they are run by this user; 0 is root."""
        self.add("id", f"echo {user}")

    def run(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script of builder/ to its end. `more`: variables beside those of the machine."""
        return subprocess.run(
            ["/bin/sh", str(self.scripts / script), *arguments],
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
