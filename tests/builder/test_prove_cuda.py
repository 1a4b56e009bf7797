"""What the proof of the image for CUDA prints."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.cuda_verdicts import wanted
from builder.layers import Layer
from builder.proof import Failed, Result, tried
from builder.prove_cuda import dockerfiles_own, expect_none, fake_driver, refusal, table, warning


def test_the_architectures_are_the_dockerfiles_own_unless_told() -> None:
    assert wanted(dockerfiles_own()).real


def test_the_table_has_each_check_and_each_layer_and_can_be_pasted() -> None:
    results = [Result("glibc", True, "2.32"), Result("code", False, "no real code for 90 | 80")]
    assert table(results, [Layer("COPY /venv", 5_000_000)]).splitlines() == [
        "| what | result |",
        "| --- | --- |",
        "| glibc | 2.32 |",
        "| code | **FAILED**: no real code for 90 / 80 |",
        "| layer: `COPY /venv` | 5.0 MB |",
    ]


def test_a_check_that_fails_is_a_line_and_a_result_and_the_others_are_tried(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails() -> str:
        raise Failed("it has none")

    def breaks() -> str:
        raise subprocess.TimeoutExpired("docker", 5)

    checks = [("one", fails), ("two", breaks), ("three", lambda: "seen")]
    results = list(tried(checks, lambda: "what the container printed"))
    assert [result.holds for result in results] == [False, False, True]
    said = capsys.readouterr()
    assert "FAILED  one: it has none" in said.out
    assert "ok  three" in said.out
    assert said.err.count("what the container printed") == 2


def test_only_the_first_faults_are_told_in_full() -> None:
    expect_none([])
    with pytest.raises(Failed, match=r"^0; 1; 2; 3; 4 and 3 more$"):
        expect_none([str(number) for number in range(8)])


def test_the_warning_is_read_from_the_workers_log() -> None:
    log = '{"level": "info", "event": "x"}\n{"level": "warning", "event": "no libcuda.so.1"}\nhi'
    assert warning(log) == "no libcuda.so.1"
    assert warning("hi") == "no warning"


def test_the_reason_of_a_refusal_is_read_from_the_last_line() -> None:
    assert refusal('loading\nerror: {"message": "no GPU", "code": "x"}\n') == "no GPU"
    assert refusal("error: GPU_LAYERS=all") == "GPU_LAYERS=all"


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
def test_the_fake_driver_knows_no_device_and_says_which_cuda_it_is_for(tmp_path: Path) -> None:
    driver = ctypes.CDLL(str(fake_driver(11_000, tmp_path)))
    version = ctypes.c_int()
    assert driver.cuInit(0) == 100
    assert driver.cuDriverGetVersion(ctypes.byref(version)) == 0
    assert version.value == 11_000
    function = ctypes.CFUNCTYPE(ctypes.c_int)()
    assert driver.cuGetProcAddress_v2(b"cuCtxCreate", ctypes.byref(function), 12_000, 0, None) == 0
    assert function() == 100
