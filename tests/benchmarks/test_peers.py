from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import build, machine, peers
from benchmarks.peers import (
    EXAMPLE,
    LLAMA_SERVER,
    NAIVE,
    OURS,
    PACKAGED,
    PEERS,
    PeerFailed,
    Setup,
    launch,
    running,
    why_missing,
)

SETUP = Setup(Path("/models/some.gguf"), threads=3, context=512, slots=8, ends=(2, 4))


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the example server's script into its place, whether or not the peers are built here."""
    script = tmp_path / "src" / "sdist" / "examples" / "server" / "server.py"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr(build, "SOURCES", tmp_path / "src")
    return script


def words(peer: str, setup: Setup, tmp_path: Path) -> str:
    started = launch(peer, setup, 4321, tmp_path)
    config = tmp_path / "example.json"
    settings = [f"{name}={value}" for name, value in started.environ.items()]
    return " ".join([*settings, *started.command, config.read_text() if config.exists() else ""])


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_gets_the_same_model_threads_and_port(peer: str, tmp_path: Path) -> None:
    given = words(peer, SETUP, tmp_path)
    for fact in ("/models/some.gguf", "4321", "3"):
        assert fact in given


def test_those_that_batch_get_a_context_for_each_request(tmp_path: Path) -> None:
    assert "--ctx-size 4096 --parallel 8" in words(LLAMA_SERVER, SETUP, tmp_path)
    assert "CTX_SIZE=512 MAX_CONCURRENCY=8" in words(OURS, SETUP, tmp_path)
    launch(EXAMPLE, SETUP, 4321, tmp_path)
    model = json.loads((tmp_path / "example.json").read_text())["model"]
    assert (model["n_ctx"], model["max_seq_len"], model["n_seq_max"]) == (4096, 512, 8)


def test_answers_do_not_end_early_where_a_server_has_an_option_for_it(tmp_path: Path) -> None:
    extras = {peer: launch(peer, SETUP, 1, tmp_path).extras for peer in PEERS}
    assert extras[OURS] == extras[LLAMA_SERVER] == {"ignore_eos": True}
    assert extras[EXAMPLE] == {"logit_bias": {"2": -100.0, "4": -100.0}}
    assert extras[PACKAGED] == extras[NAIVE] == {}


def test_amx_kernels_are_kept_away_from_every_peer(tmp_path: Path) -> None:
    plain = Setup(SETUP.model, 3, 512, 8, plain_buffers=True)
    assert "--no-repack" in words(LLAMA_SERVER, plain, tmp_path)
    for peer in (EXAMPLE, PACKAGED, NAIVE):
        assert "plain_buffers.py" in words(peer, plain, tmp_path)
        assert "plain_buffers.py" not in words(peer, SETUP, tmp_path)


def test_a_peer_that_is_not_built_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "LLAMA_SERVER", build.ROOT / "nowhere")
    reason = why_missing(LLAMA_SERVER)
    assert reason == "llama-server is not built (nowhere is missing): run `make bench`"


async def test_a_server_that_ends_at_once_fails_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(setup: Setup, port: int, scratch: Path) -> peers.Launch:
        return peers.Launch(("sh", "-c", "echo out of luck; exit 3"))

    monkeypatch.setattr(peers, "_LAUNCHES", {OURS: broken})
    monkeypatch.setattr(peers, "_LOGS", tmp_path)
    with pytest.raises(PeerFailed, match=r"(?s)ours ended with status 3:.*out of luck"):
        async with running(OURS, SETUP):
            pass


def test_a_command_is_shown_without_any_path_of_this_machine(tmp_path: Path) -> None:
    for peer in PEERS:
        started = launch(peer, SETUP, 1, tmp_path)
        text = machine.shown(started.command, started.environ)
        assert os.sep not in text
        assert "some.gguf" in text or peer == EXAMPLE


def test_the_facts_of_a_run_name_the_machine_and_no_path(tmp_path: Path) -> None:
    model = tmp_path / "some.gguf"
    model.write_bytes(b"12345")
    facts = machine.facts(model, 2)
    assert (facts["model"], facts["model_bytes"], facts["threads"]) == ("some.gguf", 5, 2)
    assert facts["cpu"]
    assert facts["cores"] > 0
    assert str(tmp_path) not in json.dumps(facts)
    assert str(build.ROOT) not in json.dumps(facts)
