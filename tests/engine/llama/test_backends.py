"""llama.cpp's back ends: linked in, or modules that are there, missing or in need of a driver."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp as L
import pytest

from gguf_worker.engine.llama import backends
from gguf_worker.engine.llama.backends import load_backends
from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.llama.native_log import LlamaError, NativeLog
from gguf_worker.engine.messages import EngineSpec, GpuSupport
from tests.tiny_gguf import write_tiny

NO_LIBRARY = "{}: cannot open shared object file: No such file or directory"


@pytest.fixture
def log() -> NativeLog:
    return NativeLog(lambda line: None)


def with_module(folder: Path, *names: str) -> Path:
    """Put modules that are no libraries into a folder."""
    for name in names:
        (folder / f"libggml-{name}.so").write_bytes(b"no library at all")
    return folder


def registered(monkeypatch: pytest.MonkeyPatch, *names: bytes) -> None:
    """Have llama.cpp know only these back ends."""
    monkeypatch.setattr(backends, "_by_name", lambda name: name in names)


@pytest.mark.parametrize("gpu", [True, False])
def test_what_is_built_without_cuda_computes_on_the_cpu(log: NativeLog, gpu: bool) -> None:
    for _ in range(2):
        assert load_backends(log, gpu=gpu) == GpuSupport("not_built")


@pytest.mark.parametrize("library", ["libcuda.so.1", "libcublas.so.12"])
def test_a_library_that_cuda_needs_is_named_where_it_is_missing(
    log: NativeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    def missing(path: str) -> None:
        raise OSError(NO_LIBRARY.format(library))

    load_backends(log, gpu=False)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    found = load_backends(log, gpu=True, folder=with_module(tmp_path, "cuda"))
    assert found == GpuSupport("not_loaded", f"{library} is missing on this machine")


def test_any_other_reason_is_given_as_the_system_says_it(log: NativeLog, tmp_path: Path) -> None:
    load_backends(log, gpu=False)
    found = load_backends(log, gpu=True, folder=with_module(tmp_path, "cuda"))
    assert found.state == "not_loaded"
    assert "invalid ELF header" in found.reason or "file too short" in found.reason


def test_without_a_wish_for_gpus_their_module_is_left_alone(log: NativeLog, tmp_path: Path) -> None:
    load_backends(log, gpu=False)
    found = load_backends(log, gpu=False, folder=with_module(tmp_path, "cuda"))
    assert found == GpuSupport("not_built")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("no CUDA-capable device is detected", "the NVIDIA driver finds no GPU"),
        (
            "CUDA driver version is insufficient for CUDA runtime version",
            "this machine's NVIDIA driver is older than llama.cpp's CUDA needs (CUDA driver "
            "version is insufficient)",
        ),
        ("unknown error", "unknown error"),
        (None, "CUDA finds no GPU"),
    ],
)
def test_cuda_without_a_device_says_why(
    log: NativeLog, monkeypatch: pytest.MonkeyPatch, said: str | None, reason: str
) -> None:
    registered(monkeypatch, b"cuda", b"cpu")
    if said is not None:
        log._on_line(4, f"ggml_cuda_init: failed to initialize CUDA: {said}\n".encode(), None)
    assert load_backends(log, gpu=True) == GpuSupport("no_device", reason)


@pytest.mark.parametrize("present", [False, True])
def test_without_code_for_the_cpu_nothing_runs_and_that_is_said(
    log: NativeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    registered(monkeypatch)
    folder = with_module(tmp_path, *(["cpu"] if present else []))
    with pytest.raises(LlamaError, match="code for the CPU cannot be loaded") as one:
        load_backends(log, gpu=False, folder=folder)
    assert not one.value.permanent
    assert "libggml-cpu.so" in str(one.value)


def opened(path: Path, layers: int) -> Llama:
    spec = EngineSpec(path=str(path), context=256, sequences=1, gpu_layers=layers)
    nothing: Any = lambda *_: None  # noqa: E731
    return Llama(spec, progress=nothing, beat=nothing, log=nothing)


@pytest.mark.llama
@pytest.mark.parametrize("state", ["no_device", "not_loaded"])
def test_layers_for_a_gpu_are_not_computed_on_the_cpu_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Any
) -> None:
    asked: list[bool] = []

    def load(log: NativeLog, *, gpu: bool) -> GpuSupport:
        asked.append(gpu)
        return GpuSupport(state, "the reason") if gpu else GpuSupport("not_built")

    monkeypatch.setattr("gguf_worker.engine.llama.context.load_backends", load)
    path = write_tiny(tmp_path / "tiny.gguf")
    for layers in (-1, 2):
        with pytest.raises(LlamaError, match="can use no GPU: the reason") as refused:
            opened(path, layers)
        assert (refused.value.permanent, refused.value.gpu) == (
            False,
            GpuSupport(state, "the reason"),
        )
    opened(path, 0).close()
    assert asked == [True, True, False]


@pytest.mark.llama
def test_without_layers_for_gpus_none_is_given_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    load = L.llama_model_load_from_file

    def spying(path: bytes, params: Any) -> Any:
        given.append(params.devices)
        return load(path, params)

    monkeypatch.setattr(L, "llama_model_load_from_file", spying)
    path = write_tiny(tmp_path / "tiny.gguf")
    for layers in (0, -1):
        opened(path, layers).close()
    none, all_of_them = given
    assert ctypes.c_void_p.from_address(none).value is None
    assert all_of_them is None
