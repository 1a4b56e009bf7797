"""Models on a volume that nobody had to fetch: whole as far as names, sizes and manifests tell."""

from __future__ import annotations

import os
from pathlib import Path

from gguf_worker.models.store.entry import StoreEntry, read_json
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


def publish_again(path: Path, commit: str) -> Path:
    """Publish the file as that of another commit too, which has the same content."""
    repo = path.parents[1]
    twin = StoreEntry(repo, path.parent.name, path.name)
    entry = StoreEntry(repo, commit, path.name)
    entry.path.parent.mkdir()
    entry.share(twin, read_json(twin.sidecar(".json")) | {"commit": commit})
    return entry.path
