"""Turns of hostile requests beside honest streams, each of one kind, so that blame has a name."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random

import httpx
import psutil

from tests.http_worker import KEY, Served
from tests.soak.attempts import GIVEN_UP, LEFT, Attempt, Ending, Load, posted, send
from tests.soak.bodies import Make
from tests.soak.honest import prose
from tests.soak.processors import Processors
from tests.soak.texts import BODIES, Target
from tests.soak.verdict import MOST_SILENT, Memory, Row, Silence
from tests.soak.watch import STREAMS, Gap, Observer

AT_ONCE = 4
"""Hostile requests that run at a time."""
_TO_END = 4.0
"""Seconds after a turn in which its last requests may still be answered."""
_TO_RECOVER = 60.0
"""Seconds after which a worker that is still busy with a turn, or says nothing, is at fault."""
_WORTH_COMPARING = MOST_SILENT / 2
_COMPARED = 4.0
"""Most seconds for which honest requests are sent to compare with."""
_STEPS = 4
"""Sizes of honest prompts from one power of two to the next."""
_SAMPLE_WORDS = 300
_LOST = 'engine_lost_total{cause="'


@dataclass(frozen=True, slots=True)
class _Sent:
    attempt: Attempt
    began: float
    ended: float
    ending: Ending


class Storm:
    """Sends turns of requests to one worker, and notes in rows what they did to its streams.

    `rows`: by kind, of all workers of a soak.
    """

    def __init__(
        self,
        served: Served,
        observer: Observer,
        target: Target,
        chance: Random,
        rows: dict[str, Row],
    ) -> None:
        self._served = served
        self._observer = observer
        self._target = target
        self._chance = chance
        self._rows = rows
        self._lost: Counter[str] = Counter()
        self._tokens_a_word = 0.0
        self._baselines: dict[Load, float] = {}

    async def begin(self) -> None:
        """Wait until all honest streams run."""
        self._tokens_a_word = await asyncio.to_thread(self._measured)
        if not await self._speak(time.monotonic()):
            raise AssertionError("the honest streams did not begin")

    async def turn(self, kind: str, make: Make, seconds: float) -> Row:
        """Send requests of one kind for this time, and return the row of all turns of its kind."""
        row = self._rows.setdefault(kind, Row())
        began = time.monotonic()
        processors = Processors()
        sent = await self._send_for(seconds, lambda: make(self._target, self._chance))
        row.sent += len(sent)
        row.endings.update(each.ending.name for each in sent)
        await self._recover(row)
        gap, others = self._observer.worst(began, time.monotonic()), processors.others()
        row.broken.update(each.code for each in self._observer.broken_since(began))
        honest = None
        if gap.seconds > _WORTH_COMPARING:
            honest = await self._beside_honest(row, _beside(sent, gap), min(seconds, _COMPARED))
        row.add_silence(Silence(gap.seconds, honest, _longest(sent, gap), others))
        return row

    def memory(self) -> Memory:
        process = psutil.Process(self._served.process.pid)
        engine = 0
        for child in process.children():
            with suppress(psutil.NoSuchProcess):  # it is just being replaced
                engine += child.memory_info().rss
        return process.memory_info().rss, engine

    async def _send_for(self, seconds: float, make: Callable[[], Attempt]) -> list[_Sent]:
        """Have AT_ONCE clients ask for this time, each at least once."""
        sent: list[_Sent] = []
        stop = time.monotonic() + seconds

        async def client() -> None:
            while True:
                attempt = make()
                began = time.monotonic()
                patience = max(_TO_END, stop + _TO_END - began)
                ending = await send(self._served.port, attempt, patience)
                sent.append(_Sent(attempt, began, time.monotonic(), ending))
                if time.monotonic() > stop:
                    return

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        return sent

    async def _recover(self, row: Row) -> None:
        """Wait until nothing of a turn runs any more and all honest streams go on."""
        deadline = time.monotonic() + _TO_RECOVER
        while not (metrics := await asyncio.to_thread(self._metrics)) or _busy(metrics):
            if self._served.process.poll() is not None:
                status = self._served.process.returncode
                row.faults[f"the worker itself ended with status {status}"] += 1
                raise WorkerEnded
            if time.monotonic() > deadline:
                row.faults["the worker was busy for a minute after it"] += 1
                break
            await asyncio.sleep(0.05)
        if not await self._speak(time.monotonic()):
            row.faults["the honest streams did not go on within a minute"] += 1
        lost = _losses(metrics or {})
        row.losses += lost - self._lost
        self._lost = lost | self._lost

    async def _speak(self, since: float) -> bool:
        deadline = time.monotonic() + _TO_RECOVER
        while not self._observer.all_spoke_since(since):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _beside_honest(self, row: Row, sent: list[_Sent], seconds: float) -> float:
        """Return the worst silence beside honest requests of as many tokens as the largest had.

        One that the context takes, if there is any: prompts that are refused are not computed.
        """
        computed = [each for each in sent if self._tokens(each) < self._target.context]
        largest = max(
            computed or sent, key=lambda each: (each.attempt.load.answers, self._tokens(each))
        )
        tokens = self._tokens(largest)
        words = _one_of_few(tokens / self._tokens_a_word, up=tokens >= self._target.context)
        load = replace(largest.attempt.load, words=words)
        if load not in self._baselines:
            began = time.monotonic()
            await self._send_for(seconds, lambda: self._honest(load))
            await self._recover(row)
            self._baselines[load] = self._observer.worst(began, time.monotonic()).seconds
        return self._baselines[load]

    def _tokens(self, sent: _Sent) -> int:
        """Return the tokens of its prompt; of one that was not answered, as many as it may have."""
        if sent.ending.tokens or sent.ending.name not in (LEFT, GIVEN_UP):
            return sent.ending.tokens
        return min(self._target.context - 100, sent.attempt.most_tokens)

    def _honest(self, load: Load) -> Attempt:
        route = load.route if load.route in BODIES else "/v1/completions"
        body = BODIES[route](prose(self._chance, load.words))
        if "max_tokens" in body:
            body["max_tokens"] = load.answer_tokens
        if load.answers > 1:
            body["n"] = load.answers
        if load.prompts > 1:
            body["prompt"] = [prose(self._chance, load.words) for _ in range(load.prompts)]
        return posted(route, body, "an honest prompt")

    def _metrics(self) -> dict[str, float] | None:
        """Return the worker's metrics; None where it does not answer now."""
        try:
            return self._served.metrics()
        except httpx.TransportError:
            return None

    def _measured(self) -> float:
        """Return the tokens of a word of honest prose."""
        body = {"prompt": prose(self._chance, _SAMPLE_WORDS)}
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = httpx.post(f"{self._served.base}/tokenize", json=body, headers=headers, timeout=30)
        return int(reply.json()["count"]) / _SAMPLE_WORDS


def _one_of_few(words: float, *, up: bool) -> int:
    """Return nearly as many words, so that nearly the same size is measured once only.

    They are fewer, so that the context takes as many tokens, or more if it does not (`up`).
    """
    step = _STEPS * math.log2(max(10.0, words))
    return int(2 ** ((math.ceil(step) if up else math.floor(step)) / _STEPS))


def _beside(sent: list[_Sent], gap: Gap) -> list[_Sent]:
    """Return the requests that ran in this gap, those that ran longest first; all, if none did."""

    def shared(each: _Sent) -> float:
        return min(each.ended, gap.ended) - max(each.began, gap.began)

    return sorted((each for each in sent if shared(each) > 0), key=shared, reverse=True) or sent


def _longest(sent: list[_Sent], gap: Gap) -> tuple[str, ...]:
    """Return what the requests that ran longest in this gap were."""
    ranked = _beside(sent, gap)
    return tuple(dict.fromkeys(each.attempt.label for each in ranked[:AT_ONCE]))


class WorkerEnded(Exception):
    """The worker itself has ended, which is noted in the row of the turn."""


def _busy(metrics: dict[str, float]) -> bool:
    return metrics["num_requests_waiting"] > 0 or metrics["num_requests_running"] > STREAMS


def _losses(metrics: dict[str, float]) -> Counter[str]:
    """Return how many engines were lost, by cause."""
    causes = {name.removeprefix(_LOST)[:-2]: n for name, n in metrics.items() if _LOST in name}
    return Counter({cause: int(number) for cause, number in causes.items()})
