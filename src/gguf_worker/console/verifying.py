"""The command `models verify`: compares stored models, byte by byte, with what was published."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from gguf_worker.console.command_settings import meant, settings_for, settings_of
from gguf_worker.console.formatting import duration, plain, size
from gguf_worker.console.listing import models_of_the_image
from gguf_worker.console.model_names import named
from gguf_worker.console.terminal import ReportProgress, Terminal
from gguf_worker.errors import ModelUnsupported, WorkerError
from gguf_worker.models.store import Inventory, Progress, PublishedModel
from gguf_worker.serving import store_root

_REPORT_SECONDS = 0.2
"""Seconds between two reports of one file's progress."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """The finding about one file. `problem`: None if it is as it was published."""

    file: str
    problem: str | None
    bytes: int


def verify(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    everything = settings_of(environ) if arguments.all else None
    settings = everything or settings_for(environ, next(iter(arguments.models), None))
    on_volume = Inventory(store_root(settings.volume_path)).models()
    models: Sequence[PublishedModel] = (*on_volume, *models_of_the_image(settings))
    if not arguments.all:
        names = [meant(environ, name) for name in arguments.models]
        models = named(models, names or [settings.model])
    reports = []
    for model in models:
        began = time.monotonic()
        with terminal.progress("reading") as report:
            findings = [_check(model, part, report) for part in range(len(model.entry.parts()))]
        terminal.note(_note(model, findings, time.monotonic() - began))
        reports.append(_facts(model, findings))
    sound = all(each["sound"] for each in reports)
    bad = sum(not each["sound"] for each in reports)
    summary = f"{len(reports)} verified, {bad or 'none'} damaged"
    terminal.result({"sound": sound, "models": reports}, summary)
    return 0 if sound else 1


def _check(model: PublishedModel, part: int, report: ReportProgress) -> _Finding:
    entry = model.entry.parts()[part]
    total = next((each.size for each in model.files if each.file == entry.file), 0)
    meter = _ReadingProgress(entry.file, total, report)
    try:
        entry.verify(meter.at)
    except ModelUnsupported:  # the file is as published, and only that is checked here
        return _Finding(entry.file, None, total)
    except WorkerError as error:
        return _Finding(entry.file, error.message, total)
    return _Finding(entry.file, None, total)


class _ReadingProgress:
    """Reports the progress of reading a file, at most every _REPORT_SECONDS."""

    def __init__(self, file: str, total: int, report: ReportProgress) -> None:
        self._file = file
        self._total = total
        self._report = report
        self._began = self._reported_at = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_SECONDS or done == self._total:
            self._reported_at = now
            speed = done / max(now - self._began, 1e-6)
            self._report(Progress(self._file, done, self._total, speed))


def _note(model: PublishedModel, findings: Sequence[_Finding], seconds: float) -> str:
    problems = [each.problem for each in findings if each.problem is not None]
    if problems:
        return "\n".join(f"DAMAGED  {plain(str(model))}: {plain(each)}" for each in problems)
    return f"ok       {plain(str(model))}: {size(model.size)} in {duration(seconds)}"


def _facts(model: PublishedModel, findings: Sequence[_Finding]) -> dict[str, object]:
    return {
        "model": f"{model.repo}/{model.file}",
        "commit": model.commit,
        "sound": all(each.problem is None for each in findings),
        "files": [asdict(each) for each in findings],
    }
