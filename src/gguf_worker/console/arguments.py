"""The arguments of `models` and its commands, with their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable

_NAMES = """\
A MODEL is what the setting MODEL takes: a path, org/repo:QUANT, org/repo/file.gguf, org/repo or an
https address; or what `list` prints, or a name in the file of MODELS_FILE. Settings come from the
environment, as the worker takes them: VOLUME_PATH, HF_TOKEN, HF_ENDPOINT, VERIFY ...

Exit codes: 0 done; 1 it failed, or something is damaged; 2 wrong arguments or settings;
130 interrupted.
"""

_EXAMPLES = {
    "": """\
examples:
  python -m gguf_worker models pull Qwen/Qwen3-8B-GGUF:Q4_K_M
  python -m gguf_worker models inspect Qwen/Qwen3-8B-GGUF:Q8_0 --fit
  python -m gguf_worker models list
  python -m gguf_worker models prune --older-than 30
""",
    "list": """\
examples:
  python -m gguf_worker models list
  VOLUME_PATH=/workspace python -m gguf_worker models list --json
""",
    "pull": """\
examples:
  python -m gguf_worker models pull Qwen/Qwen3-8B-GGUF:Q4_K_M
  python -m gguf_worker models pull org/repo/model.gguf --revision 0123abc...
  MODEL=org/repo:Q8_0 HF_TOKEN=hf_... python -m gguf_worker models pull

An interrupted pull goes on where it was. The model's path is printed on stdout.
""",
    "verify": """\
examples:
  python -m gguf_worker models verify Qwen/Qwen3-8B-GGUF:Q4_K_M
  python -m gguf_worker models verify --all --json

What is damaged is fetched again by `VERIFY=full python -m gguf_worker models pull MODEL`.
""",
    "inspect": """\
examples:
  python -m gguf_worker models inspect Qwen/Qwen3-8B-GGUF:Q4_K_M
  python -m gguf_worker models inspect ./model.gguf --fit

Of a model that is not on this machine, only the header's bytes are asked for.
""",
    "rm": """\
examples:
  python -m gguf_worker models rm Qwen/Qwen3-8B-GGUF:Q4_K_M
  python -m gguf_worker models rm org/repo/model.gguf@0123abcd --yes
  python -m gguf_worker models rm org/repo --dry-run

A repository alone means all of its models on the volume; what a worker uses stays.
""",
    "prune": """\
examples:
  python -m gguf_worker models prune
  python -m gguf_worker models prune --older-than 30 --yes
  python -m gguf_worker models prune --keep-gb 100 --dry-run

Without options: downloads that were begun, what was found damaged, and notes of fetchers that
were taken over. What a worker uses or fetches stays.
""",
}


def add_arguments(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the commands to `parser`. Each one calls `run`, with its name as `action`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Models on the volume.\n\n" + _NAMES
    parser.epilog = _EXAMPLES[""]
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.\n\n{_NAMES}",
            epilog=_EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.add_argument("--json", action="store_true", help="for programs")
        added.set_defaults(run=run, action=name)
        return added

    command("list", "show what is on the volume")

    pull = command("pull", "download a model to the volume, as the worker does at its start")
    _add_model(pull)
    _add_revision(pull)
    pull.add_argument("--sha256", metavar="H", help="refuse a file with another SHA-256")

    verify = command("verify", "read every byte of stored models, and say what is damaged")
    verify.add_argument("models", nargs="*", metavar="MODEL", help="default: the setting MODEL")
    verify.add_argument("--all", action="store_true", help="all models of the volume")

    inspect = command("inspect", "show what a model is, without downloading it")
    _add_model(inspect)
    _add_revision(inspect)
    inspect.add_argument("--fit", action="store_true", help="and what this machine would give it")

    remove = command("rm", "remove models from the volume")
    remove.add_argument("models", nargs="+", metavar="MODEL")
    _add_caution(remove)

    prune = command("prune", "remove what is of no use, and on request what was not used for long")
    prune.add_argument(
        "--older-than", type=number, metavar="DAYS", help="and models not used for so long"
    )
    prune.add_argument(
        "--keep-gb",
        type=number,
        metavar="N",
        help="and the least recently used models, until N GB are left",
    )
    _add_caution(prune)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: the setting MODEL")


def _add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (default: main)")


def _add_caution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("-y", "--yes", action="store_true", help="don't ask")


def number(text: str) -> float:
    """Read an argument that is a number from 0 on. Raises ArgumentTypeError or ValueError."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value
