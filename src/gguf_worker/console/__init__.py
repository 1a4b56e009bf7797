"""The command line for models: list, pull, verify, inspect and remove them.

It works on the worker's own store with the worker's own settings. It serves nothing, and starts no
engine.
"""

from gguf_worker.console.arguments import add_arguments
from gguf_worker.console.commands import run
from gguf_worker.console.terminal import Terminal

__all__ = ["Terminal", "add_arguments", "run"]
