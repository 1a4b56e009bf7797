"""Coding agents, unmodified and without a network, at work in a project.

Each is set up as docs/clients.md says. The model is a script, so that a session has a known course:
the agent reads a file, changes it and answers. With the demo model it takes its first turn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.clients.notations import NOTATIONS, Notation
from tests.clients.recipes import Recipe, recipe
from tests.clients.scripted_worker import OVER, scripted_worker
from tests.http_worker import KEY, http_worker
from tests.paths import ROOT

pytestmark = pytest.mark.clients

FILE = "greeting.py"
BEFORE = 'def greet(name):\n    return "Hello, " + nam\n'
AFTER = 'def greet(name):\n    return "Hello, " + name\n'
TASK = "greet fails with a NameError. Read greeting.py, mend it, and tell me what was wrong."
DIAGNOSIS = "The variable was misspelt as nam; greet now returns the greeting."
SECONDS = 120.0
DEAD = "http://127.0.0.1:9"
"""The address of a proxy that nobody listens on: who asks for more than this machine fails."""


@dataclass(frozen=True)
class Agent:
    """An agent: its heading in docs/clients.md, the folder of its program, and its session.

    `session` returns the model's texts, given the notation and the file's path; `asides` are what
    the agent asks besides, such as for a title, by a part of the prompt.
    """

    heading: str
    programs: Path
    session: Callable[[Notation, Path], Sequence[str]]
    families: Sequence[str] = ("qwen", "harmony")
    asides: dict[str, str] = field(default_factory=dict)


NPM = Path(__file__).parent / "agents" / "node_modules" / ".bin"


def codex(notation: Notation, file: Path) -> Sequence[str]:
    patch = (
        "apply_patch <<'EOF'\n*** Begin Patch\n*** Update File: greeting.py\n@@\n"
        ' def greet(name):\n-    return "Hello, " + nam\n+    return "Hello, " + name\n'
        "*** End Patch\nEOF"
    )
    return [
        notation.thinks("I look first.") + notation.calls("exec_command", {"cmd": f"cat {FILE}"}),
        notation.calls("exec_command", {"cmd": patch}),
        notation.calls("exec_command", {"cmd": f"cat {FILE}"}),
        notation.says(DIAGNOSIS),
    ]


def claude(notation: Notation, file: Path) -> Sequence[str]:
    change = {"file_path": str(file), "old_string": "+ nam\n", "new_string": "+ name\n"}
    return [
        notation.thinks("I look first.") + notation.calls("Read", {"file_path": str(file)}),
        notation.calls("Edit", change),
        notation.calls("Read", {"file_path": str(file)}),
        notation.says(DIAGNOSIS),
    ]


def opencode(notation: Notation, file: Path) -> Sequence[str]:
    change = {"filePath": str(file), "oldString": "+ nam\n", "newString": "+ name\n"}
    return [
        notation.thinks("I look first.") + notation.calls("read", {"filePath": str(file)}),
        notation.calls("edit", change),
        notation.calls("read", {"filePath": str(file)}),
        notation.says(DIAGNOSIS),
    ]


def aider(notation: Notation, file: Path) -> Sequence[str]:
    edit = (
        f'{FILE}\n```python\n<<<<<<< SEARCH\n    return "Hello, " + nam\n=======\n'
        '    return "Hello, " + name\n>>>>>>> REPLACE\n```\n'
    )
    return [
        notation.says(f"I need to see {FILE}. Please add it to the chat."),
        notation.says(f"{DIAGNOSIS}\n\n{edit}"),
    ]


AGENTS = {
    "codex": Agent("Codex CLI", NPM, codex),
    "claude-code": Agent("Claude Code", NPM, claude),
    "opencode": Agent("opencode", NPM, opencode),
    "aider": Agent("aider", ROOT / ".cache/clients/aider/bin", aider),
}


@dataclass(frozen=True)
class Desk:
    """A project with a mistake, and an empty home folder."""

    project: Path
    home: Path

    def work(self, agent: Agent, made: Recipe) -> subprocess.CompletedProcess[str]:
        """Run the agent on the task until it ends."""
        for path, text in made.files.items():
            (self.home / path).parent.mkdir(parents=True, exist_ok=True)
            (self.home / path).write_text(text, encoding="utf-8")
        program = agent.programs / made.command[0]
        assert program.exists(), f"{program} is missing: run `make clients`"
        return subprocess.run(
            [str(program), *made.command[1:-1], TASK],
            cwd=self.project,
            env={**self._environ(), **made.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def _environ(self) -> dict[str, str]:
        node = shutil.which("node")
        places = [str(Path(node).parent)] if node else []
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), DEAD)
        hosts = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        return {
            "HOME": str(self.home),
            "PATH": os.pathsep.join([*places, "/usr/local/bin", "/usr/bin", "/bin"]),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **proxies,
            **hosts,
        }


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    home.mkdir()
    (project / FILE).write_text(BEFORE, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    return Desk(project, home)


@pytest.mark.parametrize("family", ["qwen", "harmony"])
@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_reads_a_file_changes_it_and_answers(
    desk: Desk, tmp_path: Path, name: str, family: str
) -> None:
    agent, notation = AGENTS[name], NOTATIONS[family]
    texts = agent.session(notation, desk.project / FILE)
    asides = {part: notation.says(text) for part, text in agent.asides.items()}
    with scripted_worker(tmp_path, texts, family, asides=asides) as worker:
        done = desk.work(agent, recipe(agent.heading, worker.base, worker.key, worker.model))
        generations = worker.generations
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (desk.project / FILE).read_text(encoding="utf-8") == AFTER, said
    assert DIAGNOSIS in done.stdout, said
    answered = [each.answer for each in generations if each.answer not in asides.values()]
    assert answered == list(texts)
    assert OVER not in said


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_takes_its_first_turn_with_the_demo_model(
    desk: Desk, demo_model: Path, tmp_path: Path, name: str
) -> None:
    agent = AGENTS[name]
    with http_worker(
        demo_model, tmp_path / "log", SERVED_MODEL_NAME="demo", CTX_SIZE="32768"
    ) as served:
        done = desk.work(agent, recipe(agent.heading, served.base, KEY, "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
