"""The output of the commands: for a person at a terminal, a log, or a program that reads JSON.

Results go to stdout, everything else to stderr. A program gets one JSON text and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from gguf_worker.console.formatting import duration, plain, plain_lines, size
from gguf_worker.errors import ConfigError, WorkerError

if TYPE_CHECKING:
    import rich.progress as bars

    from gguf_worker.models.store import Progress

ReportProgress = Callable[["Progress"], None]


class ProgressDisplay(Protocol):
    """A display of long work: called with the progress of each file."""

    def __call__(self, progress: Progress) -> None: ...

    def loading(self, fraction: float) -> None:
        """Show how much of a model is in memory."""
        ...


class Terminal:
    """The output of one command. `as_json`: for a program."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def result(self, facts: Mapping[str, Any], text: str) -> None:
        """Print the command's result: facts for a program, else the text."""
        if self._as_json:
            print(json.dumps(facts, indent=2, default=str))
        elif text:
            print(text)

    def note(self, text: str) -> None:
        """Print a line beside the result, for people."""
        if not self._as_json:
            print(text, file=sys.stderr, flush=True)

    def failure(self, error: WorkerError) -> None:
        if self._as_json:
            print(json.dumps({"error": error.public()}, indent=2))
        else:
            print(f"error: {plain_lines(error.message)}", file=sys.stderr)

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Ask before something is done, unless `yes`. Raises ConfigError if nobody can answer."""
        if yes:
            return True
        if self._as_json or not sys.stdin.isatty():
            raise ConfigError(
                "Nobody can be asked here: add --yes, or --dry-run to see what is meant."
            )
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def progress(self, doing: str) -> Iterator[ProgressDisplay]:
        """Show the progress of files: as bars on a terminal, else as a line for each tenth."""
        if self._as_json:
            yield _NoDisplay()
        elif sys.stderr.isatty():
            with _bars() as shown:
                yield shown
        else:
            yield _Tenths(doing, self.note)


@contextmanager
def _bars() -> Iterator[ProgressDisplay]:
    import rich.progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TextColumn("{task.percentage:>3.0f} %  {task.fields[figures]}"),
    )
    console = Console(stderr=True)
    with bars.Progress(*columns, console=console, transient=True) as display:
        yield _Bars(display)


class _Bars:
    """A bar for each file, and one for a model that is loaded."""

    def __init__(self, display: bars.Progress) -> None:
        self._display = display
        self._tasks: dict[str, bars.TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        name = plain(progress.file.rpartition("/")[2])
        self._show(name, progress.done_bytes, progress.total_bytes, figures(progress))

    def loading(self, fraction: float) -> None:
        self._show("loading the model", fraction, 1.0, "")

    def _show(self, name: str, done: float, total: float, figures: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._display.add_task(name, total=total, figures="")
        self._display.update(self._tasks[name], completed=done, figures=figures)


class _NoDisplay:
    """The display for a program, which reads the result alone."""

    def __call__(self, progress: Progress) -> None:
        pass

    def loading(self, fraction: float) -> None:
        pass


def figures(progress: Progress) -> str:
    """Return the bytes, the speed and the time left, as text."""
    text = f"{size(progress.done_bytes)} of {size(progress.total_bytes)}"
    if progress.bytes_per_second > 0:
        text += f", {size(progress.bytes_per_second)}/s"
        left = (progress.total_bytes - progress.done_bytes) / progress.bytes_per_second
        text += f", {duration(left)} left" if left >= 1 else ""
    return text


class _Tenths:
    """A line for each tenth of a file."""

    def __init__(self, doing: str, note: Callable[[str], None]) -> None:
        self._doing = doing
        self._note = note
        self._noted: dict[str, int] = {}

    def __call__(self, progress: Progress) -> None:
        tenth = 10 * progress.done_bytes // max(progress.total_bytes, 1)
        if tenth > self._noted.get(progress.file, -1):
            self._noted[progress.file] = tenth
            name = plain(progress.file)
            self._note(f"{self._doing} {name}: {10 * tenth} %, {figures(progress)}")

    def loading(self, fraction: float) -> None:
        """Show nothing: loading takes seconds, and nobody watches."""
