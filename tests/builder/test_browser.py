from __future__ import annotations

import pytest

from tests.builder.machine import Machine


def test_a_browser_that_is_there_is_enough(machine: Machine) -> None:
    machine.add("chromium", "exit 1")
    machine.add("id", "exit 1")
    done = machine.run("browser.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_root_gets_a_browser_from_debian(machine: Machine) -> None:
    machine.log_in(0)
    calls = machine.add_apt()
    done = machine.run("browser.sh")
    assert done.returncode == 0, done.stderr
    assert calls.read_text().splitlines() == [
        "update",
        "install --yes --no-install-recommends chromium",
    ]


@pytest.mark.parametrize(("user", "apt"), [(1000, 0), (0, None), (0, 100)])
def test_a_user_who_cannot_install_a_browser_learns_how_and_goes_on(
    machine: Machine, user: int, apt: int | None
) -> None:
    machine.log_in(user)
    calls = None if apt is None else machine.add_apt(apt)
    done = machine.run("browser.sh")
    assert done.returncode == 0
    assert "apt-get install chromium" in done.stderr
    assert calls is None or not calls.exists()
