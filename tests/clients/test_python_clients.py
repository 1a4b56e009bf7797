"""Client libraries of PyPI, each driven through every feature that it has, against a real worker.

Most talk to a scripted model; a reranker and lm-eval's likelihoods need one that computes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
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
from tests.clients.libraries import LIBRARIES, LISTS, Library
from tests.clients.notations import NOTATIONS
from tests.clients.scripted_worker import ScriptedWorker, scripted_worker
from tests.http_worker import KEY, Served, http_worker
from tests.tiny_gguf import write_encoder
from tests.waiting import until

pytestmark = pytest.mark.clients

SECONDS = 180.0
BY_JSON_TOOL, JSON_TOOL = "Describe Ada as JSON.", "json_tool_call"
"""A question for LiteLLM, and the name of its own tool for answers of a schema."""
COLUMNS = {
    "streamedTools": "tools",
    "structuredBySchema": "structured",
    "structuredInParts": "structured",
    "generate": "text",
    "models": "models",
}
"""The features of the table by those of drivers that have several ways."""

QUESTIONS: dict[str, Any] = {
    "greeting": GREETING, "weather": WEATHER, "description": DESCRIPTION, "byCall": BY_CALL,
    "story": STORY, "snow": SNOW, "tool": TOOL, "personTool": PERSON_TOOL,
    "parameters": PARAMETERS, "person": PERSON, "byJsonTool": BY_JSON_TOOL,
}  # fmt: skip

Report = dict[str, Any]
Drive = Callable[..., Report]


def ways(*features: str) -> list[Any]:
    """Return each library that is driven by a script, with each of these features that it has."""
    return [
        pytest.param(library, feature, id=f"{named(library)}-{feature}")
        for library in LIBRARIES
        for feature in features
        if feature in library.features and library.environment not in ("cohere", "lm_eval")
    ]


def named(library: Library) -> str:
    return f"{library.package}, {library.api}"


def only(environment: str) -> Library:
    (library,) = (each for each in LIBRARIES if each.environment == environment)
    return library


def run(library: Library, features: Sequence[str], base: str, model: str, **more: str) -> Report:
    """Return what a driver reports of these features."""
    assert library.python.exists(), "run `make clients`"
    place = {**QUESTIONS, "base": base, "key": KEY, "model": model}
    environ = {
        **os.environ,
        "DRIVE": json.dumps(place),
        "FEATURES": ",".join(features),
        "PROVIDER": library.provider,
        "WORKER_KEY": KEY,
    }
    done = subprocess.run(
        [str(library.python), str(library.script)],
        cwd=LISTS,
        env={**environ, **more},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    report: Report = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.fixture(scope="module", params=["qwen", "harmony"])
def worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScriptedWorker]:
    """Start a worker whose model answers the questions of the conversation."""
    folder, family = tmp_path_factory.mktemp("python"), request.param
    said = asides(family) | {BY_JSON_TOOL: NOTATIONS[family].calls(JSON_TOOL, ADA)}
    with scripted_worker(folder, [], family, asides=said, pace=PACE) as worker:
        yield worker


@pytest.fixture(scope="module")
def reports(worker: ScriptedWorker) -> dict[Library, Report]:
    """Return what drivers have reported to this worker; each is run once for all its features."""
    return {}


@pytest.fixture
def noted(record_property: Callable[[str, object], None]) -> Callable[[Library, str], None]:
    """Return a function that says what the table has of this test."""

    def note(library: Library, feature: str) -> None:
        record_property("table", "Client libraries")
        record_property("client", f"{named(library)} (PyPI)")
        record_property("version", library.version)
        record_property("feature", COLUMNS.get(feature, feature))

    return note


@pytest.fixture
def drive(
    worker: ScriptedWorker,
    reports: dict[Library, Report],
    noted: Callable[[Library, str], None],
) -> Drive:
    """Return a function that gives a driver's report of one feature."""

    def driven(library: Library, feature: str) -> Report:
        noted(library, feature)
        if library not in reports:
            features = [each for each in library.features if each != "cancel"]
            reports[library] = run(library, features, worker.base, worker.model)
        report: Report = reports[library][feature]
        assert "failed" not in report, report["failed"]
        return report

    return driven


@pytest.mark.parametrize(("library", "feature"), ways("text"))
def test_a_text_comes_whole_with_its_usage(drive: Drive, library: Library, feature: str) -> None:
    report = drive(library, feature)
    assert report["text"] == GREETED
    assert report["usage"] is None or report["usage"] > 0


@pytest.mark.parametrize(("library", "feature"), ways("stream"))
def test_a_text_comes_in_parts_with_its_usage(drive: Drive, library: Library, feature: str) -> None:
    report = drive(library, feature)
    assert report["text"] == GREETED
    assert report["parts"] > 1
    assert report["usage"] is None or report["usage"] > 0


@pytest.mark.parametrize(("library", "feature"), ways("tools", "streamedTools"))
def test_a_tool_is_called_and_its_result_answered(
    drive: Drive, library: Library, feature: str
) -> None:
    report = drive(library, feature)
    assert report["call"] == {"name": TOOL, "arguments": CITY}
    assert report["text"] == SNOWS


@pytest.mark.parametrize(
    ("library", "feature"), ways("structured", "structuredBySchema", "structuredInParts")
)
def test_an_answer_is_a_value_of_its_schema(drive: Drive, library: Library, feature: str) -> None:
    assert drive(library, feature)["value"] == ADA


@pytest.mark.parametrize(("library", "feature"), ways("errors"))
def test_errors_are_the_clients_own_and_say_what_is_wrong(
    drive: Drive, library: Library, feature: str
) -> None:
    assert_errors(drive(library, feature), "temperature")


def assert_errors(report: Report, wrong: str) -> None:
    for name, status, word in (
        ("wrong", 400, wrong),
        ("unknown", 404, "nobody"),
        ("stranger", 401, "key"),
    ):
        error = report[name]
        assert error["kind"] != "none"
        assert word in error["message"], error
        # Not every library hands on the status.
        assert error["status"] in (status, None), error


@pytest.mark.parametrize(("library", "feature"), ways("cancel"))
def test_an_answer_that_is_cancelled_ends_in_the_worker(
    worker: ScriptedWorker,
    noted: Callable[[Library, str], None],
    library: Library,
    feature: str,
) -> None:
    noted(library, feature)
    report = run(library, ["cancel"], worker.base, worker.model)["cancel"]
    assert "failed" not in report, report["failed"]
    assert report["cancelled"]
    until(worker.served.idle)


@pytest.mark.parametrize(("library", "feature"), ways("generate"))
def test_ollamas_client_has_its_prompts_answered(
    drive: Drive, library: Library, feature: str
) -> None:
    report = drive(library, feature)
    assert report["text"] == report["streamed"] == GREETED
    assert report["usage"] > 0
    assert report["seconds"] > 0
    assert report["loaded"] == "load"


@pytest.mark.parametrize(("library", "feature"), ways("models"))
def test_ollamas_client_lists_and_shows_the_model(
    drive: Drive, worker: ScriptedWorker, library: Library, feature: str
) -> None:
    report = drive(library, feature)
    assert report["listed"] == report["loaded"] == [f"{worker.model}:latest"]
    assert {"completion", "tools"} <= set(report["capabilities"])
    assert report["family"] == "llama"
    assert report["pulled"] == "success"
    assert report["parts"] == ["success"]
    assert report["removed"]["status"] == report["copied"]["status"] == 404
    assert "MODELS_FILE" in report["removed"]["message"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a worker whose model ranks documents."""
    model = write_encoder(tmp_path_factory.mktemp("judge") / "judge.gguf", pooling=4, head=True)
    with http_worker(model, model.with_suffix(".log"), SERVED_MODEL_NAME="judge") as served:
        yield served


@pytest.mark.parametrize("feature", ["rerank", "errors"])
def test_coheres_client_ranks_documents(
    judge: Served, noted: Callable[[Library, str], None], feature: str
) -> None:
    library = only("cohere")
    noted(library, feature)
    report = run(library, [feature], judge.base, "judge")[feature]
    assert "failed" not in report, report["failed"]
    if feature == "errors":
        assert_errors(report, "top_n")
        return
    first, second = report["scores"]
    assert 1 > first >= second > 0
    assert len(set(report["indexes"])) == 2


@pytest.fixture(scope="module")
def demo(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a worker with the demo model."""
    log = tmp_path_factory.mktemp("demo") / "log"
    with http_worker(demo_model, log, SERVED_MODEL_NAME="demo", CTX_SIZE="2048") as served:
        yield served


@pytest.mark.parametrize("feature", ["generate", "likelihoods"])
def test_lm_eval_has_its_prompts_answered_and_weighed(
    demo: Served, demo_model: Path, noted: Callable[[Library, str], None], feature: str
) -> None:
    library = only("lm_eval")
    noted(library, "text" if feature == "generate" else feature)
    report = run(library, [feature], demo.base, "demo", MODEL_FILE=str(demo_model))[feature]
    assert "failed" not in report, report["failed"]
    if feature == "generate":
        assert len(report["texts"]) == 2
        assert all(report["texts"])
        assert not any("\n" in text for text in report["texts"])
        return
    (right, greedy), (wrong, _) = report["likelihoods"]
    assert wrong < right < 0
    assert greedy in (True, False)
