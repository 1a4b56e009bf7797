"""What llama.cpp's log says of a file that it did not open: the file's fault, or this machine's.

What nobody knows is taken for the machine's, since another one is tried at little cost, while a
fault of the file ends a whole endpoint.
"""

from __future__ import annotations

import re

_LACK = re.compile(r"alloc|out of memory|not enough memory", re.IGNORECASE)
_OF_THE_FILE = re.compile(
    r"error loading model (?:architecture|hyperparameters|vocabulary): "
    r"|unknown model architecture: "
    r"|missing tensor '"
    r"|tensor '[^']*' (?:not found|has wrong shape|is duplicated|has invalid data)"
    r"|wrong number of tensors; "
    r"|tensors expected but "
    r"|invalid magic characters|this GGUF file is version|GGUFv1 is no longer supported"
    r"|has invalid (?:GGUF|ggml) type"
    # of adapters
    r"|does not exist in base model|has incorrect shape|has unexpected suffix"
    r"|is missing one component|is not transposed|expect (?:general|adapter)\.type"
    r"|model arch and LoRA arch mismatch",
    re.IGNORECASE,
)
"""What is said of a content that was read. A file that ends too early is not among it: it may be
being written, or read wrongly, and whoever looks at it next sees that by its size."""


def is_lack(log: str) -> bool:
    """Tell whether there was too little memory."""
    return _LACK.search(log) is not None


def is_of_the_file(log: str) -> bool:
    """Tell whether the file itself cannot be loaded, on any host."""
    return _OF_THE_FILE.search(log) is not None and not is_lack(log)
