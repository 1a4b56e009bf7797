from __future__ import annotations

import pytest

from tests.builder.machine import Machine


def python(version: str, *, old: bool = False, whole: bool = True) -> str:
    return f"""case "$*" in
        *platform*) echo {version} ;;
        *version_info*) exit {int(old)} ;;
        *ensurepip*) exit {int(not whole)} ;;
        *"-m venv"*) echo "made: $*" ;;
    esac"""


def test_a_python_that_is_new_enough_makes_the_environment(machine: Machine) -> None:
    machine.add("python3", python("3.12.4"))
    done = machine.run("venv.sh", "python3", ".venv")
    assert done.returncode == 0
    assert "made: -m venv --clear .venv" in done.stdout


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "there is no 'python3'"),
        ("exit 127", "'python3' does not run"),
        (python("3.10.12", old=True), "is Python 3.10.12; 3.11 or newer is needed"),
        (python("3.11.2", whole=False), "python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_refused_with_the_reason(
    machine: Machine, body: str | None, reason: str
) -> None:
    if body:
        machine.add("python3", body)
    done = machine.run("venv.sh", "python3", ".venv")
    assert done.returncode == 1
    assert reason in done.stderr
