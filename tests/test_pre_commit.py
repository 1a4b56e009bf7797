"""The hooks of pre-commit run what `make lint` and `make docs` run, from .venv."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.paths import ROOT

CONFIG = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
HOOKS: list[dict[str, Any]] = [hook for repo in CONFIG["repos"] for hook in repo["hooks"]]


def test_no_hook_is_fetched() -> None:
    assert [repo["repo"] for repo in CONFIG["repos"]] == ["local"]
    assert {hook["language"] for hook in HOOKS} == {"system"}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_from_the_environment_of_make(hook: dict[str, Any]) -> None:
    program, *arguments = hook["entry"].split()
    tools = {".venv/bin/ruff", ".venv/bin/mypy"}
    assert program in tools or (ROOT / arguments[0]).is_file()
    assert program in {*tools, ".venv/bin/python"}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hooks_files_are_some_of_ours(hook: dict[str, Any]) -> None:
    pattern = re.compile(hook.get("files", ""))
    names = (str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
    assert any(pattern.search(name) for name in names)
