from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.builder.machine import Machine


class Builds:
    """A virtual environment whose pip notes down each build of llama-cpp-python."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.venv = folder / "venv"
        self.calls = folder / "calls"
        self.calls.touch()
        machine.add("c++", "exit 0")
        machine.add("nvcc", "exit 0")
        self.pip(0)

    def pip(self, status: int) -> None:
        body = f"""case "$*" in *"cache dir") echo /pip-cache; exit;; esac
            echo "$CMAKE_ARGS : $*" >>{self.calls}; echo "pip says so"; exit {status}"""
        self.machine.add(os.path.relpath(self.venv / "bin/python", self.machine.bin), body)

    def make(self, accel: str, **more: str) -> list[str]:
        """Run the script, and return the builds that it caused."""
        before = len(self.calls.read_text().splitlines())
        self.last = self.machine.run("llama.sh", str(self.venv), accel, **more)
        return self.calls.read_text().splitlines()[before:]


@pytest.fixture
def builds(machine: Machine, tmp_path: Path) -> Builds:
    return Builds(machine, tmp_path)


def test_it_is_built_once(builds: Builds) -> None:
    (build,) = builds.make("cpu")
    assert "--require-hashes" in build
    assert builds.last.returncode == 0
    assert builds.make("cpu") == []
    assert builds.last.stdout == ""


def test_the_first_build_keeps_a_package_that_is_installed(builds: Builds) -> None:
    (build,) = builds.make("cpu")
    assert "--force-reinstall" not in build
    assert "--cache-dir" not in build


def test_another_accel_is_built_anew_and_apart_from_pips_own_cache(builds: Builds) -> None:
    builds.make("cpu")
    (build,) = builds.make("cuda")
    assert build.startswith("-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native")
    assert "--force-reinstall" in build
    assert "--cache-dir /pip-cache/gguf-worker/" in build
    (back,) = builds.make("cpu")
    assert "--force-reinstall" in back
    assert "--cache-dir" not in back


def test_build_flags_of_the_user_are_added_and_change_the_build(builds: Builds) -> None:
    builds.make("cpu")
    (build,) = builds.make("cpu", CMAKE_ARGS="-DGGML_NATIVE=OFF")
    assert build.startswith("-DGGML_NATIVE=OFF :")
    assert "--cache-dir" in build
    assert builds.make("cpu", CMAKE_ARGS="-DGGML_NATIVE=OFF") == []


def test_another_locked_version_is_built_anew(builds: Builds) -> None:
    builds.make("cpu")
    (builds.machine.scripts / "requirements-llama.txt").write_text("llama-cpp-python==9\n")
    assert len(builds.make("cpu")) == 1


def test_a_failed_build_says_so_and_is_tried_again(builds: Builds) -> None:
    builds.pip(1)
    assert len(builds.make("cpu")) == 1
    assert builds.last.returncode == 1
    assert "pip says so" in builds.last.stderr
    builds.pip(0)
    assert len(builds.make("cpu")) == 1
    assert builds.last.returncode == 0


def test_without_a_cpp_compiler_it_says_what_to_install(builds: Builds) -> None:
    (builds.machine.bin / "c++").unlink()
    assert builds.make("cpu") == []
    assert builds.last.returncode == 1
    assert "g++" in builds.last.stderr
