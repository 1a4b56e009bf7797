"""Log probabilities of prompts, as lm-eval's `local-completions` asks for them and reads them."""

from __future__ import annotations

import threading
from operator import itemgetter
from typing import Any

import openai
import pytest

from tests.e2e.asks import COUNTING, GREEDY, post, token_ids
from tests.http_worker import Served

pytestmark = [pytest.mark.e2e, pytest.mark.llama]

NEAR = 0.5
"""Largest difference of a log probability: the same token is computed alone or among others."""


def loglikelihoods(
    served: Served, pairs: list[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """Return the log probability of each continuation of a context, and if it is the likeliest.

    The body, and the way in which the answer is read, are those of lm-eval 0.4.
    """
    body = {
        "model": "demo",
        "prompt": [context + continuation for context, continuation in pairs],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = post(served, "/v1/completions", body).json()
    found = []
    choices = sorted(answer["choices"], key=itemgetter("index"))
    for choice, (context, _) in zip(choices, pairs, strict=True):
        start = len(context)
        assert start > 0
        logprobs = choice["logprobs"]["token_logprobs"][start:-1]
        likeliest = choice["logprobs"]["top_logprobs"][start:-1]
        is_greedy = all(
            value == max(top.values()) for value, top in zip(logprobs, likeliest, strict=True)
        )
        found.append((sum(logprobs), is_greedy))
    return found


def completed(served: Served, prompt: Any, **more: Any) -> dict[str, Any]:
    body = {"model": "demo", "prompt": prompt, **GREEDY, **more}
    (choice,) = post(served, "/v1/completions", body).json()["choices"]
    return dict(choice)


def test_what_the_model_would_write_is_likelier_than_what_it_would_not(served: Served) -> None:
    context = token_ids(served, COUNTING)
    right, wrong = token_ids(served, " 5, 6, 7"), token_ids(served, " banana")
    (good, greedy), (bad, not_greedy) = loglikelihoods(served, [(context, right), (context, wrong)])
    assert (greedy, not_greedy) == (True, False)
    assert bad < good - 5


def test_a_continuation_is_as_likely_as_it_was_when_the_model_wrote_it(served: Served) -> None:
    context = token_ids(served, COUNTING)
    choice = completed(served, context, logprobs=1)
    written = token_ids(served, choice["text"])
    ((total, greedy),) = loglikelihoods(served, [(context, written)])
    drawn = choice["logprobs"]["token_logprobs"]
    assert len(drawn) == len(written) == GREEDY["max_tokens"]
    assert greedy
    assert total == pytest.approx(sum(drawn), abs=NEAR * len(drawn))


def test_an_echo_has_a_place_for_each_token_of_prompt_and_answer(served: Served) -> None:
    prompt = "The sea \N{WATER WAVE} is wide, and the sky"
    ids = token_ids(served, prompt)
    choice = completed(served, prompt, echo=True, logprobs=2, max_tokens=3)
    lists = choice["logprobs"]
    assert {len(each) for each in lists.values()} == {len(ids) + 3}
    assert choice["text"].startswith(prompt)
    assert (lists["token_logprobs"][0], lists["top_logprobs"][0]) == (None, None)
    for token, value, likeliest in list(
        zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True)
    )[1:]:
        assert value <= 0
        assert likeliest[token] >= value
        assert 1 <= len(likeliest) <= 3
    for token, at in zip(lists["tokens"], lists["text_offset"], strict=True):
        assert "\ufffd" in token or choice["text"].startswith(token, at)


@pytest.mark.parametrize("long", [False, True])
def test_a_prompt_alone_is_scored_the_same_however_often(served: Served, long: bool) -> None:
    """The second time the cache has all of it."""
    prompt = "The sea and the sky and the wind. " * (30 if long else 1)
    first, second = (
        completed(served, prompt, echo=True, logprobs=1, max_tokens=0) for _ in range(2)
    )
    assert first["text"] == prompt
    assert first["finish_reason"] == "length"
    values, again = (each["logprobs"]["token_logprobs"] for each in (first, second))
    assert len(values) == len(token_ids(served, prompt))
    assert again[1:] == pytest.approx(values[1:], abs=NEAR)


def test_the_prompt_of_a_chat_is_scored_for_vllms_field(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    answer = create(
        model="demo",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=2,
        extra_body={"prompt_logprobs": 1},
    )
    first, *others = answer.prompt_logprobs
    assert first is None
    assert len(others) + 1 == answer.usage.prompt_tokens
    assert all(each["logprob"] <= 0 for token in others for each in token.values())


def test_an_answer_goes_on_while_long_prompts_are_scored(served: Served) -> None:
    """It ends with the same text, and gets its tokens between those prompts' steps."""
    alone = completed(served, COUNTING, max_tokens=24)["text"]
    long = ["The sea and the sky and the wind. " * 40 + str(number) for number in range(4)]
    scoring = [
        threading.Thread(
            target=completed, args=(served, each), kwargs={"echo": True, "logprobs": 1}
        )
        for each in long
    ]
    for each in scoring:
        each.start()
    beside = completed(served, COUNTING, max_tokens=24)["text"]
    still = sum(each.is_alive() for each in scoring)
    for each in scoring:
        each.join()
    assert beside[:6] == alone[:6]
    assert still > 0, "the answer waited for all of them"
