"""The purpose of a model: by its header, and by POOLING."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_worker.errors import ConfigError, ModelUnsupported
from gguf_worker.models.gguf import Header, purpose_of, read_header
from tests.tiny_gguf import write_encoder, write_tiny


@pytest.fixture
def chat(tmp_path: Path) -> Header:
    return read_header(write_tiny(tmp_path / "chat.gguf"))


def embedding_decoder(folder: Path, pooling: int = 3) -> Header:
    return read_header(write_tiny(folder / "d.gguf", metadata={"llama.pooling_type": pooling}))


def encoder(folder: Path, pooling: int | None, *, head: bool = False) -> Header:
    return read_header(write_encoder(folder / "e.gguf", pooling=pooling, head=head))


def test_a_model_that_says_nothing_writes_text(chat: Header) -> None:
    purpose = purpose_of(chat, None)
    assert (purpose.generates, purpose.pooling, purpose.embeds) == (True, "none", False)
    assert purpose.causal


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_where_pooling_is_set_a_chat_model_gives_both(chat: Header, pooling: str) -> None:
    purpose = purpose_of(chat, pooling)
    assert (purpose.generates, purpose.pooling, purpose.reason) == (True, pooling, "set")


def test_a_decoder_whose_file_names_a_pooling_gives_embeddings_only(tmp_path: Path) -> None:
    purpose = purpose_of(embedding_decoder(tmp_path), None)
    assert (purpose.generates, purpose.pooling) == (False, "last")
    assert purpose.reason == "as the model says"


def test_such_a_decoder_writes_text_where_that_is_asked_for(tmp_path: Path) -> None:
    assert purpose_of(embedding_decoder(tmp_path), "none").generates


def test_another_pooling_of_such_a_decoder_gives_embeddings_only(tmp_path: Path) -> None:
    purpose = purpose_of(embedding_decoder(tmp_path), "mean")
    assert (purpose.generates, purpose.pooling) == (False, "mean")


def test_a_file_that_says_none_is_one_that_says_nothing(tmp_path: Path) -> None:
    assert purpose_of(embedding_decoder(tmp_path, pooling=0), None).generates


@pytest.mark.parametrize(
    ("number", "pooling"), [(1, "mean"), (2, "cls"), (3, "last"), (0, "mean"), (None, "mean")]
)
def test_an_encoder_pools_as_its_file_says_or_by_the_mean(
    tmp_path: Path, number: int | None, pooling: str
) -> None:
    purpose = purpose_of(encoder(tmp_path, number), None)
    assert (purpose.generates, purpose.pooling, purpose.causal) == (False, pooling, False)


def test_an_encoder_without_pooling_would_have_no_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a use"):
        purpose_of(encoder(tmp_path, 1), "none")


def test_a_reranker_gives_scores(tmp_path: Path) -> None:
    purpose = purpose_of(encoder(tmp_path, 4, head=True), None)
    assert (purpose.generates, purpose.pooling) == (False, "rank")


def test_a_reranker_may_give_embeddings_instead(tmp_path: Path) -> None:
    assert purpose_of(encoder(tmp_path, 4, head=True), "cls").pooling == "cls"


def test_ranking_without_a_head_is_refused_with_the_setting_or_the_file_to_blame(
    tmp_path: Path, chat: Header
) -> None:
    with pytest.raises(ConfigError, match="POOLING=rank needs a reranker") as error:
        purpose_of(chat, "rank")
    assert error.value.param == "POOLING"
    with pytest.raises(ModelUnsupported, match="no head that makes scores"):
        purpose_of(encoder(tmp_path, 4), None)
