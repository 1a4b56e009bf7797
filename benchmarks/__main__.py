"""Start each peer in turn on the same model, threads and context, and show how ours compares.

make bench                                  everything, on the demo model
python -m benchmarks --scenario own --peer ours --peer llama-server
python -m benchmarks --model random:8b      a random model of that shape, written when first used
python -m benchmarks --quick                only to see that everything runs
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import build, machine, report
from benchmarks.acceptance import judge
from benchmarks.client import Refused
from benchmarks.peers import OURS, PEERS, PeerFailed, launch, why_missing
from benchmarks.prompts import Prompts, Vocabulary, WrongModel
from benchmarks.random_model import SHAPES, write
from benchmarks.report import Outcome
from benchmarks.scenarios import FULL, QUICK, SCENARIOS, Bench, Served

DEMO = build.ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
RESULTS = build.ROOT / "benchmarks" / "results"
RANDOM = "random:"
REPEAT = 3
LONGEST_SECONDS = 900.0
"""The limit for one repetition of one contestant; after that it has failed."""


def main(argv: Sequence[str]) -> int:
    """Build what is missing, run what was asked for, and return the exit status."""
    given = _parser().parse_args(argv)
    _choose(given)
    try:
        if not given.no_build and set(given.peer) - {OURS}:
            build.build(given.accel)
        bench = _bench(given)
        _check_peers(given.peer)
    except (build.BuildFailed, PeerFailed, WrongModel) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        outcomes = asyncio.run(_run(bench, given))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    figures = {name: outcome.samples for name, outcome in outcomes.items()}
    judged = judge(figures)
    facts = machine.facts(bench.model, bench.threads)
    facts |= {
        "repeat": given.repeat,
        "quick": given.quick,
        "commands": _commands(bench, given),
    }
    print(report.tables(outcomes), report.verdicts(judged), sep="\n\n")
    if given.quick:
        _say("\nThese figures mean nothing: --quick only shows that everything runs.")
    _save(given.out, report.as_json(facts, outcomes, judged))
    failed = any(verdict.holds is False for verdict in judged)
    return 1 if given.acceptance and failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scenario", action="append", choices=SCENARIOS, help="only this; may be repeated")
    add("--peer", action="append", choices=PEERS, help="only this; may be repeated")
    add("--repeat", type=int, default=REPEAT, help="repetitions of everything (%(default)s)")
    add("--model", default=str(DEMO), help=f"a GGUF file, or {RANDOM}SHAPE of {', '.join(SHAPES)}")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each peer")
    add("--out", type=Path, default=RESULTS, help="folder for the JSON file and the plots")
    add("--quick", action="store_true", help="small and once: figures mean nothing")
    add("--acceptance", action="store_true", help="exit with 1 when a target is missed")
    add("--no-build", action="store_true", help="don't look whether peers have to be built")
    add("--accel", default="auto", choices=("auto", "cpu", "cuda"), help="what peers are built for")
    return parser


def _choose(given: argparse.Namespace) -> None:
    """Fill in what was not given: all scenarios, and the peers that they have."""
    given.scenario = given.scenario or list(SCENARIOS)
    there = {each for name in given.scenario for each in SCENARIOS[name].contestants}
    given.peer = given.peer or [peer for peer in PEERS if peer in there]
    given.repeat = 1 if given.quick else given.repeat


def _bench(given: argparse.Namespace) -> Bench:
    model = _model(given.model)
    return Bench(
        model=model,
        threads=given.threads,
        vocabulary=Vocabulary(model),
        scale=QUICK if given.quick else FULL,
        plain_buffers=machine.amx_crashes(),
    )


def _model(name: str) -> Path:
    if name.startswith(RANDOM):
        return _random_model(name.removeprefix(RANDOM))
    path = Path(name).resolve()
    if not path.exists():
        hint = " Run `make model` first." if path == DEMO else ""
        raise WrongModel(f"there is no file {name}.{hint}")
    return path


def _random_model(shape: str) -> Path:
    if shape not in SHAPES:
        raise WrongModel(f"there is no shape {shape!r}, only {', '.join(SHAPES)}")
    path = build.CACHE / "models" / f"random-{shape}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        write(partial, SHAPES[shape], name=f"random {shape}")
        partial.rename(path)
    return path


def _check_peers(peers: Sequence[str]) -> None:
    missing = [reason for peer in peers if (reason := why_missing(peer))]
    if missing:
        raise PeerFailed("; ".join(missing))


async def _run(bench: Bench, given: argparse.Namespace) -> dict[str, Outcome]:
    """Measure every contestant once, then all of them again, as often as there are repetitions.

    So a slow minute of the machine does not hit one of them alone.
    """
    task = asyncio.current_task()
    assert task is not None
    # Ending this process must end the server that it has started, too.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    outcomes = {}
    for name in given.scenario:
        scenario = SCENARIOS[name]
        outcomes[name] = outcome = Outcome(scenario.title, reference=scenario.contestants[0])
        contestants = [c for c in scenario.contestants if c in given.peer or c not in PEERS]
        for repetition, contestant in itertools.product(range(given.repeat), contestants):
            if contestant not in outcome.notes:
                await _measure(bench, name, contestant, repetition, outcome)
    return outcomes


async def _measure(
    bench: Bench, name: str, contestant: str, repetition: int, outcome: Outcome
) -> None:
    prompts = Prompts(bench.vocabulary, f"{name} {repetition}")
    began = time.monotonic()
    _say(f"{name}: {contestant}, repetition {repetition + 1} ... ", end="")
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            outcome.add(contestant, await SCENARIOS[name].run(bench, contestant, prompts))
    except (Refused, PeerFailed) as error:
        outcome.notes[contestant] = str(error)
    except TimeoutError:
        outcome.notes[contestant] = f"not done after {LONGEST_SECONDS:g} seconds"
    except Exception as error:  # one contestant's failure must not cost the figures of all others
        outcome.notes[contestant] = f"{type(error).__name__}: {error}"
    note = outcome.notes.get(contestant, "")
    _say(f"{time.monotonic() - began:.1f} s {note}")


def _commands(bench: Bench, given: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Return the commands that started the peers, by scenario and peer."""
    commands: dict[str, dict[str, str]] = {}
    for name in given.scenario:
        scenario = SCENARIOS[name]
        if isinstance(scenario, Served):
            starts = {
                peer: launch(peer, scenario.setup(bench), 0, build.CACHE)
                for peer in scenario.contestants
                if peer in given.peer
            }
            commands[name] = {
                peer: machine.shown(start.command, start.environ) for peer, start in starts.items()
            }
    return commands


def _save(folder: Path, text: str) -> None:
    path = report.write(folder, time.strftime("%Y%m%d-%H%M%S", time.gmtime()), text)
    _say(f"\nwritten: {path.name}")
    if build.PYTHON.exists():  # matplotlib lives with the peers
        command = [str(build.PYTHON), "-m", "benchmarks.plots", str(path)]
        if subprocess.run(command, cwd=build.ROOT).returncode:
            _say("the plots could not be drawn")


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
