"""Descriptions of the settings: what a value may be, its default, and the README's table.

They are made from the fields' own types and bounds, so they are always up to date.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_worker.config.settings import Settings, has_auto


def settings_table() -> str:
    """Return the settings as a Markdown table for the README, one row each."""
    rows = ["| Variable | Default | Allowed | What it does |", "| --- | --- | --- | --- |"]
    for field, info in Settings.model_fields.items():
        text = info.description or ""
        if is_reserved(field):
            text += " Checked, but without effect in this version."
        rows.append(f"| `{field.upper()}` | {_default(field)} | {allowed(field)} | {text} |")
    return "\n".join(rows)


def allowed(field: str) -> str:
    """Return the values that a field may have, as the end of a sentence."""
    extra = _extra(field)
    if "allowed" in extra:
        return str(extra["allowed"])
    schema = _schema(field)
    if "enum" in schema:
        return "one of " + ", ".join((["auto"] if has_auto(field) else []) + schema["enum"])
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    low, high = int(schema["minimum"]), int(schema["maximum"])
    return f"{'auto or ' if has_auto(field) else ''}{kind} from {low} to {high}"


def _default(field: str) -> str:
    info = Settings.model_fields[field]
    if info.is_required():
        return "required"
    if info.default is not None:
        if isinstance(info.default, bool):
            return f"`{int(info.default)}`"
        return f"`{info.default:g}`" if isinstance(info.default, float) else f"`{info.default}`"
    return "`auto`" if has_auto(field) else "not set"


def is_reserved(field: str) -> bool:
    """Tell whether the field is checked, but has no effect yet."""
    return bool(_extra(field).get("reserved"))


def is_secret(field: str) -> bool:
    return bool(_schema(field).get("writeOnly"))


def _schema(field: str) -> dict[str, Any]:
    """Return the field's JSON schema without its None; it has the bounds and the choices."""
    schema: dict[str, Any] = Settings.model_json_schema()["properties"][field]
    return next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), schema)


def _extra(field: str) -> Mapping[str, Any]:
    extra = Settings.model_fields[field].json_schema_extra
    return extra if isinstance(extra, dict) else {}
