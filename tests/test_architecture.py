"""The house's rules, read from the source: who may import whom, and what nobody may.

Every rule is a function from a tree of modules to complaints. Each one is run on our source, where
it must find nothing, and on a small bad tree, where it must find what was planted.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = "gguf_worker"

GROUND = frozenset({"errors", "events", "generation"})
"""Known to every unit, and knowing none."""

DIRECTIONS: Mapping[str, frozenset[str]] = {
    unit: frozenset(known.split())
    for unit, known in {
        "config": "",
        "models.gguf": "",
        "models.source": "models.gguf",
        "models.memory": "models.gguf config",
        "models.store": "models.gguf models.source",
        "engine": "",
        "schemas": "",
        "chat": "",
        "providers": "",
        "providers.local": "providers chat engine schemas",
        "api": "providers schemas",
        "api.http": "api",
        "serving": "providers providers.local chat engine config "
        "models.gguf models.source models.memory models.store",
        "monitoring": "",
        "console": "serving chat config models.gguf models.source models.memory models.store",
        "app": "api api.http serving monitoring providers models.store config",
        "trial": "app console config",
        "__main__": "console serving monitoring config models.gguf models.source models.memory",
        "handler": "app trial monitoring config",
    }.items()
}
"""The units of the house, lowest first, each with the others that it may import beside the ground.

A unit's name is that of its module or folder; a folder's room may be a unit of its own.
"""

PINNED = {
    "llama_cpp": "gguf_worker.engine.llama",
    "llguidance": "gguf_worker.engine.drawing.grammars",
    "runpod": "handler",
    "huggingface_hub": "gguf_worker.models.source.hub",
    "jinja2": "gguf_worker.chat",
    "yaml": "gguf_worker.config.catalog_file",
    "starlette": "gguf_worker.api.http",
    "uvicorn": "gguf_worker.api.http",
    "prometheus_client": "gguf_worker.monitoring",
}
"""Foreign packages, each with the one module or room that may import it."""

LATE = {
    "huggingface_hub",
    "llguidance",
    "pynvml",
    "rich",
    "runpod",
    "yaml",
    "gguf_worker.api.http",
    "gguf_worker.serving.catalog",
}
"""Slow or optional: imported inside the function that needs them, never when a module is loaded."""

MOST_MODULES = 16
"""In one folder, so that a look takes it in."""

EMPTY_WORDS = {"utils", "helpers", "common", "base", "misc"}

READS_ENVIRON = {"handler", "gguf_worker.__main__", "gguf_worker.engine.parent.client"}
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
    """The longest unit's name that `name` is, or lies in; else its own within the package."""
    if name == "handler":
        return name
    inner = name.partition(".")[2]
    parts = inner.split(".")
    for size in range(len(parts), 0, -1):
        unit = ".".join(parts[:size])
        if unit in DIRECTIONS or unit in GROUND:
            return unit
    return inner


def is_folder_of_units(unit: str) -> bool:
    return any(each.startswith(f"{unit}.") for each in DIRECTIONS)


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
    for module in tree.values():
        unit = module.unit
        if unit and unit not in DIRECTIONS and unit not in GROUND and not is_folder_of_units(unit):
            yield f"{module.name} is in no unit"
    for module, found in edges(tree):
        above, below = module.unit, unit_of(found.target)
        if not ours(found.target) or above == below or not below:
            continue
        if above in GROUND or below not in DIRECTIONS.get(above, frozenset()) | GROUND:
            yield f"{module.name}:{found.line} may not import {found.target}"


def pinned(tree: Tree) -> Iterator[str]:
    for module, found in edges(tree):
        package = found.target.partition(".")[0]
        owner = PINNED.get(package)
        if owner and module.name != owner and not module.name.startswith(f"{owner}."):
            yield f"{module.name}:{found.line} imports {found.target}, which only {owner} may"


def late(tree: Tree) -> Iterator[str]:
    for module, found in edges(tree):
        slow = {found.target, found.target.partition(".")[0]} & LATE
        if slow and not found.late and not found.for_types:
            yield f"{module.name}:{found.line} imports {found.target} while it is loaded itself"


def surfaces(tree: Tree) -> Iterator[str]:
    """A module reaches what lies beside it, or beside a folder around it, and fronts of units."""
    for module, found in edges(tree):
        if not ours(found.target) or found.target == PACKAGE:
            continue
        room = found.target.rpartition(".")[0]
        here = module.name if module.package else module.name.rpartition(".")[0]
        beside = here == room or here.startswith(f"{room}.")
        front = found.target.partition(".")[2] in {*DIRECTIONS, *GROUND}
        if not (beside or front):
            yield f"{module.name}:{found.line} imports from inside a room: {found.target}"


def sizes(tree: Tree) -> Iterator[str]:
    rooms = Counter(module.name.rpartition(".")[0] for module in tree.values())
    packages = {module.name for module in tree.values() if module.package}
    for room in sorted(packages):
        inside = rooms[room] - sum(each.rpartition(".")[0] == room for each in packages)
        if inside > MOST_MODULES:
            yield f"{room} has {inside} modules"


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


def introductions(tree: Tree) -> Iterator[str]:
    """A room's front says in a paragraph of its own what the room does not know."""
    for module in tree.values():
        text = ast.get_docstring(module.tree) or ""
        if module.package and module.name != PACKAGE and "\n\n" not in text:
            yield f"{module.name} does not introduce its room"


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
    sizes,
    cycles,
    docstrings,
    introductions,
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
    assert any(
        found.target == "llama_cpp" for found in source["gguf_worker.engine.llama.context"].imports
    )


def plant(root: Path, files: Mapping[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name if name == "handler.py" else root / "src" / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_tree(root)


BAD: tuple[tuple[Rule, Mapping[str, str], str], ...] = (
    (
        directions,
        {"models/gguf/a.py": "from gguf_worker.engine import B", "engine/__init__.py": ""},
        "gguf_worker.models.gguf.a:1 may not import gguf_worker.engine",
    ),
    (
        directions,
        {
            "models/gguf/a.py": "from gguf_worker.models.store import B",
            "models/store/__init__.py": "",
        },
        "gguf_worker.models.gguf.a:1 may not import gguf_worker.models.store",
    ),
    (
        directions,
        {
            "providers/a.py": "from gguf_worker.providers.local import B",
            "providers/local/__init__.py": "",
        },
        "gguf_worker.providers.a:1 may not import gguf_worker.providers.local",
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
    (directions, {"elsewhere.py": ""}, "gguf_worker.elsewhere is in no unit"),
    (directions, {"models/a.py": ""}, "gguf_worker.models.a is in no unit"),
    (pinned, {"engine/b.py": "import llama_cpp.llama"}, "gguf_worker.engine.b:1 imports llama_cpp"),
    (pinned, {"app.py": "def f():\n    import runpod"}, "gguf_worker.app:2 imports runpod"),
    (pinned, {"app.py": "from prometheus_client import Counter"}, "gguf_worker.app:1"),
    (
        pinned,
        {"models/source/hubs.py": "import huggingface_hub"},
        "gguf_worker.models.source.hubs:1",
    ),
    (
        late,
        {"models/source/hub.py": "from huggingface_hub import HfApi"},
        "gguf_worker.models.source.hub:1",
    ),
    (
        late,
        {"app.py": "from gguf_worker.api import http", "api/http.py": "", "api/__init__.py": ""},
        "gguf_worker.app:1 imports gguf_worker.api.http",
    ),
    (
        surfaces,
        {
            "serving/a.py": "from gguf_worker.engine.parent import B",
            "engine/parent/__init__.py": "",
        },
        "gguf_worker.serving.a:1 imports from inside a room: gguf_worker.engine.parent",
    ),
    (
        surfaces,
        {"serving/a.py": "from gguf_worker.engine import messages", "engine/messages.py": ""},
        "gguf_worker.serving.a:1 imports from inside a room: gguf_worker.engine.messages",
    ),
    (
        surfaces,
        {"engine/loop/a.py": "from gguf_worker.engine.cells.b import C", "engine/cells/b.py": ""},
        "gguf_worker.engine.loop.a:1 imports from inside a room: gguf_worker.engine.cells.b",
    ),
    (
        surfaces,
        {"models/store/a.py": "import gguf_worker.models.gguf.b", "models/gguf/b.py": ""},
        "gguf_worker.models.store.a:1 imports from inside a room: gguf_worker.models.gguf.b",
    ),
    (
        sizes,
        {"engine/__init__.py": "", **{f"engine/m{number}.py": "" for number in range(17)}},
        "gguf_worker.engine has 17 modules",
    ),
    (
        cycles,
        {
            "chat/a.py": "from gguf_worker.chat import b",
            "chat/b.py": "import gguf_worker.chat.c",
            "chat/c.py": "def f():\n    from .a import x",
        },
        "gguf_worker.chat.a -> gguf_worker.chat.b -> gguf_worker.chat.c -> gguf_worker.chat.a",
    ),
    (docstrings, {"engine/a.py": "x = 1"}, "gguf_worker.engine.a does not say"),
    (
        introductions,
        {"engine/__init__.py": '"""The inference engine."""'},
        "gguf_worker.engine does not introduce its room",
    ),
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


FRONT = '"""A room.\n\nKnows nothing."""\n'


def test_a_tree_that_keeps_every_rule_gives_no_complaint(tmp_path: Path) -> None:
    tree = plant(
        tmp_path,
        {
            "__init__.py": '"""Root."""\n__version__ = "1"',
            "errors.py": '"""Errors."""',
            "engine/__init__.py": FRONT + "from gguf_worker.engine.parent import Client",
            "engine/messages.py": '"""Words."""',
            "engine/parent/__init__.py": FRONT + "from gguf_worker.engine.parent.a import Client",
            "engine/parent/a.py": '"""A."""\nfrom gguf_worker.engine.messages import M',
            "engine/llama/__init__.py": FRONT + "from gguf_worker.engine.llama.context import C",
            "engine/llama/context.py": '"""C."""\nimport llama_cpp\nimport gguf_worker.errors',
            "models/__init__.py": FRONT,
            "models/gguf/__init__.py": FRONT + "from gguf_worker.models.gguf.fit import fit",
            "models/gguf/fit.py": '"""Fit."""\ndef fit(): ...',
            "models/source/hub.py": '"""Hub."""\nif TYPE_CHECKING:\n    import huggingface_hub',
            "models/store/a.py": '"""A."""\nfrom gguf_worker.models.gguf import fit',
            "monitoring/__init__.py": FRONT + "from gguf_worker import __version__",
            "api/__init__.py": FRONT,
            "api/http.py": '"""Http."""\nimport starlette',
            "app.py": '"""App."""\nfrom gguf_worker.monitoring import Metrics\n'
            "from gguf_worker.models.store import Store\n"
            "def f():\n    from gguf_worker.api.http import serve",
            "handler.py": '"""Entry."""\nimport os\nos.environ\ndef f():\n    import runpod',
        },
    )
    assert [complaint for rule in RULES for complaint in rule(tree)] == []


def test_loading_the_worker_loads_nothing_heavy() -> None:
    heavy = sorted({*PINNED, *LATE, "numpy"} - {"jinja2", "prometheus_client"})
    code = (
        "import sys, gguf_worker.app\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules], sep=',')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
