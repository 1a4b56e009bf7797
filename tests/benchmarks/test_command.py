from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from tests.tiny_gguf import write_tiny

pytestmark = pytest.mark.llama


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("nowhere/model.gguf", "there is no file nowhere/model.gguf"),
        ("random:huge", "there is no shape 'huge', only tiny, "),
        (__file__, "llama.cpp cannot load test_command.py"),
    ],
)
def test_a_wrong_model_ends_with_a_sentence(
    model: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--no-build", "--model", model]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {reason}")
    assert "Traceback" not in said


def test_a_run_without_peers_prints_its_table_and_writes_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--no-build", "--quick", "--scenario", "overhead", "--peer", "ours"]
    model = write_tiny(tmp_path / "tiny.gguf")
    status = main([*arguments, "--model", str(model), "--out", str(tmp_path)])
    assert status == 0
    assert "own, µs, 8 at once" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.json"))) == 1
