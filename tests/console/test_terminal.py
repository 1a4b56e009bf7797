from __future__ import annotations

import io
import json
import sys

import pytest

from gguf_worker.console.terminal import Terminal, figures
from gguf_worker.errors import ConfigError, DiskFull
from gguf_worker.models.store import Progress


class Person(io.StringIO):
    """Somebody at a keyboard."""

    def isatty(self) -> bool:
        return True


def test_a_program_gets_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=True)
    terminal.note("hello")
    with terminal.progress("downloading") as tell:
        tell(Progress("a.gguf", 1, 2, 3.0))
        tell.loading(0.5)
    terminal.result({"a": 1}, "text")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1}
    assert err == ""


def test_a_failure_is_a_sentence_for_people_and_an_object_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = DiskFull("no room\nat all \x1b[1m")
    Terminal(as_json=False).failure(error)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: no room\nat all \ufffd[1m\n")
    Terminal(as_json=True).failure(error)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "disk_full"


def test_a_log_gets_a_line_for_each_tenth_of_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(as_json=False).progress("downloading") as tell:
        for done in range(0, 1001, 5):
            tell(Progress("a.gguf", done, 1000, 100.0))
        tell(Progress("b.gguf", 1000, 1000, 100.0))
        tell.loading(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[5] == "downloading a.gguf: 50 %, 500 B of 1 kB, 100 B/s, 5.0 s left"


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Person()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with Terminal(as_json=False).progress("downloading") as tell:
        tell(Progress("folder/[red]a.gguf", 50_000_000, 100_000_000, 1e7))
        tell.loading(0.25)
    shown = screen.getvalue()
    assert "[red]a.gguf" in shown
    assert "loading the model" in shown
    assert " 25 %" in shown
    assert "50.0 MB of 100.0 MB, 10.0 MB/s, 5.0 s left" in shown


def test_a_speed_that_is_not_known_yet_is_not_shown() -> None:
    assert figures(Progress("a", 0, 2000, 0.0)) == "0 B of 2 kB"


@pytest.mark.parametrize(
    ("typed", "meant"), [("y\n", True), ("YES\n", True), ("\n", False), ("", False)]
)
def test_only_yes_means_yes(monkeypatch: pytest.MonkeyPatch, typed: str, meant: bool) -> None:
    monkeypatch.setattr(sys, "stdin", Person(typed))
    assert Terminal(as_json=False).confirm("Remove?", yes=False) is meant


def test_where_nobody_can_be_asked_yes_has_to_be_said_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigError, match="--yes"):
        Terminal(as_json=False).confirm("Remove?", yes=False)
    monkeypatch.setattr(sys, "stdin", Person("y\n"))
    with pytest.raises(ConfigError, match="--yes"):
        Terminal(as_json=True).confirm("Remove?", yes=False)
    assert Terminal(as_json=True).confirm("Remove?", yes=True)
