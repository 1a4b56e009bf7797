"""What llama.cpp can do with GPUs, as the worker sees it: by files, and by a process."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gguf_worker.engine import GpuSupport, ask_for_gpus, built_for_gpus
from gguf_worker.engine.gpu_support import _PROGRAM


def install(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Have a llama_cpp be installed in a folder, or none at all."""
    found = None if folder is None else ModuleSpec("llama_cpp", None, is_package=True)
    if found is not None and folder is not None:
        found.submodule_search_locations = [str(folder)]
    monkeypatch.setattr("gguf_worker.engine.gpu_support.find_spec", lambda name: found)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libggml-cuda.so").touch()
    install(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["libggml-cuda.so", "libggml-cuda.so.0"])
def test_a_cuda_back_end_is_known_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install(monkeypatch, tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libggml-cpu.so").touch()
    assert not built_for_gpus()
    (tmp_path / "lib" / name).touch()
    assert built_for_gpus()


def test_without_llama_cpp_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    assert not built_for_gpus()


def test_what_was_not_built_for_gpus_is_not_started_to_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path)
    assert ask_for_gpus(program=("/nonexistent",)) == GpuSupport("not_built")


@pytest.mark.usefixtures("built")
def test_the_answer_is_what_the_process_prints() -> None:
    said = 'print(\'["no_device", "the NVIDIA driver finds no GPU"]\')'
    found = ask_for_gpus(program=(sys.executable, "-c", said))
    assert found == GpuSupport("no_device", "the NVIDIA driver finds no GPU")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "ended with status -6"),
        ("raise RuntimeError('no such symbol')", "RuntimeError: no such symbol"),
        ("print('nonsense')", "ended with status 0"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_a_process_that_dies_of_it_means_that_cuda_is_of_no_use(program: str, reason: str) -> None:
    patience = 0.5 if "sleep" in program else 30.0
    found = ask_for_gpus(program=(sys.executable, "-c", program), patience=patience)
    assert found.state == "not_loaded"
    assert reason in found.reason


@pytest.mark.llama
@pytest.mark.usefixtures("built")
def test_the_real_process_asks_the_real_llama_cpp() -> None:
    assert ask_for_gpus(_PROGRAM).state in ("not_built", "ready", "no_device", "not_loaded")
