"""One volume, one Hub, and the command line between them, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.__main__ import main
from gguf_worker.models.store.usage_marks import UsageMark
from tests.fake_hub import COMMIT, FakeHub
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Said]


@pytest.fixture(scope="session")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", layers=4).read_bytes()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    return path


@pytest.fixture
def call(
    fake_hub: FakeHub,
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """Runs `models` with these arguments."""
    monkeypatch.setenv("VOLUME_PATH", str(volume))
    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(["models", *arguments])
        return Said(code, *capsys.readouterr())

    return run


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    use = UsageMark(path)
    use.begin()
    try:
        yield
    finally:
        use.close()


@pytest.fixture
def stored(call: Call, volume: Path) -> Path:
    assert call("pull", f"{REPO}:F16").code == 0
    return volume / "gguf-worker" / "models" / REPO / COMMIT / NAME


@pytest.fixture
def baked(stored: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stored model, as that of an image alone, which is not on the volume."""
    image = tmp_path / "image"
    volume.rename(image)
    volume.mkdir()
    (image / "baked.json").write_text(json.dumps({"MODEL": f"{REPO}:F16"}))
    monkeypatch.setenv("BAKED_MODELS", str(image))
    monkeypatch.delenv("MODEL", raising=False)
    return image / stored.relative_to(volume)
