"""The README says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from gguf_worker.__main__ import with_tables
from gguf_worker.config import Settings, load_settings

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readmes_tables_are_current() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_tables(text), "stale: run `python -m gguf_worker docs`"


def test_every_setting_has_its_row_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", text, flags=re.MULTILINE))
    assert rows == {name.upper() for name in Settings.model_fields}


def test_the_readmes_catalog_is_a_good_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(models:.*?)```", README.read_text("utf-8"), re.DOTALL)
    file = tmp_path / "models.yaml"
    file.write_text(example, encoding="utf-8")
    catalog = load_settings({"MODELS_FILE": str(file)}).catalog
    assert catalog is not None
    assert [entry.name for entry in catalog.entries] == ["chat", "coder", "embed"]
