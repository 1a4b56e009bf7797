"""The house's rules, read from the source: who may import whom, and what nobody may.

Every rule is a function from a tree of modules to complaints. Each one is run on our source, where it
must find nothing, and on a small bad tree, where it must find what was planted.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "gguf_worker"

LAYERS = (
    {"errors", "events"},
    {"config"},
    {"models", "engine"},
    {"providers"},
    {"policy"},
    {"api"},
    {"app"},
    {"console"},
    {"trial", "__main__"},
    {"handler"},
)
"""Lowest first. A unit imports from lower layers only; units of one layer don't know each other."""

WATCHER = "monitoring"
WATCHER_KNOWS = {"errors", "events"}
KNOWS_THE_WATCHER = {"app", "__main__", "handler"}

NEVER = {("api", "models"), ("api", "engine")}
"""The gateway sees no tokens and no templates, wherever an answer comes from."""

PINNED = {
    "llama_cpp": "gguf_worker.engine.llama",
    "llguidance": "gguf_worker.engine.constraint",
    "runpod": "handler",
    "huggingface_hub": "gguf_worker.models.hub",
    "starlette": "gguf_worker.api.http",
    "uvicorn": "gguf_worker.api.http",
    "prometheus_client": "gguf_worker.monitoring",
    "openai": "gguf_worker.providers.remote",
}
"""Foreign packages, each with the one module or package that may import it."""

PINNED_TOO = {("gguf_worker.engine.pooled", "llama_cpp")}
"""A second module where one would be too much for a file."""

LATE = {
    "huggingface_hub",
    "llguidance",
    "openai",
    "pynvml",
    "rich",
    "runpod",
    "gguf_worker.api.http",
}
"""Slow or optional: imported inside the function that needs them, never when a module is loaded."""

INNER = {
    ("gguf_worker.app", "gguf_worker.api.http"),
    ("gguf_worker.trial", "gguf_worker.console.terminal"),
}
"""Modules inside a package that an outsider may import all the same."""

EMPTY_WORDS = {"utils", "helpers", "common", "base", "misc"}

READS_ENVIRON = {"handler", "gguf_worker.__main__", "gguf_worker.engine.client"}
"""The entries, which hand the environment on, and whoever makes a child process's from ours."""


@dataclass(frozen=True)
class Import:
    line: int
    target: str
    late: bool
    for_types: bool


@dataclass(frozen=True)
class Module:
    name: str
    package: bool
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def unit(self) -> str:
        """The part of the house it belongs to; empty for the package itself."""
        return unit_of(self.name)


Tree = Mapping[str, Module]


def unit_of(name: str) -> str:
    return name if name == "handler" else name.partition(".")[2].partition(".")[0]


def ours(target: str) -> bool:
    return target.partition(".")[0] == PACKAGE


def read_tree(root: Path) -> Tree:
    files = {"handler": root / "handler.py"} if (root / "handler.py").exists() else {}
    source = root / "src"
    for path in sorted(source.rglob("*.py")):
        files[".".join(path.relative_to(source).with_suffix("").parts)] = path
    trees = {dotted: ast.parse(path.read_text(encoding="utf-8")) for dotted, path in files.items()}
    # A package may offer a name that one of its modules has too; then the package's own counts.
    hidden = {
        f"{d.removesuffix('.__init__')}.{name}" for d in trees for name in offers(d, trees[d])
    }
    inner = {dotted.removesuffix(".__init__") for dotted in trees} - hidden
    modules = [read(dotted, tree, inner) for dotted, tree in trees.items()]
    return {module.name: module for module in modules}


def offers(dotted: str, tree: ast.Module) -> Iterator[str]:
    """The names that a package takes out of its modules."""
    for node in tree.body if dotted.endswith(".__init__") else ():
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def read(dotted: str, tree: ast.Module, inner: set[str]) -> Module:
    name = dotted.removesuffix(".__init__")
    package = name != dotted
    return Module(name, package, tree, tuple(find_imports(tree, name, package, inner)))


def find_imports(tree: ast.Module, name: str, package: bool, inner: set[str]) -> Iterator[Import]:
    def visit(node: ast.AST, late: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets(node, name, package, inner):
                yield Import(node.lineno, target, late, for_types)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            late = True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types = True
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late, for_types)

    return visit(tree, False, False)


def targets(
    node: ast.Import | ast.ImportFrom, name: str, package: bool, inner: set[str]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    origin = node.module or ""
    if node.level:
        parts = name.split(".")
        here = parts[: len(parts) - node.level + (1 if package else 0)]
        origin = ".".join([*here, *([node.module] if node.module else [])])
    for alias in node.names:
        # `from package import module` reaches the module itself.
        reached = f"{origin}.{alias.name}"
        yield reached if reached in inner else origin


def edges(tree: Tree) -> Iterator[tuple[Module, Import]]:
    for module in tree.values():
        for found in module.imports:
            yield module, found


def directions(tree: Tree) -> Iterator[str]:
    rank = {unit: number for number, layer in enumerate(LAYERS) for unit in layer}
    for module in tree.values():
        if module.unit and module.unit != WATCHER and module.unit not in rank:
            yield f"{module.name} is in no layer"
    for module, found in edges(tree):
        if not ours(found.target):
            continue
        above, below = module.unit, unit_of(found.target)
        if above == below or not below:
            continue
        if below == WATCHER:
            allowed = above in KNOWS_THE_WATCHER
        elif above == WATCHER:
            allowed = below in WATCHER_KNOWS
        else:
            allowed = rank.get(below, 0) < rank.get(above, 0) and (above, below) not in NEVER
        if not allowed:
            yield f"{module.name}:{found.line} may not import {found.target}"


def pinned(tree: Tree) -> Iterator[str]:
    for module, found in edges(tree):
        package = found.target.partition(".")[0]
        owner = PINNED.get(package)
        if (module.name, package) in PINNED_TOO:
            continue
        if owner and module.name != owner and not module.name.startswith(f"{owner}."):
            yield f"{module.name}:{found.line} imports {found.target}, which only {owner} may"


def late(tree: Tree) -> Iterator[str]:
    for module, found in edges(tree):
        slow = {found.target, found.target.partition(".")[0]} & LATE
        if slow and not found.late and not found.for_types:
            yield f"{module.name}:{found.line} imports {found.target} while it is loaded itself"


def surfaces(tree: Tree) -> Iterator[str]:
    for module, found in edges(tree):
        deep = ours(found.target) and found.target.count(".") > 1
        outside = module.unit != unit_of(found.target)
        if deep and outside and (module.name, found.target) not in INNER:
            yield f"{module.name}:{found.line} imports from inside a package: {found.target}"


def cycles(tree: Tree) -> Iterator[str]:
    graph = {
        name: sorted({found.target for found in module.imports if found.target in tree} - {name})
        for name, module in tree.items()
    }
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield " -> ".join([*path[path.index(name) :], name])
        elif name not in done:
            for target in graph[name]:
                yield from walk(target, (*path, name))
            done.add(name)

    for name in graph:
        yield from walk(name, ())


def docstrings(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        if not ast.get_docstring(module.tree):
            yield f"{module.name} does not say what it is for"


def names(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        if module.name.rpartition(".")[2] in EMPTY_WORDS:
            yield f"{module.name} has a name that says nothing"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Manager"):
                yield f"{module.name}:{node.lineno} {node.name} has a name that says nothing"


def environment(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        if module.name in READS_ENVIRON:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
                yield f"{module.name}:{node.lineno} reads the environment"


Rule = Callable[[Tree], Iterator[str]]
RULES: tuple[Rule, ...] = (
    directions,
    pinned,
    late,
    surfaces,
    cycles,
    docstrings,
    names,
    environment,
)


@pytest.fixture(scope="module")
def source() -> Tree:
    return read_tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Rule, source: Tree) -> None:
    assert list(rule(source)) == []


def test_the_whole_source_was_read(source: Tree) -> None:
    files = list((ROOT / "src").rglob("*.py"))
    assert len(source) == len(files) + (ROOT / "handler.py").exists()
    assert any(found.target == "llama_cpp" for found in source["gguf_worker.engine.llama"].imports)


def plant(root: Path, files: Mapping[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name if name == "handler.py" else root / "src" / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_tree(root)


BAD: tuple[tuple[Rule, Mapping[str, str], str], ...] = (
    (
        directions,
        {"models/a.py": "from gguf_worker.engine import B", "engine/__init__.py": ""},
        "gguf_worker.models.a:1 may not import gguf_worker.engine",
    ),
    (
        directions,
        {"config/a.py": "def f():\n    import gguf_worker.app", "app.py": ""},
        "gguf_worker.config.a:2 may not import gguf_worker.app",
    ),
    (
        directions,
        {"api/a.py": "from ..engine import B", "engine/__init__.py": ""},
        "gguf_worker.api.a:1 may not import gguf_worker.engine",
    ),
    (
        directions,
        {"monitoring/a.py": "from gguf_worker import config", "config/__init__.py": ""},
        "gguf_worker.monitoring.a:1 may not import gguf_worker.config",
    ),
    (
        directions,
        {"api/a.py": "from gguf_worker.monitoring import Metrics", "monitoring/__init__.py": ""},
        "gguf_worker.api.a:1 may not import gguf_worker.monitoring",
    ),
    (
        directions,
        {"events.py": "import gguf_worker.errors", "errors.py": ""},
        "gguf_worker.events:1",
    ),
    (directions, {"elsewhere.py": ""}, "gguf_worker.elsewhere is in no layer"),
    (pinned, {"engine/b.py": "import llama_cpp.llama"}, "gguf_worker.engine.b:1 imports llama_cpp"),
    (pinned, {"app.py": "def f():\n    import runpod"}, "gguf_worker.app:2 imports runpod"),
    (pinned, {"app.py": "from prometheus_client import Counter"}, "gguf_worker.app:1"),
    (pinned, {"models/hubs.py": "import huggingface_hub"}, "gguf_worker.models.hubs:1"),
    (late, {"models/hub.py": "from huggingface_hub import HfApi"}, "gguf_worker.models.hub:1"),
    (
        late,
        {"app.py": "from gguf_worker.api import http", "api/http.py": "", "api/__init__.py": ""},
        "gguf_worker.app:1 imports gguf_worker.api.http",
    ),
    (
        surfaces,
        {"providers/a.py": "from gguf_worker.engine.kv import B", "engine/kv.py": ""},
        "gguf_worker.providers.a:1 imports from inside a package: gguf_worker.engine.kv",
    ),
    (
        surfaces,
        {"providers/a.py": "from gguf_worker.engine import kv", "engine/kv.py": ""},
        "gguf_worker.providers.a:1 imports from inside a package: gguf_worker.engine.kv",
    ),
    (
        cycles,
        {
            "engine/a.py": "from gguf_worker.engine import b",
            "engine/b.py": "import gguf_worker.engine.c",
            "engine/c.py": "def f():\n    from .a import x",
        },
        "gguf_worker.engine.a -> gguf_worker.engine.b -> gguf_worker.engine.c -> gguf_worker.engine.a",
    ),
    (docstrings, {"engine/a.py": "x = 1"}, "gguf_worker.engine.a does not say"),
    (names, {"engine/utils.py": ""}, "gguf_worker.engine.utils has a name"),
    (names, {"engine/a.py": "class KvManager: ..."}, "gguf_worker.engine.a:1 KvManager"),
    (environment, {"app.py": "import os\nx = os.environ['A']"}, "gguf_worker.app:2 reads"),
    (environment, {"app.py": "import os\nx = os.getenv('A')"}, "gguf_worker.app:2 reads"),
)


@pytest.mark.parametrize(("rule", "files", "complaint"), BAD)
def test_a_broken_rule_is_found(
    tmp_path: Path, rule: Rule, files: Mapping[str, str], complaint: str
) -> None:
    found = list(rule(plant(tmp_path, files)))
    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_a_tree_that_keeps_every_rule_gives_no_complaint(tmp_path: Path) -> None:
    tree = plant(
        tmp_path,
        {
            "__init__.py": '"""Root."""\n__version__ = "1"',
            "errors.py": '"""Errors."""',
            "engine/__init__.py": '"""Engine."""\nfrom gguf_worker.engine.llama import Llama',
            "engine/llama.py": '"""C."""\nimport llama_cpp\nfrom gguf_worker.errors import E',
            "models/__init__.py": '"""Models."""\nfrom gguf_worker.models.fit import fit',
            "models/fit.py": '"""Fit."""\ndef fit(): ...',
            "models/hub.py": '"""Hub."""\nif TYPE_CHECKING:\n    from huggingface_hub import HfApi',
            "monitoring/__init__.py": '"""M."""\nfrom gguf_worker import __version__',
            "api/__init__.py": '"""Api."""',
            "api/http.py": '"""Http."""\nimport starlette',
            "app.py": '"""App."""\nfrom gguf_worker.monitoring import Metrics\n'
            "from gguf_worker.models import fit\n"
            "def f():\n    from gguf_worker.api.http import serve",
            "handler.py": '"""Entry."""\nimport os\nos.environ\ndef f():\n    import runpod',
        },
    )
    assert [complaint for rule in RULES for complaint in rule(tree)] == []


def test_loading_the_worker_loads_nothing_heavy() -> None:
    heavy = sorted({*PINNED, *LATE, "numpy"} - {"prometheus_client"})
    code = (
        "import sys, gguf_worker.app\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules], sep=',')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
