from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.lock import blocks
from tests.paths import ROOT

FILES = (
    "requirements.txt",
    "requirements-llama.txt",
    "requirements-dev.txt",
    "requirements-cuda.txt",
    "requirements-cuobjdump.txt",
)


def pins(name: str) -> dict[str, Requirement]:
    lock = (ROOT / "builder" / name).read_text()
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, blocks(lock))}


def wanted(extra: str | None) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = [Requirement(line) for line in listed]
    return [requirement for requirement in found if requirement.name != project["name"]]


def assert_locked(requirement: Requirement, locked: dict[str, Requirement]) -> None:
    pin = locked.get(canonicalize_name(requirement.name))
    assert pin, f"{requirement} is in pyproject.toml but not in the lock: run `make lock`"
    (version,) = pin.specifier
    assert requirement.specifier.contains(version.version), f"{pin} is not {requirement}"


@pytest.mark.parametrize("extra", [None, "http"])
def test_the_lock_has_what_the_worker_needs(extra: str | None) -> None:
    locked = pins("requirements.txt") | pins("requirements-llama.txt")
    for requirement in wanted(extra):
        assert_locked(requirement, locked)


def test_the_locks_have_what_the_developers_need() -> None:
    locked = pins("requirements.txt") | pins("requirements-dev.txt")
    for requirement in wanted("dev"):
        assert_locked(requirement, locked)


def test_each_group_has_a_lock_of_its_own() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert set(groups) == {"cuda", "cuobjdump"}
    for group, lines in groups.items():
        for line in lines:
            assert_locked(Requirement(line), pins(f"requirements-{group}.txt"))
    assert {"nvidia-cuda-nvcc", "nvidia-cublas"} < set(pins("requirements-cuda.txt"))


def test_no_package_is_locked_twice() -> None:
    names = [name for file in FILES for name in pins(file)]
    assert sorted(names) == sorted(set(names))


def test_only_the_package_that_is_compiled_stands_alone() -> None:
    assert list(pins("requirements-llama.txt")) == ["llama-cpp-python"]


@pytest.mark.parametrize("file", FILES)
def test_every_pin_is_exact_and_has_a_hash(file: str) -> None:
    for pin, entry in blocks((ROOT / "builder" / file).read_text()).items():
        assert [clause.operator for clause in Requirement(pin).specifier] == ["=="], pin
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), pin


@pytest.mark.parametrize("file", FILES)
def test_a_lock_names_no_index_and_no_path(file: str) -> None:
    lock = (ROOT / "builder" / file).read_text()
    assert not re.search(r"://| @ |^-|--(extra-)?index|find-links", lock, re.MULTILINE)


def test_an_entry_is_found_with_its_hashes_and_comments() -> None:
    lock = "# head\na==1 \\\n    --hash=sha256:00\n    # via b\nb==2 ; x == 'y'\n"
    assert blocks(lock) == {
        "a==1": "a==1 \\\n    --hash=sha256:00\n    # via b\n",
        "b==2 ; x == 'y'": "b==2 ; x == 'y'\n",
    }
