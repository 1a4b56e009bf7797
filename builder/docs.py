"""Writes the tables of the documents that are generated from the code.

    python builder/docs.py            rewrite what is stale
    python builder/docs.py --check    change nothing; exit 1 where something is stale

A table stands between two markers, `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gguf_worker.config import Settings
from gguf_worker.config.setting_descriptions import allowed, is_reserved
from gguf_worker.config.settings import has_auto
from gguf_worker.monitoring import Metrics

ROOT = Path(__file__).resolve().parent.parent


def settings_table() -> str:
    """The settings as a Markdown table, one row each."""
    rows = ["| Variable | Default | Allowed | What it does |", "| --- | --- | --- | --- |"]
    for field, info in Settings.model_fields.items():
        text = info.description or ""
        if is_reserved(field):
            text += " Checked, but without effect in this version."
        rows.append(f"| `{field.upper()}` | {_default(field)} | {allowed(field)} | {text} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """The metrics as a Markdown table, one row each."""
    rows = ["| Metric | Kind | Labels | What it says |", "| --- | --- | --- | --- |"]
    for metric in Metrics().described:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows)


TABLES: Mapping[str, tuple[str, Callable[[], str]]] = {
    "docs/settings.md": ("settings", settings_table),
    "docs/metrics.md": ("metrics", metrics_table),
}
"""The name and the maker of each document's table."""


def with_table(text: str, name: str, table: str) -> str:
    """A document's text with `table` between the markers called `name`.

    Raises ValueError where there is not exactly one such pair of markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    parts = re.split(f"(?<={begin}\n).*?(?={end})", text, flags=re.DOTALL)
    if len(parts) != 2:
        raise ValueError(f"There must be one part between {begin} and {end}.")
    return f"{parts[0]}{table}\n{parts[1]}"


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Renew or check the tables below `root`. Returns 0, or 1 where a check finds a stale one."""
    parser = argparse.ArgumentParser(
        prog="python builder/docs.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check: bool = parser.parse_args(argv).check
    stale = False
    for file, (name, table) in TABLES.items():
        path = root / file
        before = path.read_text(encoding="utf-8")
        after = with_table(before, name, table())
        if before == after:
            print(f"{file} is up to date")
        elif check:
            stale = True
            print(f"{file} is stale: run `make docs`", file=sys.stderr)
        else:
            path.write_text(after, encoding="utf-8")
            print(f"{file} is renewed")
    return int(stale)


def _default(field: str) -> str:
    info = Settings.model_fields[field]
    if info.is_required():
        return "required"
    if info.default is not None:
        if isinstance(info.default, bool):
            return f"`{int(info.default)}`"
        return f"`{info.default:g}`" if isinstance(info.default, float) else f"`{info.default}`"
    return "`auto`" if has_auto(field) else "not set"


if __name__ == "__main__":
    sys.exit(main())
