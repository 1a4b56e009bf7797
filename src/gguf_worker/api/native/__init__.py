"""The plain dialect of a job's own input: read like OpenAI's bodies, answered with plain objects.

The package depends neither on jobs nor on the way in which an object is posted.
"""

from gguf_worker.api.native.input_reader import read_native
from gguf_worker.api.native.item_writer import failure_item, native_writer

__all__ = ["failure_item", "native_writer", "read_native"]
