"""Prove an image for CUDA that builder/build_image.sh or docker has built, where there is no GPU.

    python builder/prove_cuda.py TAG [MODEL] [--architectures "90-real"] [--compressed]

Prints a line for each check, then all of them as a table. All are tried, also after a failure; the
exit status is 1 if any failed. The architectures are the Dockerfile's unless told, the model is the
demo's, and --compressed needs zstd. A driver without a GPU is compiled by `cc`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from builder import cuda_verdicts as verdicts  # noqa: E402
from builder.container import Image, Run, built  # noqa: E402
from builder.layers import MB, Layer, layers, pulled  # noqa: E402
from builder.proof import Check, Failed, Result, Trials, expect, tried  # noqa: E402

BUILDER = ROOT / "builder"
DEMO = ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
CUOBJDUMP = BUILDER / "requirements-cuobjdump.txt"
MOUNTED = "/model.gguf"
DRIVERS_PLACE = f"/usr/lib/x86_64-linux-gnu/{verdicts.DRIVER}"
"""Where a container's runtime puts the host's driver."""
WITHOUT_GPU = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""Keeps a runtime of NVIDIA's from adding a driver where there is one."""
NEW, OLD = 13_000, 11_000
"""Versions of CUDA that a driver may be for."""
IMPORTS = """
import llama_cpp
print(llama_cpp.__version__, "offloads:", llama_cpp.llama_supports_gpu_offload())
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What builder/image_facts.py saw in the image."""

    names: Sequence[str]
    links: Mapping[str, verdicts.Linked]
    code: verdicts.Code
    glibc: tuple[int, ...]
    cudart: int


class Proof:
    """The image under test, and the checks of it."""

    def __init__(
        self, image: Image, model: Path, wanted: verdicts.Wanted, scratch: Path, *, compressed: bool
    ) -> None:
        self._image = image
        self._model = model
        self._wanted = wanted
        self._scratch = scratch
        self._compressed = compressed
        self._trials = Trials(image, scratch)
        self.layers: list[Layer] = []

    def checks(self) -> Sequence[Check]:
        """Return the checks in their order, each with what it shows of the image."""
        return (
            (f"all libraries are found, but the driver's {verdicts.DRIVER}", self.libraries),
            ("only llama.cpp's CUDA module needs the driver", self.ties),
            ("no driver or stub, compiler, static archive or header of CUDA", self.files),
            (f"has code for {shown(self._wanted)}", self.code),
            ("needs no newer glibc than its own", self.glibc),
            ("the oldest driver", self.driver),
            ("`import llama_cpp` without a driver", self.imports),
            ("without a driver: answers on the CPU, with a warning", self.without_driver),
            ("without a driver, GPU_LAYERS=all: refuses", self.refused_without_driver),
            ("driver without a GPU: answers on the CPU", lambda: self.answers_on(NEW)),
            ("driver without a GPU, GPU_LAYERS=all: refuses", lambda: self.refused_on(NEW)),
            ("driver for CUDA 11: answers on the CPU", lambda: self.answers_on(OLD)),
            ("driver for CUDA 11, GPU_LAYERS=all: refuses", lambda: self.refused_on(OLD)),
            ("size", self.size),
        )

    def output(self) -> str:
        """Return what the latest container has printed."""
        return self._trials.output()

    @cached_property
    def facts(self) -> Facts:
        tool = installed(CUOBJDUMP)
        (program,) = tool.rglob("bin/cuobjdump")
        inside = f"/proof/tool/{program.relative_to(tool)}"
        run = Run(
            command=["python", "-I", "/proof/facts.py", inside],
            environment=WITHOUT_GPU,
            mounts={BUILDER / "image_facts.py": "/proof/facts.py", tool: "/proof/tool"},
        )
        status, said = self._trials.ended(run, 300)
        expect(status == 0, "it cannot be looked into")
        seen = json.loads(said.splitlines()[-1])
        return Facts(
            names=seen["names"],
            links={path: verdicts.linked(path, said) for path, said in seen["links"].items()},
            code=verdicts.code(seen["real"], seen["ptx"]),
            glibc=verdicts.version(seen["glibc"].removeprefix("glibc ")),
            cudart=seen["cudart"],
        )

    # --- the checks: each returns a few words on what it saw, or raises Failed ---

    def libraries(self) -> str:
        expect_none(verdicts.library_faults(self.facts.links))
        return f"{len(self.facts.links)} files"

    def ties(self) -> str:
        expect_none(verdicts.tie_faults(self.facts.links))
        return "libllama.so and libggml.so load without it"

    def files(self) -> str:
        expect_none(verdicts.file_faults(self.facts.names))
        return f"{len(self.facts.names)} files and folders"

    def code(self) -> str:
        expect_none(verdicts.code_faults(self.facts.code, self._wanted))
        return verdicts.told(self.facts.code, self._wanted)

    def glibc(self) -> str:
        needed, name = verdicts.oldest_glibc(self.facts.links)
        own = self.facts.glibc
        expect(needed <= own, f"{name} needs {dotted(needed)}, and it has {dotted(own)}")
        return f"{dotted(needed)} ({name}); it has {dotted(own)}"

    def driver(self) -> str:
        expect(self.facts.cudart > 0, "it has no libcudart.so")
        return verdicts.driver(self.facts.cudart, ptx=bool(self.facts.code.ptx))

    def imports(self) -> str:
        run = Run(command=["python", "-c", IMPORTS], environment=WITHOUT_GPU)
        status, said = self._trials.ended(run, 60)
        expect(status == 0, f"it exited with {status}")
        return said.strip().splitlines()[-1]

    def without_driver(self) -> str:
        return self._answers(verdicts.DRIVER, {})

    def refused_without_driver(self) -> str:
        return self._refused(verdicts.DRIVER, {})

    def answers_on(self, version: int) -> str:
        return self._answers("NVIDIA driver", self._driver(version))

    def refused_on(self, version: int) -> str:
        return self._refused("NVIDIA driver", self._driver(version))

    def size(self) -> str:
        archive = self._scratch / "image.tar"
        self._image.save(archive)
        self.layers = layers(archive, compressed=self._compressed)
        archive.unlink()
        whole = f"{sum(layer.size for layer in self.layers) / MB:.0f} MB"
        parts = [f"{whole} in {len(self.layers)} layers", pulled(self.layers)]
        return "; ".join(filter(None, parts))

    # --- the worker ---

    def _answers(self, reason: str, mounts: Mapping[Path, str]) -> str:
        status, said = self._worker({}, mounts)
        expect_none(verdicts.answer_faults(status, said, reason))
        return warning(said)

    def _refused(self, reason: str, mounts: Mapping[Path, str]) -> str:
        status, said = self._worker({"GPU_LAYERS": "all"}, mounts)
        expect_none(verdicts.refusal_faults(status, said, reason))
        return f"exit code {status}: {refusal(said)}"

    def _worker(self, settings: Mapping[str, str], mounts: Mapping[Path, str]) -> tuple[int, str]:
        """Let the worker answer test_input.json, and return its exit status and all it printed."""
        run = Run(
            environment={**WITHOUT_GPU, "MODEL": MOUNTED, **settings},
            mounts={self._model: MOUNTED, **mounts},
        )
        return self._trials.ended(run, 120)

    def _driver(self, version: int) -> Mapping[Path, str]:
        return {fake_driver(version, self._scratch): DRIVERS_PLACE}


def fake_driver(version: int, folder: Path) -> Path:
    """Compile a driver for a version of CUDA, such as 13000, that knows no device."""
    library = folder / f"driver-{version}.so"
    command = ["cc", "-shared", "-fPIC", f"-DDRIVER_VERSION={version}", "-o", str(library)]
    subprocess.run([*command, str(BUILDER / "fake_driver.c")], check=True)
    return library


def expect_none(faults: Sequence[str]) -> None:
    """Raise Failed with the first few faults, if there are any."""
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise Failed("; ".join(faults[:5]) + more)


def installed(requirements: Path) -> Path:
    """Return the folder with the packages of a lock for an image's system; install them if new."""
    content = requirements.read_bytes()
    folder = ROOT / ".cache" / requirements.stem / hashlib.sha256(content).hexdigest()[:12]
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=made(folder.parent)) as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        pip += ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
        # For the image's system, whatever this one is.
        pip += ["--only-binary=:all:", "--platform=manylinux_2_17_x86_64"]
        subprocess.run([*pip, "--target", f"{scratch}/packages"], check=True)
        os.rename(f"{scratch}/packages", folder)
    return folder


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def shown(wanted: verdicts.Wanted) -> str:
    """Say what was asked for."""
    real, ptx = verdicts.in_order(wanted.real), verdicts.in_order(wanted.ptx)
    return f"{', '.join(real) or 'nothing'} and PTX for {', '.join(ptx) or 'none'}"


def warning(said: str) -> str:
    """Return the text of the first warning in a worker's log."""
    for line in said.splitlines():
        if '"level": "warning"' in line:
            return str(json.loads(line)["event"])
    return "no warning"


def refusal(said: str) -> str:
    """Return the reason that a worker gave in its last line."""
    line = said.strip().splitlines()[-1].removeprefix("error: ")
    return str(json.loads(line)["message"]) if line.startswith("{") else line


def table(results: Sequence[Result], layers: Sequence[Layer]) -> str:
    """Return the results as a table in Markdown, followed by the layers."""
    rows = [(each.what, each.saw if each.holds else f"**FAILED**: {each.saw}") for each in results]
    rows += [(f"layer: `{layer.step}`", layer.told()) for layer in layers]
    lines = [f"| {what} | {saw.replace('|', '/')} |" for what, saw in rows]
    return "\n".join(["| what | result |", "| --- | --- |", *lines])


def dockerfiles_own() -> str:
    """Return the architectures that the Dockerfile builds for unless told otherwise."""
    (given,) = re.findall(r"^ARG CUDA_ARCHITECTURES=(.+)$", (ROOT / "Dockerfile").read_text(), re.M)
    return str(given)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag")
    parser.add_argument("model", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--architectures", default=dockerfiles_own(), help="as CMake has them")
    parser.add_argument(
        "--compressed", action="store_true", help="compress each layer too: minutes"
    )
    given = parser.parse_args()
    wanted = verdicts.wanted(given.architectures)
    print(f"==> Trying {given.tag}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        proof = Proof(
            built(given.tag),
            given.model.resolve(),
            wanted,
            Path(scratch),
            compressed=given.compressed,
        )
        results = list(tried(proof.checks(), proof.output))
    print(table(results, proof.layers))
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
