"""All schemas as clients make them, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.schemas.dialect_schemas import dialect_schemas
from tests.schemas.python_schemas import python_schemas

JAVASCRIPT = Path(__file__).with_name("javascript_schemas.json")
"""Made by `javascript_schemas.mjs`, which says how."""

SCHEMAS: Mapping[str, Any] = {
    **dict(python_schemas()),
    **dict(dialect_schemas()),
    **json.loads(JAVASCRIPT.read_text(encoding="utf-8")),
}
