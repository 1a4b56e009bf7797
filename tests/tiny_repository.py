"""A Hub that has one repository with one model, under names that many tests use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fake_hub import FakeHub

REPO = "org/Tiny-GGUF"
NAME = "tiny-F16.gguf"


@contextmanager
def tiny_hub(content: bytes) -> Iterator[FakeHub]:
    """Serve a Hub whose repository REPO has the file NAME with this content."""
    with FakeHub() as fake:
        fake.add(REPO, NAME, content)
        yield fake
