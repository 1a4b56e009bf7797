"""The commands `models rm` and `models prune`: remove models from the volume, after confirmation.

Models that are in use stay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_worker.console.command_settings import meant, settings_of
from gguf_worker.console.formatting import plain, size
from gguf_worker.console.listing import (
    leftover_facts,
    model_facts,
    models_of_the_image,
    state_of,
)
from gguf_worker.console.model_names import named
from gguf_worker.console.terminal import Terminal
from gguf_worker.errors import ModelInUse
from gguf_worker.models.store import Inventory, Leftover, NamedFiles, PublishedModel
from gguf_worker.serving import store_root

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class _Removal:
    """A model or leftover to remove: its name, size and facts, and how it is removed."""

    name: str
    bytes: int
    paths: Sequence[Path]
    facts: Mapping[str, object]
    remove: Callable[[], int]


def remove(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    settings = settings_of(environ)
    inventory = Inventory(store_root(settings.volume_path))
    names = [meant(environ, name) for name in arguments.models]
    models = named(inventory.models(), names, elsewhere=models_of_the_image(settings))
    return _remove([_model(inventory, each) for each in models], arguments, terminal)


def prune(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    inventory = Inventory(store_root(settings_of(environ).volume_path))
    removals = [_leftover(inventory, each) for each in inventory.leftovers() if not each.in_use]
    removals += [_model(inventory, each) for each in _removable(inventory.models(), arguments)]
    return _remove(removals, arguments, terminal)


def _removable(
    models: Sequence[PublishedModel], arguments: argparse.Namespace
) -> Iterator[PublishedModel]:
    """Yield unused models that are damaged, too old or too many, the oldest first."""
    taken, gone = NamedFiles(path for each in models for path in each.paths).taken, list[Path]()
    most = float("inf") if arguments.keep_gb is None else 1e9 * arguments.keep_gb
    oldest = float("-inf")
    if arguments.older_than is not None:
        oldest = time.time() - _DAY * arguments.older_than
    idle = [each for each in models if not each.in_use]
    for model in sorted(idle, key=lambda each: (state_of(each) == "ready", each.used_at)):
        left = taken - NamedFiles(gone).freed
        if state_of(model) != "ready" or model.used_at <= oldest or left > most:
            gone += model.paths
            yield model


def _remove(removals: Sequence[_Removal], arguments: argparse.Namespace, terminal: Terminal) -> int:
    total = NamedFiles(path for each in removals for path in each.paths).freed
    for each in removals:
        terminal.note(f"{plain(each.name)}   {size(each.bytes)}")
    go = bool(removals) and not arguments.dry_run
    if go and not terminal.confirm(f"Remove these, {size(total)}?", yes=arguments.yes):
        terminal.note("Nothing was removed.")
        return 1
    removed, freed, kept = _carry_out(removals if go else ())
    facts = {
        "dry_run": arguments.dry_run,
        "removed": [dict(each.facts) for each in (removals if arguments.dry_run else removed)],
        "freed_bytes": total if arguments.dry_run else freed,
        "kept": [{**each.facts, "error": error.public()} for each, error in kept],
    }
    for _, error in kept:
        terminal.note(f"error: {plain(error.message)}")
    said = f"Would free {size(total)}" if arguments.dry_run else f"Freed {size(freed)}"
    terminal.result(facts, said)
    return 1 if kept else 0


def _carry_out(
    removals: Sequence[_Removal],
) -> tuple[list[_Removal], int, list[tuple[_Removal, ModelInUse]]]:
    """Remove them. Returns those removed, the bytes that this freed, and those in use."""
    removed, freed, kept = [], 0, []
    for each in removals:
        try:
            freed += each.remove()
            removed.append(each)
        except ModelInUse as error:
            kept.append((each, error))
    return removed, freed, kept


def _model(inventory: Inventory, model: PublishedModel) -> _Removal:
    return _Removal(
        str(model),
        model.size,
        model.paths,
        model_facts(model),
        lambda: inventory.remove(model),
    )


def _leftover(inventory: Inventory, leftover: Leftover) -> _Removal:
    return _Removal(
        str(leftover),
        leftover.size,
        leftover.paths,
        leftover_facts(leftover),
        lambda: inventory.discard(leftover),
    )
