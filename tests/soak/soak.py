"""The whole soak: which worker is asked for what, and for how long."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.http_worker import http_worker
from tests.soak import verdict
from tests.soak.attempts import Attempt
from tests.soak.kinds import KINDS
from tests.soak.storm import Storm, WorkerEnded
from tests.soak.texts import TEXTS, Target, text_attempt
from tests.soak.tokenizers import TOKENIZERS
from tests.soak.verdict import Memory, Row
from tests.soak.watch import STREAMS, honest_streams
from tests.tiny_gguf import write_tiny

TINY_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DEMO_MARKS = (*TINY_MARKS, "<filename>", "<repo_name>", "<empty_output>")
_SEQUENCES = 2 * STREAMS
"""So that honest streams have a place of their own."""
_THREADS = max(1, len(os.sched_getaffinity(0)) - 1)
"""Of the engine: all who ask run on this machine too."""
_CHUNK = 64
"""Tokens of prompts in a step: reading a long prompt on few threads should be no silence yet."""
_TINY_SHARE = 0.4
"""The part of the time for tiny models, one for each tokeniser."""
_LEAST_SECONDS = 12.0
"""Of a tokeniser, its worker's start included. Where there is less time, some are left out."""
_ROUNDS = 3
_LEAST_TURN, _MOST_TURN = 0.3, 5.0


class Soak:
    """Runs the soak in `folder`, and keeps what came of it.

    `only`: if not empty, only the kinds and tokenisers with one of these in their names.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        say: Callable[[str], None],
        only: Sequence[str] = (),
        most: int = 1_000_000,
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._say = say
        self._most = most
        self._kinds = {name: KINDS[name] for name in _chosen(KINDS, only)}
        self._tokenizers = _chosen(TOKENIZERS, only)
        self._rows: dict[str, Row] = {}
        self._floors: list[Memory] = []
        self._memory: dict[str, Memory] = {}
        self._began = time.monotonic()

    async def run(self, seconds: float, demo: Path) -> None:
        """Ask tiny models with each tokeniser, then `demo`, for about so many seconds."""
        began = time.monotonic()
        share = _TINY_SHARE if self._kinds else 1.0
        if self._tokenizers:
            await self._storm_tiny(share * seconds)
        if self._kinds:
            left = seconds - (time.monotonic() - began)
            await self._noted("demo", self._storm_demo(left, demo))

    async def _storm_tiny(self, seconds: float) -> None:
        chance = Random(f"{self._seed} tokenizers")
        count = min(len(self._tokenizers), max(1, int(seconds // _LEAST_SECONDS)))
        stop = time.monotonic() + seconds
        chosen = sorted(chance.sample(self._tokenizers, count))
        for at, kind in enumerate(chosen):
            left = (stop - time.monotonic()) / (count - at)
            await self._noted(kind, self._storm_tokenizer(kind, left, chance))

    async def _storm_demo(self, seconds: float, model: Path) -> None:
        """Send all kinds in rounds to a worker with this model."""
        chance = Random(f"{self._seed} demo")
        stop = time.monotonic() + seconds
        settings = {"CTX_SIZE": "2048", "REQUEST_TIMEOUT": "60"}
        target = Target(DEMO_MARKS, 2048, self._most)
        async with self._worker(model, target, chance, tokens=1900, **settings) as storm:
            turn = seconds / _ROUNDS / len(self._kinds) / 2
            turn = min(_MOST_TURN, max(_LEAST_TURN, turn))
            self._memory["at the start"] = storm.memory()
            while time.monotonic() < stop:
                floor = storm.memory()
                for kind, make in chance.sample(list(self._kinds.items()), len(self._kinds)):
                    if time.monotonic() > stop:
                        return
                    self._report(kind, await storm.turn(kind, make, turn), storm.memory())
                    self._memory["at the end"] = sizes = storm.memory()
                    floor = min(floor[0], sizes[0]), min(floor[1], sizes[1])
                self._floors.append(floor)

    async def _storm_tokenizer(self, kind: str, seconds: float, chance: Random) -> None:
        """Send all texts to a worker with a tiny model of this tokeniser, in random order."""
        stop = time.monotonic() + seconds
        model = write_tiny(self._folder / "tiny.gguf", metadata=TOKENIZERS[kind], layers=1)
        target = Target(TINY_MARKS, 4096, self._most)
        names: list[str] = []

        def make(target: Target, chance: Random) -> Attempt:
            if not names:
                names.extend(chance.sample(TEXTS, len(TEXTS)))
            return text_attempt(names.pop(), target, chance)

        settings = {"CTX_SIZE": "4096", "REQUEST_TIMEOUT": "20"}
        async with self._worker(model, target, chance, tokens=3000, **settings) as storm:
            left = max(_LEAST_TURN, (stop - time.monotonic()) / 2)
            self._report(kind, await storm.turn(kind, make, left), storm.memory())

    async def _noted(self, kind: str, storming: Awaitable[None]) -> None:
        """Storm a worker; note under `kind` if it does not start, ends or does not end."""
        try:
            await storming
        except WorkerEnded:
            self._say(f"{kind}: the worker ended")
        except AssertionError as problem:
            text = f"the worker did not start, serve or end well: {problem}"[-2000:]
            self._rows.setdefault(kind, Row()).faults[text] += 1
            self._say(f"{kind}: {text}")

    @asynccontextmanager
    async def _worker(
        self, model: Path, target: Target, chance: Random, *, tokens: int, **settings: str
    ) -> AsyncIterator[Storm]:
        """Start a worker and its honest streams."""
        settings |= {"MAX_CONCURRENCY": str(_SEQUENCES), "KV_LAYOUT": "partitioned"}
        settings |= {"THREADS": str(_THREADS), "PREFILL_CHUNK": str(_CHUNK)}
        with (
            http_worker(model, self._folder / "log", **settings) as served,
            honest_streams(served.port, tokens, self._seed) as observer,
        ):
            storm = Storm(served, observer, target, chance, self._rows)
            await storm.begin()
            yield storm

    def _report(self, kind: str, row: Row, memory: Memory) -> None:
        mark = "!" if row.complaints() else " "
        sizes = "+".join(str(size >> 20) for size in memory)
        seconds = time.monotonic() - self._began
        silent = 0.0 if row.silence is None else row.silence.seconds
        text = f"{kind}: {row.sent} sent, silent {silent:.2f} s, {sizes} MiB"
        self._say(f"{seconds:6.1f} {mark} {text}")

    def complaints(self) -> list[str]:
        """Return every broken rule, with the kind that broke it."""
        return verdict.complaints(self._rows, self._floors)

    def table(self) -> str:
        rounds = {f"least in round {at}": floor for at, floor in enumerate(self._floors, 1)}
        return verdict.table(self._rows, {**self._memory, **rounds})


def _chosen(names: Iterable[str], only: Sequence[str]) -> list[str]:
    return [name for name in names if not only or any(part in name for part in only)]
