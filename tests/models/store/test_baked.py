"""Models that an image brings along, in a store of their own beside the volume's."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from gguf_worker.models.store import entry as entry_module
from gguf_worker.models.store.usage_marks import in_use
from tests.fake_hub import COMMIT, FakeHub
from tests.models.store.conftest import FILE, NEWER, Volume, sha256_of
from tests.tiny_gguf import write_adapter
from tests.tiny_repository import NAME, REPO

QUANT = HubQuant(REPO, "F16")


class Image:
    """An image with the model in it as its build had fetched it, under `QUANT`."""

    def __init__(self, root: Path, volume: Volume) -> None:
        self.root = root
        self.model = root / "models" / REPO / COMMIT / NAME
        shutil.copytree(volume.root, root)
        for path in (*root.rglob("*.use.*"), *root.rglob("*.lock.*")):
            path.unlink()

    def files(self) -> dict[Path, tuple[int, int]]:
        """Return everything in it, with sizes and times of change."""
        paths = sorted(self.root.rglob("*"))
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def image(volume: Volume, fake_hub: FakeHub, tmp_path: Path) -> Image:
    store = volume.store()
    store.ensure(QUANT)
    store.close()
    image = Image(tmp_path / "image", volume)
    shutil.rmtree(volume.root)
    fake_hub.requests.clear()
    return image


@pytest.fixture
def no_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(path: Path, *_: object) -> str:
        raise AssertionError(f"{path} was read byte by byte")

    monkeypatch.setattr(entry_module, "hash_of", never)


@pytest.mark.usefixtures("no_hashing")
@pytest.mark.parametrize("reference", [QUANT, HubFile(REPO, NAME)])
@pytest.mark.parametrize("offline", [True, False])
def test_the_images_model_is_used_without_the_hub_and_unhashed(
    volume: Volume, fake_hub: FakeHub, image: Image, reference: HubFile | HubQuant, offline: bool
) -> None:
    revision = "main" if reference == QUANT else COMMIT
    store = volume.store(baked=image.root, offline=offline)
    found = store.ensure(reference, revision=revision)
    assert (found.path, found.fetched) == (image.model, False)
    assert store.inspect(reference, revision=revision).where == "image"
    assert fake_hub.requests == []


def test_a_branch_means_for_the_images_model_what_it_meant_at_its_build(
    volume: Volume, fake_hub: FakeHub, image: Image, model_bytes: bytes
) -> None:
    fake_hub.add(REPO, NAME, model_bytes + bytes(32), commit=NEWER)
    assert volume.store(baked=image.root).ensure(QUANT).path == image.model
    assert fake_hub.requests == []
    newer = volume.store(baked=image.root).ensure(QUANT, revision=NEWER)
    assert newer.path == volume.root / "models" / REPO / NEWER / NAME


def test_another_model_goes_to_the_volume(
    volume: Volume, fake_hub: FakeHub, image: Image, model_bytes: bytes
) -> None:
    fake_hub.add("org/other", "other.gguf", model_bytes)
    before = image.files()
    found = volume.store(baked=image.root).ensure(HubFile("org/other", "other.gguf"))
    assert found.path == volume.root / "models" / "org/other" / COMMIT / "other.gguf"
    assert image.files() == before


def test_nothing_is_written_beside_the_images_model(volume: Volume, image: Image) -> None:
    before = image.files()
    store = volume.store(baked=image.root)
    store.ensure(QUANT)
    assert image.files() == before
    store.close()
    assert image.files() == before
    assert not volume.root.exists()


def test_the_images_model_comes_before_the_same_one_on_the_volume(
    volume: Volume, image: Image
) -> None:
    shutil.copytree(image.root, volume.root)
    assert volume.store(baked=image.root).ensure(QUANT).path == image.model
    assert not in_use(volume.model)


def test_a_model_under_another_name_is_found_in_the_image_once_the_hub_has_said_which(
    volume: Volume, fake_hub: FakeHub, image: Image
) -> None:
    found = volume.store(baked=image.root).ensure(FILE)
    assert (found.path, found.fetched) == (image.model, False)
    assert fake_hub.downloads() == []


def test_a_file_of_the_image_that_was_written_to_is_hashed(
    volume: Volume, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(image.model)
    with caplog.at_level(logging.INFO):
        assert volume.store(baked=image.root).ensure(QUANT).path == image.model
    assert f"checking every byte of {image.model}, which was written to" in caplog.text


def test_a_damaged_file_of_the_image_is_fetched_to_the_volume(
    volume: Volume, fake_hub: FakeHub, image: Image, model_bytes: bytes
) -> None:
    image.model.write_bytes(bytes(len(model_bytes)))
    before = image.files()
    found = volume.store(baked=image.root).ensure(QUANT)
    assert (found.path, found.fetched) == (volume.model, True)
    assert volume.store(baked=image.root).ensure(QUANT).path == volume.model
    assert image.files() == before


def test_a_hash_that_is_not_the_images_is_looked_for_on_the_hub(
    volume: Volume, fake_hub: FakeHub, image: Image, model_bytes: bytes
) -> None:
    newer = model_bytes + bytes(32)
    fake_hub.add(REPO, NAME, newer, commit=NEWER)
    found = volume.store(baked=image.root).ensure(QUANT, sha256=sha256_of(newer))
    assert found.path == volume.root / "models" / REPO / NEWER / NAME
    with pytest.raises(ModelCorrupt, match="was expected"):
        volume.store(baked=image.root).ensure(QUANT, sha256="0" * 64)


def test_the_log_says_which_place_a_model_comes_from(
    volume: Volume,
    fake_hub: FakeHub,
    image: Image,
    model_bytes: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_hub.add("org/other", "other.gguf", model_bytes)
    other = HubFile("org/other", "other.gguf")
    said = f"org/other/other.gguf@{COMMIT}"
    with caplog.at_level(logging.INFO):
        volume.store(baked=image.root).ensure(QUANT)
        volume.store(baked=image.root).ensure(other)
        volume.store(baked=image.root).ensure(other)
    assert f"using {REPO}/{NAME}@{COMMIT} from the image, {image.model}" in caplog.messages
    assert f"fetching {said} to {volume.root / 'models'}" in caplog.messages
    place = volume.root / "models" / "org/other" / COMMIT / "other.gguf"
    assert f"using {said} from the store, {place}" in caplog.messages


def test_a_companion_is_taken_from_the_image_or_fetched_to_the_volume(
    volume: Volume, fake_hub: FakeHub, image: Image
) -> None:
    fake_hub.add(REPO, "chat_template.jinja", b"{{ messages }}")
    store = volume.store(baked=image.root)
    model = store.ensure(QUANT)
    path = store.companion(model, "chat_template.jinja")
    assert path.is_relative_to(volume.root)
    shutil.copytree(path.parent, image.model.parent / path.parent.name)
    fake_hub.requests.clear()
    again = volume.store(baked=image.root, offline=True)
    assert again.companion(model, "chat_template.jinja").is_relative_to(image.root)
    assert fake_hub.requests == []


def test_an_adapter_is_taken_from_the_image_too(
    volume: Volume, fake_hub: FakeHub, image: Image, tmp_path: Path
) -> None:
    adapter = HubFile("org/lora", "lora.gguf")
    path = tmp_path / "lora.gguf"
    write_adapter(path, image.model, ["blk.0.attn_q.weight"])
    fake_hub.add("org/lora", "lora.gguf", path.read_bytes())
    volume.store().ensure_adapter(adapter)
    folder = volume.root / "models/org/lora"
    folder.rename(image.root / "models/org/lora")
    fake_hub.requests.clear()
    found = volume.store(baked=image.root).ensure_adapter(adapter)
    assert found.path == image.root / "models/org/lora" / COMMIT / "lora.gguf"
    assert fake_hub.requests == []


def test_offline_the_models_of_the_image_are_named_too(volume: Volume, image: Image) -> None:
    with pytest.raises(ModelUnavailable, match=f"have {REPO}/{NAME} at {COMMIT}") as refused:
        volume.store(baked=image.root, offline=True).ensure(HubFile("org/none", "a.gguf"))
    assert str(image.root) in refused.value.message


def test_a_volume_that_is_the_images_own_place_is_marked_and_written_to(
    volume: Volume, fake_hub: FakeHub, image: Image, model_bytes: bytes
) -> None:
    fake_hub.add("org/other", "other.gguf", model_bytes)
    shutil.copytree(image.root, volume.root)
    store = volume.store(baked=volume.root)
    assert store.ensure(QUANT).path == volume.model
    assert in_use(volume.model)
    assert store.ensure(HubFile("org/other", "other.gguf")).fetched


def test_an_image_whose_place_is_missing_is_like_one_without(
    volume: Volume, fake_hub: FakeHub, tmp_path: Path
) -> None:
    assert volume.store(baked=tmp_path / "none").ensure(QUANT).fetched
