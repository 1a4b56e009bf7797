"""The unit tests where llama.cpp is not installed, as for `make unit` in a fresh checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

HIDDEN = """
import sys


class Hiding:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llama_cpp":
            return None
        return self._finder.find_spec(name, path, target)


sys.meta_path = [Hiding(finder) for finder in sys.meta_path]
"""
"""A `sitecustomize` that hides the installed llama_cpp from every import."""


@pytest.mark.slow
def test_the_unit_tests_can_be_collected(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    marks = "not llama and not e2e and not slow"
    options = ["--collect-only", "-q", "-m", marks, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "tests/config/test_loading.py::" in done.stdout
    assert "tests/engine/llama/" not in done.stdout
