"""Variables that look like settings: those that are warned about, and those that are left alone."""

from __future__ import annotations

import pytest

from gguf_worker.config import Settings, load_settings


def load(**variables: str) -> Settings:
    return load_settings({"MODEL": "/models/a.gguf", **variables})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("MAX_CONCURENCY", "MAX_CONCURRENCY"),
        ("CTXSIZE", "CTX_SIZE"),
        ("ctx_size", "CTX_SIZE"),
        ("CTX-SIZE", "CTX_SIZE"),
        ("CONTEXT_SIZE", "CTX_SIZE"),
        ("MAX_MODEL_LEN", "CTX_SIZE"),
        ("N_CTX", "CTX_SIZE"),
        ("UBATCHSIZE", "UBATCH_SIZE"),
        ("OPENAI_SERVED_MODEL_NAME_OVERRIDE", "SERVED_MODEL_NAME"),
        ("HUGGING_FACE_HUB_TOKEN", "HF_TOKEN"),
    ],
)
def test_a_name_that_was_meant_to_be_a_setting_is_warned_about(given: str, meant: str) -> None:
    (warning,) = load(**{given: "1"}).warnings
    assert given in warning
    assert warning.endswith(f"did you mean {meant}?")


def test_foreign_variables_are_left_alone() -> None:
    foreign = {
        "HOSTNAME": "worker",
        "PATH": "/bin",
        "HOME": "/root",
        "host": "x",
        "port": "1",
        "PORTS": "80",
        "MODELS": "x",
        "PORT_HEALTH": "80",
        "OMP_NUM_THREADS": "2",
        "RUNPOD_API_KEY": "k",
        "RUNPOD_LOG_LEVEL": "INFO",
        "UVICORN_LOG_LEVEL": "info",
        "OPENAI_API_KEY": "k",
        "X_API_KEY": "k",
        "HF_HOME": "/cache",
        "HF_HUB_ENABLE_HF_TRANSFER": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "RUNPOD_VOLUME_ID": "v",
        "MAX_JOBS": "4",
    }
    assert load(**foreign).warnings == ()
