from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.builder.image.rooted import add_program, add_script, add_tools, is_system

TOOLS = ["sh", "cat", "find", "getconf", "head", "mktemp", "rm", "sed", "tr", "wc"]
LIBRARIES = ("libcudart", "libcublas", "libcublasLt")
NVCC = """case "$1" in
    --version) echo 'Cuda compilation tools, release 12.8, V12.8.93' ;;
    --list-gpu-code) printf 'sm_80\\nsm_90\\nsm_100\\nsm_120\\n' ;;
    *) exit "${PROGRAM:-0}" ;;
esac"""


class Base:
    """An image that has all that compile.sh needs, below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.toolkit = root / "usr/local/cuda"
        add_tools(self.bin, *TOOLS)
        add_program(self.bin / "uname", "echo x86_64")
        add_program(self.bin / "c++", "echo 'c++ 12.2.0'")
        add_program(self.bin / "python3", "echo 'Python 3.11.2'")
        add_program(self.toolkit / "bin/nvcc", NVCC)
        is_system(root, "ubuntu", "22.04", "jammy")
        names = [f"lib64/{name}.so{ending}" for name in LIBRARIES for ending in ("", ".12")]
        names += [f"include/{name}" for name in ("cuda.h", "cuda_runtime.h", "cublas_v2.h")]
        for name in [*names, "lib64/stubs/libcuda.so"]:
            (self.toolkit / name).parent.mkdir(parents=True, exist_ok=True)
            (self.toolkit / name).touch()
        self._script = add_script("check_base.sh", root, root / "build")

    def check(self, accel: str, *architectures: str, **more: str) -> tuple[int, str, str]:
        """Return the exit status, what it has, and what it lacks."""
        done = subprocess.run(
            ["sh", str(self._script), accel, *architectures],
            env={"PATH": str(self.bin), "TMPDIR": str(self.root), **more},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base(tmp_path)


@pytest.mark.parametrize("accel", ["cpu", "cuda"])
def test_a_base_that_has_everything_is_one(base: Base, accel: str) -> None:
    status, has, lacks = base.check(accel, "80;90-real;100-real;120a-real")
    assert (status, lacks) == (0, "")
    assert ("CUDA 12.8" in has) == (accel == "cuda")
    assert ("architecture 120a-real" in has) == (accel == "cuda")


def test_for_cpus_no_toolkit_is_needed(base: Base) -> None:
    shutil.rmtree(base.toolkit)
    assert base.check("cpu")[0] == 0
    status, _, lacks = base.check("cuda")
    assert status == 1
    assert "nvcc does not run. Choose an image with CUDA's compiler (devel)" in lacks


@pytest.mark.parametrize(
    "name",
    ["lib64/libcublasLt.so.12", "lib64/libcudart.so", "lib64/stubs/libcuda.so", "include/cuda.h"],
)
def test_a_file_of_the_toolkit_that_is_missing_is_named(base: Base, name: str) -> None:
    (base.toolkit / name).unlink()
    status, _, lacks = base.check("cuda")
    assert status == 1
    assert name.partition("/")[2].partition(".so.")[0] in lacks


def test_two_versions_of_a_library_are_too_many(base: Base) -> None:
    (base.toolkit / "lib64/libcudart.so.13").touch()
    status, _, lacks = base.check("cuda")
    assert status == 1
    assert "has 2 libraries libcudart.so.1*, not one" in lacks


def test_an_architecture_that_the_compiler_does_not_know_is_told_before_compiling(
    base: Base,
) -> None:
    status, _, lacks = base.check("cuda", "90-real;150-real")
    assert status == 1
    assert "CUDA 12.8 has no architecture 150-real, only: sm_80 sm_90 sm_100 sm_120" in lacks
    assert "90-real" not in lacks


@pytest.mark.parametrize(
    ("version", "enough"), [("11.8", False), ("12.6", False), ("12.8", True), ("13.0", True)]
)
def test_an_old_toolkit_is_refused(base: Base, version: str, enough: bool) -> None:
    add_program(base.toolkit / "bin/nvcc", NVCC.replace("12.8", version))
    status, _, lacks = base.check("cuda")
    assert (status == 0) == enough
    assert (f"CUDA {version} is too old" in lacks) != enough


def test_a_compiler_that_the_toolkit_cannot_work_with_is_told_before_compiling(base: Base) -> None:
    status, _, lacks = base.check("cuda", PROGRAM="1")
    assert status == 1
    assert "it does not compile and link a program" in lacks
    assert not list(base.root.glob("tmp.*"))


def test_what_the_systems_packages_can_bring_may_be_missing(base: Base) -> None:
    (base.bin / "c++").unlink()
    add_program(base.bin / "python3", "exit 1")
    status, _, lacks = base.check("cpu")
    assert status == 1
    assert "neither a C++ compiler and Python with venv nor apt-get" in lacks
    add_program(base.bin / "apt-get", "")
    status, has, _ = base.check("cuda")
    assert status == 0
    assert "a C++ compiler and Python with venv: to be installed by apt-get" in has


def test_another_kind_of_machine_is_refused(base: Base) -> None:
    add_program(base.bin / "uname", "echo aarch64")
    status, _, lacks = base.check("cpu")
    assert status == 1
    assert "it is for aarch64" in lacks
