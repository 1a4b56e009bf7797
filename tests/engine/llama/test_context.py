"""llama.cpp itself, with tiny models of random weights: one of each kind of memory.

Results of a row change in their last bits with the shape of its batch and with where its cells lie
(other kernels, another order of the same sums over f16 weights and cells), so logits, whose spread
is about 1 here, are compared to within TOLERANCE; a wrong cell or a lost state moves them by tenths
at least.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import llama_cpp as L
import numpy as np
import numpy.typing as npt
import pytest

from gguf_worker.engine.cells.unified import Trim
from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.llama.native_log import LlamaError
from gguf_worker.engine.llama.sampler import SamplerMaker
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.messages import EngineSpec
from gguf_worker.generation import Sampling
from tests.engine.llama.conftest import Open
from tests.tiny_gguf import ARCHITECTURES, EOS, write_tiny
from tests.waiting import until

pytestmark = pytest.mark.llama

TOLERANCE = 2e-2
NOBODY = np.array([], np.int32)


@pytest.fixture(params=ARCHITECTURES)
def llama(request: pytest.FixtureRequest, open_tiny: Open) -> Iterator[Llama]:
    """A model of each kind, empty."""
    llama = open_tiny(request.param)
    yield llama
    empty(llama)


@pytest.fixture
def dense(open_tiny: Open) -> Iterator[Llama]:
    llama = open_tiny("llama")
    yield llama
    empty(llama)


def empty(llama: Llama) -> None:
    for slot in range(llama.info.sequences):
        llama.arrange([Trim(slot, 0)])


def prompt(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 256, length)]


def chunk(tokens: list[int], slot: int, start: int, end: int, output: bool = True) -> Chunk:
    sequence = Sequence(id=slot, tokens=tokens, prompt_length=len(tokens), max_tokens=1, slot=slot)
    return Chunk(sequence, start, end - start, output)


def compute(llama: Llama, *chunks: Chunk) -> npt.NDArray[np.float32]:
    """The logits of the chunks' outputs."""
    code, rows = llama.decode(chunks)
    assert code == 0
    return (
        llama.logits(len(rows)).copy() if rows else np.zeros((0, len(llama.vocabulary)), np.float32)
    )


def alone(llama: Llama, tokens: list[int], slot: int = 0) -> npt.NDArray[np.float32]:
    """The logits after `tokens`, computed in one step with nothing else in the cache."""
    values = compute(llama, chunk(tokens, slot, 0, len(tokens)))
    llama.arrange([Trim(slot, 0)])
    first: npt.NDArray[np.float32] = values[0]
    return first


# Opening


def test_a_split_model_is_opened_by_its_first_part_and_computes_the_same(
    dense: Llama, tmp_path: Path
) -> None:
    spec = EngineSpec(
        path=str(write_tiny(tmp_path / "tiny.gguf", tensors_per_file=8)),
        context=256,
        sequences=4,
        batch_size=256,
        ubatch_size=64,
    )
    split = Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)
    try:
        tokens = prompt(1, 20)
        np.testing.assert_allclose(alone(split, tokens), alone(dense, tokens), atol=TOLERANCE)
    finally:
        split.close()


def test_a_model_is_described(llama: Llama) -> None:
    info = llama.info
    assert (info.context, info.sequences, info.vocabulary) == (256, 4, 512)
    assert info.batch_size == 256
    assert info.kv_cells == 1024
    assert info.parameters > 10_000
    assert info.model_bytes > 2 * 10_000
    assert not info.gpu_offload


def test_a_step_of_a_model_with_a_sliding_window_is_one_pass(open_tiny: Open) -> None:
    """Otherwise llama.cpp loses a part of the window; test_prefix_sharing.py shows the effect."""
    info = open_tiny("gemma3", batch_size=256, ubatch_size=32).info
    assert (info.batch_size, info.ubatch_size) == (32, 32)
    info = open_tiny("llama", batch_size=256, ubatch_size=32).info
    assert (info.batch_size, info.ubatch_size) == (256, 32)


def test_without_a_context_size_the_models_own_is_taken(open_tiny: Open) -> None:
    info = open_tiny("llama", {"llama.context_length": 512}, context=0, sequences=2).info
    assert (info.context, info.kv_cells) == (512, 1024)


def test_a_context_is_never_larger_than_the_cache(open_tiny: Open) -> None:
    info = open_tiny("llama", context=1024, kv_cells=512).info
    assert (info.context, info.kv_cells) == (512, 512)


def fail_to_open(path: Path) -> LlamaError:
    with pytest.raises(LlamaError) as caught:
        Llama(
            EngineSpec(path=str(path), context=64, sequences=1),
            progress=lambda _: None,
            beat=lambda: None,
            log=lambda _: None,
        )
    return caught.value


def test_a_file_that_is_gone_is_refused_and_may_be_there_later(tmp_path: Path) -> None:
    """It was there when its header was read."""
    error = fail_to_open(tmp_path / "none.gguf")
    assert (error.permanent, error.lacking) == (False, False)
    assert "none.gguf" in str(error)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_file_that_ends_too_early_is_refused_and_not_for_good(
    keep: float, tmp_path: Path
) -> None:
    """Its size was right when its header was read; the next start looks again, and may fetch it."""
    data = write_tiny(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    error = fail_to_open(path)
    assert (error.permanent, error.lacking) == (False, False)


@pytest.mark.parametrize(
    "metadata",
    [
        {"general.architecture": "nobody"},
        {"llama.attention.head_count": 3},
        {"tokenizer.ggml.model": "none-such"},
    ],
    ids=str,
)
def test_a_file_that_llama_cpp_does_not_understand_is_refused_for_good(
    metadata: dict[str, Any], tmp_path: Path
) -> None:
    error = fail_to_open(write_tiny(tmp_path / "odd.gguf", metadata=metadata))
    assert (error.permanent, error.lacking) == (True, False), error


# Computing


@pytest.mark.parametrize("size", [1, 7, 16, 50])
def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(size: int, llama: Llama) -> None:
    tokens = prompt(1, 100)
    whole = alone(llama, tokens)
    for start in range(0, 100, size):
        end = min(start + size, 100)
        values = compute(llama, chunk(tokens, 0, start, end, output=end == 100))
    np.testing.assert_allclose(values[0], whole, atol=TOLERANCE)


def test_two_sequences_in_the_same_steps_do_not_disturb_each_other(llama: Llama) -> None:
    one, two = prompt(1, 70), prompt(2, 45)
    expected = [alone(llama, one), alone(llama, two, slot=1), alone(llama, one[:40])]
    compute(llama, chunk(one, 0, 0, 30, False))
    compute(llama, chunk(one, 0, 30, 39, False), chunk(two, 1, 0, 20, False))
    (middle,) = compute(llama, chunk(one, 0, 39, 40), chunk(two, 1, 20, 44, False))
    both = compute(llama, chunk(one, 0, 40, 70), chunk(two, 1, 44, 45))
    np.testing.assert_allclose(both[0], expected[0], atol=TOLERANCE)
    np.testing.assert_allclose(both[1], expected[1], atol=TOLERANCE)
    np.testing.assert_allclose(middle, expected[2], atol=TOLERANCE)


def test_rows_of_one_token_beside_others_are_those_of_the_sequence_alone(llama: Llama) -> None:
    prompts = [prompt(seed, 40) for seed in range(4)]
    expected = [alone(llama, tokens) for tokens in prompts]
    compute(llama, *(chunk(tokens, slot, 0, 30, False) for slot, tokens in enumerate(prompts)))
    for at in range(30, 40):
        rows = [chunk(tokens, slot, at, at + 1) for slot, tokens in enumerate(prompts)]
        values = compute(llama, *rows)
    np.testing.assert_allclose(values, expected, atol=TOLERANCE)


def test_outputs_are_in_the_order_of_the_chunks(llama: Llama) -> None:
    prompts = [prompt(seed, 5 + 3 * seed) for seed in range(3)]
    expected = [alone(llama, tokens) for tokens in prompts]
    chunks = [chunk(tokens, slot, 0, len(tokens)) for slot, tokens in enumerate(prompts)]
    code, rows = llama.decode(chunks)
    assert (code, rows) == (0, [4, 12, 23])
    np.testing.assert_allclose(llama.logits(3), expected, atol=TOLERANCE)


def test_a_cleared_sequence_begins_anew_and_its_neighbour_goes_on(llama: Llama) -> None:
    one, two = prompt(1, 60), prompt(2, 60)
    expected = alone(llama, one), alone(llama, two)
    compute(llama, chunk(two, 0, 0, 60), chunk(one, 1, 0, 50))
    llama.arrange([Trim(0, 0)])
    compute(llama, chunk(two, 0, 0, 30, False), chunk(one, 1, 50, 55, False))
    values = compute(llama, chunk(two, 0, 30, 60), chunk(one, 1, 55, 60))
    np.testing.assert_allclose(values[0], expected[1], atol=TOLERANCE)
    np.testing.assert_allclose(values[1], expected[0], atol=TOLERANCE)


def test_a_clear_frees_every_cell(llama: Llama) -> None:
    tokens = prompt(3, 256)
    for _ in range(3 * llama.info.sequences):
        compute(llama, chunk(tokens, 0, 0, 256))
        llama.arrange([Trim(0, 0)])
    compute(llama, *(chunk(tokens, slot, 0, 60) for slot in range(4)))


def test_every_sequence_can_fill_its_context_at_the_same_time(llama: Llama) -> None:
    prompts = [prompt(seed, 256) for seed in range(4)]
    for slot, tokens in enumerate(prompts):
        (values,) = compute(llama, chunk(tokens, slot, 0, 256))
    llama.arrange([Trim(0, 0)])
    np.testing.assert_allclose(values, alone(llama, prompts[3]), atol=TOLERANCE)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "lfm2"])
def test_a_full_cache_is_code_1_and_nothing_has_changed(architecture: str, open_tiny: Open) -> None:
    llama = open_tiny(architecture, sequences=2, kv_cells=256)
    one, two = prompt(1, 200), prompt(2, 100)
    expected = alone(llama, one), alone(llama, two[:57])
    compute(llama, chunk(one, 0, 0, 198, False))
    before = chunk(one, 0, 198, 199, False)
    code, _ = llama.decode([before, chunk(two, 1, 0, 100)])
    assert code == 1
    compute(llama, before)
    values = compute(llama, chunk(one, 0, 199, 200), chunk(two, 1, 0, 56))
    np.testing.assert_allclose(values[0], expected[0], atol=TOLERANCE)
    code, _ = llama.decode([chunk(two, 1, 56, 57)])
    assert code == 1
    llama.arrange([Trim(0, 0)])
    (last,) = compute(llama, chunk(two, 1, 56, 57))
    np.testing.assert_allclose(last, expected[1], atol=TOLERANCE)
    empty(llama)


def test_a_long_step_sends_signs_of_life_and_a_short_one_costs_nothing(dense: Llama) -> None:
    beats: list[int] = []
    dense.beat = lambda: beats.append(1)
    tokens = prompt(1, 101)
    compute(dense, chunk(tokens, 0, 0, 100))
    assert len(beats) > 10
    beats.clear()
    compute(dense, chunk(tokens, 0, 100, 101))
    assert beats == []
    dense.beat = lambda: None


# Sampling


def test_flags_for_the_whole_vocabulary_ban_like_ids(dense: Llama) -> None:
    logits = compute(dense, chunk(prompt(1, 20), 0, 0, 20))[0]
    best = int(logits.argmax())
    flags = np.zeros(len(dense.vocabulary), np.bool_)
    flags[best] = True
    by_ids, by_flags = logits.copy(), logits.copy()
    for sampling in (Sampling(temperature=0.0), Sampling(temperature=0.0, logit_bias=((3, 1.0),))):
        sampler = dense.sampler(sampling, 1, [])
        one = sampler.sample(0, by_ids, np.array([best], np.int32))
        assert one == sampler.sample(0, by_flags, flags) != best
        sampler.close()


def draw(llama: Llama, sampling: Sampling, seed: int = 1, count: int = 1) -> list[int]:
    """Tokens drawn one after another from the same logits, so that only the sampler's state
    differs."""
    tokens = prompt(5, 20)
    (logits,) = compute(llama, chunk(tokens, 0, 0, 20))
    sampler = llama.sampler(sampling, seed, tokens)
    until(lambda: sampler.ready, pause=0.0005)
    drawn = []
    for _ in range(count):
        llama.logits(1)[0] = logits
        drawn.append(sampler.sample(19, llama.logits(1)[0], NOBODY))
    sampler.close()
    llama.arrange([Trim(0, 0)])
    return drawn


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 0},
        {"typical_p": 0.5},
        {"top_n_sigma": 1.0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"dry_multiplier": 1.0},
        {"dry_multiplier": 1.0, "dry_sequence_breakers": ()},
        {"dry_multiplier": 1.0, "dry_sequence_breakers": ("", "\0", "🌊", "the sea")},
        {"repeat_penalty": 1.5},
        {"frequency_penalty": 0.5, "presence_penalty": -0.5},
        {"dynatemp_range": 0.3},
        {"mirostat": 1},
        {"mirostat": 2},
        {"temperature": 0.0, "repeat_penalty": 1.5, "dry_multiplier": 1.0},
        # As much history as anybody can ask for must not be as much memory.
        {"repeat_penalty": 1.5, "repeat_last_n": 2**31 - 1},
        {"dry_multiplier": 1.0, "dry_penalty_last_n": 2**31 - 1},
        {"top_k": 2**31 - 1, "dry_multiplier": 1.0, "dry_allowed_length": 2**31 - 1},
        {"temperature": 1e-30},
    ],
    ids=str,
)
def test_every_sampler_can_be_built_and_draws_a_token(
    settings: dict[str, Any], dense: Llama
) -> None:
    drawn = draw(dense, Sampling(**settings), count=5)
    assert all(0 <= token < len(dense.vocabulary) for token in drawn)


@pytest.mark.parametrize(
    "settings", [{}, {"mirostat": 1}, {"mirostat": 2}, {"xtc_probability": 0.5}], ids=str
)
def test_the_same_seed_draws_the_same_tokens(settings: dict[str, Any], dense: Llama) -> None:
    sampling = Sampling(temperature=1.5, **settings)
    assert draw(dense, sampling, 7, 20) == draw(dense, sampling, 7, 20)
    assert draw(dense, sampling, 7, 20) != draw(dense, sampling, 8, 20)


class Counted:
    """Wraps functions of llama.cpp: what they gave, what was freed, and on which threads."""

    def __init__(self, patch: pytest.MonkeyPatch, before: Callable[[], Any] = lambda: None) -> None:
        self.dry = self._of(patch, "llama_sampler_init_dry", before)
        self.chains = self._of(patch, "llama_sampler_chain_init")
        self.freed = self._of(patch, "llama_sampler_free", of_argument=True)
        self.threads: set[threading.Thread] = set()

    def _of(
        self,
        patch: pytest.MonkeyPatch,
        name: str,
        before: Callable[[], Any] = lambda: None,
        of_argument: bool = False,
    ) -> list[int]:
        known: list[int] = []
        function = getattr(L, name)

        def counted(*arguments: Any) -> Any:
            before()
            if name == "llama_sampler_init_dry":
                self.threads.add(threading.current_thread())
            if of_argument:
                known.append(ctypes.addressof(arguments[0].contents))
            result = function(*arguments)
            if not of_argument:
                known.append(ctypes.addressof(result.contents))
            return result

        patch.setattr(L, name, counted)
        return known


def dry(*breakers: str, seed: int = 1) -> Sampling:
    return Sampling(temperature=0, dry_multiplier=5.0, dry_sequence_breakers=breakers, seed=seed)


def maker_for(llama: Llama) -> SamplerMaker:
    return SamplerMaker(llama.context, llama.vocabulary, llama.info.context)


def test_the_vocabulary_is_walked_once_for_the_breakers_of_many_and_beside_the_caller(
    dense: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    with closing(maker_for(dense)) as maker:
        for seed in range(16):
            sampler = maker.sampler(dry("a", "b"), seed, prompt(5, 20))
            until(lambda sampler=sampler: sampler.ready, pause=0.0005)  # type: ignore[misc]
            sampler.close()
    assert len(counted.dry) == 1
    assert threading.current_thread() not in counted.threads
    assert sorted(counted.freed) == sorted(counted.dry + counted.chains)


def test_few_dry_samplers_are_kept_to_be_copied_and_none_after_the_end(
    dense: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    with closing(maker_for(dense)) as maker:
        for letter in "abcdefghijklmnopqrst":
            sampler = maker.sampler(dry(letter), 1, [])
            until(lambda sampler=sampler: sampler.ready, pause=0.0005)  # type: ignore[misc]
            sampler.close()
        kept = len(counted.dry) + len(counted.chains) - len(counted.freed)
    assert len(counted.dry) == 20
    assert kept <= 8
    assert len(counted.freed) == len(counted.dry) + len(counted.chains)


def test_a_sampler_that_is_closed_while_it_is_made_is_freed(
    dense: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go.wait(30)

    counted = Counted(monkeypatch, wait)
    with closing(maker_for(dense)) as maker:
        making, waiting = (maker.sampler(dry("a"), 1, [1, 2]) for _ in range(2))
        assert begun.wait(30)
        assert not making.ready
        making.close()
        waiting.close()
        go.set()
    assert len(counted.chains) == len(counted.dry) == 1
    assert len(counted.freed) == 2


def test_a_copied_dry_sampler_draws_as_one_that_is_none(
    dense: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = [draw(dense, dry("a", " "), count=20) for _ in range(2)]
    monkeypatch.setattr(SamplerMaker, "_dry", SamplerMaker._new_dry)
    assert copied == [draw(dense, dry("a", " "), count=20)] * 2


def test_a_long_history_is_read_beside_the_caller(dense: Llama) -> None:
    settings = Sampling(temperature=0, presence_penalty=2.0, repeat_last_n=-1)
    with closing(SamplerMaker(dense.context, dense.vocabulary, 100_000)) as maker:
        long, short = (maker.sampler(settings, 1, prompt(5, size)) for size in (50_000, 100))
        assert short.ready
        assert not long.ready
        until(lambda: long.ready)
        long.close()
        short.close()


def test_greedy_is_the_largest_logit(llama: Llama) -> None:
    expected = int(alone(llama, prompt(5, 20)).argmax())
    assert draw(llama, Sampling(temperature=0), count=3) == [expected] * 3


def test_a_penalty_counts_the_tokens_before(dense: Llama) -> None:
    sampling = Sampling(temperature=0, presence_penalty=2.0, repeat_last_n=64)
    first, second, *_ = draw(dense, sampling, count=2)
    assert first != second


def test_a_penalty_counts_the_prompt(dense: Llama) -> None:
    tokens = prompt(5, 20)
    logits = alone(dense, tokens)
    sampling = Sampling(temperature=0, presence_penalty=100.0, logit_bias=((tokens[0], 50.0),))
    unseen = [token for token in range(len(dense.vocabulary)) if token not in tokens]
    assert draw(dense, sampling) == [max(unseen, key=lambda token: logits[token])]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_decides(temperature: float, dense: Llama) -> None:
    assert draw(dense, Sampling(temperature=temperature, logit_bias=((77, 100.0),))) == [77]
    best = draw(dense, Sampling(temperature=0))[0]
    against = Sampling(temperature=temperature, logit_bias=((best, -100.0),))
    assert best not in draw(dense, against, count=10)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_banned_token_is_never_drawn(temperature: float, dense: Llama) -> None:
    tokens = prompt(5, 20)
    compute(dense, chunk(tokens, 0, 0, 20))
    bias = ((EOS, 100.0), (77, 50.0))
    sampler = dense.sampler(Sampling(temperature=temperature, logit_bias=bias), 1, tokens)
    assert sampler.sample(19, dense.logits(1)[0], dense.vocabulary.ends) == 77
    sampler.close()


def test_xtc_of_any_threshold_draws_nothing_that_is_banned(dense: Llama) -> None:
    tokens = prompt(5, 20)
    compute(dense, chunk(tokens, 0, 0, 20))
    flags = np.ones(len(dense.vocabulary), np.bool_)
    flags[[77, 78]] = False
    sampling = Sampling(top_p=1.0, min_p=0.0, xtc_probability=1.0, xtc_threshold=0.0)
    with closing(dense.sampler(sampling, 1, tokens)) as sampler:
        assert sampler.sample(19, dense.logits(1)[0], flags) in (77, 78)


def test_a_temperature_of_almost_nothing_is_none(dense: Llama) -> None:
    greedy = draw(dense, Sampling(temperature=0.0))
    assert draw(dense, Sampling(temperature=1e-40)) == greedy


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_give_no_token_are_noticed(
    temperature: float, value: float, dense: Llama
) -> None:
    tokens = prompt(5, 20)
    compute(dense, chunk(tokens, 0, 0, 20))
    dense.logits(1)[0] = value
    sampler = dense.sampler(Sampling(temperature=temperature), 1, tokens)
    assert sampler.sample(19, dense.logits(1)[0], NOBODY) == -1
    sampler.close()


def test_a_sampler_may_be_closed_twice(dense: Llama) -> None:
    sampler = dense.sampler(Sampling(), 1, [1])
    sampler.close()
    sampler.close()
