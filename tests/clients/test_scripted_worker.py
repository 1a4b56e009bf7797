"""The scripted worker itself: what it says is the script's, and all else is the worker's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.clients.notations import NOTATIONS
from tests.clients.scripted_worker import OVER, ScriptedWorker, scripted_worker
from tests.waiting import until

pytestmark = [pytest.mark.llama, pytest.mark.e2e]

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
        },
    },
}
QUESTION: Any = {"role": "user", "content": "What is in notes.txt? Ünïcode counts."}


def opened(worker: ScriptedWorker) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{worker.base}/v1", api_key=worker.key, max_retries=0)


@pytest.mark.parametrize("family", NOTATIONS)
def test_each_generation_is_the_next_text_of_the_script(tmp_path: Path, family: str) -> None:
    notation = NOTATIONS[family]
    arguments = {"path": "notes.txt"}
    texts = [notation.thinks("Look.") + notation.calls("read", arguments), notation.says("Süß: 7.")]
    with scripted_worker(tmp_path, texts, family) as worker, opened(worker) as client:
        first = client.chat.completions.create(
            model=worker.model, messages=[QUESTION], tools=[TOOL]
        )
        (call,) = first.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("read", arguments)
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "seven"}
        history: Any = [QUESTION, first.choices[0].message.to_dict(), result]
        stream = client.chat.completions.create(
            model=worker.model, messages=history, tools=[TOOL], stream=True
        )
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert len(parts) > 2
        assert "".join(parts) == "Süß: 7."
        last = client.chat.completions.create(model=worker.model, messages=[QUESTION])
        assert last.choices[0].message.content == OVER
        prompts = worker.prompts
    assert QUESTION["content"] in prompts[0]
    assert "seven" in prompts[1]
    assert len(prompts) == 3


def test_an_aside_uses_up_no_text(tmp_path: Path) -> None:
    asides = {"Make a title": "A title"}
    with scripted_worker(tmp_path, ["One.", "Two."], "qwen", asides=asides) as worker:
        said = []
        with opened(worker) as client:
            for ask in ("Say one.", "Make a title.", "Say two."):
                messages: Any = [{"role": "user", "content": ask}]
                answer = client.chat.completions.create(model=worker.model, messages=messages)
                said.append(answer.choices[0].message.content)
    assert said == ["One.", "A title", "Two."]


def test_limits_stop_strings_and_grammars_are_the_workers_own(tmp_path: Path) -> None:
    asides = {"letters": "abc stop def", "yes": "perhaps"}
    with scripted_worker(tmp_path, [], "llama", asides=asides) as worker, opened(worker) as client:
        letters: Any = {"model": worker.model, "messages": [{"role": "user", "content": "letters"}]}
        stopped = client.chat.completions.create(**letters, stop="stop")
        assert stopped.choices[0].message.content == "abc "
        cut = client.chat.completions.create(**letters, max_tokens=2)
        assert (cut.choices[0].finish_reason, cut.usage and cut.usage.completion_tokens) == (
            "length",
            2,
        )
        yes: Any = {"model": worker.model, "messages": [{"role": "user", "content": "yes"}]}
        chosen = client.chat.completions.create(**yes, extra_body={"guided_choice": ["yes", "no"]})
        assert chosen.choices[0].message.content in ("yes", "no")


def test_a_slow_answer_can_be_cancelled(tmp_path: Path) -> None:
    with scripted_worker(tmp_path, ["word " * 2000], "qwen", pace=0.01) as worker:
        with opened(worker) as client:
            stream = client.chat.completions.create(
                model=worker.model, messages=[QUESTION], stream=True
            )
            next(iter(stream))
            stream.close()
        until(worker.served.idle)


def test_other_dialects_get_the_same_texts(tmp_path: Path) -> None:
    with scripted_worker(tmp_path, ["One.", "Two."], "llama") as worker:
        with anthropic.Anthropic(base_url=worker.base, api_key=worker.key) as client:
            message = client.messages.create(
                model=worker.model, max_tokens=99, messages=[{"role": "user", "content": "Hi"}]
            )
            assert message.content[0].to_dict()["text"] == "One."
        with opened(worker) as other:
            assert other.responses.create(model=worker.model, input="Hi").output_text == "Two."
        refused = httpx.post(f"{worker.base}/v1/chat/completions", json={"messages": [QUESTION]})
        assert refused.status_code == 401
