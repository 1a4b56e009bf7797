"""Keep a worker under hostile input for a while, and judge it.

    make soak SOAK="--minutes 30 --seed 7"

Eight honest streams run all the time. Beside them come turns of hostile requests, each of one kind:
first, for two fifths of the time, all texts for every tokeniser and pre-tokeniser of llama.cpp,
each with a tiny model of its own (where the time is too short, for some of them); then rounds of
all kinds for the demo model. The rules:

- no engine is lost, and no honest stream ends with an error;
- none is silent, once it has begun, for more than a second, or 1.5 times as long as beside as many
  honest requests with prompts of as many tokens, if that is more;
- it goes on, and nothing else runs, within a minute after a turn;
- the least memory of the last round, worker's and engine's, is at most 10 % and 8 MiB more than
  that of the first round after a third of them.

Prints a table; the exit status is 1 if a rule was broken. Where other programs had much of the
processors' time (the column `others`), a silence may be theirs: run it again on a quiet machine.
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
    add("--only", action="append", default=[], help="only what has this in its name")
    given = parser.parse_args()
    ensure(DEMO_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), given.seed, say=_say, only=given.only)
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
