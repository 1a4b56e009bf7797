"""The choice between one model and a catalog."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gguf_worker.config import CatalogEntry, Settings, load_settings
from gguf_worker.events import Observer
from gguf_worker.serving import LoadedModel, served_models
from gguf_worker.serving.catalog import LoadedCatalog
from gguf_worker.serving.loaded_model import MakeModel
from gguf_worker.serving.single import SingleModel


@pytest.fixture
def make() -> MakeModel:
    def make(
        settings: Settings, entry: CatalogEntry | None, observe: Observer, on_dead: object
    ) -> LoadedModel:
        raise AssertionError("no model is made before the start")

    return make


def test_without_a_catalog_there_is_the_one_model(make: MakeModel) -> None:
    models = served_models(Settings(model="a.gguf"), make, observe=lambda event: None)
    assert isinstance(models, SingleModel)


def test_with_a_catalog_there_are_all_of_its_models(make: MakeModel, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: {a: {model: /a.gguf}, b: {model: /b.gguf}}")
    settings = load_settings({"MODELS_FILE": str(file), "MODEL": "b"})
    models = served_models(settings, make, observe=lambda event: None)
    assert isinstance(models, LoadedCatalog)


def test_without_a_catalog_nothing_that_swaps_models_is_imported() -> None:
    code = (
        "import sys\n"
        "from gguf_worker.config import Settings\n"
        "from gguf_worker.serving import served_models\n"
        "served_models(Settings(model='a.gguf'), None, observe=None)\n"
        "print(*[name for name in sys.modules if 'swap' in name or 'pool' in name.split('.')[-1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    ours = [name for name in done.stdout.split() if name.startswith("gguf_worker.serving")]
    assert ours == []
