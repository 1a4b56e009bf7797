"""Shared cells change nothing. The engine's loop over real models of each kind of memory, under a
random load with cancels, forks, evictions and preemption; every logit it draws from is computed
again from an empty cache, in one batch.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_worker.engine.cells.unified import Operation, Trim
from gguf_worker.engine.drawing.grammars.compiler import Compiler
from gguf_worker.engine.llama.context import Llama, Logits
from gguf_worker.engine.loop.factory import scheduler_for
from gguf_worker.engine.loop.scheduler import Chunk, Scheduler
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.server import Server
from gguf_worker.engine.messages import Cancel, EngineRequest, EngineSpec, Step, Submit, ToEngine
from gguf_worker.generation import Sampling
from tests.fakes import FakeClock
from tests.tiny_gguf import ARCHITECTURES, write_tiny

pytestmark = pytest.mark.llama

TOLERANCE = 0.01
"""Largest difference of a logit. The logits of these models are about 1 in size, and their cells
are f16."""

GREEDY = Sampling(temperature=0.0)
CONTEXT, BURST, TURNS = 200, 40, 120
SCORED = 12
"""The prompt of every so many a request is scored: each of its rows has logits."""
TIGHT = 256
"""Cells for one request and a little more."""


def opened(path: Path, **more: Any) -> Llama:
    settings: dict[str, Any] = {
        "context": CONTEXT,
        "sequences": 4,
        "kv_cells": 512,
        "threads": 1,
        "batch_size": 64,
        "ubatch_size": 32,
        "idle_sequences": 4,
        "flash_attention": "off",
    }
    spec = EngineSpec(path=str(path), **(settings | more))
    return Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)


@dataclass
class Watched:
    """A backend that keeps, for each row that was drawn from, the tokens before it and its
    logits."""

    llama: Llama
    rows: list[tuple[list[int], Logits]] = field(default_factory=list)
    copies: Counter[str] = field(default_factory=Counter)
    scored: int = 0
    _chunks: tuple[Chunk, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.llama, name)

    def arrange(self, operations: Iterable[Operation]) -> None:
        operations = tuple(operations)
        self.copies.update(type(operation).__name__ for operation in operations)
        self.llama.arrange(operations)

    def decode(self, chunks: tuple[Chunk, ...]) -> tuple[int, list[int]]:
        self._chunks = chunks
        code, rows = self.llama.decode(chunks)
        assert code == 0, "we count the cells, and llama.cpp finds none"
        return code, rows

    def logits(self, outputs: int) -> Logits:
        logits = self.llama.logits(outputs)
        wanted = [
            chunk.sequence.tokens[: chunk.start + at + 1]
            for chunk in self._chunks
            for at in range(chunk.rows - chunk.scored - chunk.output, chunk.rows)
            if chunk.scored or chunk.output
        ]
        self.scored += sum(chunk.scored for chunk in self._chunks)
        self.rows += [(tokens, row.copy()) for tokens, row in zip(wanted, logits, strict=True)]
        return logits


class Parent:
    """Sends random requests that share beginnings, cancels some, and checks the cache whenever it
    is idle."""

    def __init__(self, seed: int, backend: Watched, scheduler: Scheduler) -> None:
        self.random = random.Random(seed)
        self.backend = backend
        self.scheduler = scheduler
        self.stems = [self.tokens(count) for count in (12, 40, 90)]
        self.texts: list[list[int]] = []  # of requests that were sent, to go on from
        self.sent: dict[int, list[int]] = {}
        self.ended: dict[int, int] = {}  # how many tokens of the prompt were taken over
        self.preempted = 0
        self.turns = 0
        self.idle_checks = 0

    def tokens(self, count: int) -> list[int]:
        return [self.random.randrange(256) for _ in range(count)]

    def receive(self, timeout: float) -> list[ToEngine]:
        """One turn's messages. Now and then it says nothing until all have ended."""
        idle = self.scheduler.idle
        if idle:
            self.check()
        elif self.turns % BURST == 0:
            return []
        if self.turns >= TURNS:
            raise EOFError
        self.turns += 1
        messages: list[ToEngine] = []
        if idle or self.random.random() < 0.25:
            messages += self.requests()
        if self.sent and self.random.random() < 0.04:
            messages.append(Cancel(self.random.choice(list(self.sent))))
        return messages

    def requests(self) -> list[ToEngine]:
        stem = self.random.choice([*self.stems, *self.texts[-4:]])
        prompt = (stem + self.tokens(self.random.choice([1, 3, 25])))[: CONTEXT - 20]
        copies = self.random.choice([1, 1, 3])
        return [self.request(prompt) for _ in range(copies)]

    def request(self, prompt: list[int]) -> Submit:
        id = len(self.sent) + 1
        self.sent[id] = prompt
        self.texts.append(prompt)
        limit = self.random.choice([1, 6, 20, 90])
        request = EngineRequest(
            prompt,
            GREEDY,
            max_tokens=limit,
            ignore_eos=True,
            prompt_logprobs=0 if id % SCORED == 0 else -1,
        )
        return Submit(id, request)

    def send(self, message: Any) -> None:
        assert isinstance(message, Step)
        self.preempted += message.preempted
        for delta in message.deltas:
            if delta.last:
                assert delta.failure is None
                assert delta.usage is not None
                self.ended[delta.id] = delta.usage.cached_tokens

    def check(self) -> None:
        """llama.cpp holds under each id as many tokens as we believe."""
        self.scheduler.check()
        self.backend.arrange(self.scheduler.cells.operations())
        ids = self.scheduler.slots + self.backend.llama.info.idle_sequences
        held = {id: self.backend.llama.held(id) for id in range(ids)}
        assert held == {id: self.scheduler.cells.held(id) for id in range(ids)}
        self.idle_checks += 1


@contextmanager
def loaded(path: Path, seed: int, **settings: Any) -> Iterator[tuple[Watched, Parent]]:
    """A model after a random load."""
    llama = opened(path, **settings)
    try:
        spec = EngineSpec(
            path=str(path), context=CONTEXT, sequences=4, max_queue=64, prefill_chunk=24
        )
        scheduler = scheduler_for(spec, llama.info)
        backend = Watched(llama)
        parent = Parent(seed, backend, scheduler)
        compiler = Compiler(llama.vocabulary)
        Server(
            backend,
            parent,
            scheduler,
            compiler=compiler,
            now=FakeClock(per_look=0.001),
            seeds=random.Random(0),
        ).run()
        compiler.close()
        yield backend, parent
    finally:
        llama.close()


def from_scratch(path: Path, rows: list[tuple[list[int], Logits]]) -> Iterator[Logits]:
    """The logits after each of these tokens, each computed alone in one batch."""
    llama = opened(path, sequences=1, idle_sequences=0, batch_size=CONTEXT, ubatch_size=CONTEXT)
    try:
        for tokens, _ in rows:
            sequence = Sequence.of(1, tokens, 1)
            sequence.slot = 0
            code, _ = llama.decode([Chunk(sequence, 0, len(tokens), True)])
            assert code == 0
            yield llama.logits(1)[0].copy()
            llama.arrange([Trim(0, 0)])
    finally:
        llama.close()


KINDS = [
    *(pytest.param(name, {}, id=name) for name in ARCHITECTURES),
    pytest.param(
        "llama", {"unified": False, "idle_sequences": 1, "kv_cells": 5 * 256}, id="own cells"
    ),
    pytest.param("gemma3", {"kv_cells": 4096}, id="gemma3, roomy"),
    pytest.param("llama", {"kv_cells": TIGHT}, id="llama, tight"),
    pytest.param("lfm2", {"kv_cells": TIGHT}, id="lfm2, tight"),
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("architecture", "settings"), KINDS)
def test_logits_from_shared_cells_are_those_of_an_empty_cache(
    tmp_path: Path, architecture: str, settings: dict[str, Any], seed: int
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", architecture)
    with loaded(path, seed, **settings) as (backend, parent):
        rows = backend.rows
    assert len(rows) > 200
    assert parent.idle_checks > 2
    assert backend.copies["Copy"] > 10
    assert backend.scored > 50
    assert sum(parent.ended.values()) > 500, "next to nothing was shared"
    worst, parted = 0.0, 0
    for (_, shared), alone in zip(rows, from_scratch(path, rows), strict=True):
        worst = max(worst, float(np.abs(shared - alone).max()))
        if shared.argmax() != alone.argmax():
            parted += 1
            second, first = np.partition(alone, -2)[-2:]
            assert first - second < 2 * TOLERANCE, "another token, and no near-tie"
    if settings.get("kv_cells") == TIGHT:
        assert parent.preempted > 0
    print(
        f"{len(rows)} rows, largest difference {worst:.4f}, {parted} near-ties drawn the other way"
    )
    assert worst < TOLERANCE
