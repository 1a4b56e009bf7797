"""One job at home: what is read and what is printed. Whole runs are in tests/e2e."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gguf_worker import trial
from gguf_worker.api.writing.named_events import named_event_text
from gguf_worker.events import ModelReady, Outcome, RequestDone


async def give(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


def test_the_given_job_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "test_input.json"
    file.write_text('{"input": {"prompt": "file"}}')
    assert trial.read_job('{"input": {}}', file) == {"id": "local_test", "input": {}}
    assert trial.read_job(None, file)["input"] == {"prompt": "file"}


def test_a_job_keeps_its_own_id(tmp_path: Path) -> None:
    assert trial.read_job('{"id": "mine", "input": {}}', tmp_path)["id"] == "mine"


@pytest.mark.parametrize(
    ("given", "words"), [("{", "not JSON"), ("7", "input"), ('{"id": 1}', "input")]
)
def test_what_is_no_job_is_said_so(given: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        trial.read_job(given, tmp_path)


async def test_streamed_texts_are_joined_and_end_with_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chunk = {"choices": [{"delta": {"content": "c"}}, {"text": "d"}, {"delta": {}}]}
    items = ({"text": "a"}, {"text": "b"}, f"data: {json.dumps(chunk)}\n\n", "data: [DONE]\n\n")
    assert await trial._answer(give(*items)) == 0
    assert capsys.readouterr().out == "abcd\n"


@pytest.mark.parametrize("width", [1, 7, 10_000])
async def test_streams_with_named_events_are_shown_as_text_however_they_are_cut(
    capsys: pytest.CaptureFixture[str], width: int
) -> None:
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a\n"}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": ""}},
        {"type": "message_stop"},
        {"type": "response.created", "response": {"output": []}},
        {"type": "response.reasoning_text.delta", "delta": "hm"},
        {"type": "response.output_text.delta", "delta": "b"},
        {"type": "response.output_text.done", "text": "b"},
    ]
    text = "".join(map(named_event_text, events))
    items = (text[start : start + width] for start in range(0, len(text), width))
    assert await trial._answer(give(*items)) == 0
    assert capsys.readouterr().out == "a\nb\n"


async def test_an_object_without_text_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert await trial._answer(give({"state": "ready"})) == 0
    assert json.loads(capsys.readouterr().out) == {"state": "ready"}


async def test_an_error_goes_to_stderr_on_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await trial._answer(give({"text": "begun"}, {"error": '{"code": "x"}'})) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("begun\n", '\nerror: {"code": "x"}\n')


def test_the_figures_are_those_of_the_events() -> None:
    figures = trial._Figures()
    assert figures.line() == ""
    figures.observe(ModelReady("m", "/m.gguf", 1.234, 512, 8, 4096))
    done = RequestDone(
        "r", "j", "generate", Outcome.STOP, True, 2.1, ttft_seconds=0.1, prompt_tokens=7,
        completion_tokens=21,
    )  # fmt: skip
    figures.observe(done)
    assert figures.line() == (
        "load 1.23 s | prompt 7 tokens | generated 21 tokens | TTFT 100 ms | 10.0 tokens/s"
    )
