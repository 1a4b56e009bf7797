"""Memory readings: what is there is read, what is not is left out."""

from __future__ import annotations

import contextlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gguf_worker.engine.parent import EngineClient
from gguf_worker.monitoring.memory_usage import (
    ENGINE_MODULE,
    GpuMemory,
    GpuReader,
    resident_bytes,
)


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[None]:
    """Run a child of this process that has these arguments, until it has begun to wait."""
    code = "print('x' * 10, flush=True); input()"
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.stdin.close()


def test_the_engines_count_together_and_no_other_child_does() -> None:
    """The SDK has a child of its own, which reports that the worker lives."""
    before = resident_bytes()["engine"]
    with child("-m", "another"):
        assert resident_bytes()["engine"] == before
        with child("-m", "gguf_worker.engine"):
            one = resident_bytes()["engine"]
            assert one > before + 1_000_000
            with child("-m", "gguf_worker.engine"):
                assert resident_bytes()["engine"] > one + 1_000_000
    assert resident_bytes()["engine"] == before


def test_engines_are_known_by_the_command_that_starts_them() -> None:
    command = inspect.signature(EngineClient).parameters["command"].default
    assert ENGINE_MODULE in command


@pytest.mark.parametrize(
    "broken", ["missing", "nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"]
)
def test_a_driver_that_is_missing_or_fails_reads_as_no_gpu(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError(broken)

    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=1, total=2),
    )
    setattr(driver, broken, fail)
    monkeypatch.setitem(sys.modules, "pynvml", None if broken == "missing" else driver)
    reader = GpuReader()
    assert reader.read() == ()
    assert reader.read() == ()
    reader.close()


def test_a_gpu_that_cannot_be_read_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(gpu: int) -> SimpleNamespace:
        if gpu == 0:
            raise RuntimeError("lost")
        return SimpleNamespace(used=1, total=2)

    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=memory,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert GpuReader().read() == (GpuMemory(1, 1, 2),)


def test_a_driver_that_does_not_open_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise RuntimeError("no driver")

    monkeypatch.setitem(
        sys.modules, "pynvml", SimpleNamespace(NVMLError=RuntimeError, nvmlInit=fail)
    )
    reader = GpuReader()
    assert reader.read() == reader.read() == ()
    assert len(tries) == 1


def test_the_driver_is_opened_once_and_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: calls.append("open"),
        nvmlShutdown=lambda: calls.append("close"),
        nvmlDeviceGetCount=lambda: 0,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    reader = GpuReader()
    reader.read()
    reader.read()
    reader.close()
    reader.close()
    assert calls == ["open", "close"]
