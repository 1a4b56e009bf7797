from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

ROOTED = re.compile(r"(?<=[ =])/(build|compiled|tmp|run/secrets|usr/local/cuda)/")
TOOLS = ("sh", "cat", "cksum", "cp", "mkdir", "mv", "rm", "tr", "uname")
PYTHON = """case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$PIP" "$3/bin/pip" ;;
esac
"""
PIP = """echo "$CMAKE_ARGS" >>"$LOG"
while [ "$1" != --wheel-dir ]; do shift; done
echo built >"$2/llama.whl"
"""


class Stage:
    """The stage of the image's build that compiles, with its absolute paths below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.bin = root / "bin"
        for folder in ("bin", "build", "compiled", "tmp", "usr/local/cuda/lib64"):
            (root / folder).mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)
        for name, body in (("python3", PYTHON), ("c++", ""), ("pip", PIP)):
            (self.bin / name).write_text(f"#!/bin/sh\n{body}")
            (self.bin / name).chmod(0o755)
        for library in ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"):
            (root / "usr/local/cuda/lib64" / library).touch()
        (root / "build/requirements-llama.txt").write_text("llama-cpp-python==1\n")
        # The script names the stage's own folders, which a test has below its own.
        script = (ROOT / "builder/image/compile.sh").read_text()
        script = ROOTED.sub(lambda found: f"{root}{found[0]}", script)
        (root / "compile.sh").write_text(script)

    def compile(self, accel: str, wheels: str = "wheels") -> list[str]:
        """Compile for `accel`, and return the flags of each build that this caused."""
        before = len(self.log.read_text().splitlines()) if self.log.exists() else 0
        shutil.rmtree(self.root / "tmp")
        (self.root / "tmp").mkdir()
        subprocess.run(
            ["sh", str(self.root / "compile.sh"), accel, str(self.root / wheels), self.cuda],
            env={
                "PATH": str(self.bin),
                "LOG": str(self.log),
                "PIP": str(self.bin / "pip"),
                "CUDA_ARCHITECTURES": "90-real",
            },
            check=True,
            timeout=30,
        )
        return self.log.read_text().splitlines()[before:]

    @property
    def cuda(self) -> str:
        return str(self.root / "cuda")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("accel", ["cpu", "cuda"])
def test_no_code_is_for_the_building_machines_own_processor(stage: Stage, accel: str) -> None:
    (flags,) = stage.compile(accel)
    assert "-DGGML_NATIVE=OFF" in flags.split()
    assert "-DGGML_AVX2=ON" in flags.split()
    assert (stage.root / "wheels/llama.whl").read_text() == "built\n"


def test_with_cuda_its_architectures_are_built_and_its_libraries_come_along(stage: Stage) -> None:
    (flags,) = stage.compile("cuda")
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90-real"} <= set(flags.split())
    names = {path.name for path in Path(stage.cuda).iterdir()}
    assert names == {"libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"}


def test_a_wheel_is_compiled_once_for_all_that_it_is_made_from(stage: Stage) -> None:
    assert len(stage.compile("cpu")) == 1
    assert stage.compile("cpu", "again") == []
    assert (stage.root / "again/llama.whl").exists()
    (stage.root / "build/requirements-llama.txt").write_text("llama-cpp-python==2\n")
    assert len(stage.compile("cpu", "newer")) == 1
