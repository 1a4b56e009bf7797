from __future__ import annotations

from pathlib import Path

import pytest

from gguf_worker.models.gguf.tokenizers import (
    PRE_TOKENIZERS,
    TOKENIZERS,
    splits_fatally,
    splits_unknown,
)
from tests.tiny_gguf import write_tiny


def _opens(path: Path) -> bool:
    """Return whether llama.cpp opens the file's vocabulary."""
    import llama_cpp

    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if model:
        llama_cpp.llama_model_free(model)
    return bool(model)


@pytest.mark.llama
@pytest.mark.parametrize("pre", [*sorted(PRE_TOKENIZERS), "", "new-2027", "qwen2 ", "Qwen2"])
def test_the_installed_llama_cpp_agrees_about_every_name(tmp_path: Path, pre: str) -> None:
    path = write_tiny(tmp_path / "a.gguf", layers=1, metadata={"tokenizer.ggml.pre": pre})
    assert _opens(path) is not splits_unknown("gpt2", pre)


@pytest.mark.llama
def test_the_installed_llama_cpp_refuses_other_tokenisers(tmp_path: Path) -> None:
    name = "new-2027"
    path = write_tiny(tmp_path / "a.gguf", layers=1, metadata={"tokenizer.ggml.model": name})
    assert _opens(path) is (name in TOKENIZERS)


@pytest.mark.parametrize(
    ("tokenizer", "pre", "unknown"),
    [
        ("gpt2", "qwen35", False),
        ("gpt2", "new-2027", True),
        ("gpt2", "", False),  # llama.cpp takes "default", with a warning
        ("llama", "new-2027", False),  # only those that split into words first look at it
        ("gemma4", "new-2027", False),
    ],
)
def test_a_way_of_splitting_is_unknown_only_where_it_is_looked_at(
    tokenizer: str, pre: str, unknown: bool
) -> None:
    assert splits_unknown(tokenizer, pre) is unknown


def test_white_space_ends_the_process_where_only_the_words_are_split_as_for_another() -> None:
    assert splits_fatally("gpt2", "whitespace")
    assert not splits_fatally("whitespace", "whitespace")
    assert not splits_fatally("gpt2", "gpt-2")
    assert not splits_fatally("llama", "whitespace"), "it is not looked at"
