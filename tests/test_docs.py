"""The documents say what the code says: names, numbers, codes, paths, links, examples."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from builder.docs import TABLES, with_table
from gguf_worker.__main__ import command_parser
from gguf_worker.api import answer_job, job, rerank
from gguf_worker.api.http import auth, bodies, connection, server
from gguf_worker.api.openai import embeddings_reader as embeddings
from gguf_worker.api.reading import answer_format
from gguf_worker.api.reading import bounds as body_bounds
from gguf_worker.api.routes import SERVED_PATHS
from gguf_worker.chat import template
from gguf_worker.config import Settings, load_settings
from gguf_worker.engine.drawing.grammars import pending_grammars
from gguf_worker.engine.parent import allowance
from gguf_worker.errors import ERRORS_BY_CODE, StartError, WorkerError
from gguf_worker.models.gguf import header_bytes
from gguf_worker.models.source import web
from gguf_worker.models.store import part_plan
from gguf_worker.monitoring import Metrics
from tests.api_doors import Bench
from tests.fakes import ScriptedProvider, text_deltas
from tests.paths import ROOT
from tests.start_faults import outcomes

README = ROOT / "README.md"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
DECISION_LIST = ROOT / "docs/decisions/README.md"
DOCUMENTS = [README, ARCHITECTURE, CONTRIBUTING, *GUIDES, DECISION_LIST, *DECISIONS]
SETTINGS = {field.upper() for field in Settings.model_fields}

NOT_OURS = {
    # of RunPod and its SDK
    *("RUNPOD_INIT_TIMEOUT", "RUNPOD_LOG_LEVEL", "RUNPOD_MIN_MEMORY_GB", "RUNPOD_MIN_DISK_PERCENT"),
    *("RUNPOD_API_KEY", "RUNPOD_SECRET_name", "ENDPOINT_ID", "JOB_ID"),
    *("REQUEST_COUNT", "QUEUE_DELAY", "ADA_24", "AMPERE_24"),
    # arguments of the image's build
    *("ACCEL", "BASE_IMAGE", "RUNTIME_IMAGE", "CUDA_ARCHITECTURES"),
    # of the compiler, the system and llama.cpp
    *("NVIDIA_DRIVER_CAPABILITIES", "VK_EXT_memory_budget", "GPU_RUNNER"),
    *("GOMP_SPINCOUNT", "PR_SET_PDEATHSIG", "SCHED_BATCH", "ENOSPC"),
    *("GGML_BACKEND_DL", "GGML_CPU_ALL_VARIANTS"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    # of the source and its tests
    *("OF_ONE_MODEL", "LEFT_OUT"),
    # of clients
    *("WORKER_KEY", "OPENAI_API_BASE", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL"),
    *("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "CLAUDE_CODE_MAX_CONTEXT_TOKENS"),
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    # kinds of quantisation
    *("Q4_0", "Q4_1", "Q4_K_M", "Q8_0"),
}
"""What looks like a setting's name in the documents, and is something else."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str = "[a-z]*") -> Iterator[str]:
    """The fenced blocks of code in a language, without their indentation."""
    found = re.finditer(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    for match in found:
        indent, body = match.groups()
        yield "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))


def code_in(text: str) -> Iterator[str]:
    """What stands in code: fenced blocks, then spans."""
    yield from blocks(text)
    yield from re.findall(r"`([^`\n]+)`", without_blocks(text))


def without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def to_paste(path: Path) -> Iterator[str]:
    """Blocks of nothing but variables."""
    for block in blocks(text_of(path)):
        if re.fullmatch(r"( *[A-Z][A-Z0-9_]*=\S+\n)+", block):
            yield block


def commands(path: Path) -> Iterator[list[str]]:
    """The words of each command in the document's shell blocks, without variables set before it."""
    for block in blocks(text_of(path), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
                words.pop(0)
            if words:
                yield words


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def by_name(path: Path) -> str:
    return path.name


# --- their form ---


@pytest.mark.parametrize("file", TABLES)
def test_generated_tables_are_current(file: str) -> None:
    text = text_of(ROOT / file)
    name, table = TABLES[file]
    assert text == with_table(text, name, table()), "stale: run `make docs`"


@pytest.mark.parametrize(("document", "most"), [(README, 8_000), (ARCHITECTURE, 12_000)])
def test_the_entrance_stays_short(document: Path, most: int) -> None:
    assert len(document.read_bytes()) <= most


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_prose_ends_at_column_100(document: Path) -> None:
    long = [
        line
        for line in without_blocks(text_of(document)).splitlines()
        if len(line) > 100 and not line.lstrip().startswith(("|", "<")) and "://" not in line
    ]
    assert long == []


def test_the_readme_leads_to_every_guide() -> None:
    text = text_of(README)
    for document in (ARCHITECTURE, CONTRIBUTING, DECISION_LIST, ROOT / "CHANGELOG.md", *GUIDES):
        assert f"({document.relative_to(ROOT)})" in text


@pytest.mark.parametrize("page", DECISIONS, ids=by_name)
def test_a_decision_has_its_sections_and_is_listed(page: Path) -> None:
    text = text_of(page)
    number, title = re.findall(r"\A# (\d{3})\. (.*)$", text, re.MULTILINE)[0]
    assert page.name.startswith(f"{number}-")
    assert re.fullmatch(r"\d{3}(-[a-z0-9]+)+\.md", page.name)
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections == ["Context", "Decision", "Measured", "Consequences"]
    assert f"| [{number}]({page.name}) | {title} |" in text_of(DECISION_LIST)


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(page.name[:3]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


# --- what they name ---


def test_every_setting_has_its_row() -> None:
    text = text_of(ROOT / "docs/settings.md")
    rows = set(re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", text, flags=re.MULTILINE))
    assert rows == SETTINGS


@pytest.mark.parametrize(
    "document",
    [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    named = {
        name
        for code in code_in(text_of(document))
        for name in re.findall(r"(?<![\w/{.-])[A-Z][A-Z0-9]*_[A-Za-z0-9_]+(?![\w/-])", code)
    }
    assert named <= SETTINGS | NOT_OURS


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_metric_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"(?<!/)\bgguf_worker_[a-z_0-9]+", text_of(document)))
    assert named <= {metric.name for metric in Metrics().described}


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_route_that_is_named_exists(document: Path) -> None:
    named = {
        code for code in code_in(text_of(document)) if re.fullmatch(r"/(v\d/)?[a-z_/.]+", code)
    }
    open_ones = {auth.PING, auth.HEALTH, auth.METRICS, auth.DOCUMENT, "/"}
    runpods = {"/run", "/runsync", "/status", "/stream", "/workspace", "/openai/v1", "/v1"}
    models = {"/v1/...", "/api/..."}
    folders = {"/models", "/cuda", "/llama", "/venv", "/app", "/proc/cpuinfo"}  # of images; Linux
    assert named <= {*SERVED_PATHS, *open_ones, *runpods, *models, *folders}


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):(?!=)", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {
        name for code in code_in(text_of(document)) for name in re.findall(r"\bmake ([a-z]+)", code)
    }
    assert named <= targets


@cache
def top_folders() -> frozenset[str]:
    """The first parts that a path of this repository may have: in the root, or in the package."""
    skipped = {".venv", ".cache", ".git"}
    places = (ROOT, ROOT / "src/gguf_worker")
    return frozenset(
        path.name for place in places for path in place.iterdir() if path.is_dir()
    ) - frozenset(skipped)


def paths_in(code: str) -> Iterator[str]:
    """Words that look like a path of this repository: `a/b` with a known first part, or a file."""
    for word in re.split(r"[\s'\"=(),]+", code):
        first, slash, rest = word.partition("/")
        if (slash and rest and first in top_folders()) or re.fullmatch(
            r"[\w.-]+\.(py|md|sh|toml|yaml)", word
        ):
            yield word


def there(place: Path, path: str) -> bool:
    """Tell whether `place` has the path; a module may be named without its ending."""
    return any(list(place.glob(each)) for each in (path, f"{path}.py"))


def test_architecture_names_every_module_in_its_rooms_line() -> None:
    source = ROOT / "src/gguf_worker"
    rooms = re.findall(r"^- `?([\w/]+)`?[ :,](.*?)(?=^- |^$)", files_of_architecture(), re.M | re.S)
    named = {room: set(re.findall(r"`(\w+)`", text)) for room, text in rooms}
    modules: dict[str, set[str]] = {}
    for path in source.rglob("*.py"):
        room = str(path.parent.relative_to(source))
        if path.stem != "__init__":
            modules.setdefault("top" if room == "." else room, set()).add(path.stem)
    assert named == modules


def files_of_architecture() -> str:
    return text_of(ARCHITECTURE).partition("## Files")[2].partition("\n\n")[2].partition("\n\n")[2]


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_path_that_is_named_exists(document: Path) -> None:
    elsewhere = {"models.yaml"}
    spans = re.findall(r"`([^`\n]+)`", without_blocks(text_of(document)))
    named = {path for code in spans for path in paths_in(code)} - elsewhere
    places = (ROOT, ROOT / "src/gguf_worker")
    missing = {path for path in named if not any(there(place, path) for place in places)}
    assert missing == set()


# --- their examples ---


@pytest.mark.parametrize(
    "block",
    [block for document in DOCUMENTS for block in blocks(text_of(document), "python")],
    ids=repr,
)
def test_python_examples_can_be_read(block: str) -> None:
    ast.parse(block)


@pytest.mark.parametrize(
    "block",
    [block for document in DOCUMENTS for block in blocks(text_of(document), "sh")],
    ids=repr,
)
def test_shell_examples_can_be_read(block: str) -> None:
    done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "block",
    [block for document in DOCUMENTS for block in blocks(text_of(document), "json")],
    ids=repr,
)
def test_json_examples_can_be_read(block: str) -> None:
    json.loads(block)


OURS = ["python", "-m", "gguf_worker"]


@pytest.mark.parametrize(
    "words",
    [
        words
        for document in DOCUMENTS
        for words in commands(document)
        if words[:3] == OURS and "|" not in words
    ],
    ids=" ".join,
)
def test_commands_of_the_worker_are_accepted(words: list[str]) -> None:
    command_parser().parse_args(words[3:])


def jobs_in(document: Path) -> Iterator[dict[str, Any]]:
    """The `input` of each job in the document's commands; requests over HTTP as the same job."""
    for words in commands(document):
        given = dict(pairwise(words))
        if "--test_input" in given:
            yield json.loads(given["--test_input"])["input"]
        elif words[0] == "curl" and "-d" in given:
            body = json.loads(given["-d"])
            (url,) = [word for word in words if "://" in word]
            route = url.partition("localhost:8000")[2]
            yield {"route": route, "body": body} if route else body["input"]


@pytest.mark.parametrize(
    "given", [given for document in DOCUMENTS for given in jobs_in(document)], ids=repr
)
async def test_requests_in_examples_are_answered(given: dict[str, Any]) -> None:
    ranks = given.get("route", "").endswith("rerank")
    bench = Bench(ScriptedProvider([] if ranks else text_deltas("Yes.")))
    items = answer_job(bench.gateway, {"id": "j", "input": given}, default_timeout=60)
    answers = [item async for item in items]
    assert answers
    assert not [answer for answer in answers if "error" in answer]


@pytest.mark.parametrize(
    "block", [block for document in DOCUMENTS for block in to_paste(document)], ids=repr
)
def test_settings_to_paste_are_accepted_without_a_warning(block: str) -> None:
    given = dict(line.strip().split("=", 1) for line in block.splitlines())
    ours = {name: value for name, value in given.items() if name not in NOT_OURS}
    assert ours.keys() <= SETTINGS
    assert load_settings({"MODEL": "org/repo", **ours}).warnings == ()


def test_the_catalog_in_the_guide_is_a_good_one(tmp_path: Path) -> None:
    (example,) = blocks(text_of(ROOT / "docs/models.md"), "yaml")
    file = tmp_path / "models.yaml"
    file.write_text(example, encoding="utf-8")
    catalog = load_settings({"MODELS_FILE": str(file)}).catalog
    assert catalog is not None
    assert [entry.name for entry in catalog.entries] == ["chat", "coder", "embed"]


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
    assert advice.strip()


def retry(error: type[WorkerError]) -> str:
    if issubclass(error, StartError) and not error.permanent:
        return "the worker tries again by itself"
    return "yes" if error.retryable else "no"


def test_start_errors_are_where_they_are_looked_for() -> None:
    _, _, starts = TROUBLE.partition("\n## When the worker cannot start\n")
    there = set(re.findall(r"^### `(\w+)`$", starts, flags=re.MULTILINE))
    assert there == {code for code, each in ERRORS_BY_CODE.items() if issubclass(each, StartError)}


def test_the_table_of_a_starts_faults_is_that_of_their_runs() -> None:
    """`make faults` runs them all; tests/e2e/test_fault_matrix.py some."""
    found = re.search(r"<!-- faults:begin -->\n(.*?)\n<!-- faults:end -->", TROUBLE, re.DOTALL)
    assert found
    assert found[1] == outcomes()


def test_every_error_code_is_in_the_table_of_requests() -> None:
    # All but the one that only the command line has.
    rows = text_of(ROOT / "docs/requests.md").partition("\n## Errors\n")[2]
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
        "body of an HTTP request; all that are held",
        f"{bodies.MAX_BODY // MIB} MiB; {bodies.MAX_BODIES // MIB} MiB",
    )
    yield "what all open requests send to the engine", f"{allowance.MOST_BYTES // MIB} MiB"
    yield (
        "head of an HTTP request; time for it",
        f"{connection.HEAD_BYTES // 1024} KiB; {connection.HEAD_SECONDS:g} s",
    )
    yield "a client that reads nothing", f"{connection.STALL_SECONDS:g} s"
    yield "connections", f"{server.MAX_CONNECTIONS}"
    yield (
        "nesting of a body; objects and lists on one level",
        f"{body_bounds.MAX_NESTING}; {body_bounds.MAX_WIDTH:,}",
    )
    yield (
        "brackets and colons in the bytes of an HTTP body; commas",
        f"{bodies.MAX_NESTS:,}; {bodies.MAX_VALUES:,}",
    )
    yield (
        "messages; parts of one, of all",
        f"{body_bounds.MAX_MESSAGES:,}; {body_bounds.MAX_PARTS:,}, {body_bounds.MAX_ALL_PARTS:,}",
    )
    yield (
        "answers to one prompt; prompts of one completion",
        f"{body_bounds.MAX_ANSWERS}; {body_bounds.MAX_PROMPTS}",
    )
    yield (
        "tools; stop strings; token biases",
        f"{body_bounds.MAX_TOOLS:,}; {body_bounds.MAX_STOPS}; {body_bounds.MAX_BIAS:,}",
    )
    yield (
        "texts to embed; documents to rank; characters of all",
        f"{embeddings.MAX_INPUTS:,}; {rerank.MAX_DOCUMENTS:,}; {body_bounds.MAX_CHARACTERS:,}",
    )
    yield (
        "characters of a grammar or schema; time to compile one",
        f"{answer_format.MAX_GRAMMAR:,}; {pending_grammars.PATIENCE_SECONDS:g} s",
    )
    yield "`chat_template_kwargs`, as JSON", f"{body_bounds.MAX_OPTIONS // 1024} KiB"
    yield "characters that a chat template may make", f"{template.MAX_RENDERED:,}"
    yield (
        "answer on RunPod's queue; one streamed item",
        f"{job.LARGEST_ANSWER / 1e6:g} MB; {job.LARGEST_ITEM / 1e6:g} MB",
    )
    yield "header of a model file", f"{header_bytes.MAX_HEADER_BYTES // MIB} MiB"
    yield "redirects of a download", f"{web._MOST_REDIRECTS}"
    yield "connections of a download", f"{part_plan.PieceSizes().connections}"
