from __future__ import annotations

from tests.builder.machine import Machine


def test_root_gets_the_emulator_from_debian(machine: Machine) -> None:
    machine.log_in(0)
    calls = machine.add_apt()
    assert machine.run("emulator.sh").returncode == 0
    assert calls.read_text().splitlines()[1].endswith(" qemu-user-static")


def test_a_user_who_cannot_install_the_emulator_is_warned_and_goes_on(machine: Machine) -> None:
    machine.log_in(1000)
    done = machine.run("emulator.sh")
    assert done.returncode == 0
    assert "qemu-user-static" in done.stderr
