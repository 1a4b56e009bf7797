"""`models rm` and `models prune`: what goes from the volume, after a question. What is in use stays."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gguf_worker.console.listing import leftover_facts, model_facts, state_of
from gguf_worker.console.naming import named
from gguf_worker.console.settings import meant, settings_of
from gguf_worker.console.terminal import Terminal
from gguf_worker.console.words import plain, size
from gguf_worker.errors import ModelInUse
from gguf_worker.models.store import Inventory, Leftover, PublishedModel
from gguf_worker.serving import store_root

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class _Doomed:
    """Something that is to go: what it is called, how it is described, and how it goes."""

    name: str
    bytes: int
    facts: Mapping[str, object]
    remove: Callable[[], int]


def remove(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    inventory = Inventory(store_root(settings_of(environ).volume_path))
    models = named(inventory.models(), [meant(environ, name) for name in arguments.models])
    return _remove([_model(inventory, each) for each in models], arguments, terminal)


def prune(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    inventory = Inventory(store_root(settings_of(environ).volume_path))
    doomed = [_leftover(inventory, each) for each in inventory.leftovers() if not each.in_use]
    doomed += [_model(inventory, each) for each in _useless(inventory.models(), arguments)]
    return _remove(doomed, arguments, terminal)


def _useless(
    models: Sequence[PublishedModel], arguments: argparse.Namespace
) -> Iterator[PublishedModel]:
    """The models that nobody uses and that are damaged, or too old, or too many; the oldest first."""
    left = sum(each.size for each in models)
    most = float("inf") if arguments.keep_gb is None else 1e9 * arguments.keep_gb
    oldest = float("-inf")
    if arguments.older_than is not None:
        oldest = time.time() - _DAY * arguments.older_than
    idle = [each for each in models if not each.in_use]
    for model in sorted(idle, key=lambda each: (state_of(each) == "ready", each.used_at)):
        if state_of(model) != "ready" or model.used_at <= oldest or left > most:
            left -= model.size
            yield model


def _remove(doomed: Sequence[_Doomed], arguments: argparse.Namespace, terminal: Terminal) -> int:
    total = sum(each.bytes for each in doomed)
    for each in doomed:
        terminal.note(f"{plain(each.name)}   {size(each.bytes)}")
    go = bool(doomed) and not arguments.dry_run
    if go and not terminal.confirm(f"Remove these, {size(total)}?", yes=arguments.yes):
        terminal.note("Nothing was removed.")
        return 1
    removed, freed, kept = _carried_out(doomed if go else ())
    facts = {
        "dry_run": arguments.dry_run,
        "removed": [dict(each.facts) for each in (doomed if arguments.dry_run else removed)],
        "freed_bytes": total if arguments.dry_run else freed,
        "kept": [{**each.facts, "error": error.public()} for each, error in kept],
    }
    for _, error in kept:
        terminal.note(f"error: {plain(error.message)}")
    said = f"Would free {size(total)}" if arguments.dry_run else f"Freed {size(freed)}"
    terminal.result(facts, said)
    return 1 if kept else 0


def _carried_out(
    doomed: Sequence[_Doomed],
) -> tuple[list[_Doomed], int, list[tuple[_Doomed, ModelInUse]]]:
    """Remove them; those that went, the bytes that this freed, and those that had to stay."""
    removed, freed, kept = [], 0, []
    for each in doomed:
        try:
            freed += each.remove()
            removed.append(each)
        except ModelInUse as error:
            kept.append((each, error))
    return removed, freed, kept


def _model(inventory: Inventory, model: PublishedModel) -> _Doomed:
    return _Doomed(str(model), model.size, model_facts(model), lambda: inventory.remove(model))


def _leftover(inventory: Inventory, leftover: Leftover) -> _Doomed:
    return _Doomed(
        str(leftover),
        leftover.size,
        leftover_facts(leftover),
        lambda: inventory.discard(leftover),
    )
