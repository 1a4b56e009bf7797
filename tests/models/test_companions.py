from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gguf_worker.errors import ConfigError, ModelUnavailable
from gguf_worker.models import Hub, Reference, Store, StoredModel, with_companions
from gguf_worker.models.reference import HubFile, LocalFile
from tests.fake_hub import COMMIT, FakeHub, Flip
from tests.tiny_gguf import write_tiny

REPO = "org/Tiny-GGUF"
NAME = "tiny-F16.gguf"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        fake.add(REPO, NAME, write_tiny(tmp_path / "tiny.gguf").read_bytes())
        fake.add(REPO, "chat_template.jinja", TEMPLATE.encode(), lfs=False)
        yield fake


class _Volume:
    """Models as a new worker has them, with what goes with them."""

    def __init__(self, root: Path, fake: FakeHub) -> None:
        self.root = root
        self._fake = fake

    def served(
        self,
        template: str | None,
        reference: Reference = HubFile(REPO, NAME),  # noqa: B008
        **options: object,
    ) -> StoredModel:
        with (
            closing(Hub(self._fake.url, None, sleep=lambda seconds: None)) as hub,
            closing(Store(self.root, hub, lambda progress: None, **options)) as store,  # type: ignore[arg-type]
        ):
            return with_companions(store, store.ensure(reference), template=template)


@pytest.fixture
def volume(tmp_path: Path, fake: FakeHub) -> _Volume:
    return _Volume(tmp_path / "volume", fake)


# A chat template.


def test_a_model_keeps_its_own_template_where_none_is_set(volume: _Volume) -> None:
    assert "<|im_start|>" in str(volume.served(None).header.chat_template)


def test_a_template_of_the_repository_is_fetched_once_and_kept(
    volume: _Volume, fake: FakeHub
) -> None:
    assert volume.served("chat_template.jinja").header.chat_template == TEMPLATE
    path = volume.root / "models" / REPO / COMMIT / "chat_template.jinja"
    assert path.read_text() == TEMPLATE
    fake.requests.clear()
    assert volume.served("chat_template.jinja").header.chat_template == TEMPLATE
    assert volume.served("chat_template.jinja", offline=True).header.chat_template == TEMPLATE
    assert fake.downloads() == []


def test_a_template_that_was_damaged_is_fetched_again(volume: _Volume) -> None:
    volume.served("chat_template.jinja")
    path = volume.root / "models" / REPO / COMMIT / "chat_template.jinja"
    path.write_text(TEMPLATE[::-1])
    assert volume.served("chat_template.jinja").header.chat_template == TEMPLATE


def test_a_template_with_a_hash_is_checked(volume: _Volume, fake: FakeHub) -> None:
    fake.add(REPO, "other.jinja", TEMPLATE.encode())
    fake.misbehave("file", Flip(0))
    volume.served(None)
    fake.misbehave("file", Flip(3))
    assert volume.served("other.jinja").header.chat_template == TEMPLATE


def test_a_template_that_the_repository_lacks_is_answered_with_near_names(volume: _Volume) -> None:
    with pytest.raises(ModelUnavailable, match=r"no file chat\.jinja .* chat_template\.jinja"):
        volume.served("chat.jinja")


def test_a_template_that_is_missing_offline_is_told(volume: _Volume) -> None:
    volume.served(None)
    with pytest.raises(ModelUnavailable, match=r"chat_template\.jinja at .* HF_HUB_OFFLINE"):
        volume.served("chat_template.jinja", offline=True)


@pytest.mark.parametrize("name", ["a/../b.jinja", "a//b", ".hidden", "org/repo?x"])
def test_a_name_that_would_leave_the_repository_is_refused(volume: _Volume, name: str) -> None:
    with pytest.raises(ConfigError, match="neither a path") as refused:
        volume.served(name)
    assert refused.value.param == "CHAT_TEMPLATE"


def test_a_file_too_large_for_a_template_is_not_fetched(volume: _Volume, fake: FakeHub) -> None:
    fake.add(REPO, "large.jinja", b"x" * (1 << 24) + b"x")
    with pytest.raises(ConfigError, match="16,777,217 bytes long"):
        volume.served("large.jinja")
    assert len(fake.downloads()) == 1


def test_a_path_is_read_where_it_lies(volume: _Volume, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(TEMPLATE)
    assert volume.served(str(path)).header.chat_template == TEMPLATE
    local = LocalFile(tmp_path / "tiny.gguf")
    assert volume.served(str(path), local).header.chat_template == TEMPLATE


def test_beside_a_model_of_this_machine_any_name_is_a_path(
    volume: _Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    local = LocalFile(tmp_path / "tiny.gguf")
    assert volume.served("mine.jinja", local).header.chat_template == TEMPLATE


def test_a_template_of_a_cache_is_used_where_it_lies(
    volume: _Volume, fake: FakeHub, tmp_path: Path
) -> None:
    snapshot = tmp_path / "hub" / "models--org--tiny-gguf" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / NAME).write_bytes((tmp_path / "tiny.gguf").read_bytes())
    (snapshot / "chat_template.jinja").write_text(TEMPLATE)
    found = volume.served("chat_template.jinja", caches=[tmp_path / "hub"])
    assert found.header.chat_template == TEMPLATE
    assert fake.requests == []
