"""The choice between one model and a catalog."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gguf_worker.config import Settings, load_settings
from gguf_worker.serving import served_models
from gguf_worker.serving.catalog import LoadedCatalog
from gguf_worker.serving.served_models import ServedModels
from gguf_worker.serving.single import SingleModel
from tests.fakes import FakeClock


def served(settings: Settings) -> ServedModels:
    return served_models(
        settings,
        {},
        observe=lambda event: None,
        on_download=lambda progress: None,
        on_load=lambda fraction: None,
        now=FakeClock(),
    )


def test_without_a_catalog_there_is_the_one_model() -> None:
    assert isinstance(served(Settings(model="a.gguf")), SingleModel)


def test_with_a_catalog_there_are_all_of_its_models(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: {a: {model: /a.gguf}, b: {model: /b.gguf}}")
    settings = load_settings({"MODELS_FILE": str(file), "MODEL": "b"})
    assert isinstance(served(settings), LoadedCatalog)


def test_without_a_catalog_nothing_that_swaps_models_is_imported() -> None:
    code = "served_models(Settings(model='a.gguf'), {}, **dict.fromkeys(NAMES))"
    loaded = modules_after(
        "from gguf_worker.config import Settings\n"
        "from gguf_worker.serving import served_models\n"
        "NAMES = ('observe', 'on_download', 'on_load', 'now')\n"
        f"{code}"
    )
    assert {name for name in loaded if "swap" in name or name.endswith(".pool")} == set()


def test_a_command_that_asks_for_the_store_loads_no_engine() -> None:
    assert "gguf_worker.engine" not in modules_after("import gguf_worker.serving")


def test_the_help_of_the_commands_loads_no_store() -> None:
    assert "gguf_worker.models" not in modules_after("import gguf_worker.console")


def modules_after(code: str) -> set[str]:
    """Return the worker's modules that a fresh interpreter has loaded when it has run `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {name for name in done.stdout.split() if name.startswith("gguf_worker.")}
