"""The command `models list`: shows the models that are here, leftovers, and free space."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gguf_worker.config import Settings
from gguf_worker.console.command_settings import settings_of
from gguf_worker.console.formatting import age, plain, several, size, table
from gguf_worker.console.terminal import Terminal
from gguf_worker.errors import WorkerError
from gguf_worker.models.gguf import read_header
from gguf_worker.models.source import label_of
from gguf_worker.models.store import Inventory, Leftover, PublishedModel
from gguf_worker.serving import baked_root, store_root

SHORT_COMMIT = 12


@dataclass(frozen=True, slots=True)
class _Image:
    """The models that the image has, which stay there; root: None if it has a place for none."""

    root: Path | None
    models: tuple[PublishedModel, ...]


@dataclass(frozen=True, slots=True)
class _DiskSpace:
    """Bytes of the disk that holds the store; None if the store's folder does not exist yet."""

    root: Path
    used: int
    free: int | None
    total: int | None


def show(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    settings = settings_of(environ)
    root = store_root(settings.volume_path)
    inventory = Inventory(root)
    models, leftovers = inventory.models(), inventory.leftovers()
    space = _disk_space(root, inventory.total_bytes())
    image = _Image(baked_root(settings.baked_models), models_of_the_image(settings))
    facts = _facts(models, leftovers, space, image)
    terminal.result(facts, _text(models, leftovers, space, image))
    return 0


def models_of_the_image(settings: Settings) -> tuple[PublishedModel, ...]:
    """Return the models that the image has in a place of its own."""
    root = baked_root(settings.baked_models)
    if root is None or root == store_root(settings.volume_path):
        return ()
    return Inventory(root).models()


def state_of(model: PublishedModel) -> str:
    """Return `ready`, or the fault that the files' names and sizes show."""
    if model.missing:
        return f"incomplete: {len(model.missing)} of {len(model.entry.parts())} files missing"
    try:
        whole = all(each.path.stat().st_size == each.size for each in model.files)
    except OSError:
        whole = False
    return "ready" if whole else "damaged"


def leftover_facts(leftover: Leftover) -> dict[str, object]:
    """Return a leftover as JSON."""
    return {
        "kind": leftover.kind,
        "repo": leftover.repo,
        "file": leftover.file,
        "commit": leftover.commit,
        "path": str(leftover.path),
        "size": leftover.size,
        "in_use": leftover.in_use,
    }


def model_facts(model: PublishedModel) -> dict[str, object]:
    """Return a model as JSON."""
    return {
        "model": f"{model.repo}/{model.file}",
        "repo": model.repo,
        "file": model.file,
        "commit": model.commit,
        "quantization": _quantisation(model),
        "state": state_of(model),
        "path": str(model.entry.path),
        "size": model.size,
        "files": [
            {"file": each.file, "path": str(each.path), "size": each.size, "sha256": each.sha256}
            for each in model.files
        ],
        "missing": list(model.missing),
        "last_used": datetime.fromtimestamp(model.used_at, UTC).isoformat(timespec="seconds"),
        "in_use": model.in_use,
    }


def _disk_space(root: Path, used: int) -> _DiskSpace:
    if not root.is_dir():
        return _DiskSpace(root, used, None, None)
    disk = shutil.disk_usage(root)
    return _DiskSpace(root, used, disk.free, disk.total)


def _quantisation(model: PublishedModel) -> str | None:
    """Return the quantisation that the file's name shows, else that of its header."""
    if label := label_of(model.file):
        return label
    try:
        return read_header(model.entry.path).quantization
    except WorkerError:
        return None


def _facts(
    models: Sequence[PublishedModel],
    leftovers: Sequence[Leftover],
    space: _DiskSpace,
    image: _Image,
) -> dict[str, object]:
    return {
        "path": str(space.root),
        "used_bytes": space.used,
        "free_bytes": space.free,
        "total_bytes": space.total,
        "models": [model_facts(each) for each in models],
        "leftovers": [leftover_facts(each) for each in leftovers],
        "image_path": None if image.root is None else str(image.root),
        "image_models": [model_facts(each) for each in image.models],
    }


def _text(
    models: Sequence[PublishedModel],
    leftovers: Sequence[Leftover],
    space: _DiskSpace,
    image: _Image,
) -> str:
    now = time.time()
    head = ("MODEL", "COMMIT", "QUANT", "SIZE", "FILES", "LAST USED", "STATE")
    rows = [
        (
            *_columns(each),
            "now" if each.in_use else age(now - each.used_at),
            "in use" if each.in_use and state_of(each) == "ready" else state_of(each),
        )
        for each in models
    ]
    rows += [(*_columns(each), "-", f"{state_of(each)}, in the image") for each in image.models]
    parts = [table(head, rows)]
    if leftovers:
        others = [
            (
                plain(f"{each.repo}/{each.file}"),
                each.commit[:SHORT_COMMIT],
                each.kind + (", in use" if each.in_use else ""),
                size(each.size),
            )
            for each in leftovers
        ]
        parts.append(table(("NO MODEL (`models prune`)", "COMMIT", "KIND", "SIZE"), others))
    parts.append(_summary(models, space))
    if image.models:
        number, taken = len(image.models), sum(each.size for each in image.models)
        parts[-1] += f"\n{several(number, 'model')}, {size(taken)} in {image.root}, of the image"
    return "\n\n".join(parts)


def _columns(model: PublishedModel) -> tuple[str, str, str, str, str]:
    """Return the columns that say what a model is, in a table of models."""
    return (
        plain(f"{model.repo}/{model.file}"),
        model.commit[:SHORT_COMMIT],
        plain(_quantisation(model) or "-"),
        size(model.size),
        str(len(model.files)),
    )


def _summary(models: Sequence[PublishedModel], space: _DiskSpace) -> str:
    text = f"{several(len(models), 'model')}, {size(space.used)} in {space.root}"
    if space.free is None or space.total is None:
        return f"{text} (not there yet)"
    return f"{text}; {size(space.free)} of {size(space.total)} free"
