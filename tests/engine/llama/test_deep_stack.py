"""Texts that a tokeniser reads by recursion: none of them kills the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.engine.llama import deep_stack
from gguf_worker.engine.llama.deep_stack import MOST_CHARACTERS, longest_match, with_deep_stack
from gguf_worker.errors import ContextLengthExceeded, InvalidRequest, Overloaded
from gguf_worker.events import EngineLost, Event
from gguf_worker.generation import Sampling
from tests.engine.llama.conftest import Open
from tests.tiny_gguf import write_tiny

pytestmark = pytest.mark.llama

RECURSIVE = (
    "afmoe",
    "bailingmoe",
    "bloom",
    "default",
    "deepseek-coder",
    "deepseek-llm",
    "deepseek-v3",
    "exaone-moe",
    "falcon",
    "gpt-4o",
    "granite-embed-multi-97m",
    "jais-2",
    "llama4",
    "minimax-m2",
    "seed-coder",
    "spark2_5",
    "tekken",
    "tiny_aya",
    "ufakzeka",
    "viking",
    "youtu",
)
"""Pre-tokenisers that overflow a stack of 8 MB with one of TEXTS."""
TEXTS = {"letters": "a", "spaces": " ", "dots": ".", "CJK": "海"}
LENGTH = 200_000

Start = Callable[..., tuple[EngineClient, list[Event]]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    """Starts an engine process for a model with this pre-tokeniser."""
    clients: list[EngineClient] = []

    def start(pre: str, pooling: str = "none") -> tuple[EngineClient, list[Event]]:
        path = write_tiny(tmp_path / "m.gguf", metadata={"tokenizer.ggml.pre": pre})
        spec = EngineSpec(path=str(path), context=4096, sequences=1, pooling=pooling)
        events: list[Event] = []
        client = EngineClient(spec, observe=events.append, backoff=(0.0,))
        clients.append(client)
        client.start()
        return client, events

    yield start
    for client in clients:
        client.close()


def losses(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, EngineLost)]


@pytest.mark.parametrize("pre", RECURSIVE)
async def test_no_run_of_characters_kills_a_pre_tokeniser(
    pre: str, started: Start, open_tiny: Open
) -> None:
    pieces = open_tiny().vocabulary.pieces
    client, events = started(pre)
    for character in TEXTS.values():
        tokens = await client.tokenize(character * LENGTH)
        assert b"".join(pieces[token] for token in tokens).decode() == character * LENGTH
    assert not losses(events)


async def test_neither_a_prompt_nor_a_text_for_a_vector_kills_it(started: Start) -> None:
    client, events = started("tekken", "mean")
    text = "a" * LENGTH
    with pytest.raises(ContextLengthExceeded):
        await anext(client.submit(EngineRequest(text, Sampling(temperature=0))))
    with pytest.raises(ContextLengthExceeded):
        await client.embed([text])
    assert not losses(events)


def test_a_line_that_is_too_long_for_any_stack_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"lines of up to {MOST_CHARACTERS}"):
        with_deep_stack("a" * (MOST_CHARACTERS + 1), lambda: None)


def test_a_match_ends_with_its_line_and_the_white_space_after_it() -> None:
    lines = "a line\n" * MOST_CHARACTERS
    assert longest_match(lines) == len("a line") + 1
    assert longest_match("a" + lines) == len("aa line") + 1
    assert longest_match(lines + "b\n \n\t c") == len("a line") + len("\n \n\t ")
    assert longest_match("short\n" * 9) == len("short\n" * 9)
    assert longest_match("a" * MOST_CHARACTERS * 2) == MOST_CHARACTERS * 2


def test_a_long_text_of_short_lines_is_read() -> None:
    assert with_deep_stack("a line\n" * MOST_CHARACTERS, lambda: 5) == 5


def test_short_texts_are_read_where_they_are_and_long_ones_on_a_thread_of_their_own() -> None:
    here, usual = threading.get_ident(), threading.stack_size()
    assert with_deep_stack("a", threading.get_ident) == here
    assert with_deep_stack("a" * LENGTH, threading.get_ident) != here
    assert threading.stack_size() == usual


def test_what_goes_wrong_on_the_thread_goes_wrong_here() -> None:
    with pytest.raises(ZeroDivisionError):
        with_deep_stack("a" * LENGTH, lambda: 1 // 0)


def test_without_memory_for_a_stack_the_text_may_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deep_stack, "STACK_PER_CHARACTER", 1 << 40)
    usual = threading.stack_size()
    with pytest.raises(Overloaded):
        with_deep_stack("a" * LENGTH, lambda: None)
    assert threading.stack_size() == usual
