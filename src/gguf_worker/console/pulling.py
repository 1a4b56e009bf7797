"""The command `models pull`: fetches a model to the volume, as the worker does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from gguf_worker.console.command_settings import settings_for
from gguf_worker.console.formatting import duration, size
from gguf_worker.console.terminal import Terminal
from gguf_worker.models.source import parse_reference
from gguf_worker.models.store import StoredModel
from gguf_worker.serving import opened_store


def pull(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    settings = settings_for(
        environ, arguments.model, revision=arguments.revision, sha256=arguments.sha256
    )
    reference = parse_reference(settings.model)
    began = time.monotonic()
    with (
        terminal.progress("downloading") as report,
        opened_store(settings, environ, report) as store,
    ):
        model = store.ensure(
            reference, revision=settings.model_revision, sha256=settings.model_sha256
        )
    seconds = time.monotonic() - began
    terminal.note(_note(model, seconds))
    terminal.result(_facts(settings.model, model, seconds), str(model.path))
    return 0


def _note(model: StoredModel, seconds: float) -> str:
    header = model.header
    what = f"{model.source}: {header.quantization}, {size(header.file_bytes)}"
    if not model.fetched:
        return f"{what}, was here already"
    return f"{what}, fetched and verified in {duration(seconds)}"


def _facts(given: str, model: StoredModel, seconds: float) -> dict[str, object]:
    return {
        "model": given,
        "source": model.source,
        "path": str(Path(model.path).absolute()),
        "size": model.header.file_bytes,
        "sha256": model.sha256,
        "architecture": model.header.architecture,
        "quantization": model.header.quantization,
        "fetched": model.fetched,
        "seconds": round(seconds, 3),
    }
