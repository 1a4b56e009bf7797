"""Fetches the loopback Hub's file, and prints the seconds that it took, without imports.

python -m benchmarks.programs.fetch ours ENDPOINT FOLDER
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.programs.loopback_hub import FILE, REPO


def ours(endpoint: str, folder: Path, connections: int) -> Callable[[], object]:
    """Return a download by this worker's store: fetched, hashed and published."""
    from gguf_worker.models.source import Hub, parse_reference
    from gguf_worker.models.store import PieceSizes, Store

    def fetch() -> None:
        with closing(Hub(endpoint, None)) as hub:
            sizes = PieceSizes(connections=connections)
            store = Store(folder, {"hub": hub}, lambda progress: None, sizes=sizes)
            with closing(store):
                store.ensure(parse_reference(f"{REPO}/{FILE}"))

    return fetch


def huggingface(endpoint: str, folder: Path) -> Callable[[], object]:
    """Return what `hf download --local-dir` does: fetched, and no hash computed."""
    os.environ["HF_ENDPOINT"] = endpoint
    os.environ["HF_HOME"] = str(folder / "home")
    os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import hf_hub_download

    return lambda: hf_hub_download(REPO, FILE, local_dir=folder)


def main() -> None:
    what, endpoint, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if what == "hf":
        fetch = huggingface(endpoint, folder)
    else:
        fetch = ours(endpoint, folder, 1 if what == "one" else 16)
    began = time.monotonic()
    fetch()
    print(time.monotonic() - began)


if __name__ == "__main__":
    main()
