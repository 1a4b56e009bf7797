"""Time that the engine's own code takes in a step: everything but llama.cpp's calls.

The engine is the real process, started by its real client. Before it begins, a stopwatch is put
around every function of the bindings and around the methods of each of its phases. The model is a
tiny random one, so that a step is short and our part of it shows.

    python -m benchmarks.overhead        prints the figures
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.measures import Measures, at, percentile
from benchmarks.random_model import SHAPES, write
from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.generation import Sampling

ROWS = (1, 8, 32)
"""Numbers of sequences that decode together, which are the rows of a step."""

PHASES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "drain": (("loop.server", "Server._receive"),),
    "plan": (
        ("loop.scheduler", "Scheduler.plan"),
        ("loop.scheduler", "Scheduler.commit"),
        ("loop.scheduler", "Scheduler.advance"),
    ),
    "fill": (("llama.batch", "Batch.fill"), ("llama.context", "Llama.decode")),
    "sample": (("llama.sampler", "ChainSampler.sample"), ("llama.context", "Llama.logits")),
    "text": (("loop.text_stream", "TextStream.feed"), ("loop.text_stream", "TextStream.flush")),
    "message": (("loop.channel", "SocketChannel.send"),),
}
"""The engine's methods by phase: (module, method). The time of all other code is "other"."""

LLAMA, OTHER = "llama.cpp", "other"
_RESULTS = "BENCHMARK_OVERHEAD_RESULTS"
_CONTEXT = 1024
_SETTLE = 10
"""Steps at either end that are not counted, because requests come and go there."""
_APART = 200
"""Further tokens of each answer, because on a busy machine some are far ahead of others."""


# In this process


async def measure(steps: int) -> Measures:
    """Return the microseconds of our own time in a step, by the number of its rows and by phase."""
    measures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = write(Path(scratch) / "tiny.gguf", SHAPES["tiny"])
        for rows in ROWS:
            results = Path(scratch) / f"{rows}.json"
            await _generate(model, rows, steps + 2 * _SETTLE + _APART, results)
            recorded = json.loads(results.read_text())
            measures |= figures(rows, recorded)
    return measures


async def _generate(model: Path, rows: int, steps: int, results: Path) -> None:
    client = EngineClient(
        EngineSpec(
            path=str(model),
            context=_CONTEXT,
            sequences=rows,
            kv_cells=_CONTEXT * rows,
            threads=1,  # the other core is for whoever reads the messages
        ),
        observe=lambda _: None,
        command=(sys.executable, "-m", "benchmarks.overhead"),
        variables={_RESULTS: str(results)},
    )
    with closing(client):
        await asyncio.to_thread(client.start)
        await asyncio.gather(*(_one(client, f"Row {row} of the sea", steps) for row in range(rows)))


async def _one(client: EngineClient, prompt: str, steps: int) -> None:
    greedy = Sampling(temperature=0.0)
    request = EngineRequest(prompt, greedy, max_tokens=steps, ignore_eos=True)
    async for _ in client.submit(request):
        pass


def figures(rows: int, recorded: list[Mapping[str, Any]]) -> Measures:
    """Return medians over the steps that decoded exactly `rows` rows; RuntimeError without any."""
    steps = [step["seconds"] for step in recorded if step["rows"] == rows][_SETTLE:-_SETTLE]
    if not steps:
        raise RuntimeError(f"no step had {rows} rows")
    own = [sum(step.values()) - step.get(LLAMA, 0.0) for step in steps]
    measures = {at("own_us", rows): percentile(own, 50) * 1e6}
    for phase in (*PHASES, OTHER, LLAMA):
        seconds = [step.get(phase, 0.0) for step in steps]
        measures[at(f"{phase}_us", rows)] = percentile(seconds, 50) * 1e6
    return measures


# In the engine's process


class Stopwatch:
    """A stopwatch that books its own thread's time on the innermost phase that runs."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.steps: list[dict[str, Any]] = []
        self._now = now
        self._spent: dict[str, float] = defaultdict(float)
        self._running = [OTHER]
        self._since = now()
        self._thread = threading.get_ident()

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time booked on the phase."""

        @functools.wraps(function, updated=())
        def run(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*arguments, **named)
            self._enter(phase)
            try:
                return function(*arguments, **named)
            finally:
                self._leave()

        return run

    def close_step(self, rows: int) -> None:
        """End a step of so many rows, and begin the next."""
        self._book()
        self.steps.append({"rows": rows, "seconds": dict(self._spent)})
        self._spent.clear()

    def _enter(self, phase: str) -> None:
        self._book()
        self._running.append(phase)

    def _leave(self) -> None:
        self._book()
        self._running.pop()

    def _book(self) -> None:
        now = self._now()
        self._spent[self._running[-1]] += now - self._since
        self._since = now


def _install(watch: Stopwatch) -> None:
    """Put the stopwatch around the bindings and around the engine's phases."""
    import llama_cpp

    for name in dir(llama_cpp):
        function = getattr(llama_cpp, name)
        # Types are callable too: structures and callbacks.
        foreign = name.startswith(("llama_", "ggml_")) and callable(function)
        if foreign and not isinstance(function, type):
            setattr(llama_cpp, name, watch.timed(LLAMA, function))
    for phase, methods in PHASES.items():
        for module, method in methods:
            kind, name = method.split(".")
            owner = getattr(importlib.import_module(f"gguf_worker.engine.{module}"), kind)
            setattr(owner, name, watch.timed(phase, getattr(owner, name)))


def _watch_steps(watch: Stopwatch, results: Path) -> None:
    """Close a step when its message is sent, and write the record when the loop returns."""
    from gguf_worker.engine.loop.channel import SocketChannel
    from gguf_worker.engine.loop.server import Server
    from gguf_worker.engine.messages import Step

    send, run = SocketChannel.send, Server.run

    def send_and_close(channel: SocketChannel, message: Any) -> None:
        send(channel, message)
        if isinstance(message, Step) and message.rows:
            watch.close_step(message.rows)

    def run_and_write(server: Server) -> None:
        run(server)
        results.write_text(json.dumps(watch.steps))

    SocketChannel.send = send_and_close  # type: ignore[assignment, method-assign]
    Server.run = run_and_write  # type: ignore[assignment, method-assign]


def engine(descriptor: int, parent: int) -> int:
    """Run the engine's own entry, timed."""
    watch = Stopwatch()
    _install(watch)
    _watch_steps(watch, Path(os.environ[_RESULTS]))
    from gguf_worker.engine.__main__ import main

    return main(descriptor, parent)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(engine(int(sys.argv[1]), int(sys.argv[2])))
    for name, value in asyncio.run(measure(steps=300)).items():
        print(f"{name:20} {value:8.1f}")
