"""Coding agents, unmodified and without a network, at work in a project.

Each is set up as docs/clients.md says. The model is a script, so that a session has a known course:
the agent reads a file, changes it and answers. With the demo model it takes its first turn.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.clients.notations import NOTATIONS, Notation
from tests.clients.recipes import Recipe, recipe
from tests.clients.scripted_worker import CONTEXT, OVER, scripted_worker
from tests.http_worker import KEY, Served, http_worker
from tests.paths import ROOT
from tests.waiting import until

pytestmark = pytest.mark.clients

FILE = "greeting.py"
BEFORE = 'def greet(name):\n    return "Hello, " + nam\n'
AFTER = 'def greet(name):\n    return "Hello, " + name\n'
TASK = "greet fails with a NameError. Find the cause, mend it, and tell me what was wrong."
DIAGNOSIS = "The variable was misspelt as nam; greet now returns the greeting."
HERE = Path(__file__).parent
NPM = HERE / "agents/node_modules/.bin"
SECONDS = 120.0
SECONDS_OF_A_TURN = 600.0
"""Seconds for an agent's first prompt, of some thousand tokens, on a small machine's cores."""
WRITER = {
    "PATH": os.defpath,
    **{
        f"GIT_{role}_{part}": "someone@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for part in ("NAME", "EMAIL")
    },
}
DEAD = "http://127.0.0.1:9"
"""The address of a proxy that nobody listens on: who asks for more than this machine fails."""


@dataclass(frozen=True)
class Agent:
    """An agent: its heading in docs/clients.md, its package, its program's folder, its session.

    `session` returns the model's texts, given the notation and the file's path; `asides` are what
    the agent asks besides, such as for a title, by a part of the prompt.
    """

    heading: str
    package: str
    programs: Path
    session: Callable[[Notation, Path], Sequence[str]]
    asides: Mapping[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The heading of its set-up with a short prompt."""
        return self.heading if self.heading == "aider" else f"{self.heading}, short"

    @property
    def version(self) -> str:
        """The version that is installed."""
        if self.programs != NPM:
            text = (HERE / "python/aider.txt").read_text(encoding="utf-8")
            return str(re.findall(rf"^{self.package}==(\S+)", text, re.MULTILINE)[0])
        description = NPM.parent / self.package / "package.json"
        return str(json.loads(description.read_text(encoding="utf-8"))["version"])


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
    """Misspell the name again at first: aider lints what was changed, and asks about that."""

    def edit(old: str, new: str) -> str:
        return f"{FILE}\n```python\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n```\n"

    head, wrong = BEFORE.splitlines(keepends=True)
    right = AFTER.splitlines(keepends=True)[1]
    misspelt = wrong.replace("nam", "naem")
    return [
        notation.says(f"I need to see {FILE}. Please add it to the chat."),
        notation.says(f"This mends it.\n\n{edit(head + wrong, head + misspelt)}"),
        notation.says(f"{DIAGNOSIS}\n\n{edit(misspelt, right)}"),
    ]


AGENTS = {
    "codex": Agent("Codex CLI", "@openai/codex", NPM, codex),
    "claude-code": Agent("Claude Code", "@anthropic-ai/claude-code", NPM, claude),
    "opencode": Agent(
        "opencode",
        "opencode-ai",
        NPM,
        opencode,
        asides={"You are a title generator": "Greeting mended"},
    ),
    "aider": Agent(
        "aider",
        "aider-chat",
        ROOT / ".cache/clients/aider/bin",
        aider,
        asides={"one-line Git commit messages": "fix: spell the name"},
    ),
}


@dataclass(frozen=True)
class Desk:
    """A project with a mistake, and an empty home folder."""

    project: Path
    home: Path

    @contextmanager
    def at_work(self, agent: Agent, made: Recipe) -> Iterator[subprocess.Popen[bytes]]:
        """Have the agent work on the task until the block is left; `said` has its output."""
        for path, text in made.files.items():
            (self.home / path).parent.mkdir(parents=True, exist_ok=True)
            (self.home / path).write_text(text, encoding="utf-8")
        program = agent.programs / made.command[0]
        assert program.exists(), f"{program} is missing: run `make clients`"
        with self._said.open("wb") as said:
            process = subprocess.Popen(
                [str(program), *made.command[1:-1], TASK],
                cwd=self.project,
                env={**self._environ(), **made.environ},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # with what it started itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def said(self) -> str:
        """What the agent has printed so far."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    @property
    def _said(self) -> Path:
        return self.home / "said.txt"

    def _environ(self) -> dict[str, str]:
        node = shutil.which("node")
        places = [str(Path(node).parent)] if node else []
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), DEAD)
        hosts = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        return {
            **WRITER,
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
    for words in ("init --quiet", f"add {FILE}", "commit --quiet --message Greeting"):
        subprocess.run(["git", *words.split()], cwd=project, env=WRITER, check=True)
    return Desk(project, home)


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Agent:
    """Return an agent, noted for the table in docs/clients.md."""
    chosen = AGENTS[request.param]
    record_property("table", "Agents")
    record_property("client", f"{chosen.heading} ({chosen.package})")
    record_property("version", chosen.version)
    return chosen


@pytest.mark.parametrize("family", ["qwen", "harmony"])
def test_an_agent_reads_a_file_changes_it_and_answers(
    desk: Desk,
    agent: Agent,
    tmp_path: Path,
    family: str,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("feature", f"a session ({family})")
    notation = NOTATIONS[family]
    texts = agent.session(notation, desk.project / FILE)
    asides = {part: notation.says(text) for part, text in agent.asides.items()}
    with scripted_worker(tmp_path, texts, family, asides=asides) as worker:
        made = recipe(agent.heading, worker.base, worker.key, worker.model, CONTEXT)
        with desk.at_work(agent, made) as process:
            status = process.wait(SECONDS)
        generations = worker.generations
    said = desk.said
    assert status == 0, said
    assert (desk.project / FILE).read_text(encoding="utf-8") == AFTER, said
    assert DIAGNOSIS in said
    answered = [each.answer for each in generations if each.answer not in asides.values()]
    assert answered == list(texts), said
    assert OVER not in said


@pytest.mark.timeout(2 * SECONDS_OF_A_TURN)
def test_an_agent_takes_its_first_turn_with_the_demo_model(
    desk: Desk,
    agent: Agent,
    demo_model: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Have it end, or begin a second turn: the model's answers are no plan of any use."""
    record_property("feature", "first turn (demo model)")
    # Little is left for the answer, since agents may leave its length to the model.
    settings = {"SERVED_MODEL_NAME": "demo", "CTX_SIZE": "4096"}
    with http_worker(demo_model, tmp_path / "log", **settings) as served:
        made = recipe(agent.short, served.base, KEY, "demo", 32768)
        with desk.at_work(agent, made) as process:

            def over() -> bool:
                return process.poll() is not None or begun(served) > 1

            until(over, SECONDS_OF_A_TURN, pause=0.5)
            status = process.poll()
        outcomes = ended(served)
    assert status in (None, 0), desk.said
    assert set(outcomes) & {"stop", "length", "tool_calls"}, desk.said
    assert "error" not in outcomes, desk.said


def ended(served: Served) -> dict[str, float]:
    """Return the numbers of requests that have ended, by their outcome."""
    counts: dict[str, float] = {}
    for name, count in served.metrics().items():
        for outcome in re.findall(r'^requests_total\{outcome="(\w+)"', name):
            counts[outcome] = counts.get(outcome, 0) + count
    return counts


def begun(served: Served) -> float:
    """Return the number of requests that have come so far."""
    return sum(ended(served).values()) + served.metrics()["num_requests_running"]
