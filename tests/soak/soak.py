"""The whole soak: which worker is asked for what, and for how long."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from gguf_worker.models.gguf.tokenizers import PRE_TOKENIZERS
from tests.http_worker import http_worker
from tests.soak import verdict
from tests.soak.attempts import Attempt
from tests.soak.kinds import KINDS
from tests.soak.storm import Storm, WorkerEnded
from tests.soak.texts import TEXTS, Target, text_attempt
from tests.soak.verdict import Memory, Row
from tests.soak.watch import STREAMS, honest_streams
from tests.tiny_gguf import write_tiny

TINY_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DEMO_MARKS = (*TINY_MARKS, "<filename>", "<repo_name>", "<empty_output>")
_SEQUENCES = 2 * STREAMS
"""So that honest streams have a place of their own."""
_TINY_SHARE = 0.4
"""The part of the time for tiny models, one for each pre-tokeniser."""
_LEAST_SECONDS = 8.0
"""Of a pre-tokeniser, its worker's start included. Where there is less time, some are left out."""
_ROUNDS = 3
_LEAST_TURN, _MOST_TURN = 0.3, 5.0


class Soak:
    """Runs the soak in `folder`, and keeps what came of it.

    `kinds`, `pres`: if not empty, only kinds with one of these in their names, and only these
    pre-tokenisers.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        say: Callable[[str], None],
        kinds: Sequence[str] = (),
        pres: Sequence[str] = (),
        most: int = 1_000_000,
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._say = say
        self._most = most
        names = [name for name in KINDS if not kinds or any(part in name for part in kinds)]
        self._kinds = {name: KINDS[name] for name in names}
        self._pres = list(pres) or ([] if kinds else sorted(PRE_TOKENIZERS))
        self._rows: dict[str, Row] = {}
        self._memory: list[Memory] = []
        self._began = time.monotonic()

    async def run(self, seconds: float, demo: Path) -> None:
        """Ask tiny models with each pre-tokeniser, then `demo`, for about so many seconds."""
        began = time.monotonic()
        share = _TINY_SHARE if self._kinds else 1.0
        if self._pres:
            await self.storm_pres(share * seconds)
        if self._kinds:
            await self.storm_demo(seconds - (time.monotonic() - began), demo)

    async def storm_pres(self, seconds: float) -> None:
        chance = Random(f"{self._seed} pre")
        count = min(len(self._pres), max(1, int(seconds // _LEAST_SECONDS)))
        stop = time.monotonic() + seconds
        chosen = sorted(chance.sample(self._pres, count))
        for at, pre in enumerate(chosen):
            left = (stop - time.monotonic()) / (count - at)
            await self._storm_pre(pre, left, chance)

    async def storm_demo(self, seconds: float, model: Path) -> None:
        """Send all kinds in rounds to a worker with this model."""
        chance = Random(f"{self._seed} demo")
        stop = time.monotonic() + seconds
        settings = {"CTX_SIZE": "2048", "REQUEST_TIMEOUT": "60"}
        target = Target(DEMO_MARKS, 2048, self._most)
        async with self._worker("demo", model, target, chance, tokens=1900, **settings) as storm:
            turn = seconds / _ROUNDS / len(self._kinds) / 2
            turn = min(_MOST_TURN, max(_LEAST_TURN, turn))
            while time.monotonic() < stop:
                for kind, make in chance.sample(list(self._kinds.items()), len(self._kinds)):
                    if time.monotonic() > stop:
                        return
                    self._report(kind, await storm.turn(kind, make, turn), storm.memory())
                self._memory.append(storm.memory())

    async def _storm_pre(self, pre: str, seconds: float, chance: Random) -> None:
        """Send all texts to a worker with a tiny model of this pre-tokeniser, in random order."""
        stop = time.monotonic() + seconds
        model = write_tiny(
            self._folder / "tiny.gguf", metadata={"tokenizer.ggml.pre": pre}, layers=1
        )
        target = Target(TINY_MARKS, 4096, self._most)
        names: list[str] = []

        def make(target: Target, chance: Random) -> Attempt:
            if not names:
                names.extend(chance.sample(TEXTS, len(TEXTS)))
            return text_attempt(names.pop(), target, chance)

        kind = f"pre: {pre}"
        settings = {"CTX_SIZE": "4096", "REQUEST_TIMEOUT": "20"}
        async with self._worker(kind, model, target, chance, tokens=3000, **settings) as storm:
            left = max(_LEAST_TURN, stop - time.monotonic())
            self._report(kind, await storm.turn(kind, make, left), storm.memory())

    @asynccontextmanager
    async def _worker(
        self,
        kind: str,
        model: Path,
        target: Target,
        chance: Random,
        *,
        tokens: int,
        **settings: str,
    ) -> AsyncIterator[Storm]:
        """Start a worker and its honest streams. Notes under `kind` if it ends or does not end."""
        settings |= {"MAX_CONCURRENCY": str(_SEQUENCES), "KV_LAYOUT": "partitioned"}
        try:
            with (
                http_worker(model, self._folder / "log", **settings) as served,
                honest_streams(served.port, tokens, self._seed) as observer,
            ):
                storm = Storm(served, observer, target, chance, self._rows)
                await storm.begin()
                yield storm
        except WorkerEnded as ended:
            self._fault(kind, f"the worker ended with status {ended}")
        except AssertionError as problem:
            self._fault(kind, f"the worker did not start, serve or end: {problem}"[-2000:])

    def _fault(self, kind: str, text: str) -> None:
        self._rows.setdefault(kind, Row()).faults[text] += 1
        self._say(f"{kind}: {text}")

    def _report(self, kind: str, row: Row, memory: Memory) -> None:
        mark = "!" if row.complaints() else " "
        sizes = "+".join(str(size >> 20) for size in memory)
        seconds = time.monotonic() - self._began
        text = f"{kind}: {row.sent} sent, silent {row.silent:.2f} s, {sizes} MiB"
        self._say(f"{seconds:6.1f} {mark} {text}")

    def complaints(self) -> list[str]:
        """Return every broken rule, with the kind that broke it."""
        return verdict.complaints(self._rows, self._memory)

    def table(self) -> str:
        return verdict.table(self._rows, self._memory)
