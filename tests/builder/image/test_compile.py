from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

ROOTED = re.compile(r"(?<=[ =])/(build|compiled|etc|tmp|run/secrets|usr/local/cuda)/")
TOOLS = ("sh", "cat", "cksum", "cp", "grep", "mkdir", "mv", "rm", "tr", "uname")
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
        self.apt = root / "apt-calls"
        for folder in ("bin", "build", "compiled", "etc", "run/secrets", "tmp"):
            (root / folder).mkdir(parents=True)
        for folder in ("bin", "lib64"):
            (root / "usr/local/cuda" / folder).mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)
        apt = f'echo "$*" >>"{self.apt}"\n'
        for name, body in (("python3", PYTHON), ("pip", PIP), ("apt-get", apt)):
            self._add(self.bin / name, body)
        self.has_compiler("12.2.0")
        self.has_toolkit("12.8.93")
        self.is_system("debian", "12", "bookworm")
        for library in ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"):
            (root / "usr/local/cuda/lib64" / library).touch()
        (root / "build/requirements-llama.txt").write_text("llama-cpp-python==1\n")
        # The script names the stage's own folders, which a test has below its own.
        script = (ROOT / "builder/image/compile.sh").read_text()
        script = ROOTED.sub(lambda found: f"{root}{found[0]}", script)
        (root / "compile.sh").write_text(script)

    def has_toolkit(self, version: str) -> None:
        """Have a CUDA toolkit of this version, and no other one."""
        nvcc = self.root / "usr/local/cuda/bin/nvcc"
        self._add(nvcc, f"echo Cuda compilation tools, release 12.8, V{version}\n")

    def has_compiler(self, version: str) -> None:
        """Have a C++ compiler of this version, and no other one."""
        self._add(self.bin / "c++", f"echo c++ {version}\n")

    def has_no_compiler(self) -> None:
        """Have none: it has to be installed."""
        (self.bin / "c++").unlink()

    def is_system(self, id: str, version: str, codename: str) -> None:
        """Be this system: its id, version and code name in /etc/os-release."""
        named = f'ID={id}\nVERSION_ID="{version}"\nVERSION_CODENAME={codename}\n'
        (self.root / "etc/os-release").write_text(named)

    def is_lent(self, sources: str) -> None:
        """Get a list of Debian's mirrors from the building machine."""
        (self.root / "run/secrets/apt_sources").write_text(sources)

    @staticmethod
    def _add(program: Path, body: str) -> None:
        program.write_text(f"#!/bin/sh\n{body}")
        program.chmod(0o755)

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


@pytest.mark.parametrize("accel", ["cpu", "cuda"])
def test_a_wheel_is_compiled_again_for_another_compiler_or_system(stage: Stage, accel: str) -> None:
    assert len(stage.compile(accel)) == 1
    stage.has_compiler("14.1.0")
    assert len(stage.compile(accel, "newer")) == 1
    stage.is_system("ubuntu", "22.04", "jammy")
    assert len(stage.compile(accel, "elsewhere")) == 1
    assert stage.compile(accel, "again") == []


def test_a_wheel_for_cuda_is_compiled_again_for_another_toolkit_only(stage: Stage) -> None:
    assert len(stage.compile("cuda")) == len(stage.compile("cpu", "plain")) == 1
    stage.has_toolkit("13.0.48")
    assert len(stage.compile("cuda", "newer")) == 1
    assert stage.compile("cuda", "again") == stage.compile("cpu", "same") == []


@pytest.mark.parametrize(
    ("id", "version", "codename", "lent"),
    [
        ("debian", "12", "bookworm", True),
        ("debian", "13", "trixie", False),
        ("ubuntu", "22.04", "jammy", False),
        ("raspbian", "12", "bookworm", False),
    ],
)
def test_only_a_base_of_that_debian_gets_the_mirrors_of_this_machine(
    stage: Stage, id: str, version: str, codename: str, lent: bool
) -> None:
    stage.has_no_compiler()
    stage.is_system(id, version, codename)
    stage.is_lent(
        "deb http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
    )
    stage.compile("cpu")
    update, install = stage.apt.read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install --yes --no-install-recommends g++")
    for call in (update, install):
        assert ("/run/secrets/apt_sources" in call) == lent


def test_a_system_without_a_version_is_a_base_too(stage: Stage) -> None:
    (stage.root / "etc/os-release").write_text("ID=debian\n")
    stage.is_lent("deb http://mirror.example/debian bookworm main\n")
    stage.has_no_compiler()
    assert len(stage.compile("cpu")) == 1
    assert "apt_sources" not in stage.apt.read_text()
