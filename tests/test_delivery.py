"""The Makefile, the Dockerfile and CI: commands that exist, files that are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dockerfile import dockerfile
from tests.paths import ROOT

TARGETS = re.findall(r"^([a-z]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)


def made_in(workflow: str, job: str) -> list[str]:
    """Return the make targets that a job of a workflow asks for."""
    path = ROOT / f".github/workflows/{workflow}.yml"
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    commands = "\n".join(step.get("run", "") for step in document["jobs"][job]["steps"])
    return re.findall(r"\bmake ([a-z-]+)", commands)


def test_the_workflows_use_the_readers_commands() -> None:
    assert made_in("ci", "lint") == ["lint"]
    assert made_in("ci", "audit") == ["audit"]
    assert made_in("ci", "test") == ["test", "run"]
    assert made_in("ci", "gpu") == ["gpu"]
    assert made_in("image", "image") == ["image"]
    assert made_in("image", "cuda") == ["image-cuda"]


def test_ci_tests_runs_and_builds_the_image_with_the_readers_commands(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "$PWD $*" >>"$LOG"\n')
    make.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "LOG": str(tmp_path / "log")}
    subprocess.run([str(ROOT / ".ci/run")], cwd=tmp_path, env=environ, check=True, timeout=30)
    calls = (tmp_path / "log").read_text().splitlines()
    assert calls == [f"{ROOT} {target}" for target in ("test", "run", "image")]


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_of_a_targets_name_does_not_keep_it_from_running(
    target: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / target).touch()
    command = ["make", "--dry-run", target]
    dry = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert "up to date" not in dry.stdout
    assert "Nothing to be done" not in dry.stdout


@pytest.mark.parametrize(
    "copied",
    [
        path
        for name, arguments in dockerfile()
        if name == "COPY" and not arguments.startswith("--from")
        for path in arguments.split()[:-1]
    ],
)
def test_what_the_image_copies_exists_and_is_not_ignored(copied: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert (ROOT / copied).exists()
    assert any(fnmatch(copied, pattern) for pattern in kept)


def test_the_image_has_a_base_for_each_accel_that_make_can_ask_for() -> None:
    stages = [arguments.split()[-1] for name, arguments in dockerfile() if name == "FROM"]
    bases = [stage for stage in stages if stage.startswith("base-")]
    assert bases == ["base-cpu", "base-cuda"]


def test_python_is_the_images_first_process() -> None:
    (command,) = [arguments for name, arguments in dockerfile() if name == "CMD"]
    assert json.loads(command) == ["python", "-u", "handler.py"]
    assert "ENTRYPOINT" not in dict(dockerfile())


def test_the_sample_job_streams_a_chat() -> None:
    sample = json.loads((ROOT / "test_input.json").read_text())["input"]
    assert sample["stream"] is True
    assert sample["messages"][-1]["role"] == "user"
