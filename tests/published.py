"""Models on a volume that nobody had to fetch: whole as far as names, sizes and manifests tell."""

from __future__ import annotations

import os
from pathlib import Path

from gguf_worker.models.store.entry import StoreEntry
from tests.fake_hub import COMMIT


def publish(
    root: Path,
    repo: str,
    file: str,
    *,
    commit: str = COMMIT,
    size: int = 100,
    used: float | None = None,
) -> Path:
    """Put a model of that many bytes into the store `root`; `used`: when it was fetched."""
    path = root / "models" / repo / commit / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.part").write_bytes(b"x" * size)
    entry = StoreEntry(root / "models" / repo, commit, file)
    entry.publish({"repo": repo, "file": file, "commit": commit, "size": size, "sha256": "ab" * 32})
    if used is not None:
        os.utime(path, (used, used))
    return path
