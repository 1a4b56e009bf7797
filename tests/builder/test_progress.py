from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.builder.machine import Machine


def test_a_quiet_success_shows_nothing_of_the_command_and_keeps_no_log(machine: Machine) -> None:
    done = machine.run("progress.sh", "Working", "sh", "-c", "echo chatter")
    assert done.returncode == 0
    assert done.stdout.startswith("==> Working\n    done in ")
    assert "chatter" not in done.stdout + done.stderr
    assert not list(Path(machine.environment["TMPDIR"]).glob("gguf-worker.*"))


def test_a_failure_shows_the_end_of_the_log_and_its_place(machine: Machine) -> None:
    done = machine.run("progress.sh", "Working", "sh", "-c", "echo the reason; exit 3")
    assert done.returncode == 3
    assert "the reason" in done.stderr
    (log,) = Path(machine.environment["TMPDIR"]).glob("gguf-worker.*")
    assert str(log) in done.stderr
    assert log.read_text() == "the reason\n"


def read_until(lines: Callable[[], str], wanted: str) -> str:
    while line := lines():
        if wanted in line:
            return line
    raise AssertionError(f"the output ended without {wanted!r}")


def test_a_build_shows_its_progress(machine: Machine) -> None:
    building = "echo '  [5/20] Building CXX object a.o'; read enough"
    with subprocess.Popen(
        ["/bin/sh", str(machine.scripts / "progress.sh"), "Building", "sh", "-c", building],
        env={**machine.environment, "PROGRESS_SECONDS": "0.05"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert " s, 25 % built" in read_until(process.stdout.readline, "%")
        process.stdin.write("enough\n")
        process.stdin.close()
        read_until(process.stdout.readline, "done in")
    assert process.returncode == 0
