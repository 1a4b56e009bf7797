"""How much of the processors' time other programs had: silences then may be theirs."""

from __future__ import annotations

from contextlib import suppress

import psutil


class Processors:
    """The time since it was made, or since the last `others`."""

    def __init__(self) -> None:
        self._busy, self._all, self._ours = _seconds()

    def others(self) -> float:
        """Return the part of the processors' time that went to other programs, 0 to 1."""
        busy, everything, ours = _seconds()
        passed = everything - self._all
        taken = (busy - self._busy) - (ours - self._ours)
        self._busy, self._all, self._ours = busy, everything, ours
        return min(1.0, max(0.0, taken / passed)) if passed > 0 else 0.0


def _seconds() -> tuple[float, float, float]:
    """Return the seconds that processors were busy, all their seconds, and those of our tree."""
    times = psutil.cpu_times()
    everything = (
        float(sum(times)) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    )
    idle = times.idle + getattr(times, "iowait", 0.0)
    ours = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            ours += used.user + used.system
    return everything - idle, everything, ours
