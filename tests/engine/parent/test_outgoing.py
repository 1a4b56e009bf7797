"""The messages to the engine: measured without being encoded."""

from __future__ import annotations

import pytest

from gguf_worker.engine.messages import (
    DetokenizeTokens,
    Embed,
    EngineInfo,
    EngineRequest,
    Submit,
    TokenizeText,
)
from gguf_worker.engine.parent.outgoing import encoded, least_size, trial_request
from gguf_worker.generation import Sampling

INFO = EngineInfo("m", 64, 4, 256, 64, 64, 300, 1, 1, False, 1, 0.5, 0.25)


@pytest.mark.parametrize(
    "message",
    [
        Submit(1, EngineRequest("é" * 1000, Sampling())),
        Submit(1, EngineRequest([70_000] * 1000, Sampling())),
        Embed(1, ("a" * 500, [1] * 500), "query"),
        TokenizeText(1, "日" * 1000),
        DetokenizeTokens(1, [1] * 1000),
    ],
)
def test_a_message_is_measured_as_no_larger_than_it_is_and_not_much_smaller(
    message: Submit | Embed | TokenizeText | DetokenizeTokens,
) -> None:
    assert 1000 <= least_size(message) <= len(encoded(message)) <= 6 * least_size(message)


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        ({}, Submit),
        ({"generates": False, "pooling": "mean"}, Embed),
        ({"generates": False, "pooling": "rank"}, Embed),
    ],
)
def test_the_trial_request_is_one_that_the_model_serves(
    info: dict[str, object], kind: type[Submit | Embed]
) -> None:
    fields = {name: getattr(INFO, name) for name in INFO.__struct_fields__} | info
    trial = trial_request(7, EngineInfo(**fields))
    assert (trial.id, type(trial)) == (7, kind)
    assert (isinstance(trial, Embed) and trial.query is not None) == (info.get("pooling") == "rank")
