"""The samplers of llama.cpp for sampling settings: which, with what, in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gguf_worker.engine.drawing.sampling import NUCLEUS, Stage, history_length, is_argmax, stages
from gguf_worker.generation import Sampling

OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
"""Settings under which only the draw is left."""
SEED, CONTEXT = 7, 100
DIST = Stage("dist", (SEED,))


def chain(**settings: Any) -> list[Stage]:
    return stages(Sampling(**settings), SEED, CONTEXT)


def names(**settings: Any) -> list[str]:
    return [stage.name for stage in chain(**settings)]


def test_with_everything_off_only_the_draw_is_left() -> None:
    assert chain(**OFF) == [DIST]


def test_the_defaults_are_llama_cpps() -> None:
    assert chain() == [
        Stage("top_k", (40,)),
        Stage("top_p", (0.95, 1)),
        Stage("min_p", (0.05, 1)),
        Stage("temp", (0.8,)),
        DIST,
    ]


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        ({"top_k": 5}, Stage("top_k", (5,))),
        ({"top_k": 20_000}, Stage("top_k", (NUCLEUS,))),
        ({"min_p": 0.1}, Stage("min_p", (0.1, 1))),
        ({"top_n_sigma": 1.5}, Stage("top_n_sigma", (1.5,))),
        ({"temperature": 0.7}, Stage("temp", (0.7,))),
        ({"repeat_penalty": 1.1}, Stage("penalties", (64, 1.1, 0.0, 0.0))),
        ({"frequency_penalty": 0.2}, Stage("penalties", (64, 1.0, 0.2, 0.0))),
        ({"presence_penalty": 0.3}, Stage("penalties", (64, 1.0, 0.0, 0.3))),
        (
            {"dry_multiplier": 0.8, "dry_sequence_breakers": ("\n",)},
            Stage("dry", (0.8, 1.75, 2, CONTEXT, ("\n",))),
        ),
    ],
)
def test_each_setting_brings_its_own_sampler(settings: dict[str, Any], stage: Stage) -> None:
    assert chain(**(OFF | settings)) == [stage, DIST]


SORTING = [
    ({"typical_p": 0.9}, Stage("typical", (0.9, 1))),
    ({"top_p": 0.5}, Stage("top_p", (0.5, 1))),
    ({"xtc_probability": 0.5, "xtc_threshold": 0.2}, Stage("xtc", (0.5, 0.2, 1, SEED))),
    ({"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}, Stage("temp_ext", (1.0, 0.5, 2.0))),
]


@pytest.mark.parametrize(("settings", "stage"), SORTING)
@pytest.mark.parametrize(
    ("top_k", "kept"), [(0, NUCLEUS), (-1, NUCLEUS), (7, 7), (20_000, NUCLEUS)]
)
def test_nothing_sorts_the_whole_vocabulary(
    settings: dict[str, Any], stage: Stage, top_k: int, kept: int
) -> None:
    assert chain(**(OFF | settings | {"top_k": top_k})) == [Stage("top_k", (kept,)), stage, DIST]


def test_what_min_p_has_left_is_sorted_without_looking_at_the_vocabulary_again() -> None:
    settings = OFF | {"min_p": 0.05, "xtc_probability": 0.5}
    assert names(**settings) == ["min_p", "top_k", "xtc", "dist"]


@pytest.mark.parametrize("threshold", [0.0, 1e-46])
def test_a_token_without_probability_is_never_likely_to_xtc(threshold: float) -> None:
    (xtc,) = [
        stage
        for stage in chain(xtc_probability=1.0, xtc_threshold=threshold)
        if stage.name == "xtc"
    ]
    least = xtc.arguments[1]
    assert isinstance(least, float)
    assert np.float32(least) > 0


@pytest.mark.parametrize(
    ("version", "stage"),
    [
        (1, Stage("mirostat", (SEED, 5.0, 0.1, 100))),
        (2, Stage("mirostat_v2", (SEED, 5.0, 0.1))),
    ],
)
def test_mirostat_takes_the_place_of_the_filters_and_of_the_draw(
    version: int, stage: Stage
) -> None:
    assert chain(mirostat=version, temperature=0.6) == [
        Stage("temp", (0.6,)),
        Stage("top_k", (NUCLEUS,)),
        stage,
    ]


def test_the_order_is_llama_cpps() -> None:
    everything = {
        "repeat_penalty": 1.1,
        "dry_multiplier": 0.8,
        "top_n_sigma": 1.0,
        "top_k": 40,
        "typical_p": 0.9,
        "top_p": 0.9,
        "min_p": 0.1,
        "xtc_probability": 0.1,
        "temperature": 0.8,
    }
    assert names(**everything) == [
        "penalties",
        "dry",
        "top_n_sigma",
        "top_k",
        "typical",
        "top_p",
        "min_p",
        "xtc",
        "temp",
        "dist",
    ]


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-40])
def test_no_temperature_is_greedy_and_filters_are_left_out(temperature: float) -> None:
    assert names(temperature=temperature, top_k=5, mirostat=2) == ["greedy"]


def test_greedy_keeps_the_penalties() -> None:
    settings = Sampling(temperature=0, repeat_penalty=1.2)
    assert [stage.name for stage in stages(settings, SEED, CONTEXT)] == ["penalties", "greedy"]
    assert not is_argmax(settings)


@pytest.mark.parametrize(
    ("settings", "argmax"),
    [
        ({"temperature": 0.0}, True),
        ({"temperature": 0.0, "logit_bias": ((1, 2.0),)}, True),
        ({"temperature": 0.0, "dry_multiplier": 1.0}, False),
        ({"temperature": 0.0, "repeat_penalty": 1.1, "repeat_last_n": 0}, True),
        ({"temperature": 0.5}, False),
    ],
)
def test_the_largest_logit_is_enough_only_without_temperature_and_history(
    settings: dict[str, Any], argmax: bool
) -> None:
    assert is_argmax(Sampling(**settings)) is argmax


@pytest.mark.parametrize("length", [-1, 0, 5, 2**31 - 1])
def test_penalties_look_back_no_further_than_the_context(length: int) -> None:
    settings = Sampling(temperature=0, repeat_penalty=1.1, repeat_last_n=length)
    expected = {-1: CONTEXT, 0: 0, 5: 5}.get(length, CONTEXT)
    assert history_length(settings, CONTEXT) == expected
    arguments = stages(settings, SEED, CONTEXT)[0].arguments
    assert arguments[:1] == ((expected,) if expected else ())


@pytest.mark.parametrize("length", [-1, 0, 5, 2**31 - 1])
def test_dry_looks_back_no_further_than_the_context(length: int) -> None:
    settings = Sampling(temperature=0, dry_multiplier=1.0, dry_penalty_last_n=length)
    expected = {-1: CONTEXT, 0: 0, 5: 5}.get(length, CONTEXT)
    assert history_length(settings, CONTEXT) == expected
    arguments = stages(settings, SEED, CONTEXT)[0].arguments
    assert arguments[3:4] == ((expected,) if expected else ())


def test_the_history_covers_the_sampler_that_looks_back_furthest() -> None:
    settings = Sampling(
        repeat_penalty=1.1, repeat_last_n=10, dry_multiplier=1.0, dry_penalty_last_n=30
    )
    assert history_length(settings, CONTEXT) == 30


def test_without_penalties_no_history_is_wanted() -> None:
    assert history_length(Sampling(repeat_last_n=64, dry_penalty_last_n=64), CONTEXT) == 0
