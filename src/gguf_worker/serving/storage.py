"""The store that the settings name: its root, the sources behind it, and the caches beside it."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from gguf_worker.config import Settings
from gguf_worker.errors import raise_passing
from gguf_worker.models.source import AnySource, SourceAccess, open_sources
from gguf_worker.models.store import Check, Progress, Store

_STORE = "gguf-worker"
_FALLBACK_STORE = Path("~/.cache/gguf-worker")


@contextmanager
def opened_store(
    settings: Settings, environ: Mapping[str, str], progress: Callable[[Progress], None]
) -> Iterator[Store]:
    """Open the store and its sources, until the block is left. `progress`: as for Store."""
    with (
        opened_sources(settings) as sources,
        closing(store_of(settings, environ, sources, progress, settings.verify)) as store,
    ):
        yield store


def opened_sources(settings: Settings) -> AbstractContextManager[Mapping[str, AnySource]]:
    """Open the sources of models, by name, with the credentials that are set."""
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    return open_sources(SourceAccess(settings.hf_endpoint, token))


def store_of(
    settings: Settings,
    environ: Mapping[str, str],
    sources: Mapping[str, AnySource],
    progress: Callable[[Progress], None],
    check: Check,
) -> Store:
    """Return the store of the settings.

    `check`: the check of a stored file without a given hash; one with a hash is checked as the
    settings say.
    """
    return Store(
        store_root(settings.volume_path),
        sources,
        progress,
        caches=_caches(settings.volume_path, environ),
        baked=baked_root(settings.baked_models),
        check=check,
        check_given=settings.verify,
        limit=_bytes(settings.volume_max_gb),
        offline=settings.hf_hub_offline,
    )


def store_root(volume: Path) -> Path:
    """Return the store's folder on the volume, or in the user's cache if there is no volume.

    Raises OSError where that cannot be told now.
    """
    try:
        if stat.S_ISDIR(volume.stat().st_mode):
            return volume / _STORE
    except OSError as exc:  # a volume that does not answer now is no reason to do without it
        raise_passing(exc)
    return _FALLBACK_STORE.expanduser()


def baked_root(baked: Path | None) -> Path | None:
    """Return the folder of the image's own store, which is only read; None if it has none."""
    return None if baked is None else baked / _STORE


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


def _caches(volume: Path, environ: Mapping[str, str]) -> list[Path]:
    """Return folders in the Hub's layout: RunPod's cached models, and those that the user names."""
    named = [environ.get("HF_HUB_CACHE"), environ.get("HF_HOME") and f"{environ['HF_HOME']}/hub"]
    return [volume / "huggingface-cache" / "hub", *(Path(each) for each in named if each)]
