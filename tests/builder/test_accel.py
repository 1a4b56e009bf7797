from __future__ import annotations

import pytest

from tests.builder.machine import Machine

GPU = "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'"
NO_GPU = "echo 'NVIDIA-SMI has failed' >&2; exit 9"


@pytest.mark.parametrize(
    ("gpu", "compiler", "accel"),
    [(True, True, "cuda"), (True, False, "cpu"), (False, True, "cpu"), (False, False, "cpu")],
)
def test_auto_is_cuda_only_with_both_a_gpu_and_a_compiler(
    machine: Machine, gpu: bool, compiler: bool, accel: str
) -> None:
    machine.add("nvidia-smi", GPU if gpu else NO_GPU)
    if compiler:
        machine.add("nvcc", "exit 0")
    done = machine.run("accel.sh", "auto")
    assert (done.returncode, done.stdout.split()[0]) == (0, accel)


def test_auto_without_the_drivers_program_is_cpu(machine: Machine) -> None:
    machine.add("nvcc", "exit 0")
    assert machine.run("accel.sh", "auto").stdout.startswith("cpu ")


def test_a_cuda_compiler_is_found_where_the_toolkit_says_it_is(machine: Machine) -> None:
    machine.add("nvidia-smi", GPU)
    machine.add("toolkit/bin/nvcc", "exit 0")
    done = machine.run("accel.sh", "auto", CUDA_HOME=str(machine.bin / "toolkit"))
    assert done.stdout.startswith("cuda ")


def test_cuda_without_its_compiler_is_refused(machine: Machine) -> None:
    machine.add("nvidia-smi", GPU)
    done = machine.run("accel.sh", "cuda")
    assert done.returncode == 1
    assert "nvcc" in done.stderr


def test_cuda_needs_no_gpu_to_be_built(machine: Machine) -> None:
    machine.add("nvcc", "exit 0")
    assert machine.run("accel.sh", "cuda").stdout.startswith("cuda ")


def test_an_unknown_accel_is_refused_with_what_it_can_be(machine: Machine) -> None:
    done = machine.run("accel.sh", "rocm")
    assert done.returncode == 1
    assert "'rocm'" in done.stderr
    assert "auto, cpu or cuda" in done.stderr
