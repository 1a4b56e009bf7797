"""The store that the settings name: where it is, its caches, its Hub, and its limit."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.config import Settings
from gguf_worker.errors import DiskFull, ModelUnavailable
from gguf_worker.models.source import parse_reference
from gguf_worker.serving import opened_store, store_root
from tests.fake_hub import COMMIT, FakeHub

MODEL = parse_reference("org/tiny/tiny.gguf")


def fetch(settings: Settings, **environ: str) -> Path:
    with opened_store(settings, environ, lambda progress: None) as store:
        return store.ensure(MODEL).path


def settings_for(hub: FakeHub, volume: Path, **given: Any) -> Settings:
    fields = {"model": "org/tiny/tiny.gguf", "hf_endpoint": hub.url, "volume_path": volume}
    return Settings.model_validate({**fields, **given})


def put_into_cache(cache: Path, content: bytes) -> Path:
    """Lay the model down as the Hub's own library does."""
    path = cache / "models--org--tiny" / "snapshots" / COMMIT / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    reference = cache / "models--org--tiny" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)
    return path


def test_the_store_is_on_the_volume(tmp_path: Path) -> None:
    assert store_root(tmp_path) == tmp_path / "gguf-worker"


def test_without_a_volume_the_store_is_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_root(tmp_path / "none") == tmp_path / ".cache" / "gguf-worker"


def test_a_model_of_the_hub_is_fetched_to_the_volume(tmp_path: Path, model_bytes: bytes) -> None:
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", model_bytes)
        path = fetch(settings_for(hub, tmp_path))
    assert path == tmp_path / "gguf-worker" / "models" / "org/tiny" / COMMIT / "tiny.gguf"
    assert path.read_bytes() == model_bytes


@pytest.mark.parametrize("variable", [None, "HF_HUB_CACHE", "HF_HOME"])
def test_a_model_in_a_cache_is_used_where_it_is(
    tmp_path: Path, model_bytes: bytes, variable: str | None
) -> None:
    home = tmp_path / "home"
    volume = tmp_path / "volume"
    caches = {
        None: volume / "huggingface-cache" / "hub",
        "HF_HUB_CACHE": home,
        "HF_HOME": home / "hub",
    }
    path = put_into_cache(caches[variable], model_bytes)
    environ = {} if variable is None else {variable: str(home)}
    with FakeHub() as hub:
        assert fetch(settings_for(hub, volume, hf_hub_offline=True), **environ) == path
        assert hub.requests == []


def test_offline_the_hub_is_not_asked(tmp_path: Path, model_bytes: bytes) -> None:
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", model_bytes)
        with pytest.raises(ModelUnavailable):
            fetch(settings_for(hub, tmp_path, hf_hub_offline=True))
        assert hub.requests == []


def test_the_hub_gets_the_token_of_the_settings(tmp_path: Path, model_bytes: bytes) -> None:
    with FakeHub() as hub:
        hub.token = "hf_secret"
        hub.add("org/tiny", "tiny.gguf", model_bytes)
        fetch(settings_for(hub, tmp_path, hf_token="hf_secret"))
        assert len(hub.downloads()) == 1


def test_the_limit_of_the_settings_is_the_stores(tmp_path: Path, model_bytes: bytes) -> None:
    other = tmp_path / "gguf-worker" / "models" / "org" / "other" / COMMIT / "other.bin"
    other.parent.mkdir(parents=True)
    with other.open("wb") as file:
        file.truncate(1_000_000_000)  # without a byte on the disk
    with FakeHub() as hub:
        hub.add("org/tiny", "tiny.gguf", model_bytes)
        with pytest.raises(DiskFull, match="VOLUME_MAX_GB"):
            fetch(settings_for(hub, tmp_path, volume_max_gb=1))
        assert fetch(settings_for(hub, tmp_path, volume_max_gb=1.5)).exists()


def test_a_volume_that_does_not_answer_now_is_not_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model would be fetched again, to the machine's own small disk."""

    def stale(path: Path, **_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        store_root(tmp_path)
