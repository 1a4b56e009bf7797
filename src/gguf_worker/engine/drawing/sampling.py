"""Turns sampling settings into the list of llama.cpp's samplers that a request needs.

Pure: it names the samplers and their arguments; `llama.sampler` makes them. Settings that switch a
sampler off leave it out, because each one costs a pass over the vocabulary.

Order as in llama.cpp's `common_sampler_init`: penalties, DRY, top-n-sigma, top-k, typical, top-p,
min-p, XTC, temperature, then the draw. Biases are added to the logits before the chain runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.generation import Sampling

MIN_KEEP = 1
NUCLEUS = 4096
"""Most tokens that top-k keeps, and that the samplers which sort look at, since sorting a whole
vocabulary takes milliseconds."""
LEAST_XTC_THRESHOLD = 1e-6
"""Below it even tokens that are masked, whose probability is 0, would count as likely."""
LEAST_TEMPERATURE = 1e-6
"""Below it the token of the largest logit is drawn: logits divided by less may be infinite."""
MIROSTAT_M = 100
_SORTING = frozenset({"typical", "top_p", "xtc", "temp_ext", "mirostat", "mirostat_v2"})


@dataclass(frozen=True, slots=True)
class Stage:
    """One sampler of llama.cpp: `llama_sampler_init_<name>(*arguments)`."""

    name: str
    arguments: tuple[float | int | tuple[str, ...], ...] = ()


def is_argmax(sampling: Sampling) -> bool:
    """Tell whether the token of the largest logit is always drawn, so that no sampler is needed."""
    return sampling.temperature < LEAST_TEMPERATURE and not _history(sampling, 1)


def history_length(sampling: Sampling, context: int) -> int:
    """Return how many tokens of the prompt the samplers look back on at first."""
    lengths = [
        _reach(sampling.repeat_last_n, context) if _has_penalties(sampling) else 0,
        _reach(sampling.dry_penalty_last_n, context) if _has_dry(sampling) else 0,
    ]
    return max(lengths)


def stages(sampling: Sampling, seed: int, context: int) -> list[Stage]:
    """Return the chain for these settings, the selecting sampler last.

    Samplers look back on `context` tokens at most.
    """
    chain = _history(sampling, context)
    if sampling.temperature < LEAST_TEMPERATURE:
        return [*chain, Stage("greedy")]
    if sampling.mirostat:
        drawing = [Stage("temp", (sampling.temperature,)), _mirostat(sampling, seed)]
    else:
        drawing = [*_filters(sampling, seed), *_temperature(sampling), Stage("dist", (seed,))]
    return [*chain, *_bounded(drawing)]


def _reach(length: int, context: int) -> int:
    """Bound the number of tokens to look back on, since llama.cpp allocates memory for all."""
    return context if length < 0 else min(length, context)


def _has_penalties(sampling: Sampling) -> bool:
    return sampling.repeat_last_n != 0 and (
        sampling.repeat_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    )


def _has_dry(sampling: Sampling) -> bool:
    return sampling.dry_multiplier > 0 and sampling.dry_penalty_last_n != 0


def _history(sampling: Sampling, context: int) -> list[Stage]:
    chain = []
    if _has_penalties(sampling):
        last_n = _reach(sampling.repeat_last_n, context)
        penalties = (
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
        chain.append(Stage("penalties", (last_n, *penalties)))
    if _has_dry(sampling):
        last_n = _reach(sampling.dry_penalty_last_n, context)
        chain.append(
            Stage(
                "dry",
                (
                    sampling.dry_multiplier,
                    sampling.dry_base,
                    sampling.dry_allowed_length,
                    last_n,
                    sampling.dry_sequence_breakers,
                ),
            )
        )
    return chain


def _filters(sampling: Sampling, seed: int) -> list[Stage]:
    chain = []
    if sampling.top_n_sigma > 0:
        chain.append(Stage("top_n_sigma", (sampling.top_n_sigma,)))
    if sampling.top_k > 0:
        chain.append(Stage("top_k", (min(sampling.top_k, NUCLEUS),)))
    if sampling.typical_p < 1:
        chain.append(Stage("typical", (sampling.typical_p, MIN_KEEP)))
    if sampling.top_p < 1:
        chain.append(Stage("top_p", (sampling.top_p, MIN_KEEP)))
    if sampling.min_p > 0:
        chain.append(Stage("min_p", (sampling.min_p, MIN_KEEP)))
    if sampling.xtc_probability > 0:
        threshold = max(sampling.xtc_threshold, LEAST_XTC_THRESHOLD)
        chain.append(Stage("xtc", (sampling.xtc_probability, threshold, MIN_KEEP, seed)))
    return chain


def _bounded(chain: list[Stage]) -> list[Stage]:
    """Have top-k come before the first sampler that sorts all tokens that it is given."""
    for at, stage in enumerate(chain):
        if stage.name == "top_k":
            return chain
        if stage.name in _SORTING:
            return [*chain[:at], Stage("top_k", (NUCLEUS,)), *chain[at:]]
    return chain


def _temperature(sampling: Sampling) -> list[Stage]:
    if sampling.dynatemp_range > 0:
        dynamic = (sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent)
        return [Stage("temp_ext", dynamic)]
    if sampling.temperature != 1.0:
        return [Stage("temp", (sampling.temperature,))]
    return []


def _mirostat(sampling: Sampling, seed: int) -> Stage:
    if sampling.mirostat == 1:
        return Stage("mirostat", (seed, sampling.mirostat_tau, sampling.mirostat_eta, MIROSTAT_M))
    return Stage("mirostat_v2", (seed, sampling.mirostat_tau, sampling.mirostat_eta))
