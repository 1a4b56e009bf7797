"""The worker that everybody writes first (import, load, start), to compare cold starts with."""

from __future__ import annotations

import os
from typing import Any

import runpod
from llama_cpp import Llama

llama = Llama(
    os.environ["MODEL"],
    n_ctx=int(os.environ["CTX_SIZE"]),
    n_threads=int(os.environ["THREADS"]),
    n_gpu_layers=-1,
    verbose=False,
)


def handler(job: dict[str, Any]) -> Any:
    """Answer one job, while all others wait."""
    return llama(job["input"]["prompt"], max_tokens=job["input"].get("max_tokens", 16))


runpod.serverless.start({"handler": handler})
