"""Runs one command, and turns errors into a sentence and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from gguf_worker.errors import ConfigError, WorkerError

INTERRUPTED = 130


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command of `arguments`, and return the exit code.

    0: done; 1: failed, or something is damaged; 2: wrong settings; 130: interrupted by Ctrl-C.
    """
    try:
        return _run(arguments, environ)
    except KeyboardInterrupt:
        more = " The same command goes on where it was." if arguments.action == "pull" else ""
        print(f"Interrupted.{more}", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from gguf_worker.console.inspecting import inspect
    from gguf_worker.console.listing import show
    from gguf_worker.console.pulling import pull
    from gguf_worker.console.removing import prune, remove
    from gguf_worker.console.terminal import Terminal
    from gguf_worker.console.verifying import verify

    commands = {
        "list": show,
        "pull": pull,
        "verify": verify,
        "inspect": inspect,
        "rm": remove,
        "prune": prune,
    }
    terminal = Terminal(as_json=arguments.json)
    try:
        return commands[arguments.action](arguments, environ, terminal)
    except WorkerError as error:
        terminal.failure(error)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        terminal.failure(WorkerError(f"{what}{error.strerror or error}"))
        return 1
