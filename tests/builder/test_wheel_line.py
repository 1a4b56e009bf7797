from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from builder.image.published_wheel import Published, published
from tests.builder.machine import Machine

KEY = "3735928559-312"
NAME = "llama_cpp_python-1.2.3-py3-none-linux_x86_64.whl"
ADDRESS = f"https://host.example/download/llama-{KEY}"
HASH = hashlib.sha256(b"compiled").hexdigest()


@pytest.fixture
def compiled(machine: Machine, tmp_path: Path) -> Path:
    """Return a folder as compile.sh leaves it."""
    machine.has("basename", "sha256sum")
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "key").write_text(f"{KEY}\n")
    (folder / NAME).write_bytes(b"compiled")
    return folder


def line(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return machine.run("wheel_line.sh", *arguments)


def lists(machine: Machine, text: str) -> None:
    with (machine.scripts / "llama-wheels.txt").open("a") as file:
        file.write(text)


@pytest.mark.parametrize("address", [ADDRESS, f"{ADDRESS}/"])
def test_the_line_to_add_is_read_as_that_wheel(
    machine: Machine, compiled: Path, address: str
) -> None:
    done = line(machine, str(compiled), address)
    assert (done.returncode, done.stderr) == (0, "")
    assert published(done.stdout) == {KEY: Published(HASH, f"{ADDRESS}/{NAME}", NAME)}


def test_a_wheel_that_is_listed_keeps_its_line(machine: Machine, compiled: Path) -> None:
    there = f"{KEY} {HASH} https://elsewhere.example/{NAME}\n"
    lists(machine, there)
    assert line(machine, str(compiled)).stdout == there
    assert line(machine, str(compiled), ADDRESS).stdout == there


def test_a_wheel_compiled_anew_does_not_replace_the_one_that_is_listed(
    machine: Machine, compiled: Path
) -> None:
    there = f"{KEY} {'0' * 64} https://elsewhere.example/{NAME}\n"
    lists(machine, there)
    assert line(machine, str(compiled), ADDRESS).stdout == there


@pytest.mark.parametrize("listed", ["", f"{KEY} {'0' * 64} https://elsewhere.example/{NAME}\n"])
def test_a_release_is_refused_where_its_wheel_is_not_the_listed_one(
    machine: Machine, compiled: Path, listed: str
) -> None:
    lists(machine, listed)
    done = line(machine, str(compiled))
    assert (done.returncode, done.stdout) == (1, "")
    assert KEY in done.stderr


def test_a_folder_without_a_wheel_is_an_error(machine: Machine, compiled: Path) -> None:
    (compiled / NAME).unlink()
    assert line(machine, str(compiled), ADDRESS).returncode != 0
