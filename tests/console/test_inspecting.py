from __future__ import annotations

from pathlib import Path

import pytest

from gguf_worker.console.inspecting import _WHERE
from tests.console.conftest import Call
from tests.fake_hub import COMMIT, FakeHub
from tests.tiny_gguf import write_encoder, write_tiny
from tests.tiny_repository import NAME, REPO


def test_a_model_on_the_hub_is_shown_without_fetching_it(
    call: Call, fake_hub: FakeHub, wide_model: Path
) -> None:
    large = wide_model.read_bytes()
    fake_hub.add("org/Large-GGUF", "large-F16.gguf", large)
    said = call("inspect", "org/Large-GGUF", "--json")
    facts = said.facts
    assert said.code == 0
    assert fake_hub.sent_bytes == facts["fetched_bytes"] < len(large) / 2
    assert (facts["where"], facts["source"]) == ("hub", f"org/Large-GGUF/large-F16.gguf@{COMMIT}")
    assert facts["header"]["architecture"] == "llama"
    assert facts["header"]["vocabulary"] == 150_000
    assert facts["header"]["file_bytes"] == len(large)
    assert facts["use"]["purpose"] == "text"
    assert facts["use"]["chat_template"] is True
    assert facts["use"]["family"]
    assert sum(each["bytes"] for each in facts["tensors"]) == facts["header"]["tensor_bytes"]
    assert "fit" not in facts


def test_people_get_the_same_in_words(call: Call, fake_hub: FakeHub) -> None:
    said = call("inspect", f"{REPO}:F16")
    assert said.code == 0
    rows = dict(line.split(maxsplit=1) for line in said.out.splitlines() if line)
    assert rows["model"] == f"{REPO}/{NAME}@{COMMIT}"
    assert rows["architecture"] == "llama"
    assert rows["layers"].startswith("4, ")
    assert rows["context"] == "4,096 tokens"
    assert rows["vocabulary"].startswith("512 ")
    assert rows["where"].startswith("on the Hub, not on this machine (")
    assert "TENSORS" in rows


def test_a_stored_model_and_a_file_are_read_where_they_lie(
    call: Call, fake_hub: FakeHub, tmp_path: Path
) -> None:
    call("pull", f"{REPO}:F16")
    sent = fake_hub.sent_bytes
    assert call("inspect", f"{REPO}:F16", "--json").facts["where"] == "volume"
    path = write_tiny(tmp_path / "mine.gguf")
    assert call("inspect", str(path), "--json").facts["where"] == "file"
    assert fake_hub.sent_bytes == sent


def test_fit_says_what_this_machine_would_give_it(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTX_SIZE", "1024")
    facts = call("inspect", f"{REPO}:F16", "--fit", "--json").facts
    assert facts["fit"]["context"]["value"] == 1024
    assert facts["machine"]["cores"] >= 1
    said = call("inspect", f"{REPO}:F16", "--fit")
    assert "would give it    context 1024 (set)" in said.out


def test_fit_is_by_the_models_own_settings_where_a_catalog_has_it(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "mine.gguf")
    file = tmp_path / "models.yaml"
    file.write_text(f"models: {{mine: {{model: {path}, ctx_size: 300}}}}")
    monkeypatch.setenv("MODELS_FILE", str(file))
    facts = call("inspect", "mine", "--fit", "--json").facts
    assert facts["fit"]["context"]["value"] == 300


def test_a_model_for_embeddings_is_said_to_be_one(call: Call, tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.gguf")
    use = call("inspect", str(path), "--json").facts["use"]
    assert (use["purpose"], use["pooling"], use["family"]) == ("embeddings", "mean", None)


def test_a_name_in_a_file_cannot_reach_the_terminal(call: Call, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "a.gguf", metadata={"general.name": "x\x1b[2J\nmodel  fake"})
    out = call("inspect", str(path)).out
    assert "\x1b" not in out
    assert "\nmodel  fake" not in out


def test_there_are_words_for_each_place_that_a_model_may_be_at() -> None:
    assert set(_WHERE) == {"file", "image", "volume", "cache", "hub"}  # and one for other servers


def test_what_is_no_model_is_said_in_a_sentence(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"<!DOCTYPE html>")
    said = call("inspect", str(path))
    assert (said.code, said.out) == (1, "")
    assert "web page" in said.err
    assert call("inspect", str(path), "--json").facts["error"]["code"] == "model_corrupt"
    assert call("inspect", "org/none", "--json").facts["error"]["code"] == "model_unavailable"


def test_a_model_of_the_image_is_inspected_in_its_place(call: Call, baked: Path) -> None:
    facts = call("inspect", "--json").facts
    assert (facts["where"], facts["fetched_bytes"]) == ("image", 0)
