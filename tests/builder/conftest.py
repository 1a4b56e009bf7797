from __future__ import annotations

from pathlib import Path

import pytest

from tests.builder.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine whose PATH has only a few standard programs, and copies of the scripts."""
    return Machine(tmp_path)
