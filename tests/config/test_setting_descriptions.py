"""The settings in words."""

from __future__ import annotations

import pytest

from gguf_worker.config import Settings
from gguf_worker.config.setting_descriptions import allowed


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_says_what_it_does_and_what_is_allowed(field: str) -> None:
    assert allowed(field)
    assert len(Settings.model_fields[field].description or "") > 10
