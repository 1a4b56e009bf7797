"""The command line: the settings as they are on this machine, and the models on its volume.

It serves nothing: `handler.py` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gguf_worker import __version__
from gguf_worker.console import add_arguments
from gguf_worker.errors import ConfigError, WorkerError

if TYPE_CHECKING:
    from gguf_worker.config import Machine, Settings
    from gguf_worker.models.memory import Fit

_FITTED = {
    "CTX_SIZE": "context",
    "MAX_CONCURRENCY": "sequences",
    "KV_SIZE": "kv_cells",
    "KV_LAYOUT": "kv_layout",
    "GPU_LAYERS": "gpu_layers",
    "KV_TYPE": "kv_type",
    "FLASH_ATTENTION": "flash_attention",
    "THREADS": "threads",
    "BATCH_SIZE": "batch_size",
    "UBATCH_SIZE": "ubatch_size",
    "PREFILL_CHUNK": "prefill_chunk",
    "STEP_MIXING": "step_mixing",
    "MAX_QUEUE": "max_queue",
    "POOLING": "pooling",
}
"""Settings that `auto` leaves to the machine and the model, with their names in a Fit."""

_EXAMPLES = """\
examples:
  MODEL=./model.gguf python -m gguf_worker config
  python -m gguf_worker models pull Qwen/Qwen3-8B-GGUF:Q4_K_M
  python -m gguf_worker models --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 1 if it has found a problem; 2 for bad settings."""
    arguments = command_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    return code


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; it sets `run` to the function of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m gguf_worker",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gguf-worker {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    config = commands.add_parser("config", help="show the effective settings and their origin")
    config.add_argument("--json", action="store_true", help="for programs")
    config.set_defaults(run=_config)

    models = commands.add_parser("models", help="list, pull, verify, inspect and remove models")
    add_arguments(models, _models)
    return parser


def _models(arguments: argparse.Namespace) -> int:
    from gguf_worker.console import run

    return run(arguments, os.environ)


def _config(arguments: argparse.Namespace) -> int:
    from gguf_worker.config import load_settings, probe
    from gguf_worker.models.source import parse_reference
    from gguf_worker.serving import check_companions

    settings = load_settings(os.environ)
    for each in _all_models(settings):
        check_companions(parse_reference(each.model), each.chat_template, each.lora_adapters)
    machine = probe(os.environ)
    fit, problem = _fit(settings, machine)
    rows = _rows(settings, fit)
    if arguments.json:
        facts = {
            "machine": dataclasses.asdict(machine),
            "settings": rows,
            "warnings": settings.warnings,
            "problem": problem,
        }
        print(json.dumps(facts, indent=2))
    else:
        print(f"{'machine':<20}{machine.explain()}")
        for row in rows:
            reason = f": {row['reason']}" if row["reason"] else ""
            print(f"{row['name']:<20}{_plain(row['value']):<28} {row['source']}{reason}")
        for warning in settings.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if problem:
            print(problem, file=sys.stderr)
    return 1 if problem else 0


def _all_models(settings: Settings) -> list[Settings]:
    """Return the settings of each model of the catalog, or of the only model."""
    if settings.catalog is None:
        return [settings]
    return [entry.settings for entry in settings.catalog.entries]


def _fit(settings: Settings, machine: Machine) -> tuple[Fit | None, str | None]:
    """Return the sizes for a local model file, or the reason for none; neither for other models."""
    from gguf_worker.models.gguf import read_header
    from gguf_worker.models.memory import fit_alone
    from gguf_worker.models.source import parse_reference
    from gguf_worker.serving import can_offload

    path = parse_reference(settings.model).local_path
    if path is None:
        return None, None
    try:
        header = read_header(path)
        return fit_alone(settings, machine, header, gpu_offload=can_offload(machine)), None
    except ConfigError:
        raise
    except WorkerError as error:
        return None, error.message


def _rows(settings: Settings, fit: Fit | None) -> list[dict[str, Any]]:
    from gguf_worker.config import ALL_LAYERS

    rows = []
    for line in settings.describe():
        row = {**dataclasses.asdict(line), "reason": None}
        if line.value == "auto" and line.name in _FITTED:
            row["reason"] = "decided when the model is known"
            if fit is not None:
                choice = getattr(fit, _FITTED[line.name])
                everything = line.name == "GPU_LAYERS" and choice.value == ALL_LAYERS
                value = "all" if everything else choice.value
                row.update(value=value, source="auto", reason=choice.reason)
        rows.append(row)
    return rows


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
