"""The command line: exit codes, what is printed where, and that no secret is printed at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gguf_worker import __version__
from gguf_worker.__main__ import main
from gguf_worker.config import Settings
from tests.tiny_gguf import write_tiny

Environ = Callable[..., None]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Environ:
    """Gives the process exactly these variables of ours."""

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    facts = json.loads(capsys.readouterr().out)
    return {row["name"]: row for row in facts["settings"]}


def test_bad_settings_end_with_2_and_one_message(
    environ: Environ, capsys: pytest.CaptureFixture[str]
) -> None:
    environ(CTX_SIZE="1", PORT="x")
    assert main(["config"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(name in err for name in ("MODEL", "CTX_SIZE", "PORT"))
    assert "Traceback" not in err


def test_a_model_that_is_no_reference_is_a_bad_setting(environ: Environ) -> None:
    environ(MODEL="a/../b:Q4")
    assert main(["config"]) == 2


def test_config_tells_what_cannot_go_with_a_model(
    environ: Environ, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environ(MODEL="org/repo", LORA_ADAPTERS="/a.gguf weight=1")
    assert main(["config"]) == 2
    assert "'weight=1' is not understood" in capsys.readouterr().err
    catalog = tmp_path / "models.yaml"
    catalog.write_text(
        "models:\n a: {model: org/a}\n b: {model: org/b, chat_template: /nowhere.jinja}\n"
    )
    environ(MODEL="a", LORA_ADAPTERS="", MODELS_FILE=str(catalog))
    assert main(["config"]) == 2
    assert "/nowhere.jinja cannot be read" in capsys.readouterr().err


def test_config_for_a_model_on_the_hub_leaves_auto_open(
    environ: Environ, capsys: pytest.CaptureFixture[str]
) -> None:
    environ(MODEL="org/repo:Q4_K_M", CTX_SIZE="4096")
    assert main(["config", "--json"]) == 0
    found = rows(capsys)
    assert (found["CTX_SIZE"]["value"], found["CTX_SIZE"]["source"]) == (4096, "environment")
    assert found["THREADS"] == {
        "name": "THREADS",
        "value": "auto",
        "source": "default",
        "reason": "decided when the model is known",
    }
    assert found["HF_TOKEN"]["value"] is None


def test_config_for_a_file_resolves_auto_and_gives_reasons(
    environ: Environ, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environ(MODEL=str(write_tiny(tmp_path / "tiny.gguf")), MAX_CONCURRENCY="3")
    assert main(["config", "--json"]) == 0
    found = rows(capsys)
    assert found["CTX_SIZE"]["source"] == "auto"
    assert found["CTX_SIZE"]["value"] > 0
    assert found["CTX_SIZE"]["reason"]
    assert (found["MAX_CONCURRENCY"]["value"], found["MAX_CONCURRENCY"]["source"]) == (
        3,
        "environment",
    )


def test_config_for_a_file_on_a_machine_with_a_gpu_puts_all_of_it_there(
    environ: Environ,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=48 << 30, free=47 << 30),
        nvmlDeviceGetName=lambda gpu: "NVIDIA L40S",
        nvmlDeviceGetCudaComputeCapability=lambda gpu: (8, 9),
        nvmlDeviceGetMigMode=lambda gpu: (0, 0),
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlDeviceGetUUID=lambda gpu: "GPU-aa",
    )
    monkeypatch.setattr("gguf_worker.engine.built_for_gpus", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environ(MODEL=str(write_tiny(tmp_path / "tiny.gguf")))
    assert main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GPU 0 NVIDIA L40S (47.0 GiB of 48.0 GiB free)" in lines[0]
    (layers,) = [line.split()[1:3] for line in lines if line.startswith("GPU_LAYERS")]
    assert layers == ["all", "auto:"]


def test_a_setting_that_does_not_suit_the_model_is_a_bad_setting(
    environ: Environ, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environ(MODEL=str(write_tiny(tmp_path / "tiny.gguf")), KV_TYPE="q8_0")
    assert main(["config"]) == 2
    assert "KV_TYPE=q8_0" in capsys.readouterr().err


def test_config_shows_the_machine_and_every_setting_to_people(
    environ: Environ, capsys: pytest.CaptureFixture[str]
) -> None:
    environ(MODEL="org/repo")
    assert main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("machine ")
    assert "memory free" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == [
        name.upper() for name in Settings.model_fields
    ]


def test_config_for_a_file_that_is_not_there_shows_the_settings_and_says_so(
    environ: Environ, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environ(MODEL=str(tmp_path / "missing.gguf"))
    assert main(["config"]) == 1
    out, err = capsys.readouterr()
    assert "missing.gguf" in err
    assert "CTX_SIZE" in out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_config_never_shows_a_secret(
    environ: Environ, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    environ(MODEL="org/repo", HF_TOKEN="hf_sekret", API_KEY="sekret", REDIS_URL="redis://:sekret@h")
    assert main(["config", *form]) == 0
    out, err = capsys.readouterr()
    assert "sekret" not in out + err
    assert "***" in out


def test_config_warns_about_names_that_miss(
    environ: Environ, capsys: pytest.CaptureFixture[str]
) -> None:
    environ(MODEL="org/repo", MAX_CONCURENCY="4")
    assert main(["config"]) == 0
    assert "did you mean MAX_CONCURRENCY?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["config", "--help"], ["--version"]])
def test_help_and_version_go_to_stdout(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"gguf-worker {__version__}" if "--version" in arguments else "usage:")


def test_no_command_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


def test_help_loads_neither_settings_nor_models() -> None:
    code = (
        "import sys\nfrom gguf_worker.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([n for n in sys.modules if n in ('pydantic', 'prometheus_client', 'jinja2')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
