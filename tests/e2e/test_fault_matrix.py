"""Faults of a start, run as `make faults` does: one that another host may not have, and others."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.fault_matrix import MODES, run_fault, table
from tests.start_faults import START_FAULTS, StartFault

pytestmark = pytest.mark.e2e

BY_NAME = {fault.name: fault for fault in START_FAULTS}
QUICK = (
    "no such repository",
    "SIGTERM during the start",
    "the Hub answers 451, the model is on the volume",
    "the engine is killed once before the first job",
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", [BY_NAME[name] for name in QUICK], ids=lambda each: each.name)
def test_a_fault_ends_as_the_document_says(fault: StartFault, mode: str, tmp_path: Path) -> None:
    run = run_fault(fault, mode, tmp_path)
    assert run.did == run.expected, table([run])


@pytest.mark.slow
def test_a_disk_that_loses_the_model_ends_the_worker_after_its_tries_and_takes_no_job(
    tmp_path: Path,
) -> None:
    """It takes the worker's own pauses, a minute and a half."""
    run = run_fault(BY_NAME["the model's file cannot be read (ESTALE)"], "queue", tmp_path)
    assert run.did == run.expected, table([run])
    assert run.status == 1
    assert "Stale file handle" in run.reason
