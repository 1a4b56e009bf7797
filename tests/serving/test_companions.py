from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.errors import (
    ConfigError,
    ModelCorrupt,
    ModelUnavailable,
    ModelUnsupported,
    StartError,
)
from gguf_worker.models.source import Hub, Reference
from gguf_worker.models.source.hub_reference import HubFile
from gguf_worker.models.source.reference import LocalFile
from gguf_worker.models.source.web import WebFile
from gguf_worker.models.store import Inventory, Store, StoredModel
from gguf_worker.models.store.usage_marks import in_use
from gguf_worker.serving.companions import (
    Adapter,
    WantedAdapter,
    adapters_for,
    check_companions,
    parse_adapters,
    with_template,
)
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut, Flip
from tests.tiny_gguf import write_adapter
from tests.tiny_repository import NAME, REPO

MODEL = HubFile(REPO, NAME)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture
def fake_hub(fake_hub: FakeHub) -> FakeHub:
    """The shared one, with a chat template beside the model."""
    fake_hub.add(REPO, "chat_template.jinja", TEMPLATE.encode(), lfs=False)
    return fake_hub


class _Volume:
    """Models as a new worker has them, with what goes with them."""

    def __init__(self, root: Path, fake: FakeHub) -> None:
        self.root = root
        self._fake = fake

    @contextmanager
    def opened(
        self, reference: Reference = MODEL, **options: Any
    ) -> Iterator[tuple[Store, StoredModel]]:
        with (
            closing(Hub(self._fake.url, None, sleep=lambda seconds: None)) as hub,
            closing(Store(self.root, {"hub": hub}, lambda progress: None, **options)) as store,
        ):
            yield store, store.ensure(reference)

    def served(
        self, template: str | None, reference: Reference = MODEL, **options: Any
    ) -> StoredModel:
        with self.opened(reference, **options) as (store, model):
            return with_template(store, model, template)

    def adapters(self, given: str, **options: Any) -> tuple[Adapter, ...]:
        with self.opened(**options) as (store, model):
            return adapters_for(store, model, given)


@pytest.fixture
def volume(tmp_path: Path, fake_hub: FakeHub) -> _Volume:
    return _Volume(tmp_path / "volume", fake_hub)


# A chat template.


def test_a_model_keeps_its_own_template_where_none_is_set(volume: _Volume) -> None:
    assert "<|im_start|>" in str(volume.served(None).header.chat_template)


def test_a_template_of_the_repository_is_fetched_once_and_kept(
    volume: _Volume, fake_hub: FakeHub
) -> None:
    assert volume.served("chat_template.jinja").header.chat_template == TEMPLATE
    path = volume.root / "models" / REPO / COMMIT / ".beside" / "chat_template.jinja"
    assert path.read_text() == TEMPLATE
    fake_hub.requests.clear()
    assert volume.served("chat_template.jinja").header.chat_template == TEMPLATE
    assert volume.served("chat_template.jinja", offline=True).header.chat_template == TEMPLATE
    assert fake_hub.downloads() == []


def test_a_template_that_was_damaged_is_fetched_again(volume: _Volume) -> None:
    volume.served("chat_template.jinja")
    path = volume.root / "models" / REPO / COMMIT / ".beside" / "chat_template.jinja"
    path.write_text(TEMPLATE[::-1])
    assert volume.served("chat_template.jinja").header.chat_template == TEMPLATE


def test_a_template_with_a_hash_is_checked(volume: _Volume, fake_hub: FakeHub) -> None:
    fake_hub.add(REPO, "other.jinja", TEMPLATE.encode())
    fake_hub.misbehave("file", Flip(0))
    volume.served(None)
    fake_hub.misbehave("file", Flip(3))
    assert volume.served("other.jinja").header.chat_template == TEMPLATE


def test_a_template_without_one_is_checked_by_gits_own_hash(
    volume: _Volume, fake_hub: FakeHub
) -> None:
    volume.served(None)
    fake_hub.misbehave("file", Flip(3))
    assert volume.served("chat_template.jinja").header.chat_template == TEMPLATE
    fake_hub.add(REPO, "other.jinja", TEMPLATE.encode(), lfs=False)
    fake_hub.misbehave("file", Flip(3), Flip(3))
    with pytest.raises(ModelCorrupt, match=r"other.jinja as downloaded is not what the repository"):
        volume.served("other.jinja")


def test_a_template_may_have_any_name_and_no_file_of_the_store_suffers(
    volume: _Volume, fake_hub: FakeHub
) -> None:
    volume.served(None)
    fake_hub.add(REPO, f"{NAME}.json", TEMPLATE.encode(), lfs=False)
    assert volume.served(f"{NAME}.json").header.chat_template == TEMPLATE
    fake_hub.requests.clear()
    volume.served(None)
    assert fake_hub.downloads() == []


def test_a_template_goes_with_the_last_model_of_its_commit(
    volume: _Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.add(REPO, "second.gguf", model_bytes)
    volume.served("chat_template.jinja", HubFile(REPO, "second.gguf"))
    volume.served(None)
    inventory = Inventory(volume.root)
    path = volume.root / "models" / REPO / COMMIT / ".beside" / "chat_template.jinja"
    one, other = inventory.models()
    inventory.remove(one)
    assert inventory.leftovers() == ()
    assert path.exists()
    assert inventory.remove(other) == other.size + len(TEMPLATE)
    assert not list(path.parent.glob("*.jin*[an]"))
    assert inventory.leftovers() == ()


def test_a_template_that_lost_its_model_is_a_leftover(volume: _Volume) -> None:
    model = volume.served("chat_template.jinja")
    model.path.unlink()
    inventory = Inventory(volume.root)
    (left,) = inventory.leftovers()
    assert (left.file, left.kind, left.in_use) == (
        ".beside/chat_template.jinja",
        "companion",
        False,
    )
    assert inventory.discard(left) == len(TEMPLATE)
    assert inventory.leftovers() == ()


def test_a_template_that_the_repository_lacks_is_answered_with_near_names(volume: _Volume) -> None:
    with pytest.raises(ModelUnavailable, match=r"no file chat\.jinja .* chat_template\.jinja"):
        volume.served("chat.jinja")


def test_a_template_that_is_missing_offline_is_reported(volume: _Volume) -> None:
    volume.served(None)
    with pytest.raises(ModelUnavailable, match=r"chat_template\.jinja at .* HF_HUB_OFFLINE"):
        volume.served("chat_template.jinja", offline=True)


@pytest.mark.parametrize("name", ["a/../b.jinja", "a//b", ".hidden", "org/repo?x"])
def test_a_name_that_would_leave_the_repository_is_refused(volume: _Volume, name: str) -> None:
    with pytest.raises(ConfigError, match="neither a path") as refused:
        volume.served(name)
    assert refused.value.param == "CHAT_TEMPLATE"


def test_a_file_too_large_for_a_template_is_not_fetched(volume: _Volume, fake_hub: FakeHub) -> None:
    fake_hub.add(REPO, "large.jinja", b"x" * (1 << 24) + b"x")
    with pytest.raises(ConfigError, match=r"^CHAT_TEMPLATE: .*16,777,217 bytes long") as refused:
        volume.served("large.jinja")
    assert refused.value.param == "CHAT_TEMPLATE"
    assert len(fake_hub.downloads()) == 1


def test_a_path_is_read_where_it_lies(volume: _Volume, tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(TEMPLATE)
    assert volume.served(str(path)).header.chat_template == TEMPLATE
    local = LocalFile(tiny_model)
    assert volume.served(str(path), local).header.chat_template == TEMPLATE


def test_beside_a_model_of_this_machine_any_name_is_a_path(
    volume: _Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    local = LocalFile(tiny_model)
    assert volume.served("mine.jinja", local).header.chat_template == TEMPLATE


def test_a_template_of_a_cache_is_used_where_it_lies(
    volume: _Volume, fake_hub: FakeHub, tmp_path: Path, model_bytes: bytes
) -> None:
    snapshot = tmp_path / "hub" / "models--org--tiny-gguf" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / NAME).write_bytes(model_bytes)
    (snapshot / "chat_template.jinja").write_text(TEMPLATE)
    found = volume.served("chat_template.jinja", caches=[tmp_path / "hub"])
    assert found.header.chat_template == TEMPLATE
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("/nowhere/x.jinja", "cannot be read: No such file"),
        ("~nosuchuser/x.jinja", "names a home directory that does not exist"),
        ("../x.jinja", "cannot be read"),
        ("a/../x.jinja", "is neither a path"),
        ("other.GGUF", "is the name of a model"),
    ],
)
def test_a_template_that_cannot_be_used_is_reported_before_the_model_is_here(
    given: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        check_companions(MODEL, given, None)
    assert refused.value.param == "CHAT_TEMPLATE"


def test_a_template_of_this_machine_is_compiled_before_the_model_is_here(
    tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "x.jinja"
    path.write_text("{% for %}")
    with pytest.raises(ConfigError, match="does not compile"):
        check_companions(MODEL, str(path), None)
    path.write_text(TEMPLATE)
    check_companions(MODEL, str(path), None)
    check_companions(MODEL, "chat_template.jinja", None)
    with pytest.raises(ConfigError, match="cannot be read"):
        check_companions(LocalFile(tiny_model), "chat_template.jinja", None)


# Adapters.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        (
            "/a/b.gguf scale=0.5,\n ./c=d.gguf  ,, ",
            (
                WantedAdapter(LocalFile(Path("/a/b.gguf")), 0.5),
                WantedAdapter(LocalFile(Path("c=d.gguf"))),
            ),
        ),
        (
            f"org/repo/x.gguf revision=v1/a scale=-1 sha256={'A' * 64}",
            (WantedAdapter(HubFile("org/repo", "x.gguf"), -1.0, "v1/a", "A" * 64),),
        ),
        (
            f"https://a.test/x.gguf?sig=a,b\tsha256={'0' * 64}, /c.gguf",
            (
                WantedAdapter(WebFile("https://a.test/x.gguf?sig=a,b", "x.gguf"), sha256="0" * 64),
                WantedAdapter(LocalFile(Path("/c.gguf"))),
            ),
        ),
    ],
)
def test_adapters_are_read_from_one_text(text: str, expected: tuple[WantedAdapter, ...]) -> None:
    assert parse_adapters(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("org/repo:Q4_0", "names a repository and no file"),
        ("org/repo", "names a repository and no file"),
        ("org/repo/a.bin", "does not end in .gguf"),
        ("/a.gguf 0.5", "'0.5' is not understood behind '/a.gguf'"),
        ("/a.gguf scale=nan", "'scale=nan' is not understood"),
        ("/a.gguf scale=1e9", "'scale=1e9' is not understood"),
        ("/a.gguf scale=1 scale=2", "'scale=2' is not understood"),
        ("/a.gguf sha256=ab", "'sha256=ab' is not understood"),
        ("org/repo/a.gguf revision=../x", "is not understood"),
        ("/a.gguf, /a.gguf scale=2", "named twice"),
        ("https://example.com/a.gguf?secret=1", "needs the file's sha256"),
        (
            "https://a.test/x.gguf?secret=1 https://b.test/y.gguf?secret=2",
            "'https://b.test/y.gguf'",
        ),
        (f"https://a.test/x.gguf?sig=1,secret scale=2 sha512={'0' * 64}", "is not understood"),
        ("http://a.test/x.gguf?secret=1", "'http://a.test/x.gguf' is a URL, and none of https"),
        ("http://me:secret@a.test/x.gguf", "'http://a.test/x.gguf' is a URL, and none of https"),
        (",".join(f"/{at}.gguf" for at in range(17)), "more than 16"),
    ],
)
def test_an_adapter_that_is_not_understood_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        parse_adapters(text)
    assert refused.value.param == "LORA_ADAPTERS"
    assert "secret" not in refused.value.message
    assert "scale=0.5" in refused.value.message


def test_adapters_come_by_the_stores_own_rules(
    volume: _Volume, fake_hub: FakeHub, tmp_path: Path, tiny_model: Path
) -> None:
    local = tmp_path / "local.gguf"
    write_adapter(local, tiny_model, ["blk.0.attn_q.weight"])
    content = local.read_bytes()
    fake_hub.add("org/lora", "deep/a.gguf", content, commit=COMMIT[::-1])
    volume.served(None)
    fake_hub.misbehave("file", Flip(0), Cut(1000))
    given = f"{local} scale=0.5, org/lora/deep/a.gguf"
    found = volume.adapters(given)
    assert [each.scale for each in found] == [0.5, 1.0]
    stored = volume.root / "models" / "org/lora" / COMMIT[::-1] / "deep" / "a.gguf"
    assert [each.header.path for each in found] == [local, stored]
    assert stored.read_bytes() == content
    fake_hub.requests.clear()
    assert volume.adapters(given, offline=True) == found
    assert fake_hub.requests == []


def test_an_adapter_is_in_use_as_long_as_the_model(
    volume: _Volume, fake_hub: FakeHub, tmp_path: Path, tiny_model: Path
) -> None:
    write_adapter(tmp_path / "a.gguf", tiny_model, ["blk.0.attn_q.weight"])
    fake_hub.add("org/lora", "a.gguf", (tmp_path / "a.gguf").read_bytes())
    path = volume.root / "models" / "org/lora" / COMMIT / "a.gguf"
    with volume.opened() as (store, model):
        adapters_for(store, model, "org/lora/a.gguf")
        assert in_use(path)
        assert in_use(model.path)
    assert not in_use(path)


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        (
            "org/lora/a.gguf",
            {"offline": True},
            "Set LORA_ADAPTERS (and revision= in LORA_ADAPTERS) to",
        ),
        ("org/none/a.gguf", {}, "Check the spelling of LORA_ADAPTERS"),
        ("org/lora/a.gguf revision=v9", {}, "Check revision= in LORA_ADAPTERS: it takes a branch"),
        (f"org/lora/a.gguf sha256={'0' * 64}", {}, "If sha256= in LORA_ADAPTERS is set, check it"),
        ("/MODEL/MODEL.gguf", {}, "there is no file /MODEL/MODEL.gguf. Check LORA_ADAPTERS, and"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_said_of_its_own_setting(
    volume: _Volume, fake_hub: FakeHub, given: str, options: dict[str, Any], says: str
) -> None:
    fake_hub.add("org/lora", "a.gguf", b"GGUF")
    volume.served(None)
    with pytest.raises(StartError, match=re.escape(says)) as refused:
        volume.adapters(given, **options)
    assert str(refused.value).startswith("LORA_ADAPTERS: ")
    assert refused.value.param == "LORA_ADAPTERS"
    assert not re.search(r"\bMODEL_|MODEL[ ,.](?!gguf)", refused.value.message)


def test_an_adapter_with_another_hash_or_that_is_a_model_is_refused(
    volume: _Volume, tmp_path: Path, tiny_model: Path
) -> None:
    write_adapter(tmp_path / "a.gguf", tiny_model, ["blk.0.attn_q.weight"])
    with pytest.raises(ModelCorrupt, match=f"and {'0' * 64} was expected"):
        volume.adapters(f"{tmp_path / 'a.gguf'} sha256={'0' * 64}")
    with pytest.raises(ModelUnsupported, match="is no adapter"):
        volume.adapters(f"{REPO}/{NAME}")
    foreign = {"general.architecture": "qwen3"}
    write_adapter(tmp_path / "b.gguf", tiny_model, ["blk.0.attn_q.weight"], metadata=foreign)
    with pytest.raises(ModelUnsupported, match="'qwen3'"):
        volume.adapters(str(tmp_path / "b.gguf"))
