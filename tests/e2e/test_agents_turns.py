"""Conversations as coding agents hold them, by the official clients, on a real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.asks import post
from tests.http_worker import KEY, Served, http_worker

pytestmark = pytest.mark.e2e

RULES = " ".join(f"Rule {number}: be brief and kind to everybody." for number in range(60))


@pytest.fixture(scope="module")
def agents(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a worker that answers to any name, with a small context."""
    log = tmp_path_factory.mktemp("agents") / "log"
    settings = {"CTX_SIZE": "2048", "SERVED_MODEL_NAME": "demo, *", "MAX_CONCURRENCY": "2"}
    with http_worker(demo_model, log, **settings) as served:
        yield served


@pytest.fixture
def claude(agents: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=agents.base, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def codex(agents: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=agents.base + "/v1/", api_key=KEY, max_retries=0) as client:
        yield client


def ask(client: anthropic.Anthropic, **more: Any) -> Any:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": "claude-opus-4-5[1m]", "max_tokens": 4, "messages": messages}
    create: Any = client.messages.create
    return create(**{**body, **more})


def billed(number: int, rules: str) -> list[dict[str, Any]]:
    line = f"x-anthropic-billing-header: cc_version=2.1; cch={number:05};"
    return [{"type": "text", "text": line}, {"type": "text", "text": rules}]


def test_the_second_turn_finds_the_prompt_of_the_first(claude: anthropic.Anthropic) -> None:
    first = ask(claude, system=billed(1, f"A. {RULES}")).usage
    second = ask(claude, system=billed(2, f"A. {RULES}")).usage
    assert second.cache_read_input_tokens > 0.9 * (
        first.input_tokens + first.cache_read_input_tokens
    )


def test_a_prompt_computed_before_is_there_for_the_answer(claude: anthropic.Anthropic) -> None:
    system = f"B. {RULES}"
    warmed = ask(claude, system=system, max_tokens=0)
    assert (warmed.content, warmed.stop_reason) == ([], "max_tokens")
    assert warmed.usage.output_tokens == 0
    answered = ask(claude, system=system)
    assert answered.model == "demo"
    assert answered.usage.output_tokens > 0
    assert answered.usage.cache_read_input_tokens > 0.9 * warmed.usage.input_tokens


def test_the_beginning_of_a_message_has_the_count_of_its_input(
    claude: anthropic.Anthropic, agents: Served
) -> None:
    body = {"system": f"C. {RULES}", "messages": [{"role": "user", "content": "Hello"}]}
    count = post(agents, "/v1/messages/count_tokens", body).json()["input_tokens"]
    begun = next(iter(ask(claude, **body, stream=True))).message.usage
    assert begun.input_tokens + begun.cache_read_input_tokens == count
    assert begun.output_tokens == 0


def conversation(turns: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for number in range(turns):
        call = {"type": "function_call", "call_id": f"c{number}", "name": "read"}
        items += [
            {"role": "user", "content": f"Read file {number}."},
            {**call, "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"c{number}", "output": RULES},
        ]
    return [*items, {"role": "user", "content": "What did you read?"}]


def test_a_conversation_that_is_too_long_is_refused_or_shortened(codex: openai.OpenAI) -> None:
    create: Any = codex.responses.create
    body = {"model": "gpt-5", "input": conversation(12), "max_output_tokens": 8}
    with pytest.raises(openai.BadRequestError, match="maximum context length is 2048 tokens"):
        create(**body)
    answer = create(**body, truncation="auto")
    assert answer.truncation == "auto"
    assert 1000 < answer.usage.input_tokens <= 2048 - 8
    (warning,) = answer.warnings
    assert warning.startswith("the conversation was too long: its oldest ")


def test_a_message_that_is_too_long_says_so_in_anthropics_words(
    claude: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 2047"):
        ask(claude, system=RULES * 6)
