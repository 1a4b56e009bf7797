"""Leaves out the test modules that need llama.cpp if it is not installed, as for `make unit`."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

NEEDS_LLAMA = re.compile(
    r"^(?:from|import) (?:llama_cpp|gguf_worker\.engine\.llama|benchmarks)\b", re.MULTILINE
)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore a test module that imports llama.cpp at its top, where there is none."""
    if collection_path.suffix != ".py" or find_spec("llama_cpp") is not None:
        return None
    return bool(NEEDS_LLAMA.search(collection_path.read_text(encoding="utf-8"))) or None
