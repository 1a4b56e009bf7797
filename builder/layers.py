"""The layers of a saved image: which step made each, and its size, also compressed."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MB = 1_000_000
PULLED_PER_SECOND = 200 * MB
"""Bytes a second that a host in a data centre gets from a registry."""
ZSTD = ("zstd", "-3", "--quiet", "--stdout")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's step of the Dockerfile and its bytes; None where it was not compressed."""

    step: str
    size: int
    gzip: int | None = None
    zstd: int | None = None

    def told(self) -> str:
        parts = [f"{self.size / MB:.1f} MB"]
        for name, size in (("gzip", self.gzip), ("zstd", self.zstd)):
            parts += [] if size is None else [f"{name} {size / MB:.1f} MB"]
        return ", ".join(parts)


def layers(archive: Path, *, compressed: bool) -> list[Layer]:
    """Read an archive of `docker save`, lowest layer first.

    `compressed`: compress each layer as registries keep it: gzip, and zstd by its program.
    """
    with tarfile.open(archive) as files:
        (manifest,) = json.load(_member(files, "manifest.json"))
        history = json.load(_member(files, manifest["Config"]))["history"]
        steps = [
            step(each.get("created_by", "")) for each in history if not each.get("empty_layer")
        ]
        paths = manifest["Layers"]
        # A base that was made in one piece may have more steps than layers, or none at all.
        steps = ["the base"] * (len(paths) - len(steps)) + steps[-len(paths) :]
        return [
            _measured(_named(name, _member(files, path)), _member(files, path), compressed)
            for name, path in zip(steps, paths, strict=True)
        ]


def step(created_by: str) -> str:
    """Return a step as the Dockerfile has it, on one short line. Only a base says nothing of it."""
    text = re.sub(r"/bin/sh -c (#\(nop\) )?|# buildkit|\|\d+ (\w+=\S* )*", " ", created_by)
    text = re.sub(r"--mount=\S+|--from=\S+", " ", text)
    text = re.sub(r"\b(dir|file|multi):[0-9a-f]+( in)?", "", text).replace("|", "/")
    text = " ".join(text.split())
    if text in ("", "/bin/sh"):
        return "the base"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(step: str, content: IO[bytes]) -> str:
    """Return a step with the folder that it copied, where it copied to the root of the image."""
    if not re.fullmatch(r"COPY (\S+ )?/", step):
        return step
    with tarfile.open(fileobj=content) as layer:
        folders = Counter[str]()
        for member in layer:
            folders[member.name.strip("./").partition("/")[0]] += member.size
    return f"COPY /{max(folders, key=folders.__getitem__, default='')}"


def pulled(layers: list[Layer]) -> str:
    """Say how large all layers are for a registry, and how long they take to be pulled."""
    parts = []
    for name, sizes in (
        ("gzip", [layer.gzip for layer in layers]),
        ("zstd", [layer.zstd for layer in layers]),
    ):
        known = [size for size in sizes if size is not None]
        if known and len(known) == len(sizes):
            total = sum(known)
            parts.append(f"{name} {total / MB:.0f} MB, {total / PULLED_PER_SECOND:.1f} s")
    return "; ".join(parts)


def _member(files: tarfile.TarFile, name: str) -> IO[bytes]:
    member = files.extractfile(name)
    assert member is not None, name
    return member


def _measured(step: str, content: IO[bytes], compressed: bool) -> Layer:
    if not compressed:
        return Layer(step, sum(map(len, _plain(content))))
    gzip = zlib.compressobj(level=6, wbits=31)
    size = smaller = 0
    with tempfile.TemporaryFile() as out:
        with subprocess.Popen(ZSTD, stdin=subprocess.PIPE, stdout=out) as zstd:
            assert zstd.stdin is not None
            for chunk in _plain(content):
                size += len(chunk)
                smaller += len(gzip.compress(chunk))
                zstd.stdin.write(chunk)
        return Layer(step, size, smaller + len(gzip.flush()), out.tell())


def _plain(content: IO[bytes]) -> Iterator[bytes]:
    """Give the bytes of a layer, which some stores of docker's save compressed."""
    first = content.read(_CHUNK)
    unzip = zlib.decompressobj(wbits=31) if first.startswith(b"\x1f\x8b") else None
    chunk = first
    while chunk:
        yield unzip.decompress(chunk) if unzip else chunk
        chunk = content.read(_CHUNK)
