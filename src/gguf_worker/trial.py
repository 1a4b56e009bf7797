"""One job on this machine: `python handler.py` with `--test_input` or a `test_input.json`.

The SDK's own local run never iterates a generator handler, and reports success whatever happens.
This one runs the real handler, prints the text as it comes and then a line of figures, and fails if
the job fails. Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from gguf_worker.app import App
from gguf_worker.config import Settings
from gguf_worker.console import Terminal
from gguf_worker.errors import WorkerError
from gguf_worker.events import Event, ModelReady, RequestDone

JOB_ID = "local_test"


def read_job(given: str | None, file: Path) -> dict[str, Any]:
    """Read the job from `given` (JSON), else from `file`. Raises ValueError, for people to read."""
    source = "--test_input" if given is not None else str(file)
    if given is None:
        try:
            given = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ValueError(
                f"There is no {file} here and no --test_input: nothing to answer. "
                """Try: python handler.py --test_input '{"input": {"prompt": "Hello"}}'"""
            ) from None
    try:
        job = json.loads(given)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON: {error}") from error
    if not isinstance(job, dict) or "input" not in job:
        raise ValueError(f'{source} should be an object with "input", as a RunPod job is.')
    return {"id": JOB_ID, **job}


def run(settings: Settings, job: dict[str, Any], environ: Mapping[str, str]) -> int:
    """Start the worker, answer the job, and print. Returns the exit status: 0, or 1 on error."""
    figures = _Figures()
    with Terminal(as_json=False).progress("downloading") as shown:
        app = App(
            settings,
            environ=environ,
            watch=figures.observe,
            on_download=shown,
            on_load=shown.loading,
        )
        try:
            app.start()
        except WorkerError as error:
            app.close()
            return _print_error(json.dumps(error.public(), ensure_ascii=False))
    try:
        status = asyncio.run(_answer(app.handle(job)))
    except KeyboardInterrupt:
        status = 130
    finally:
        app.close()
    print(figures.line(), file=sys.stderr)
    return status


async def _answer(items: AsyncIterator[Any]) -> int:
    status, at_line_start, events = 0, True, _EventTexts()
    async for item in items:
        if isinstance(item, dict) and item.get("error"):
            status = _print_error(item["error"], "" if at_line_start else "\n")
            continue
        text = events.of(item) if isinstance(item, str) else _readable(item)
        if text:
            print(text, end="", flush=True)
            at_line_start = text.endswith("\n")
    if not at_line_start:
        print(flush=True)
    return status


def _readable(item: Any) -> str:
    """Return an object for people: the text of a native stream, the whole of anything else."""
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    if isinstance(item, dict) and "failure" in item:
        return ""  # the error itself follows
    return json.dumps(item, ensure_ascii=False, indent=2) + "\n"


class _EventTexts:
    """The texts of the answer in a stream of events. Items may be cut within an event."""

    def __init__(self) -> None:
        self._rest = ""

    def of(self, item: str) -> str:
        """Return the texts of the events that are whole with this item."""
        whole, _, self._rest = (self._rest + item).rpartition("\n\n")
        lines = (line for line in whole.split("\n") if line.startswith("data: {"))
        return "".join(
            text for line in lines for text in _event_texts(json.loads(line.removeprefix("data: ")))
        )


def _event_texts(event: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of the answer in one event, of any route."""
    match event:
        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
            yield text  # /v1/messages
        case {"type": "response.output_text.delta", "delta": str(text)}:
            yield text  # /v1/responses
        case _:
            for choice in event.get("choices", ()):
                yield choice.get("text") or choice.get("delta", {}).get("content") or ""


def _print_error(error: str, before: str = "") -> int:
    print(f"{before}error: {error}", file=sys.stderr)
    return 1


class _Figures:
    """The figures of the last line, from the same events that make the metrics."""

    def __init__(self) -> None:
        self._model: ModelReady | None = None
        self._request: RequestDone | None = None

    def observe(self, event: Event) -> None:
        if isinstance(event, ModelReady):
            self._model = event
        elif isinstance(event, RequestDone):
            self._request = event

    def line(self) -> str:
        parts = []
        if self._model is not None:
            parts.append(f"load {self._model.seconds:.2f} s")
        done = self._request
        if done is not None and done.ttft_seconds is not None:
            parts.append(f"prompt {done.prompt_tokens} tokens")
            parts.append(f"generated {done.completion_tokens} tokens")
            parts.append(f"TTFT {1000 * done.ttft_seconds:.0f} ms")
            decoding = done.seconds - done.ttft_seconds
            if done.completion_tokens > 1 and decoding > 0:
                parts.append(f"{(done.completion_tokens - 1) / decoding:.1f} tokens/s")
        return " | ".join(parts)
