"""The soak at small size, with tiny models: `make soak` is the large one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.soak import Soak

pytestmark = [pytest.mark.e2e, pytest.mark.llama]

SECONDS = 25.0
LONGEST = 30_000
"""Characters of the longest text."""


async def test_honest_streams_go_on_beside_hostile_requests_and_no_engine_is_lost(
    tiny_model: Path, tmp_path: Path
) -> None:
    soak = Soak(tmp_path, seed=7, say=print, most=LONGEST)
    await soak.run(SECONDS, tiny_model)
    assert soak.complaints() == [], soak.table()


async def test_a_worker_that_does_not_start_is_a_complaint_and_the_soak_goes_on(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    soak = Soak(tmp_path, seed=7, say=said.append, only=["wide bodies"])
    await soak.run(1.0, tmp_path / "none.gguf")
    assert any("did not start" in each for each in said)
    assert any(each.startswith("demo") for each in soak.complaints())
