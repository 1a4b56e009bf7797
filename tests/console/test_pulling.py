from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.console.conftest import Call
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Flip
from tests.tiny_gguf import write_adapter, write_tiny
from tests.tiny_repository import NAME, REPO


def stored_at(volume: Path) -> Path:
    return volume / "gguf-worker" / "models" / REPO / COMMIT / NAME


def test_a_model_is_fetched_and_its_path_is_the_answer(
    call: Call, volume: Path, model_bytes: bytes
) -> None:
    said = call("pull", f"{REPO}:F16")
    assert said.code == 0
    assert said.out == f"{stored_at(volume)}\n"
    assert stored_at(volume).read_bytes() == model_bytes
    assert "downloading tiny-F16.gguf: 100 %" in said.err
    assert "fetched and verified" in said.err


def test_a_program_learns_what_came(call: Call, volume: Path, model_bytes: bytes) -> None:
    said = call("pull", f"{REPO}:F16", "--json")
    facts = said.facts
    assert said.err == ""
    assert facts["path"] == str(stored_at(volume))
    assert facts["sha256"] == hashlib.sha256(model_bytes).hexdigest()
    assert (facts["size"], facts["fetched"]) == (len(model_bytes), True)
    assert call("pull", f"{REPO}:F16", "--json").facts["fetched"] is False


def test_the_setting_is_the_model_where_none_is_named(
    call: Call, monkeypatch: pytest.MonkeyPatch, volume: Path
) -> None:
    monkeypatch.setenv("MODEL", f"{REPO}:F16")
    assert call("pull").code == 0
    assert stored_at(volume).exists()


def test_a_revision_and_a_hash_are_held(call: Call, model_bytes: bytes) -> None:
    wrong = call("pull", f"{REPO}:F16", "--sha256", "00" * 32)
    assert wrong.code == 1
    assert "sha256" in wrong.err
    assert "Traceback" not in wrong.err
    gone = call("pull", f"{REPO}:F16", "--revision", "v9", "--json")
    assert (gone.code, gone.facts["error"]["code"]) == (1, "model_unavailable")
    digest = hashlib.sha256(model_bytes).hexdigest()
    right = call("pull", f"{REPO}:F16", "--sha256", digest, "--revision", COMMIT)
    assert right.code == 0


def test_a_wrong_name_or_setting_ends_with_2(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("pull").code == 2
    assert call("pull", "nothing").code == 2
    monkeypatch.setenv("VERIFY", "sometimes")
    said = call("pull", f"{REPO}:F16", "--json")
    assert (said.code, said.facts["error"]["code"]) == (2, "invalid_configuration")
    assert "VERIFY" in said.facts["error"]["message"]


def test_a_file_damaged_on_its_way_is_fetched_again(
    call: Call, fake_hub: FakeHub, volume: Path
) -> None:
    fake_hub.misbehave("file", Flip(-1))
    assert call("pull", f"{REPO}:F16").code == 0
    assert len(fake_hub.downloads()) == 2


def test_an_adapter_says_where_it_belongs(call: Call, fake_hub: FakeHub, tmp_path: Path) -> None:
    adapter, model = tmp_path / "a.gguf", write_tiny(tmp_path / "t.gguf")
    write_adapter(adapter, model, ["blk.0.attn_q.weight"])
    fake_hub.add("org/lora", "a.gguf", adapter.read_bytes())
    said = call("pull", "org/lora/a.gguf")
    assert said.code == 1
    assert "is an adapter and no model" in said.err
    assert "this one in LORA_ADAPTERS" in said.err


def test_a_volume_that_cannot_be_written_is_said_in_a_sentence(call: Call, volume: Path) -> None:
    (volume / "gguf-worker").write_text("a file where a folder belongs")
    said = call("pull", f"{REPO}:F16")
    assert said.code in (1, 2)
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err


def test_a_model_of_the_image_is_here_already(call: Call, baked: Path) -> None:
    facts = call("pull", f"{REPO}:F16", "--json").facts
    assert (facts["path"], facts["fetched"]) == (str(baked), False)
