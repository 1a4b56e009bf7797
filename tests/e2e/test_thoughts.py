"""A tiny model that thinks, whose template opens the thought, by the official `openai` client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gguf
import jsonschema
import openai
import pytest

from tests.e2e.asks import CHAT_FORMAT, CHAT_TOOL, PERSON, QUESTION, WEATHER, post, valid
from tests.http_worker import Served, http_worker
from tests.tiny_gguf import CHATML, EOS, write_tiny

pytestmark = pytest.mark.e2e

THINKS = (
    CHATML
    + "{% if reasoning_effort is defined %}Effort: {{ reasoning_effort }}\n{% endif %}"
    + "{% if add_generation_prompt %}<think>\n"
    + "{% if enable_thinking is false %}</think>\n\n{% endif %}{% endif %}"
)
CLOSE = 511
"""The token that ends a thought."""


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("thinker")
    plain = gguf.GGUFReader(write_tiny(folder / "plain.gguf"))
    tokens = plain.fields["tokenizer.ggml.tokens"].contents()
    kinds = plain.fields["tokenizer.ggml.token_type"].contents()
    tokens[CLOSE], kinds[CLOSE] = "</think>", int(gguf.TokenType.USER_DEFINED)
    model = write_tiny(
        folder / "thinker.gguf",
        chat_template=THINKS,
        metadata={"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds},
    )
    with http_worker(model, folder / "log", SERVED_MODEL_NAME="demo") as served:
        yield served


@pytest.fixture
def client(thinker: Served) -> Iterator[openai.OpenAI]:
    with thinker.client() as client:
        yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    """Ask, with a bias by which the model ends its thought."""
    create: Any = client.chat.completions.create
    given = {"max_tokens": 400, "seed": 1, "logit_bias": {str(CLOSE): 2.5}}
    return create(model="demo", messages=[QUESTION], **{**given, **more})


def chat(client: openai.OpenAI, **more: Any) -> tuple[str, Any, str]:
    """Return the thought, the message and the reason of a chat."""
    (choice,) = valid(ask(client, **more)).choices
    return getattr(choice.message, "reasoning_content", ""), choice.message, choice.finish_reason


def test_a_model_thinks_freely_before_an_answer_that_has_to_match(client: openai.OpenAI) -> None:
    thoughts = []
    for seed in range(4):
        thought, message, reason = chat(client, response_format=CHAT_FORMAT, seed=seed)
        thoughts.append(thought)
        assert reason == "stop"
        jsonschema.validate(json.loads(message.content), PERSON)
    assert any(thoughts)


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_model_thinks_before_it_calls_or_answers(client: openai.OpenAI, choice: str) -> None:
    thoughts = []
    for seed in range(3):
        thought, message, reason = chat(
            client, tools=[CHAT_TOOL], tool_choice=choice, response_format=CHAT_FORMAT,
            parallel_tool_calls=False, seed=seed,
        )  # fmt: skip
        thoughts.append(thought)
        if choice == "required" or reason == "tool_calls":
            (call,) = message.tool_calls
            jsonschema.validate(json.loads(call.function.arguments), WEATHER)
        else:
            jsonschema.validate(json.loads(message.content), PERSON)
    assert any(thoughts)


def test_the_deltas_of_thoughts_and_answers_add_up_to_the_whole(client: openai.OpenAI) -> None:
    thought, message, _ = chat(client, response_format=CHAT_FORMAT)
    thoughts, content = "", ""
    for chunk in ask(client, response_format=CHAT_FORMAT, stream=True):
        delta = valid(chunk).choices[0].delta
        more = getattr(delta, "reasoning_content", None) or ""
        assert not (content and more)
        thoughts += more
        content += delta.content or ""
    assert (thoughts, content) == (thought, message.content)


@pytest.mark.parametrize(
    "extra", [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_thinking_can_be_turned_off(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    thought, message, _ = chat(client, response_format=CHAT_FORMAT, extra_body=extra)
    assert thought == ""
    jsonschema.validate(json.loads(message.content), PERSON)


def test_the_template_gets_the_effort(thinker: Served) -> None:
    def text(**more: Any) -> str:
        tokens = post(thinker, "/tokenize", {"messages": [QUESTION], **more}).json()["tokens"]
        written: str = post(thinker, "/detokenize", {"tokens": tokens}).json()["content"]
        return written

    assert "Effort" not in text()
    assert "Effort: high\n" in text(reasoning_effort="high")
    assert text(enable_thinking=False).endswith("<think>\n</think>\n\n")
    assert text().endswith("<think>\n")


# A budget

BUDGET = 5
NEVER = {"logit_bias": {str(CLOSE): -100, str(EOS): -100}}
"""A bias by which neither a thought nor an answer ends by itself."""


def test_a_budget_ends_the_thought_of_each_answer(client: openai.OpenAI) -> None:
    answer = valid(
        ask(client, **NEVER, n=2, max_tokens=20, logprobs=True, top_logprobs=1,
            extra_body={"thinking_budget": BUDGET})
    )  # fmt: skip
    assert answer.usage.completion_tokens == 2 * 20
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2 * BUDGET
    for choice in answer.choices:
        assert choice.message.reasoning_content
        assert choice.message.content
        tokens = [each.token for each in choice.logprobs.content]
        assert len(tokens) == 20
        assert tokens[BUDGET] == "</think>"


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_without_an_end_is_counted_as_a_whole(
    client: openai.OpenAI, stream: bool
) -> None:
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = ask(client, **NEVER, max_tokens=9, **more)
    usage = [*answer][-1].usage if stream else answer.usage
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (9, 9)


def test_what_has_to_match_does_so_behind_a_thought_that_was_ended(client: openai.OpenAI) -> None:
    for seed in range(3):
        answer = valid(
            ask(client, seed=seed, logit_bias={str(CLOSE): -100}, response_format=CHAT_FORMAT,
                extra_body={"thinking": {"type": "enabled", "budget_tokens": BUDGET}})
        )  # fmt: skip
        jsonschema.validate(json.loads(answer.choices[0].message.content), PERSON)
        assert answer.usage.completion_tokens_details.reasoning_tokens == BUDGET


def test_a_call_that_is_demanded_comes_behind_a_thought_that_was_ended(
    client: openai.OpenAI,
) -> None:
    answer = valid(
        ask(client, logit_bias={str(CLOSE): -100}, tools=[CHAT_TOOL], tool_choice="required",
            parallel_tool_calls=False, extra_body={"thinking_token_budget": BUDGET})
    )  # fmt: skip
    (call,) = answer.choices[0].message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    assert answer.usage.completion_tokens_details.reasoning_tokens == BUDGET


def test_every_route_tells_the_tokens_of_thoughts(thinker: Served) -> None:
    limited = {**NEVER, "seed": 1}
    thinking = {"type": "enabled", "budget_tokens": BUDGET}
    message = post(
        thinker, "/v1/messages",
        {"messages": [QUESTION], "max_tokens": 20, "thinking": thinking, **limited},
    ).json()  # fmt: skip
    assert message["usage"]["output_tokens_details"] == {"thinking_tokens": BUDGET}
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    response = post(
        thinker, "/v1/responses",
        {"input": "Hi", "max_output_tokens": 20, "thinking_budget": BUDGET, **limited},
    ).json()  # fmt: skip
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": BUDGET}
    response = post(
        thinker, "/v1/responses",
        {"input": "Hi", "max_output_tokens": 20, "reasoning": {"effort": "none"}, **limited},
    ).json()  # fmt: skip
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}
    assert [item["type"] for item in response["output"]] == ["message"]


def test_a_stop_string_is_not_looked_for_in_a_thought(client: openai.OpenAI) -> None:
    answer = valid(
        ask(client, **NEVER, max_tokens=60, stop=list("aeio"),
            extra_body={"thinking_budget": 30})
    )  # fmt: skip
    assert answer.usage.completion_tokens_details.reasoning_tokens == 30
    assert answer.usage.completion_tokens > 30
