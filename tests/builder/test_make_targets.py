"""What the targets of `make` set up before they run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

FOR_ALL_TESTS = ("builder/llama.sh", "builder/browser.sh", "builder/node.sh")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def plan(target: str, folder: Path, *more: str) -> str:
    """The commands of a target in a checkout where nothing is set up yet."""
    command = ["make", "--dry-run", f"VENV={folder}/venv", target, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("target", ["unit", "lint", "format", "docs"])
def test_quick_targets_need_no_compiler_browser_or_node(target: str, tmp_path: Path) -> None:
    commands = plan(target, tmp_path)
    assert "builder/venv.sh" in commands
    assert not [script for script in FOR_ALL_TESTS if script in commands]


def test_the_soak_sets_up_llama_and_the_demo_model_and_takes_arguments(tmp_path: Path) -> None:
    commands = plan("soak", tmp_path, "SOAK=--minutes 1")
    assert "builder/llama.sh" in commands
    assert "builder/demo_model.py" in commands
    assert "-m tests.soak --minutes 1" in commands


def test_the_tests_on_a_gpu_set_up_llama_alone(tmp_path: Path) -> None:
    commands = plan("gpu", tmp_path, "ACCEL=cuda")
    assert "builder/llama.sh" in commands
    assert "-m pytest -m gpu" in commands
    assert "builder/demo_model.py" not in commands


def test_the_clients_have_environments_of_their_own(tmp_path: Path) -> None:
    commands = plan("clients", tmp_path, "CLIENTS=-k codex")
    assert "builder/clients.sh" in commands
    assert "-m pytest -m clients tests/clients -k codex" in commands
    assert "builder/clients.sh" not in plan("test", tmp_path)


def test_the_full_test_run_sets_up_everything(tmp_path: Path) -> None:
    commands = plan("test", tmp_path)
    assert all(script in commands for script in FOR_ALL_TESTS)
