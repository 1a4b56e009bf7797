"""Layers of a saved image."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from builder.layers import Layer, layers, pulled, step

COPIED = "/bin/sh -c #(nop) COPY dir:" + 64 * "a" + " in /venv "


def save(path: Path, contents: dict[str, bytes], history: list[dict[str, object]]) -> Path:
    """Write an archive of an image as `docker save` does."""
    manifest = [{"Config": "config.json", "Layers": list(contents)}]
    files = {
        **contents,
        "config.json": json.dumps({"history": history}).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_each_layer_has_its_step_and_steps_without_a_layer_are_left_out(tmp_path: Path) -> None:
    history: list[dict[str, object]] = [
        {"created_by": "RUN /bin/sh -c ldconfig # buildkit"},
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created_by": COPIED},
    ]
    saved = save(tmp_path / "image.tar", {"one": bytes(100), "two": bytes(3_000_000)}, history)
    assert layers(saved, compressed=False) == [
        Layer("RUN ldconfig", 100),
        Layer("COPY /venv", 3_000_000),
    ]


@pytest.mark.parametrize("by", [COPIED.replace("/venv", "/"), "COPY /layer / # buildkit"])
def test_a_layer_that_was_copied_to_the_root_is_known_by_its_folder(
    tmp_path: Path, by: str
) -> None:
    copied = tmp_path / "layer.tar"
    with tarfile.open(copied, "w") as archive:
        for name, content in (("cuda/libcudart.so.13", bytes(700)), ("etc/note", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    history: list[dict[str, object]] = [{"created_by": by}]
    saved = save(tmp_path / "image.tar", {"one": copied.read_bytes()}, history)
    assert [layer.step for layer in layers(saved, compressed=False)] == ["COPY /cuda"]


def test_a_base_without_a_history_is_called_the_base(tmp_path: Path) -> None:
    saved = save(tmp_path / "image.tar", {"one": b"1", "two": b"2"}, [{"created_by": "RUN x"}])
    assert [layer.step for layer in layers(saved, compressed=False)] == ["the base", "RUN x"]


def test_a_layer_that_is_saved_compressed_counts_as_what_it_unpacks_to(tmp_path: Path) -> None:
    saved = save(tmp_path / "image.tar", {"one": gzip.compress(bytes(5_000_000))}, [])
    assert [layer.size for layer in layers(saved, compressed=False)] == [5_000_000]


@pytest.mark.skipif(not shutil.which("zstd"), reason="there is no zstd here")
def test_a_layer_is_compressed_where_that_is_asked_for(tmp_path: Path) -> None:
    saved = save(tmp_path / "image.tar", {"one": bytes(5_000_000)}, [])
    (layer,) = layers(saved, compressed=True)
    assert layer.gzip is not None
    assert 1_000 < layer.gzip < 50_000
    assert layer.zstd is not None
    assert 100 < layer.zstd < layer.gzip


@pytest.mark.parametrize(
    ("created_by", "shown"),
    [
        (COPIED, "COPY /venv"),
        ("COPY /cuda /usr/local/lib # buildkit", "COPY /cuda /usr/local/lib"),
        ("/bin/sh", "the base"),
        ("|1 ACCEL=cuda /bin/sh -c ldconfig", "ldconfig"),
        ("RUN " + 80 * "x", "RUN " + 53 * "x" + "..."),
    ],
)
def test_a_step_is_shown_as_the_dockerfile_has_it(created_by: str, shown: str) -> None:
    assert step(created_by) == shown


def test_the_time_of_a_pull_is_told_of_each_kind_that_all_layers_have() -> None:
    whole = [Layer("a", 900_000_000, 400_000_000, None), Layer("b", 1, 200_000_000, None)]
    assert pulled(whole) == "gzip 600 MB, 3.0 s"
    assert pulled([Layer("a", 1)]) == ""
