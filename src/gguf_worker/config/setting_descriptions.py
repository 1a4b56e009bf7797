"""Descriptions of the settings: what a value may be, whether it is secret or without effect.

They are made from the fields' own types and bounds, so they are always up to date.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_worker.config.settings import Settings, has_auto


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


def is_reserved(field: str) -> bool:
    """Tell whether the field is checked, but has no effect yet."""
    return bool(_extra(field).get("reserved"))


def is_secret(field: str) -> bool:
    return bool(_schema(field).get("writeOnly"))


def _schema(field: str) -> dict[str, Any]:
    """Return the field's JSON schema, with bounds and choices, without the alternative None."""
    schema: dict[str, Any] = Settings.model_json_schema()["properties"][field]
    return next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), schema)


def _extra(field: str) -> Mapping[str, Any]:
    extra = Settings.model_fields[field].json_schema_extra
    return extra if isinstance(extra, dict) else {}
