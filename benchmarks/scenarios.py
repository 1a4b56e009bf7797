"""The scenarios: what is asked of each contestant and what is measured, one function for each.

Every scenario starts its contestants anew for every repetition, so that no cache helps, and asks
all of them for the same: the same texts, greedy answers of a fixed number of tokens. Commands of
servers and the form of results are not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import cold_start, download, overhead, sdk_loop
from benchmarks.client import Answer, Client, Message
from benchmarks.measures import Measures, at, percentile
from benchmarks.peers import EXAMPLE, LLAMA_SERVER, OURS, PEERS, Setup, running
from benchmarks.prompts import Prompts, Vocabulary

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of all scenarios: tokens of texts, and numbers of requests."""

    answer: int = 64
    """Tokens of an answer."""
    prompt: int = 60
    levels: tuple[int, ...] = (1, 4, 8, 16, 32)
    level_requests: int = 4
    """The least number of requests at a level: those of a small one come in several bursts."""
    burst: int = 16
    shared: int = 700
    question: int = 15
    chats: int = 8
    turns: int = 4
    streams: int = 8
    stream_answer: int = 160
    """Tokens enough for the streams to be running while the long prompts are computed."""
    stream_lead: int = 16
    """Reads that every stream has had before the long prompts arrive."""
    long_prompts: int = 3
    long_prompt: int = 2000
    long_answer: int = 16
    choices: int = 4
    steps: int = 300
    """Steps over which the engine's own time is measured."""
    download: str = "1b"
    """The shape of the model that is downloaded: 1 GB."""


FULL = Scale()
QUICK = Scale(
    answer=8,
    levels=(1, 4),
    level_requests=2,
    burst=4,
    shared=100,
    chats=2,
    turns=2,
    streams=2,
    stream_answer=32,
    stream_lead=4,
    long_prompts=2,
    long_prompt=300,
    long_answer=4,
    choices=2,
    steps=30,
    download="tiny",
)
"""Sizes that only show that everything runs: their figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The model and the settings that all scenarios of a run share."""

    model: Path
    threads: int
    vocabulary: Vocabulary
    scale: Scale
    plain_buffers: bool = False

    def setup(self, context: int, slots: int) -> Setup:
        """Return the settings of a server with so many tokens a request and requests at once."""
        return Setup(
            self.model, self.threads, context, slots, self.vocabulary.ends, self.plain_buffers
        )


Drive = Callable[[Bench, Client, Prompts], Awaitable[Measures]]


@dataclass(frozen=True, slots=True)
class Served:
    """A scenario with servers. `drive` asks them; `slots` gives the number of requests at once."""

    title: str
    contestants: tuple[str, ...]
    context: int
    slots: Callable[[Scale], int]
    drive: Drive

    def setup(self, bench: Bench) -> Setup:
        """Return the settings that all contestants are started with."""
        return bench.setup(self.context, self.slots(bench.scale))

    async def run(self, bench: Bench, contestant: str, prompts: Prompts) -> Measures:
        """Measure one repetition of one contestant."""
        async with running(contestant, self.setup(bench)) as client:
            return await self.drive(bench, client, prompts)


@dataclass(frozen=True, slots=True)
class Alone:
    """A scenario that starts what it measures by itself."""

    title: str
    contestants: tuple[str, ...]
    run: Callable[[Bench, str, Prompts], Awaitable[Measures]]


# Questions and figures


def _chat(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _own(prompts: Prompts, tokens: int) -> list[Message]:
    """Return a prompt that shares no prefix with any other.

    Its text begins in the system message, because a template writes that first.
    """
    return _chat(prompts.text(tokens // 2), prompts.text(tokens - tokens // 2))


async def _together(client: Client, chats: Sequence[list[Message]], answer: int) -> list[Answer]:
    return await _all([client.ask(chat, answer) for chat in chats])


async def _all(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results; when one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _wall(answers: Sequence[Answer]) -> float:
    return max(answer.ended for answer in answers) - min(answer.began for answer in answers)


def _speed(bursts: Sequence[Sequence[Answer]]) -> Measures:
    """Return the figures of requests that came in bursts, one burst after the other."""
    answers = list(itertools.chain.from_iterable(bursts))
    wall = sum(_wall(burst) for burst in bursts)
    ttfts = [answer.ttft for answer in answers]
    gaps = [gap for answer in answers for gap in answer.gaps]
    return {
        "tokens_per_second": sum(answer.tokens for answer in answers) / wall,
        "wall": wall,
        "ttft_p50": percentile(ttfts, 50),
        "ttft_p95": percentile(ttfts, 95),
        **_pauses(gaps, {"gap_p99": 99}),
    }


def _pauses(gaps: Sequence[float], wanted: Mapping[str, float]) -> Measures:
    """Return percentiles of the times between tokens; nothing when no stream had two of them."""
    return {name: percentile(gaps, percent) for name, percent in wanted.items()} if gaps else {}


# The scenarios


async def _own_prompts(bench: Bench, client: Client, prompts: Prompts) -> Measures:
    scale = bench.scale
    measures: dict[str, float] = {}
    for level in scale.levels:
        bursts = []
        for _ in range(-(-scale.level_requests // level)):
            chats = [_own(prompts, scale.prompt) for _ in range(level)]
            bursts.append(await _together(client, chats, scale.answer))
        measures |= {at(name, level): value for name, value in _speed(bursts).items()}
    return measures


async def _shared_prefix(bench: Bench, client: Client, prompts: Prompts) -> Measures:
    scale, system = bench.scale, prompts.text(bench.scale.shared)
    chats = [_chat(system, prompts.text(scale.question)) for _ in range(scale.burst)]
    return _speed([await _together(client, chats, scale.answer)])


async def _chats(bench: Bench, client: Client, prompts: Prompts) -> Measures:
    scale = bench.scale
    chats = [_own(prompts, scale.prompt) for _ in range(scale.chats)]
    begun = [prompts.text(scale.prompt) for _ in range(scale.chats * (scale.turns - 1))]
    turns = await _all(
        [
            _one_chat(client, chat, begun[number :: scale.chats], scale.answer)
            for number, chat in enumerate(chats)
        ]
    )
    answers = list(itertools.chain.from_iterable(turns))
    measures = dict(_speed([answers]))
    if all(answer.cached_tokens is not None for answer in answers):
        measures["reused"] = reused_share(turns, bench.vocabulary.count)
    return measures


async def _one_chat(
    client: Client, messages: list[Message], questions: Sequence[str], answer: int
) -> list[Answer]:
    answers = [await client.ask(messages, answer)]
    for question in questions:
        messages.append({"role": "assistant", "content": answers[-1].text})
        messages.append({"role": "user", "content": question})
        answers.append(await client.ask(messages, answer))
    return answers


def reused_share(chats: Sequence[Sequence[Answer]], count: Callable[[str], int]) -> float:
    """Return the share of the reusable tokens that was taken from the cache.

    A turn could reuse the prompt before it and that prompt's answer, except for the answer's last
    token, which was drawn and never computed. An answer whose text has another number of tokens
    than were generated does not count: as text in the next prompt, it becomes other tokens.
    """
    could = did = 0
    for answers in chats:
        for before, after in itertools.pairwise(answers):
            assert before.prompt_tokens is not None
            assert after.cached_tokens is not None
            comes_back = count(before.text) == before.tokens
            reusable = before.prompt_tokens + (before.tokens - 1 if comes_back else 0)
            could += reusable
            did += min(after.cached_tokens, reusable)
    return did / could


async def _long_arrivals(bench: Bench, client: Client, prompts: Prompts) -> Measures:
    scale = bench.scale
    leads, all_lead = [0] * scale.streams, asyncio.Event()

    def lead(stream: int, reads: int) -> None:
        leads[stream] = reads
        if min(leads) >= scale.stream_lead:
            all_lead.set()

    async def stream(number: int) -> list[Answer]:
        chat = _own(prompts, scale.prompt)
        answer = await client.ask(chat, scale.stream_answer, on_text=partial(lead, number))
        lead(number, scale.stream_lead)  # it may have ended earlier, and must hold nobody up
        return [answer]

    async def arrive() -> list[Answer]:
        chats = [_own(prompts, scale.long_prompt) for _ in range(scale.long_prompts)]
        await all_lead.wait()
        return await _together(client, chats, scale.long_answer)

    late, *streams = await _all([arrive(), *(stream(number) for number in range(scale.streams))])
    gaps = [gap for answers in streams for answer in answers for gap in answer.gaps]
    answers = [*late, *itertools.chain.from_iterable(streams)]
    return {
        **_pauses(gaps, {"gap_p50": 50, "gap_p99": 99, "gap_max": 100}),
        "late_ttft_p95": percentile([answer.ttft for answer in late], 95),
        "wall": _wall(answers),
        "tokens_per_second": sum(answer.tokens for answer in answers) / _wall(answers),
    }


async def _several_choices(bench: Bench, client: Client, prompts: Prompts) -> Measures:
    scale = bench.scale
    chat = _chat(prompts.text(scale.shared), prompts.text(scale.question))
    answer = await client.ask(chat, scale.answer, n=scale.choices)
    return {
        "wall": answer.ended - answer.began,
        "ttft_p50": answer.ttft,
        "tokens": answer.tokens,
        "tokens_per_second": answer.tokens / (answer.ended - answer.began),
    }


async def _beside_a_spinner(bench: Bench, client: Client, prompts: Prompts) -> Measures:
    chats = [_own(prompts, bench.scale.prompt) for _ in range(bench.scale.streams)]
    with _spinner():
        return _speed([await _together(client, chats, bench.scale.answer)])


@contextlib.contextmanager
def _spinner() -> Iterator[None]:
    """Run another process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _overhead(bench: Bench, contestant: str, prompts: Prompts) -> Measures:
    return await overhead.measure(bench.scale.steps)


async def _cold_start(bench: Bench, contestant: str, prompts: Prompts) -> Measures:
    return await cold_start.measure(contestant, bench.model, bench.threads)


async def _download(bench: Bench, contestant: str, prompts: Prompts) -> Measures:
    return await download.measure(contestant, bench.scale.download)


async def _sdk_loop(bench: Bench, contestant: str, prompts: Prompts) -> Measures:
    scale = bench.scale
    texts = [prompts.text(scale.prompt) for _ in range(scale.burst)]
    run = sdk_loop.through_sdk if contestant == sdk_loop.SDK else sdk_loop.direct
    return await run(bench.model, bench.threads, texts, scale.answer)


_BATCHING = (OURS, LLAMA_SERVER, EXAMPLE)

SCENARIOS: Mapping[str, Served | Alone] = {
    "own": Served(
        "Own prompts",
        PEERS,
        context=512,
        slots=lambda scale: max(scale.levels),
        drive=_own_prompts,
    ),
    "prefix": Served(
        "Cold shared prefix: all at once with one new system prompt",
        PEERS,
        context=1024,
        slots=lambda scale: scale.burst,
        drive=_shared_prefix,
    ),
    "chats": Served(
        "Chats of several turns at once",
        _BATCHING,
        context=4096,
        slots=lambda scale: scale.chats,
        drive=_chats,
    ),
    "long": Served(
        "Long prompts arriving over running streams",
        _BATCHING,
        context=2560,
        slots=lambda scale: scale.streams + scale.long_prompts,
        drive=_long_arrivals,
    ),
    "choices": Served(
        "Several choices (n) of one prompt",
        _BATCHING,
        context=1024,
        slots=lambda scale: scale.choices,
        drive=_several_choices,
    ),
    "spinner": Served(
        "Own prompts beside a process that keeps one core busy",
        (OURS, LLAMA_SERVER),
        context=512,
        slots=lambda scale: scale.streams,
        drive=_beside_a_spinner,
    ),
    "overhead": Alone("The engine's own time on a tiny model", (OURS,), _overhead),
    "cold": Alone(
        "Cold start to the first question for a job",
        (cold_start.OURS, cold_start.NAIVE),
        _cold_start,
    ),
    "download": Alone("Download from a Hub on this machine", download.CONTESTANTS, _download),
    "sdk": Alone("Jobs through RunPod's SDK", (sdk_loop.SDK, sdk_loop.DIRECT), _sdk_loop),
}
