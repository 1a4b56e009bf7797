"""Tiny models of random weights, opened once for a module's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.messages import EngineSpec
from tests.tiny_gguf import write_tiny

Open = Callable[..., Llama]


@pytest.fixture(scope="module")
def open_tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Opens a tiny model, each kind with the same settings once."""
    folder = tmp_path_factory.mktemp("models")
    opened: dict[str, Llama] = {}

    def open_once(architecture: str = "llama", metadata: Any = None, **settings: int) -> Llama:
        key = f"{architecture} {metadata} {settings}"
        if key not in opened:
            path = write_tiny(folder / f"{len(opened)}.gguf", architecture, metadata=metadata)
            sizes: dict[str, Any] = {
                "context": 256,
                "sequences": 4,
                "batch_size": 256,
                # A step of a model with a sliding window is one pass.
                "ubatch_size": 256 if architecture == "gemma3" else 64,
            }
            opened[key] = Llama(
                EngineSpec(path=str(path), **(sizes | settings)),
                progress=lambda _: None,
                beat=lambda: None,
                log=lambda _: None,
            )
        return opened[key]

    yield open_once
    for llama in opened.values():
        llama.close()
