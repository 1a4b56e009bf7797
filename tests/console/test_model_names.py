from __future__ import annotations

from pathlib import Path

import pytest

from gguf_worker.console.model_names import named
from gguf_worker.errors import ConfigError, ModelUnavailable
from gguf_worker.models.store import Inventory, PublishedModel
from gguf_worker.models.store.entry import StoreEntry

SHA256 = "cc" * 32
OLD, NEW = "aa" * 20, "bb" * 20
FILES = (
    ("org/a", OLD, "a-Q4_K_M.gguf"),
    ("org/a", NEW, "a-Q4_K_M.gguf"),
    ("org/a", NEW, "a-Q8_0.gguf"),
    ("+url/sha256", "cc" * 32, "sea.gguf"),
    ("org/b", NEW, "Q8_0/b-Q8_0-00001-of-00002.gguf"),
    ("org/b", NEW, "Q8_0/b-Q8_0-00002-of-00002.gguf"),
    ("+url/sha256", SHA256, "web.gguf"),
)


@pytest.fixture
def models(tmp_path: Path) -> tuple[PublishedModel, ...]:
    for repo, commit, file in FILES:
        entry = StoreEntry(tmp_path / "models" / repo, commit, file)
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        entry.sidecar(".part").write_bytes(b"model")
        entry.publish({"size": 5, "sha256": "ab" * 32})
    return Inventory(tmp_path).models()


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["https://example.com/web.gguf"], [(SHA256, "web.gguf")]),
        (["+url/sha256/web.gguf@cccccccc"], [(SHA256, "web.gguf")]),
        (["org/a:Q8_0"], [(NEW, "a-Q8_0.gguf")]),
        (["org/a:q4_k_m"], [(OLD, "a-Q4_K_M.gguf"), (NEW, "a-Q4_K_M.gguf")]),
        (["org/a/a-Q4_K_M.gguf@bbbbbbbb"], [(NEW, "a-Q4_K_M.gguf")]),
        (["org/a@aaaaaaaaaaaa"], [(OLD, "a-Q4_K_M.gguf")]),
        (
            ["org/a"],
            [(OLD, "a-Q4_K_M.gguf"), (NEW, "a-Q4_K_M.gguf"), (NEW, "a-Q8_0.gguf")],
        ),
        (["org/b:Q8_0", "org/b"], [(NEW, "Q8_0/b-Q8_0-00001-of-00002.gguf")]),
        (
            ["org/b/Q8_0/b-Q8_0-00002-of-00002.gguf"],
            [(NEW, "Q8_0/b-Q8_0-00001-of-00002.gguf")],
        ),
    ],
)
def test_a_name_means(
    models: tuple[PublishedModel, ...], names: list[str], meant: list[tuple[str, str]]
) -> None:
    assert sorted((each.commit, each.file) for each in named(models, names)) == sorted(meant)


def test_what_the_list_prints_is_a_name(models: tuple[PublishedModel, ...]) -> None:
    for model in models:
        assert named(models, [str(model)]) == [model]
        assert named(models, [str(model.entry.path)]) == [model]


@pytest.mark.parametrize("name", ["org/c", "org/a:Q2_K", "org/a@cccccccc", "/elsewhere/a.gguf"])
def test_a_name_that_fits_nothing_is_an_error(
    models: tuple[PublishedModel, ...], name: str
) -> None:
    with pytest.raises(ModelUnavailable, match="not on the volume"):
        named(models, ["org/b", name])


def test_what_is_no_name_is_an_error(models: tuple[PublishedModel, ...]) -> None:
    with pytest.raises(ConfigError):
        named(models, ["a/../b:Q4"])
