"""The phases of the start, for the answers that have waited for them."""

from __future__ import annotations

from gguf_worker.events import ModelUnloaded, PhaseDone
from gguf_worker.monitoring import ColdStart


def started() -> ColdStart:
    cold = ColdStart()
    for event in (PhaseDone("load", 1.0), ModelUnloaded("a", "room"), PhaseDone("load", 2.0)):
        cold.observe(event)
    return cold


def test_the_first_request_of_all_gets_the_phases_of_the_start() -> None:
    cold = started()
    assert cold.phases_for(None) == {"load": 2.0}
    assert cold.phases_for(None) is None


def test_a_request_that_waits_for_its_model_gets_the_phases_of_that() -> None:
    cold = started()
    cold.phases_for(None)
    assert cold.phases_for({"load": 7.0}) == {"load": 7.0}


def test_a_first_request_that_waits_for_its_model_leaves_the_start_to_nobody() -> None:
    cold = started()
    assert cold.phases_for({"load": 7.0}) == {"load": 7.0}
    assert cold.phases_for(None) is None
