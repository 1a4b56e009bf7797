"""How agents are set up, read from docs/clients.md: files, variables, and a command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.paths import ROOT

PAGE = ROOT / "docs" / "clients.md"
BASE, KEY, MODEL, CONTEXT = "http://localhost:8000", "your-key", "your-model", "32768"

_BLOCK = re.compile(
    r"(?:`~/([^`\n]+)`[^\n]*:\n\n)?```([a-z]+)\n(.*?)^```", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Recipe:
    """The set-up of one agent.

    `files`: texts by their paths in the home folder. `command`: its words, the last of which is
    what the agent is asked.
    """

    files: Mapping[str, str]
    environ: Mapping[str, str]
    command: Sequence[str]


def recipe(heading: str, base: str, key: str, model: str, context: int) -> Recipe:
    """Return the page's recipe under `heading`, for a worker whose requests may have so many
    tokens."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.split(rf"^##+ {re.escape(heading)}\n", text, flags=re.MULTILINE)[1]
    section = section.partition("\n##")[0]
    for written, real in (
        (BASE, base),
        (KEY, key),
        (MODEL, model),
        (CONTEXT, str(context)),
    ):
        section = section.replace(written, real)
    files: dict[str, str] = {}
    environ: dict[str, str] = {}
    command: list[str] = []
    for path, language, body in _BLOCK.findall(section):
        if path:
            files[path] = body
        elif language == "sh":
            for line in body.replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                if words[0] == "export":
                    environ |= dict(word.split("=", 1) for word in words[1:])
                else:
                    command = words
    assert command, f"{PAGE.name} has no command under {heading}"
    return Recipe(files, environ, command)
