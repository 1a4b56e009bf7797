"""The official `openai` package of npm, from Node, against the worker over HTTP."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http_worker import KEY, Served, http_worker
from tests.waiting import until

HERE = Path(__file__).parent / "node"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("CI") and (NODE is None or not (HERE / "node_modules").exists()),
        reason="needs Node and npm; `make test` installs the rest",
    ),
]


@pytest.fixture(scope="module")
def served(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a worker that gives embeddings too."""
    log = tmp_path_factory.mktemp("node") / "log"
    with http_worker(demo_model, log, SERVED_MODEL_NAME="demo", POOLING="mean") as served:
        yield served


@pytest.fixture(scope="module")
def said(served: Served) -> dict[str, Any]:
    """Run the client, and return all its results by what it asked for."""
    assert NODE is not None, "there is no Node"
    environ = {**os.environ, "BASE_URL": f"{served.base}/v1", "API_KEY": KEY, "MODEL": "demo"}
    run = subprocess.run(
        [NODE, "client.mjs"], cwd=HERE, env=environ, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    results: dict[str, Any] = json.loads(run.stdout)
    failed = {name: each["failed"] for name, each in results.items() if "failed" in each}
    assert not failed
    return results


def test_it_finds_the_model(said: dict[str, Any]) -> None:
    assert said["models"] == {"ids": ["demo"], "one": "demo"}


def test_it_chats_and_streams_the_same(said: dict[str, Any]) -> None:
    answer, stream, helper = said["chat"], said["chatStream"], said["helperStream"]
    text = answer["choices"][0]["message"]["content"]
    assert "7 days" in text
    assert stream["text"] == helper["completion"]["choices"][0]["message"]["content"] == text
    assert stream["usage"]["total_tokens"] == answer["usage"]["total_tokens"]
    assert stream["reasons"] == [answer["choices"][0]["finish_reason"]] == ["stop"]
    assert helper["deltas"] >= 1


def test_it_gets_a_tool_call_in_pieces(said: dict[str, Any]) -> None:
    (choice,) = said["toolCall"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "note"
    assert set(json.loads(call["function"]["arguments"])) == {"days", "certain"}


def test_it_gets_an_answer_that_matches_its_schema(said: dict[str, Any]) -> None:
    value = json.loads(said["schema"]["choices"][0]["message"]["content"])
    assert isinstance(value["days"], int)
    assert isinstance(value["certain"], bool)


def is_note(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"days", "certain"} and isinstance(value["certain"], bool)


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_it_gets_calls_or_a_document_where_it_sends_tools_and_a_schema(
    said: dict[str, Any], way: str
) -> None:
    for choice, each in said["callsOrDocument"].items():
        (answer,) = each[way]["choices"]
        message, reason = answer["message"], answer["finish_reason"]
        assert reason in {"required": ["tool_calls"], "none": ["stop"]}.get(
            choice, ["tool_calls", "stop"]
        )
        if reason == "stop":
            assert is_note(message["content"])
            continue
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == "note"
        assert is_note(call["function"]["arguments"])


def test_it_learns_what_stopped_an_answer(said: dict[str, Any]) -> None:
    whole, last = said["stopped"]["whole"], said["stopped"]["last"]
    assert whole["text"] == " 5, 6,"
    for choice in (whole, last):
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", " 7")


def test_it_sends_every_setting(said: dict[str, Any]) -> None:
    answer = said["settings"]
    assert answer["choices"][0]["message"]["content"]
    assert 0 < answer["usage"]["completion_tokens"] <= 8


def test_it_gets_answers_that_match_a_regex_or_a_grammar(said: dict[str, Any]) -> None:
    texts = {
        name: each["choices"][0]["message"]["content"] for name, each in said["matches"].items()
    }
    assert all(len(texts[name]) == 3 and texts[name].isdigit() for name in ("regex", "grammar"))
    assert texts["object"].lstrip().startswith("{")


def test_it_gets_vectors(said: dict[str, Any]) -> None:
    usual, written, short = (said["embeddings"][name] for name in ("usual", "written", "short"))
    for one, other in zip(usual["data"], written["data"], strict=True):
        assert len(one["embedding"]) == 576
        assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-6)
    (vector,) = short["data"]
    assert len(vector["embedding"]) == 8
    assert math.hypot(*vector["embedding"]) == pytest.approx(1, abs=1e-5)


def test_it_sends_token_ids(said: dict[str, Any]) -> None:
    assert said["ids"]["usage"]["prompt_tokens"] == 5
    assert said["ids"]["choices"][0]["text"]


def test_it_gets_a_call_from_a_response_and_sends_its_result(said: dict[str, Any]) -> None:
    results = said["responseCall"]
    (call,) = results["whole"]["output"]
    (streamed,) = results["streamed"]["output"]
    for each in (call, streamed):
        assert (each["type"], each["name"], each["status"]) == (
            "function_call",
            "note",
            "completed",
        )
        assert is_note(each["arguments"])
    assert results["deltas"] == streamed["arguments"] == call["arguments"]
    assert results["types"][-1] == "response.completed"
    assert results["after"]["output_text"]


def test_it_gets_logprobs(said: dict[str, Any]) -> None:
    tokens = said["logprobs"]["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 3
    for token in tokens:
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2


def test_it_gets_several_answers_and_several_prompts(said: dict[str, Any]) -> None:
    assert [each["index"] for each in said["severalAnswers"]["choices"]] == [0, 1]
    one, two = (each["text"] for each in said["completions"]["choices"])
    assert one.startswith("1, 2, 3,")
    assert two.startswith("a, b, c,")


def test_it_gets_responses(said: dict[str, Any]) -> None:
    whole, stream = said["response"], said["responseStream"]
    assert whole["output_text"]
    assert stream["text"] == whole["output_text"]
    assert stream["types"][0] == "response.created"
    assert stream["types"][-1] in ("response.completed", "response.incomplete")
    assert stream["response"]["usage"]["output_tokens"] == whole["usage"]["output_tokens"] > 0


def test_a_request_that_it_aborts_ends(said: dict[str, Any], served: Served) -> None:
    assert said["abort"] == {"aborted": True}
    until(served.idle)


def test_it_gets_errors_as_its_own(said: dict[str, Any]) -> None:
    assert said["refusal"] == {
        "kind": "BadRequestError",
        "status": 400,
        "code": "invalid_request",
        "param": "temperature",
    }
    assert said["suffix"]["param"] == "suffix"
