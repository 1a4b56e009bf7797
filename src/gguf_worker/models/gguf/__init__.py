"""What GGUF files say of themselves, read without llama.cpp: models, their parts, adapters, and what they are for.

Every length is checked against the file. Knows neither where a file came from nor what becomes of it.
"""

from gguf_worker.models.gguf.adapters import (
    AdapterHeader,
    check_goes_with,
    is_adapter,
    read_adapter,
    with_weights_of,
)
from gguf_worker.models.gguf.container import (
    AGAIN,
    TENSOR_TYPES,
    Container,
    Tensor,
    parse_container,
    read_container,
)
from gguf_worker.models.gguf.header import Header, header_of, read_header
from gguf_worker.models.gguf.purpose import Purpose, purpose_of
from gguf_worker.models.gguf.splits import is_gguf, joined, parts_of, stem_of

__all__ = [
    "AGAIN",
    "TENSOR_TYPES",
    "AdapterHeader",
    "Container",
    "Header",
    "Purpose",
    "Tensor",
    "check_goes_with",
    "header_of",
    "is_adapter",
    "is_gguf",
    "joined",
    "parse_container",
    "parts_of",
    "purpose_of",
    "read_adapter",
    "read_container",
    "read_header",
    "stem_of",
    "with_weights_of",
]
