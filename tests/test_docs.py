"""The README and the guides say what the code says: names, numbers, codes, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gguf_worker.__main__ import with_tables
from gguf_worker.api import embeddings, formats, job, rerank, schema, shapes, tools
from gguf_worker.api.gateway import MODELS, POST_ROUTES
from gguf_worker.api.http import bodies, connection, door, server
from gguf_worker.chat import template as dialect
from gguf_worker.config import Settings, load_settings
from gguf_worker.engine.drawing.grammars import pending_grammars as grammars
from gguf_worker.errors import ERRORS_BY_CODE, StartError, WorkerError
from gguf_worker.models.gguf import container
from gguf_worker.models.source import web
from gguf_worker.monitoring.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ROOT / "ARCHITECTURE.md", *GUIDES]
SETTINGS = {field.upper() for field in Settings.model_fields}

NOT_OURS = {
    # of RunPod and its SDK
    *("RUNPOD_INIT_TIMEOUT", "RUNPOD_LOG_LEVEL", "RUNPOD_MIN_MEMORY_GB", "RUNPOD_MIN_DISK_PERCENT"),
    *("RUNPOD_API_KEY", "RUNPOD_SECRET_name", "ENDPOINT_ID", "JOB_ID"),
    *("REQUEST_COUNT", "QUEUE_DELAY", "ADA_24", "AMPERE_24"),
    # arguments of the image's build
    *("ACCEL", "BASE_IMAGE", "RUNTIME_IMAGE", "CUDA_ARCHITECTURES"),
    # of the compiler, the system and llama.cpp
    *("GOMP_SPINCOUNT", "PR_SET_PDEATHSIG", "SCHED_BATCH", "ENOSPC"),
    # kinds of quantisation
    *("Q4_0", "Q4_1", "Q4_K_M", "Q8_0"),
}
"""What looks like a setting's name in the documents, and is something else."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_in(text: str) -> Iterator[str]:
    """What stands in code: fenced blocks, then spans."""
    blocks = re.findall(r"^ *```.*?\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    yield from blocks
    rest = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", rest)


def to_paste(path: Path) -> Iterator[str]:
    """Blocks of nothing but variables."""
    for block in code_in(text_of(path)):
        if re.fullmatch(r"( *[A-Z][A-Z0-9_]*=\S+\n)+", block):
            yield block


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def by_name(path: Path) -> str:
    return path.name


# --- the README ---


def test_the_readmes_tables_are_current() -> None:
    text = text_of(README)
    assert text == with_tables(text), "stale: run `python -m gguf_worker docs`"


def test_every_setting_has_its_row_in_the_readme() -> None:
    rows = set(re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", text_of(README), flags=re.MULTILINE))
    assert rows == SETTINGS


def test_the_readme_leads_to_every_guide_on_its_first_screens() -> None:
    first = "\n".join(text_of(README).splitlines()[:80])
    for guide in GUIDES:
        assert f"(docs/{guide.name})" in first


# --- what they name ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        aim = (document.parent / file).resolve() if file else document
        assert aim.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(aim), flags=re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


@pytest.mark.parametrize("document", [README, *GUIDES], ids=by_name)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    named = {
        name
        for code in code_in(text_of(document))
        for name in re.findall(r"(?<![\w/{.-])[A-Z][A-Z0-9]*_[A-Za-z0-9_]+(?![\w/-])", code)
    }
    assert named <= SETTINGS | NOT_OURS


@pytest.mark.parametrize("document", [README, *GUIDES], ids=by_name)
def test_every_metric_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"\bgguf_worker_[a-z_0-9]+", text_of(document)))
    assert named <= {metric.name for metric in Metrics().described}


@pytest.mark.parametrize("document", [README, *GUIDES], ids=by_name)
def test_every_route_that_is_named_exists(document: Path) -> None:
    named = {
        code for code in code_in(text_of(document)) if re.fullmatch(r"/(v\d/)?[a-z_/.]+", code)
    }
    open_ones = {door.PING, door.HEALTH, door.METRICS, door.DOCUMENT}
    runpods = {"/run", "/runsync", "/status", "/stream", "/workspace", "/openai/v1", "/v1"}
    models = {MODELS, "/v1/..."}
    folders = {"/models"}  # in an image with a baked model
    assert named <= {*POST_ROUTES, *open_ones, *runpods, *models, *folders}


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):(?!=)", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {
        name for code in code_in(text_of(document)) for name in re.findall(r"\bmake ([a-z]+)", code)
    }
    assert named <= targets


@pytest.mark.parametrize("document", [README, *GUIDES], ids=by_name)
def test_every_file_of_ours_that_is_named_exists(document: Path) -> None:
    for code in code_in(text_of(document)):
        if re.fullmatch(r"(\.runpod|\.github|builder|docs|src|tests)/[\w./*-]+", code):
            assert list(ROOT.glob(code)), code


@pytest.mark.parametrize(
    "block", [block for guide in GUIDES for block in to_paste(guide)], ids=repr
)
def test_settings_to_paste_are_accepted_without_a_warning(block: str) -> None:
    given = dict(line.strip().split("=", 1) for line in block.splitlines())
    ours = {name: value for name, value in given.items() if name not in NOT_OURS}
    assert ours.keys() <= SETTINGS
    assert load_settings(ours).warnings == ()


# --- the error codes ---

TROUBLE = text_of(ROOT / "docs/troubleshooting.md")
ENTRIES = dict(
    re.findall(r"^### `(\w+)`\n+(.*?)(?=^#|\Z)", TROUBLE, flags=re.MULTILINE | re.DOTALL)
)


def test_every_error_code_has_an_entry_and_every_entry_a_code() -> None:
    assert ENTRIES.keys() == ERRORS_BY_CODE.keys()


@pytest.mark.parametrize("code", ERRORS_BY_CODE)
def test_an_entry_says_the_status_and_whether_to_try_again(code: str) -> None:
    error = ERRORS_BY_CODE[code]
    first, _, advice = ENTRIES[code].partition("\n")
    assert first == f"HTTP {error.status}. Retry: {retry(error)}."
    assert len(advice.split()) >= 15


def retry(error: type[WorkerError]) -> str:
    if issubclass(error, StartError) and not error.permanent:
        return "the worker tries again by itself"
    return "yes" if error.retryable else "no"


def test_start_errors_are_where_they_are_looked_for() -> None:
    _, _, starts = TROUBLE.partition("\n## When the worker cannot start\n")
    there = set(re.findall(r"^### `(\w+)`$", starts, flags=re.MULTILINE))
    assert there == {code for code, each in ERRORS_BY_CODE.items() if issubclass(each, StartError)}


def test_every_error_code_is_in_the_readme() -> None:
    # All but the one that only the command line has.
    rows = text_of(README).partition("\n## Errors\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", rows))
    assert ERRORS_BY_CODE.keys() - {"model_in_use"} <= named


SAID = (
    "cannot start: ",
    "downloading ",
    "waiting for another worker that is fetching",
    "from the cache, ",
    "sizes: ",
    "phase done",
    "model ready",
    "request done",
    "engine lost",
    "the engine will not be started again",
    "there is a GPU, but llama-cpp-python was built without CUDA",
)
"""Of the log, in the guides."""


@pytest.mark.parametrize("words", SAID)
def test_what_the_guides_quote_from_the_log_is_what_is_logged(words: str) -> None:
    sources = [ROOT / "handler.py", *(ROOT / "src").rglob("*.py")]
    assert any(words.strip() in text_of(guide) for guide in GUIDES)
    assert any(words in text_of(source) for source in sources)


# --- the bounds ---

MIB = 2**20


def test_the_bounds_are_those_in_the_code() -> None:
    text = text_of(ROOT / "docs/security.md")
    table = text.partition("<!-- bounds:begin -->\n")[2].partition("<!-- bounds:end -->")[0]
    said = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, flags=re.MULTILINE)[2:])
    assert said == dict(bounds())


def bounds() -> Iterator[tuple[str, str]]:
    yield (
        "body of an HTTP request; all bodies at a time",
        f"{bodies.MAX_BODY // MIB} MiB; {bodies.MAX_BODIES // MIB} MiB",
    )
    yield (
        "head of an HTTP request; time for it",
        f"{connection.HEAD_BYTES // 1024} KiB; {connection.HEAD_SECONDS:g} s",
    )
    yield "a client that reads nothing", f"{connection.STALL_SECONDS:g} s"
    yield "connections", f"{server.MAX_CONNECTIONS}"
    yield (
        "nesting of a body; objects and lists on one level",
        f"{shapes.MAX_NESTING}; {shapes.MAX_WIDTH:,}",
    )
    yield (
        "messages; parts of one, of all",
        f"{schema.MAX_MESSAGES:,}; {schema.MAX_PARTS:,}, {schema.MAX_ALL_PARTS:,}",
    )
    yield (
        "answers to one prompt; prompts of one completion",
        f"{schema.MAX_ANSWERS}; {schema.MAX_PROMPTS}",
    )
    yield (
        "tools; stop strings; token biases",
        f"{tools.MAX_TOOLS}; {schema.MAX_STOPS}; {schema.MAX_BIAS:,}",
    )
    assert embeddings.MAX_CHARACTERS == rerank.MAX_CHARACTERS
    yield (
        "texts to embed; documents to rank; characters of all",
        f"{embeddings.MAX_INPUTS:,}; {rerank.MAX_DOCUMENTS:,}; {rerank.MAX_CHARACTERS:,}",
    )
    yield (
        "characters of a grammar or schema; time to compile one",
        f"{formats.MAX_GRAMMAR:,}; {grammars.PATIENCE_SECONDS:g} s",
    )
    yield "`chat_template_kwargs`, as JSON", f"{shapes.MAX_OPTIONS // 1024} KiB"
    yield "characters that a chat template may make", f"{dialect.MAX_RENDERED:,}"
    yield (
        "answer on RunPod's queue; one streamed item",
        f"{job.LARGEST_ANSWER / 1e6:g} MB; {job.LARGEST_ITEM / 1e6:g} MB",
    )
    yield "header of a model file", f"{container.MAX_HEADER_BYTES // MIB} MiB"
    yield "redirects of a download", f"{web._MOST_REDIRECTS}"


def test_the_readmes_catalog_is_a_good_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(models:.*?)```", text_of(README), re.DOTALL)
    file = tmp_path / "models.yaml"
    file.write_text(example, encoding="utf-8")
    catalog = load_settings({"MODELS_FILE": str(file)}).catalog
    assert catalog is not None
    assert [entry.name for entry in catalog.entries] == ["chat", "coder", "embed"]
