"""`python handler.py` on a developer's machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.e2e

ASK = {"role": "user", "content": "How many days are in a week?"}


def handler(
    *arguments: str, model: Path, cwd: Path = ROOT, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "handler.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "MODEL": str(model), **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_good_input_is_answered_and_exits_0(demo_model: Path) -> None:
    job = {"input": {"prompt": "1, 2, 3, 4,", "max_tokens": 12, "temperature": 0, "stream": True}}
    done = handler("--test_input", json.dumps(job), model=demo_model)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("5, 6, 7")
    figures = (
        r"load [\d.]+ s \| prompt \d+ tokens \| generated 12 tokens \| TTFT \d+ ms \| [\d.]+ tok"
    )
    assert re.search(figures, done.stderr)


def test_a_bad_input_prints_a_stable_code_and_exits_1(demo_model: Path) -> None:
    done = handler("--test_input", '{"input": {}}', model=demo_model)
    assert done.returncode == 1
    assert '"code": "invalid_request"' in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2  # the error, and how long the load took


def test_the_openai_route_prints_its_text(demo_model: Path) -> None:
    body = {"messages": [ASK], "temperature": 0, "max_tokens": 10, "stream": True}
    job = {"input": {"openai_route": "/v1/chat/completions", "openai_input": body}}
    done = handler("--test_input", json.dumps(job), model=demo_model)
    assert (done.returncode, "7 days" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("route", "ask"),
    [
        ("/v1/messages", {"messages": [ASK], "max_tokens": 10}),
        ("/v1/responses", {"input": [ASK], "max_output_tokens": 16}),
    ],
)
def test_streams_with_named_events_print_their_text(
    demo_model: Path, route: str, ask: dict[str, object]
) -> None:
    body = {**ask, "temperature": 0, "stream": True}
    job = {"input": {"openai_route": route, "openai_input": body}}
    done = handler("--test_input", json.dumps(job), model=demo_model)
    assert (done.returncode, "7 days" in done.stdout) == (0, True)


@pytest.mark.parametrize("given", ["{", "[]", '{"prompt": "Hi"}'])
def test_an_input_that_is_no_job_is_refused_and_exits_1(demo_model: Path, given: str) -> None:
    done = handler("--test_input", given, model=demo_model)
    assert done.returncode == 1
    assert "--test_input" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_any_input_it_names_the_file_to_write(demo_model: Path, tmp_path: Path) -> None:
    done = handler(model=demo_model, cwd=tmp_path)
    assert done.returncode == 1
    assert "test_input.json" in done.stderr


def test_bad_settings_are_all_named_and_exit_2(demo_model: Path) -> None:
    done = handler(model=demo_model, CTX_SIZE="12", PORT="http", KV_TYPE="tiny")
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("CTX_SIZE", "PORT", "KV_TYPE"))


def test_a_damaged_model_is_refused_with_a_sentence_and_exits_1(
    demo_model: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(demo_model.read_bytes()[:20_000_000])
    done = handler("--test_input", '{"input": {"prompt": "Hi"}}', model=cut)
    assert done.returncode == 1
    assert '"code": "model_corrupt"' in done.stderr
    assert "20000000" in done.stderr.replace(",", "").replace("_", "")
    assert "Traceback" not in done.stderr
