"""The faults of a start: how each is made, and what the worker does in each of its three modes.

docs/troubleshooting.md has the same table; `make faults` fills it in from real runs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gguf_worker.config import load_settings
from gguf_worker.models.source import parse_reference
from gguf_worker.serving import opened_store
from tests.fake_hub import FakeHub
from tests.local_server import Fault as Misbehaviour
from tests.local_server import Status
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO

SERVES = "serves"
RETRIES = "four tries, then exit 1; no job is taken"
EXIT = "exit 1"
ENDS = "ends at once, exit 0"
KILLED = "ends at once, by the signal"
LIMITED = Status(429, {"RateLimit": '"api";r=0;t=121'}, "<html>Too many requests</html>")
_MANY = 200
"""Faulty answers of the Hub, more than any run asks for."""


def refuses(code: str) -> str:
    """Return what a worker of the queue does that stays up and answers with the reason."""
    return f"answers each job with `{code}`"


class Scene:
    """What a run finds: a Hub, a volume, and settings, which a fault spoils before the start."""

    def __init__(self, folder: Path, hub: FakeHub, stack: ExitStack) -> None:
        self.hub = hub
        self.folder = folder
        self.volume = folder / "volume"
        self.volume.mkdir()
        self.settings = {
            "MODEL": f"{REPO}/{NAME}",
            "HF_ENDPOINT": hub.url,
            "VOLUME_PATH": str(self.volume),
            "CTX_SIZE": "512",
        }
        self._stack = stack

    def store_model(self) -> None:
        """Have an earlier worker fetch the model to the volume."""
        settings = load_settings(self.settings)
        with opened_store(settings, {}, lambda progress: None) as store:
            store.ensure(parse_reference(settings.model))

    def damage_model(self) -> None:
        """Change the stored model, but for its size and time, so that llama.cpp refuses it."""
        (stored,) = self.volume.rglob("*.gguf")
        before = stored.stat()
        odd = write_tiny(self.folder / "odd.gguf", metadata={"llama.attention.head_count": 3})
        stored.write_bytes(odd.read_bytes())
        assert stored.stat().st_size == before.st_size
        os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns))

    def fill_the_disk(self) -> None:
        """Put the volume on a file system of its own, which is too small for any model."""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.volume)], check=True
        )
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(self.volume)], check=True)


@contextmanager
def new_scene(folder: Path) -> Iterator[Scene]:
    """Make a scene in which nothing is wrong yet; the folder has to be empty."""
    with FakeHub() as hub, ExitStack() as stack:
        hub.add(REPO, NAME, write_tiny(folder / "tiny.gguf").read_bytes())
        yield Scene(folder, hub, stack)


@dataclass(frozen=True)
class StartFault:
    """A fault, and what the worker does in each mode.

    `spoil` makes it of a sound scene; `program`: one of tests/faulty_worker.py. `stored`: the model
    is on the volume. `interrupted`: SIGTERM comes while the model is being fetched.
    """

    name: str
    queue: str
    http: str = EXIT
    local: str = EXIT
    spoil: Callable[[Scene], None] = lambda scene: None
    program: str | None = None
    stored: bool = False
    interrupted: bool = False
    more: Mapping[str, str] = field(default_factory=dict)
    """Settings."""


def _hub_answers(status: Misbehaviour) -> Callable[[Scene], None]:
    return lambda scene: scene.hub.misbehave("info", *[status] * _MANY)


def _no_dns(scene: Scene) -> None:
    scene.settings["HF_ENDPOINT"] = "http://hub.invalid"


def _gated(scene: Scene) -> None:
    scene.hub.token = "hf_of_somebody_else"
    scene.settings["HF_TOKEN"] = "hf_of_the_worker"


def _cdn_refuses(scene: Scene) -> None:
    scene.hub.misbehave("file", *[Status(403)] * _MANY)


def _held_up(scene: Scene) -> None:
    scene.hub.before_file.clear()


def _unknown_architecture(scene: Scene) -> None:
    path = scene.folder / "nobody.gguf"
    path.write_bytes((scene.folder / "tiny.gguf").read_bytes().replace(b"llama", b"nobod"))
    scene.settings["MODEL"] = str(path)


def _cut_file(scene: Scene) -> None:
    path = scene.folder / "cut.gguf"
    path.write_bytes((scene.folder / "tiny.gguf").read_bytes()[:-100])
    scene.settings["MODEL"] = str(path)


def _hub_faults() -> Iterator[StartFault]:
    for name, spoil in (
        ("the Hub's rate limit (429)", _hub_answers(LIMITED)),
        ("the Hub answers 451", _hub_answers(Status(451))),
        ("the Hub answers 410", _hub_answers(Status(410))),
        ("the Hub answers 503", _hub_answers(Status(503))),
        ("the Hub's name is not found (DNS)", _no_dns),
    ):
        yield StartFault(f"{name}, no model on the volume", RETRIES, spoil=spoil)
        yield StartFault(
            f"{name}, the model is on the volume", SERVES, SERVES, SERVES, spoil, stored=True
        )


START_FAULTS = (
    StartFault("no such repository", refuses("model_unavailable"), more={"MODEL": "org/none"}),
    StartFault("a gated repository (403)", refuses("model_unavailable"), spoil=_gated),
    StartFault("the host behind the Hub refuses (403)", RETRIES, spoil=_cdn_refuses),
    *_hub_faults(),
    StartFault("the disk is full", RETRIES, spoil=Scene.fill_the_disk),
    StartFault("the model's file cannot be read (ESTALE)", RETRIES, program="stale_file",
        stored=True),
    StartFault("the model does not fit into the free memory", RETRIES, program="little_memory",
        stored=True),
    StartFault("llama.cpp cannot open the file", RETRIES, program="file_that_vanishes",
        stored=True),
    StartFault("the stored file was damaged, and the Hub has it", SERVES, SERVES, SERVES,
        Scene.damage_model, stored=True),
    StartFault("a local file was cut", refuses("model_corrupt"), spoil=_cut_file),
    StartFault("an architecture that llama.cpp does not know", refuses("model_unsupported"),
        spoil=_unknown_architecture),
    StartFault("no GPU of the machine can be read", RETRIES, SERVES, SERVES, program="lost_gpu",
        stored=True),
    StartFault("other processes hold the GPU", RETRIES, SERVES, SERVES, program="held_gpu",
        stored=True),
    StartFault("the driver is too old for the image's CUDA", RETRIES, SERVES, SERVES,
        program="old_driver", stored=True),
    StartFault("the image is for CUDA, and the machine has no driver", SERVES, SERVES, SERVES,
        program="no_driver", stored=True),
    StartFault("`GPU_LAYERS=all` on a machine without a GPU", refuses("invalid_configuration"),
        stored=True, more={"GPU_LAYERS": "all"}),
    StartFault("SIGTERM during the start", ENDS, ENDS, KILLED, _held_up, interrupted=True),
    StartFault("the engine is killed once before the first job", SERVES, SERVES, SERVES,
        program="engine_killed_once", stored=True),
    StartFault("each engine is killed before the first job", "exit 1; no job is taken",
        program="engine_killed_for_good", stored=True),
)  # fmt: skip


def outcomes() -> str:
    """Return the table of docs/troubleshooting.md."""
    lines = ["| fault | on the queue | over HTTP | `--test_input` |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {each.name} | {each.queue} | {each.http} | {each.local} |" for each in START_FAULTS
    ]
    return "\n".join(lines)
