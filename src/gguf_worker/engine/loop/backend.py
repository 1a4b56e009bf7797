"""Protocols of the loop's neighbours: llama.cpp below, and the parent at the other end of a
socket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gguf_worker.engine.cells import Operation
from gguf_worker.engine.drawing import TokenSampler
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.messages import EngineInfo, FromEngine, ToEngine
from gguf_worker.generation import Sampling


class ModelVocabulary(Protocol):
    """A model's tokens; see `llama.vocabulary.Vocabulary`."""

    pieces: list[bytes]
    bos: int
    ends: npt.NDArray[np.int32]
    suppressed: npt.NDArray[np.int32]

    @property
    def spelled(self) -> list[bytes]: ...
    def fewest_tokens(self, text: str) -> int: ...
    def read(self, text: str, *, add_special: bool, parse_special: bool) -> Iterator[list[int]]: ...
    def detokenize(self, tokens: list[int]) -> str: ...


class Backend(Protocol):
    """A model that computes steps; see `llama.Llama`."""

    info: EngineInfo
    asynchronous: bool
    """Tells whether `decode` returns before the step is computed."""

    @property
    def vocabulary(self) -> ModelVocabulary: ...
    def arrange(self, operations: Iterable[Operation]) -> None: ...
    def decode(self, chunks: tuple[Chunk, ...]) -> tuple[int, list[int]]: ...
    def wait(self) -> None: ...
    def logits(self, outputs: int) -> npt.NDArray[np.float32]: ...
    def sampler(self, sampling: Sampling, seed: int, prompt: list[int]) -> TokenSampler: ...


class MessageChannel(Protocol):
    """Messages from and to the parent; raises EOFError when it is gone. See
    `channel.SocketChannel`."""

    def receive(self, timeout: float) -> Iterable[ToEngine]: ...
    def send(self, message: FromEngine) -> None: ...
