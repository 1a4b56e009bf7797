"""Fetches the loopback Hub's file, and prints two figures, both without imports.

They are the MB/s (10^6 bytes), and the seconds of processor time for each GB.

    python -m benchmarks.programs.fetch "many ranges" ENDPOINT FOLDER 0

The last argument: seconds after which the speed so far is enough; 0 for the whole file. Only
downloads of the worker's own end early.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.download import HTTPX, HUGGINGFACE, ONE
from benchmarks.programs.loopback_hub import FILE, REPO

if TYPE_CHECKING:
    from gguf_worker.models.store import Progress


class _Enough(Exception):
    pass


def own(what: str, endpoint: str, folder: Path, seconds: float) -> Callable[[], int]:
    """Return a download by this worker's store, which is hashed, checked and published.

    It returns the bytes that were fetched.
    """
    from gguf_worker.models.source import Hub, parse_reference
    from gguf_worker.models.store import PieceSizes, Store

    class Guarded(Hub):
        """A Hub all of whose bytes come by the client for all purposes."""

        def route(self, url: str) -> None:
            return None

    began = time.monotonic()
    done = 0

    def watch(progress: Progress) -> None:
        nonlocal done
        done = progress.done_bytes
        if seconds and time.monotonic() - began > seconds:
            raise _Enough

    def fetch() -> int:
        sizes = PieceSizes(connections=1) if what == ONE else PieceSizes()
        kind = Guarded if what == HTTPX else Hub
        with (
            closing(kind(endpoint, None)) as hub,
            closing(Store(folder, {"hub": hub}, watch, sizes=sizes)) as store,
            suppress(_Enough),
        ):
            store.ensure(parse_reference(f"{REPO}/{FILE}"))
        return done

    return fetch


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
    else:
        fetch = own(what, endpoint, Path(folder), float(seconds))
    began, worked = time.monotonic(), time.process_time()
    count = fetch()
    print(count / (time.monotonic() - began) / 1e6, (time.process_time() - worked) / count * 1e9)


if __name__ == "__main__":
    main()
