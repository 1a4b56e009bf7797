from __future__ import annotations

import pytest

from gguf_worker.__main__ import main

COMMANDS = ("list", "pull", "verify", "inspect", "rm", "prune")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_at_each_level_has_examples_and_the_exit_codes(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", *command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert f"gguf_worker models {''.join(command)}" in out
    assert "Exit codes: 0 done; 1" in out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lst"],
        ["rm"],
        ["prune", "--older-than", "-1"],
        ["prune", "--keep-gb", "many"],
        ["prune", "--keep-gb", "nan"],
    ],
)
def test_what_cannot_be_understood_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", *arguments])
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
