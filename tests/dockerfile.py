"""The Dockerfile as a list of instructions."""

from __future__ import annotations

import re

from tests.paths import ROOT


def dockerfile() -> list[tuple[str, str]]:
    """Return each instruction's name and arguments, on one line and without comments."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    instructions = [line.partition(" ") for line in lines if line]
    return [(name, arguments.strip()) for name, _, arguments in instructions]
