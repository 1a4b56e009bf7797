"""Fetches the loopback Hub's file, and prints two figures, both without imports.

They are the MB/s (10^6 bytes), and the seconds of processor time for each GB.

    python -m benchmarks.programs.fetch "many ranges" ENDPOINT FOLDER 0

The last argument: seconds after which the speed so far is enough, 0 for the whole file, or
"receive". Only downloads of the worker's own end early.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.download import CONNECTIONS, HTTPX, HUGGINGFACE, ONE
from benchmarks.programs.loopback_hub import FILE, REPO

if TYPE_CHECKING:
    from gguf_worker.models.source import Hub
    from gguf_worker.models.store import Progress


RECEIVE = "receive"
"""In place of seconds: the bytes are received and thrown away."""
_PIECE = 8 << 20


class _Enough(Exception):
    pass


def _hub(what: str, endpoint: str) -> Hub:
    for late in ("http.client", "httpx2", "huggingface_hub.hf_api"):  # imported when first used
        importlib.import_module(late)
    from gguf_worker.models.source import Hub

    class Guarded(Hub):
        """A Hub all of whose bytes come by the client for all purposes."""

        def route(self, url: str) -> None:
            return None

    return (Guarded if what == HTTPX else Hub)(endpoint, None)


def own(what: str, endpoint: str, folder: Path, seconds: float) -> Callable[[], int]:
    """Return a download by this worker's store, which is hashed, checked and published.

    It returns the bytes that were fetched.
    """
    from gguf_worker.models.source import parse_reference
    from gguf_worker.models.store import PieceSizes, Store

    hub = _hub(what, endpoint)
    began = time.monotonic()
    done = 0

    def watch(progress: Progress) -> None:
        nonlocal done
        done = progress.done_bytes
        if seconds and time.monotonic() - began > seconds:
            raise _Enough

    def fetch() -> int:
        sizes = PieceSizes(connections=1) if what == ONE else PieceSizes()
        with (
            closing(hub),
            closing(Store(folder, {"hub": hub}, watch, sizes=sizes)) as store,
            suppress(_Enough),
        ):
            store.ensure(parse_reference(f"{REPO}/{FILE}"))
        return done

    return fetch


def receiving(what: str, endpoint: str) -> Callable[[], int]:
    """Return a reading of all bytes by as many connections, without a disk or a hash."""
    from gguf_worker.models.source import parse_reference

    hub = _hub(what, endpoint)

    def receive() -> int:
        with closing(hub):
            (remote,) = hub.resolve(parse_reference(f"{REPO}/{FILE}"), "main")  # type: ignore[arg-type]
            ranges = hub.transfer(remote, CONNECTIONS)

            def read(at: int) -> int:
                end = min(at + _PIECE, remote.size)
                with ranges.slot():
                    return sum(len(data) for data in ranges.range(at, lambda: end))

            with closing(ranges), ThreadPoolExecutor(CONNECTIONS) as pool:
                return sum(pool.map(read, range(0, remote.size, _PIECE)))

    return receive


def huggingface(endpoint: str, folder: Path) -> Callable[[], int]:
    """Return what `hf download --local-dir` does: no hash is computed."""
    os.environ["HF_ENDPOINT"] = endpoint
    os.environ["HF_HOME"] = str(folder / "home")
    os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import hf_hub_download

    return lambda: Path(hf_hub_download(REPO, FILE, local_dir=folder)).stat().st_size


def main() -> None:
    """Run one download, and print its speed."""
    what, endpoint, folder, seconds = sys.argv[1:]
    if what == HUGGINGFACE:
        fetch = huggingface(endpoint, Path(folder))
    elif seconds == RECEIVE:
        fetch = receiving(what, endpoint)
    else:
        fetch = own(what, endpoint, Path(folder), float(seconds))
    began, worked = time.monotonic(), time.process_time()
    count = fetch()
    print(count / (time.monotonic() - began) / 1e6, (time.process_time() - worked) / count * 1e9)


if __name__ == "__main__":
    main()
