"""The served models: their names, and the lists that each kind of client reads."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.model_list import (
    find_card,
    list_object,
    model_object,
    properties_object,
)
from gguf_worker.errors import ModelNotFound
from gguf_worker.providers import ANY_NAME, ModelCard

SEA = ModelCard(
    "sea", ("wide", "sea.gguf"), 1_700_000_000, 8192, 8_030_000_000, "Q4_K_M", ("sea", "wide")
)
BREAD = ModelCard("bread", parameters=135_000_000)

CODEX_NEEDS = {
    *("slug", "display_name", "description", "supported_reasoning_levels", "shell_type"),
    *("visibility", "supported_in_api", "priority", "upgrade", "base_instructions"),
    *("supports_reasoning_summaries", "support_verbosity", "default_verbosity"),
    *("apply_patch_tool_type", "truncation_policy", "supports_parallel_tool_calls"),
    "experimental_supported_tools",
}
"""Fields without which Codex takes none of a list."""


@pytest.mark.parametrize("name", ["sea", "wide", "sea.gguf", None])
def test_a_model_is_found_by_each_of_its_names(name: str | None) -> None:
    assert find_card(name, [SEA, BREAD]) is SEA


@pytest.mark.parametrize("name", ["claude-opus-4-5[1m]", "gpt-5", ""])
def test_a_model_answers_to_any_name_where_no_other_has_it(name: str) -> None:
    anything = ModelCard("any", (ANY_NAME,))
    assert find_card(name, [SEA, anything]) is anything
    assert find_card("sea", [anything, SEA]) is SEA
    with pytest.raises(ModelNotFound):
        find_card(name, [SEA])


def test_an_unknown_name_is_told_the_names_that_are_served() -> None:
    with pytest.raises(ModelNotFound, match="serves 'sea', 'wide', 'bread'") as caught:
        find_card("gpt-5", [SEA, BREAD])
    assert "sea.gguf" not in caught.value.message
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    "name", ["max_model_len", "context_length", "context_window", "max_input_tokens"]
)
def test_the_context_has_each_of_its_names(name: str) -> None:
    assert model_object(SEA)[name] == 8192
    assert model_object(BREAD)[name] is None


def test_the_list_has_each_name_that_is_served() -> None:
    page = list_object([SEA, BREAD])
    assert [each["id"] for each in page["data"]] == ["sea", "wide", "bread"]
    assert [each["root"] for each in page["data"]] == ["sea", "sea", "bread"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("sea", "bread", False)


@pytest.mark.parametrize("card", [SEA, BREAD], ids=["known", "unknown"])
def test_codex_and_ollama_read_the_list_too(card: ModelCard) -> None:
    listed: list[dict[str, Any]] = list_object([card])["models"]
    for each in listed:
        assert set(each) >= CODEX_NEEDS
        assert each["slug"] == each["name"] == each["model"]
        assert each["base_instructions"]
        assert each["context_window"] == card.context
        assert isinstance(each["details"]["parameter_size"], str)
    assert listed[0]["details"]["parameter_size"] in ("8.0B", "135M")


def test_the_properties_have_the_context() -> None:
    facts = properties_object([SEA, BREAD])
    assert facts["default_generation_settings"]["n_ctx"] == 8192
    assert facts["model_alias"] == "sea"
    assert facts["modalities"] == {"vision": False, "audio": False}
