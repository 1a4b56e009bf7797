"""Memory readings: what is there is read, what is not is left out."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from gguf_worker.monitoring.memory_usage import GpuMemory, GpuReader, resident_bytes


def test_a_child_process_counts_as_the_engine() -> None:
    code = "print('x' * 10, flush=True); input()"
    before = resident_bytes()["engine"]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        during = resident_bytes()["engine"]
        child.stdin.close()
    assert during > before + 1_000_000


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
