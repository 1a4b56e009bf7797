"""Fixtures for tests of all rooms: the models they read, a Hub that has one, and the environment.

A folder that needs another model on the Hub overrides `model_bytes`; `fake_hub` then serves that.
"""

from __future__ import annotations

import gc
import os
import re
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpcore2
import pytest

from builder.demo_model import ensure
from gguf_worker.config import Settings
from gguf_worker.models.gguf import Header, read_header
from tests.fake_hub import FakeHub
from tests.paths import DEMO_MODEL
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import tiny_hub

NEEDS_LLAMA = re.compile(
    r"^(?:from|import) (?:llama_cpp|gguf_worker\.engine\.llama|benchmarks)\b", re.MULTILINE
)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what imports llama.cpp at its top, where llama.cpp is not installed.

    That is a module, or a folder whose conftest does so. `make unit` does not compile llama.cpp.
    """
    if find_spec("llama_cpp") is not None:
        return None
    module = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if module.suffix != ".py" or not module.is_file():
        return None
    return bool(NEEDS_LLAMA.search(module.read_text(encoding="utf-8"))) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs more than `make test` sets up, unless `-m` names it."""
    apart = [mark for mark in ("gpu", "clients") if mark not in config.option.markexpr]
    left_out = [item for item in items if any(map(item.get_closest_marker, apart))]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives until the end: thousands of tests and all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def bare_environment() -> Iterator[None]:
    """Keep a developer's own variables out of every test and of the processes that tests start.

    Removes the worker's settings and all variables of RunPod and of Hugging Face for the session.
    """
    settings = {name.upper() for name in Settings.model_fields}
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in settings or name.startswith(("RUNPOD_", "HF_")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_trust_store() -> Iterator[None]:
    """Read the certificates to be trusted once for all clients of a Hub that tests open.

    It takes 20 ms, each client does it twice, and then asks this machine. A test may still name
    others in the environment.
    """
    read = httpcore2.default_ssl_context
    contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}

    def context(*, _trust_env: bool = True) -> ssl.SSLContext:
        named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        if named not in contexts:
            contexts[named] = read(_trust_env=_trust_env)
        return contexts[named]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", context)
        yield


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Return the demo model's path; fetch the file where it is missing or damaged."""
    ensure(DEMO_MODEL)
    return DEMO_MODEL


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a Llama of random weights once, for all tests that only read the file."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_header(tiny_model: Path) -> Header:
    """Return the header of `tiny_model`, to be varied with `dataclasses.replace`."""
    return read_header(tiny_model)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model of 42 MB with 150,000 tokens, of which the header is 7 MB.

    The header is larger than what is asked for first, and small beside the weights.
    """
    return write_tiny(tmp_path_factory.mktemp("wide") / "wide.gguf", vocabulary=150_000)


@pytest.fixture(scope="session")
def model_bytes(tiny_model: Path) -> bytes:
    """Return the content of the model that `fake_hub` has."""
    return tiny_model.read_bytes()


@pytest.fixture
def fake_hub(model_bytes: bytes) -> Iterator[FakeHub]:
    """Serve a Hub whose one repository, `tests.tiny_repository.REPO`, has `model_bytes`."""
    with tiny_hub(model_bytes) as hub:
        yield hub
