"""The settings of the sampler."""

from __future__ import annotations

import pytest

from gguf_worker.api.reading import SamplerFields
from gguf_worker.generation import Sampling
from tests.api.readers import native


def test_every_sampler_setting_of_the_engine_can_be_sent_and_no_other() -> None:
    assert set(SamplerFields.model_fields) == set(Sampling.__struct_fields__)


def test_what_is_not_sent_keeps_the_engines_default() -> None:
    assert native().request.sampling == Sampling()


@pytest.mark.parametrize(
    ("seed", "kept"),
    [
        (0, 0),
        (7, 7),
        (-1, None),
        (-(10**30), None),
        (2**32 - 2, 2**32 - 2),
        (2**32 - 1, 0),
        (2**40, 256),
    ],
)
def test_a_seed_fits_32_bits_and_a_negative_one_is_drawn(seed: int, kept: int | None) -> None:
    assert native(seed=seed).request.sampling.seed == kept
