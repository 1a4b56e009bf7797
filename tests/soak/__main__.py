"""Keep a worker under hostile input for a while, and judge it.

    make soak SOAK="--minutes 30 --seed 7"

Eight honest streams run all the time. Beside them come turns of hostile requests, each of one
kind: first, for two fifths of the time, all texts for every pre-tokeniser of llama.cpp, each with a
tiny model of its own; then rounds of all kinds for the demo model. Rules: no engine is lost; no
honest stream ends with an error; none is silent, once it has begun, for more than a second, or 1.5
times as long as beside the same number of honest requests with prompts of as many tokens, if that
is more; and memory is flat. Prints a table; the exit status is 1 if a rule was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from builder.demo_model import ensure
from tests.paths import DEMO_MODEL
from tests.soak.soak import Soak


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="about how long to go on (%(default)g)")
    add("--seed", type=int, default=7, help="other requests for another number (%(default)s)")
    add("--kind", action="append", default=[], help="only kinds whose names contain this")
    add("--pre", action="append", default=[], help="only pre-tokenisers of these names")
    given = parser.parse_args()
    ensure(DEMO_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), given.seed, say=_say, kinds=given.kind, pres=given.pre)
        asyncio.run(soak.run(60 * given.minutes, DEMO_MODEL))
    found = soak.complaints()
    print(
        soak.table(), *(["", "Broken rules:"] if found else ["", "No rule was broken."]), sep="\n"
    )
    for complaint in found:
        print(f"- {complaint}")
    return 1 if found else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
