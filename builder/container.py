"""Containers of an image from builder/build_image.sh, by docker or from buildah's storage.

Without docker the image's files are mounted, and its command becomes the first process of a PID
namespace of its own, with the image's environment and folder. That is what a container runtime
does, without control groups, which a sandbox may lack. The network is always the machine's own.
What runs inside is not known here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

_BUILDAH = ("sh", str(Path(__file__).with_name("buildah.sh")))

# Arguments: ROOT USER FOLDER, pairs of a path here and its path inside, "--", the command. The
# shell becomes the command, so that the command is process 1.
_ENTER = """set -e
root=$1 user=$2 folder=$3; shift 3
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root${2%/*}"; touch "$root$2"; fi
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done
shift
exec chroot ${user:+--userspec="$user:$user"} "$root" env --chdir="$folder" "$@"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """The options of a container; the defaults are the image's own.

    `mounts` are files and folders of this machine by their paths inside, readable only.
    """

    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[Path, str] = field(default_factory=dict)
    user: str = ""


class Container(Protocol):
    """A running container. The exit status of `process` is the container's."""

    process: subprocess.Popen[str]

    def terminate(self) -> None:
        """Send SIGTERM to its first process, as the platform does."""

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run another command in it, with its environment."""

    def close(self) -> None:
        """End and remove it."""


class Image(Protocol):
    """A built image."""

    def facts(self) -> dict[str, Any]:
        """Return its metadata: its configuration, its layers, its history."""

    def layers(self) -> list[str]:
        """Return the digests of its layers, lowest first."""

    def size(self) -> int:
        """Return the bytes of its files."""

    def save(self, archive: Path) -> None:
        """Write it into an archive, in the format of `docker save`."""

    def start(self, run: Run, output: TextIO) -> Container:
        """Start a container that prints to `output`."""

    def remove(self) -> None:
        """Remove its name, and the layers that no other image needs."""


def built(tag: str) -> Image:
    """Return the image of that name, by the tool that build_image.sh has built it with."""
    return _DockerImage(tag) if by_docker() else _StoredImage(tag)


def by_docker() -> bool:
    """Return whether images are docker's here, which means that its daemon answers."""
    try:
        return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


# --- docker ---


class _DockerImage:
    def __init__(self, tag: str) -> None:
        self._tag = tag
        (self._facts,) = json.loads(_said("docker", "image", "inspect", tag))

    def facts(self) -> dict[str, Any]:
        return {**self._facts, "history": _said("docker", "history", "--no-trunc", self._tag)}

    def layers(self) -> list[str]:
        return list(self._facts["RootFS"]["Layers"])

    def size(self) -> int:
        return int(self._facts["Size"])

    def save(self, archive: Path) -> None:
        _said("docker", "image", "save", "--output", str(archive), self._tag)

    def start(self, run: Run, output: TextIO) -> Container:
        return _DockerContainer(self._tag, run, output)

    def remove(self) -> None:
        _said("docker", "image", "rm", self._tag)


class _DockerContainer:
    def __init__(self, tag: str, run: Run, output: TextIO) -> None:
        self._name = f"gguf-worker-{os.getpid()}-{time.monotonic_ns()}"
        command = ["docker", "run", "--name", self._name, "--network", "host"]
        command += [f"--env={name}={value}" for name, value in run.environment.items()]
        command += [f"--volume={path}:{inside}:ro" for path, inside in run.mounts.items()]
        command += ["--user", run.user] if run.user else []
        self.process = subprocess.Popen(
            [*command, tag, *run.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def terminate(self) -> None:
        _said("docker", "kill", "--signal", "TERM", self._name)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", self._name, *command], capture_output=True, text=True
        )

    def close(self) -> None:
        subprocess.run(["docker", "rm", "--force", self._name], capture_output=True)
        self.process.wait()


# --- buildah ---


class _StoredImage:
    def __init__(self, tag: str) -> None:
        self._tag = tag
        facts = json.loads(_said(*_BUILDAH, "inspect", "--type", "image", tag))
        self._facts: dict[str, Any] = facts["Docker"]

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    def layers(self) -> list[str]:
        return list(self._facts["rootfs"]["diff_ids"])

    def size(self) -> int:
        working = _Working(self._tag)
        try:
            used = _said(
                "du", "--summarize", "--one-file-system", "--block-size=1", str(working.root)
            )
            return int(used.split()[0])
        finally:
            working.close()

    def save(self, archive: Path) -> None:
        _said(*_BUILDAH, "push", "--quiet", self._tag, f"docker-archive:{archive}")

    def start(self, run: Run, output: TextIO) -> Container:
        return _StoredContainer(_Working(self._tag), self._facts["config"], run, output)

    def remove(self) -> None:
        _said(*_BUILDAH, "rmi", self._tag)


class _Working:
    """A mounted copy of an image's files, which may be written to."""

    def __init__(self, tag: str) -> None:
        self._name = _said(*_BUILDAH, "from", "--pull-never", tag)
        self.root = Path(_said(*_BUILDAH, "mount", self._name))

    def close(self) -> None:
        _said(*_BUILDAH, "rm", self._name)


class _StoredContainer:
    def __init__(
        self, working: _Working, config: Mapping[str, Any], run: Run, output: TextIO
    ) -> None:
        self._working = working
        self._folder = str(config["WorkingDir"] or "/")
        given = dict(entry.split("=", 1) for entry in config["Env"])
        self._environment = {"HOME": "/root", **given, **run.environment}
        root = str(working.root)
        pairs = [part for pair in run.mounts.items() for part in map(str, pair)]
        space = ["--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc"]
        enter = ["unshare", *space, "sh", "-c", _ENTER, "enter"]
        self.process = subprocess.Popen(
            [*enter, root, run.user, self._folder, *pairs, "--", *(run.command or config["Cmd"])],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def terminate(self) -> None:
        os.kill(self._first(), signal.SIGTERM)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--target={self._first()}", "--mount", "--pid", "--root", "--wd"]
        return subprocess.run(
            [*inside, "env", f"--chdir={self._folder}", *command],
            env=self._environment,
            capture_output=True,
            text=True,
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        _eventually(self._removed)

    def _first(self) -> int:
        """Return the number that the container's process 1 has outside of it."""
        me = self.process.pid
        return int(Path(f"/proc/{me}/task/{me}/children").read_text().split()[0])

    def _removed(self) -> bool:
        try:
            self._working.close()
        except subprocess.CalledProcessError:  # the kernel is still ending what ran there
            return False
        return True


def _eventually(done: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.1)
