"""`models verify`: whether stored models are, byte by byte, what was published."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from gguf_worker.console.naming import named
from gguf_worker.console.settings import meant, settings_for, settings_of
from gguf_worker.console.terminal import Tell, Terminal
from gguf_worker.console.words import duration, plain, size
from gguf_worker.errors import ModelUnsupported, WorkerError
from gguf_worker.models.store import Inventory, Progress, PublishedModel
from gguf_worker.serving import store_root

_TELL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Finding:
    """Of one file; `problem` None: it is as it was published."""

    file: str
    problem: str | None
    bytes: int


def verify(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    everything = settings_of(environ) if arguments.all else None
    settings = everything or settings_for(environ, next(iter(arguments.models), None))
    models: Sequence[PublishedModel] = Inventory(store_root(settings.volume_path)).models()
    if not arguments.all:
        names = [meant(environ, name) for name in arguments.models]
        models = named(models, names or [settings.model])
    reports = []
    for model in models:
        began = time.monotonic()
        with terminal.progress("reading") as tell:
            findings = [_look(model, part, tell) for part in range(len(model.entry.parts()))]
        terminal.note(_told(model, findings, time.monotonic() - began))
        reports.append(_facts(model, findings))
    sound = all(report["sound"] for report in reports)
    bad = sum(not report["sound"] for report in reports)
    summary = f"{len(reports)} verified, {bad or 'none'} damaged"
    terminal.result({"sound": sound, "models": reports}, summary)
    return 0 if sound else 1


def _look(model: PublishedModel, part: int, tell: Tell) -> _Finding:
    entry = model.entry.parts()[part]
    total = next((each.size for each in model.files if each.file == entry.file), 0)
    meter = _Meter(entry.file, total, tell)
    try:
        entry.verify(meter.at)
    except ModelUnsupported:  # as it was published, which is all that is asked here
        return _Finding(entry.file, None, total)
    except WorkerError as error:
        return _Finding(entry.file, error.message, total)
    return _Finding(entry.file, None, total)


class _Meter:
    """Tells how far the reading of a file is, not too often."""

    def __init__(self, file: str, total: int, tell: Tell) -> None:
        self._file = file
        self._total = total
        self._tell = tell
        self._began = self._told = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS or done == self._total:
            self._told = now
            speed = done / max(now - self._began, 1e-6)
            self._tell(Progress(self._file, done, self._total, speed))


def _told(model: PublishedModel, findings: Sequence[_Finding], seconds: float) -> str:
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
