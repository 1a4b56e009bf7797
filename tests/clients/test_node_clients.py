"""Client libraries of npm, each driven through every feature against a scripted worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conversation import (
    ADA,
    BY_CALL,
    CITY,
    DESCRIPTION,
    GREETED,
    GREETING,
    PACE,
    PARAMETERS,
    PERSON,
    PERSON_TOOL,
    SNOW,
    SNOWS,
    STORY,
    TOOL,
    WEATHER,
    asides,
)
from tests.clients.scripted_worker import ScriptedWorker, scripted_worker
from tests.waiting import until

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent / "node"
NODE = shutil.which("node")
DRIVES = {
    "openai": ("openai.mjs", ""),
    "openai, responses": ("openai-responses.mjs", ""),
    "@anthropic-ai/sdk": ("anthropic.mjs", ""),
    "@langchain/openai": ("langchain.mjs", ""),
    "@ai-sdk/openai": ("ai-sdk.mjs", "openai"),
    "@ai-sdk/openai, chats": ("ai-sdk.mjs", "openai-chat"),
    "@ai-sdk/openai-compatible": ("ai-sdk.mjs", "openai-compatible"),
    "@ai-sdk/anthropic": ("ai-sdk.mjs", "anthropic"),
    "ollama": ("ollama.mjs", ""),
}
"""The driver of each client, and the provider that it is told to take."""

FEATURES = {"streamedTools": "tools"}
"""Features by those of drivers that have several ways."""

Drive = Callable[[str], dict[str, Any]]


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    description = HERE / "node_modules" / package / "package.json"
    assert description.exists(), "run `make clients`"
    version: str = json.loads(description.read_text(encoding="utf-8"))["version"]
    return version


@pytest.fixture(scope="module", params=["qwen", "harmony"])
def worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScriptedWorker]:
    """Start a worker whose model answers the questions of the conversation."""
    folder, family = tmp_path_factory.mktemp("node"), request.param
    with scripted_worker(folder, [], family, asides=asides(family), pace=PACE) as worker:
        yield worker


@pytest.fixture(params=DRIVES)
def drive(
    request: pytest.FixtureRequest,
    worker: ScriptedWorker,
    record_property: Callable[[str, object], None],
) -> Drive:
    """Return a function that drives one client through one feature, and returns its report."""
    assert NODE is not None, "there is no Node"
    file, provider = DRIVES[request.param]
    place = {
        "base": worker.base, "key": worker.key, "model": worker.model, "greeting": GREETING,
        "weather": WEATHER, "description": DESCRIPTION, "byCall": BY_CALL, "story": STORY,
        "snow": SNOW, "tool": TOOL, "personTool": PERSON_TOOL, "parameters": PARAMETERS,
        "person": PERSON,
    }  # fmt: skip
    environ = {**os.environ, "DRIVE": json.dumps(place), "PROVIDER": provider}
    record_property("table", "Client libraries")
    record_property("client", f"{request.param} (npm)")
    record_property("version", version_of(request.param.partition(",")[0]))

    def driven(feature: str) -> dict[str, Any]:
        record_property("feature", FEATURES.get(feature, feature))
        run = subprocess.run(
            [NODE, file],
            cwd=HERE,
            env={**environ, "FEATURE": feature},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        report: dict[str, Any] = json.loads(run.stdout)[feature]
        assert "failed" not in report, report["failed"]
        return report

    return driven


def test_a_text_comes_whole_with_its_usage(drive: Drive) -> None:
    report = drive("text")
    assert report["text"] == GREETED
    assert report["usage"] > 0


def test_a_text_comes_in_parts_with_its_usage(drive: Drive) -> None:
    report = drive("stream")
    assert report["text"] == GREETED
    assert report["parts"] > 1
    assert report["usage"] > 0


@pytest.mark.parametrize("way", ["tools", "streamedTools"])
def test_a_tool_is_called_and_its_result_answered(drive: Drive, way: str) -> None:
    report = drive(way)
    assert report["call"] == {"name": TOOL, "arguments": CITY}
    assert report["text"] == SNOWS


def test_an_answer_is_a_value_of_its_schema(drive: Drive) -> None:
    assert drive("structured")["value"] == ADA


def test_errors_are_the_clients_own_and_say_what_is_wrong(drive: Drive) -> None:
    report = drive("errors")
    assert report["wrong"]["status"] == 400
    assert re.search("temperature|top_p", report["wrong"]["message"])
    assert report["unknown"]["status"] == 404
    assert "nobody" in report["unknown"]["message"]
    assert report["stranger"]["status"] == 401


def test_an_answer_that_is_cancelled_ends_in_the_worker(
    drive: Drive, worker: ScriptedWorker
) -> None:
    assert drive("cancel")["cancelled"]
    until(worker.served.idle)
