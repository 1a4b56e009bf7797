"""A Hub that has one repository with one model, under the names that many tests know it by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fake_hub import FakeHub

REPO = "org/Tiny-GGUF"
NAME = "tiny-F16.gguf"


@contextmanager
def tiny_hub(content: bytes) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        fake.add(REPO, NAME, content)
        yield fake
