"""What is delivered names only what exists: make targets, files."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):(?!=)", text("Makefile"), re.MULTILINE))


def steps(workflow: str, job: str) -> str:
    document: dict[str, Any] = yaml.safe_load(text(f".github/workflows/{workflow}.yml"))
    return "\n".join(step.get("run", "") for step in document["jobs"][job]["steps"])


def called(commands: str) -> list[str]:
    return re.findall(r"\bmake ([a-z]+)", commands)


def test_the_workflows_use_the_readers_commands() -> None:
    assert called(steps("ci", "lint")) == ["lint"]
    assert called(steps("ci", "audit")) == ["audit"]
    assert called(steps("ci", "test")) == ["test", "run"]
    assert called(steps("image", "image")) == ["image"]


def test_ci_tests_runs_and_builds_the_image_with_the_readers_commands() -> None:
    assert [name for name in called(text(".ci/run")) if name in targets()] == [
        "test",
        "run",
        "image",
    ]


def test_every_target_that_is_no_file_is_declared_so() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)
    assert targets() == set(phony.split())


@pytest.mark.parametrize(
    "copied",
    [
        path
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text("Dockerfile"), re.MULTILINE)
        for path in line.split()
    ],
)
def test_what_the_image_copies_exists_and_is_not_ignored(copied: str) -> None:
    kept = [line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")]
    assert (ROOT / copied).exists()
    assert any(fnmatch(copied, pattern) for pattern in kept)


def test_the_image_has_a_base_for_each_accel_that_make_can_ask_for() -> None:
    stages = re.findall(r"^FROM \S+ AS base-(\w+)$", text("Dockerfile"), re.MULTILINE)
    assert stages == ["cpu", "cuda"]


def test_the_image_has_no_code_for_the_building_machines_own_processor() -> None:
    first, *more = re.findall(r'flags="(.*)', text("builder/image/compile.sh"))
    assert "-DGGML_NATIVE=OFF" in first
    assert all(flags.startswith("$flags ") for flags in more)


def test_the_image_can_be_given_what_builds_it_and_what_runs_it() -> None:
    arguments = set(re.findall(r"^ARG (\w+)", text("Dockerfile"), re.MULTILINE))
    lent = re.search(r"for name in ([A-Z_0-9 ]*); do", text("builder/build_image.sh"))
    assert lent
    assert set(lent[1].split()) == arguments - {"ACCEL"}


def test_a_token_gets_into_the_image_only_as_a_secret() -> None:
    assert "ARG HF_TOKEN" not in text("Dockerfile")
    assert "id=HF_TOKEN" in text("Dockerfile")


def test_python_is_the_images_first_process() -> None:
    (command,) = re.findall(r"^CMD (.*)$", text("Dockerfile"), re.MULTILINE)
    assert json.loads(command) == ["python", "-u", "handler.py"]
    assert "ENTRYPOINT" not in text("Dockerfile")


def test_the_sample_job_streams_a_chat() -> None:
    sample = json.loads(text("test_input.json"))["input"]
    assert sample["stream"] is True
    assert sample["messages"][-1]["role"] == "user"
