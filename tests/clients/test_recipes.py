"""The set-ups of agents in docs/clients.md can be read as `make clients` runs them."""

from __future__ import annotations

import pytest

from tests.clients.recipes import recipe

AGENTS = {
    "Codex CLI": "codex",
    "Claude Code": "claude",
    "opencode": "opencode",
    "aider": "aider",
    "Codex CLI, short": "codex",
    "Claude Code, short": "claude",
    "opencode, short": "opencode",
}


@pytest.mark.parametrize("heading", AGENTS)
def test_a_recipe_names_the_worker_the_key_and_the_model(heading: str) -> None:
    made = recipe(heading, "http://w:1", "k-1", "m-1", 1234)
    everything = [*made.files.values(), *made.environ.values(), *made.command]
    for each in ("http://w:1", "k-1", "m-1", "1234"):
        assert any(each in text for text in everything)
    assert not any("your-" in text or "localhost" in text for text in everything)
    assert made.command[0] == AGENTS[heading]


def test_a_recipe_has_its_files_by_their_places_at_home() -> None:
    made = recipe("Codex CLI", "http://w:1", "k-1", "m-1", 1234)
    assert list(made.files) == [".codex/config.toml"]
    assert made.environ == {"WORKER_KEY": "k-1"}
