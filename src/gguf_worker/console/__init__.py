"""The command line for models: what is on the volume, more of it, less of it, and whether it is sound.

It works on the worker's own store with the worker's own settings, and serves nothing.
"""

from gguf_worker.console.arguments import add_arguments
from gguf_worker.console.commands import run
from gguf_worker.console.terminal import Terminal

__all__ = ["Terminal", "add_arguments", "run"]
