"""The rules of the soak, and its table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MOST_SILENT = 1.0
"""Seconds for which an honest stream may be silent whatever else is asked."""
FACTOR = 1.5
"""Times the silence beside honest prompts of as many tokens, if that is more."""
GROWTH, SLACK = 1.10, 8 * 2**20
"""The least memory of the last round may be this factor, and so many bytes more, of that of the
first round after a third of them. The least: a large grammar takes 200 MB for a while, and in which
turn llama.cpp's and Python's allocators give such memory back is chance."""


@dataclass(frozen=True, slots=True)
class Silence:
    """The longest silence of an honest stream in one turn.

    `beside_honest`: that of the same load with honest prompts; None: not measured, for it would not
    matter. `during`: what ran meanwhile. `others`: the part of the processors' time that programs
    other than the soak had in the turn.
    """

    seconds: float = 0.0
    beside_honest: float | None = None
    during: tuple[str, ...] = ()
    others: float = 0.0

    @property
    def allowed(self) -> float:
        return max(MOST_SILENT, FACTOR * (self.beside_honest or 0.0))

    @property
    def excess(self) -> float:
        return self.seconds - self.allowed


@dataclass
class Row:
    """What was seen in all turns of one kind of request. `silence`: that of the worst turn."""

    sent: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    silence: Silence | None = None
    losses: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Other rules that were broken, in words."""

    def add_silence(self, silence: Silence) -> None:
        if self.silence is None or silence.excess > self.silence.excess:
            self.silence = silence

    def complaints(self) -> list[str]:
        """Return the rules that this kind broke."""
        found = [f"{count} engine losses ({cause})" for cause, count in self.losses.items()]
        found += [f"{count} honest streams ended: {code}" for code, count in self.broken.items()]
        found += [f"{text} ({count} times)" for text, count in self.faults.items()]
        if (silence := self.silence) is not None and silence.excess > 0:
            during = ", ".join(silence.during) or "nothing"
            found.append(
                f"an honest stream was silent for {silence.seconds:.2f} s, and "
                f"{silence.allowed:.2f} s are allowed; during {during}"
            )
        return found


Rows = Mapping[str, Row]
Memory = tuple[int, int]
"""Resident bytes of the worker and of its engine."""


def complaints(rows: Rows, floors: Sequence[Memory]) -> list[str]:
    """Return every broken rule, with the kind that broke it. `floors`: each round's least memory.

    Of fewer than three rounds, memory is not judged.
    """
    found = [f"{kind}: {text}" for kind, row in rows.items() for text in row.complaints()]
    return found + (_grown(floors) if len(floors) >= 3 else [])


def _grown(floors: Sequence[Memory]) -> list[str]:
    warm = floors[-(-len(floors) // 3)]
    found = []
    for process, before, after in zip(("worker", "engine"), warm, floors[-1], strict=True):
        if after > before * GROWTH + SLACK:
            found.append(
                f"memory: the {process} grew from {_mib(before)} to {_mib(after)} MiB after the "
                "first third of the rounds"
            )
    return found


def table(rows: Rows, memory: Mapping[str, Memory]) -> str:
    """Return the table of all kinds, and that of the memory at some moments, as Markdown."""
    head = (
        "kind",
        "sent",
        "how they ended",
        "silent s",
        "honest s",
        "others",
        "lost",
        "broken off",
    )
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(kind, row)) for kind, row in rows.items()]
    lines += ["", _line(("resident MiB", "worker", "engine")), _line(["---"] * 3)]
    lines += [_line((when, *(str(_mib(size)) for size in sizes))) for when, sizes in memory.items()]
    return "\n".join(lines)


def _cells(kind: str, row: Row) -> tuple[str, ...]:
    mark = " !" if row.complaints() else ""
    silence = row.silence or Silence()
    honest = silence.beside_honest
    return (
        kind + mark,
        str(row.sent),
        _counts(row.endings),
        f"{silence.seconds:.2f}",
        "" if honest is None else f"{honest:.2f}",
        f"{silence.others:.0%}",
        _counts(row.losses),
        _counts(row.broken),
    )


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.most_common())


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _mib(size: int) -> int:
    return size >> 20
