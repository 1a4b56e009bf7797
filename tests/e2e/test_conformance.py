"""Schemathesis against a real worker: thousands of bodies, made from the worker's document."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.child_process import import_path
from tests.http_worker import KEY, Served
from tests.waiting import until

pytestmark = pytest.mark.e2e

ARGUMENTS = (
    "--seed=1",
    "--max-examples=15",
    "--workers=2",
    "--request-timeout=30",
    "--generation-database=none",
    "--no-color",
    "--no-shrink",
    # A document cannot say all: which fields exclude each other, what a template accepts, what a
    # grammar is.
    "--exclude-checks=positive_data_acceptance",
)
CASES = 4000
"""Fewer would mean that the document or the tool has lost something."""


def test_whatever_is_sent_the_worker_answers_as_its_document_says_and_keeps_nothing(
    served: Served, tmp_path: Path
) -> None:
    operations = len(httpx.get(f"{served.base}/openapi.json").json()["paths"]) - 1  # not itself
    hooks = {"SCHEMATHESIS_HOOKS": "tests.e2e.conformance"}
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.base}/openapi.json"]
    run = subprocess.run(
        [*command, *ARGUMENTS, "--header", f"Authorization: Bearer {KEY}"],
        env={**os.environ, **import_path(), **hooks},
        cwd=tmp_path,  # it leaves files
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert f"Tested: {operations}" in run.stdout
    cases = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert cases is not None
    print(f"{cases[0]}; {run.stdout.splitlines()[-1].strip(' =')}")
    assert int(cases[1]) == int(cases[2]) > CASES

    until(served.idle)
    after = served.metrics()
    assert after["engine_restarts_total"] == 0
    assert not [name for name in after if name.startswith("engine_lost_total{")]
    with served.client() as client:
        answer = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
    assert answer.choices[0].finish_reason in ("stop", "length")
