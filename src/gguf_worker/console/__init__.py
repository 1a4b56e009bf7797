"""The command line for models: what is on the volume, more of it, less of it, and whether it is sound.

It works on the worker's own store with the worker's own settings, and serves nothing.
"""

from gguf_worker.console.arguments import add_arguments
from gguf_worker.console.commands import run

__all__ = ["add_arguments", "run"]
