"""Where an answer can come from, behind one small protocol."""

from gguf_worker.engine import Sampling
from gguf_worker.providers.local import Local
from gguf_worker.providers.request import Finish, Piece, Provider, Usage, Wish

__all__ = ["Finish", "Local", "Piece", "Provider", "Sampling", "Usage", "Wish"]
