from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from gguf_worker.models.gguf.architectures import (
    ARCHITECTURES,
    NOT_SERVED,
    Layer,
    layers,
    recurrent_width,
)


def test_what_is_not_served_is_known() -> None:
    assert set(NOT_SERVED) <= ARCHITECTURES


@pytest.mark.llama
def test_the_installed_llama_cpp_knows_every_architecture() -> None:
    spec = find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    library = (Path(spec.origin).parent / "lib" / "libllama.so").read_bytes()
    # The linker may store a name as the end of a longer one, so only its end is looked at.
    missing = [name for name in ARCHITECTURES if name.encode() + b"\0" not in library]
    assert missing == []


def _keys(architecture: str, **values: object) -> dict[str, object]:
    names = {name.replace("__", "."): value for name, value in values.items()}
    return {f"{architecture}.{name}": value for name, value in names.items()}


def _shape(architecture: str, blocks: int, **values: object) -> tuple[Layer, ...]:
    base = {
        "block_count": blocks,
        "embedding_length": 64,
        "attention__head_count": 4,
        "attention__head_count_kv": 2,
        "attention__key_length": 16,
        "attention__value_length": 16,
    }
    return layers(architecture, _keys(architecture, **(base | values)))  # type: ignore[arg-type]


DENSE = Layer(32, 32, 0)


def test_a_dense_model_keeps_k_and_v_in_every_layer() -> None:
    assert _shape("llama", 3) == (DENSE,) * 3


def test_head_lengths_come_from_the_embedding_where_they_are_not_given() -> None:
    metadata = _keys("llama", block_count=1, embedding_length=64, attention__head_count=4)
    assert layers("llama", metadata) == (Layer(64, 64, 0),)  # type: ignore[arg-type]


def test_layers_that_only_draft_keep_nothing() -> None:
    assert len(_shape("glm4moe", 5, nextn_predict_layers=1)) == 4


def test_gemma_has_a_full_layer_in_six() -> None:
    found = _shape("gemma3", 7, attention__sliding_window=512)
    assert [layer.sliding for layer in found] == [True] * 5 + [False] + [True]


def test_a_pattern_in_the_file_is_followed() -> None:
    by_period = _shape(
        "gemma3", 4, attention__sliding_window=512, attention__sliding_window_pattern=2
    )
    assert [layer.sliding for layer in by_period] == [True, False, True, False]
    pattern = (True, True, False, True)
    by_layer = _shape(
        "step35", 4, attention__sliding_window=512, attention__sliding_window_pattern=pattern
    )
    assert [layer.sliding for layer in by_layer] == list(pattern)


@pytest.mark.parametrize("architecture", ["phi3", "exaone4", "llama"])
def test_a_window_that_llama_cpp_does_not_use_saves_nothing(architecture: str) -> None:
    found = _shape(architecture, 4, attention__sliding_window=512)
    assert not any(layer.sliding for layer in found)


def test_sliding_layers_may_have_heads_of_another_length() -> None:
    found = _shape(
        "gemma4",
        2,
        attention__sliding_window=512,
        attention__sliding_window_pattern=(True, False),
        attention__key_length_swa=8,
        attention__value_length_swa=8,
    )
    assert found == (Layer(16, 16, 0, sliding=True), DENSE)


def test_layers_that_share_a_cache_keep_none_of_their_own() -> None:
    found = _shape("gemma4", 4, attention__shared_kv_layers=2)
    assert found == (DENSE, DENSE, Layer(0, 0, 0), Layer(0, 0, 0))


def test_latent_attention_keeps_k_only() -> None:
    found = _shape(
        "deepseek2",
        1,
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
    )
    assert found == (Layer(576, 0, 0),)


def test_mamba_keeps_a_state_and_no_cells() -> None:
    found = _shape(
        "mamba2",
        2,
        ssm__conv_kernel=4,
        ssm__inner_size=128,
        ssm__state_size=16,
        ssm__group_count=1,
    )
    assert found == (Layer(0, 0, 3 * (128 + 2 * 16) + 16 * 128),) * 2


def test_lfm2_has_a_state_where_it_has_no_kv_heads() -> None:
    found = _shape("lfm2", 4, shortconv__l_cache=3, attention__head_count_kv=(0, 2, 0, 2))
    assert found == (Layer(0, 0, 128), DENSE) * 2


def test_falcon_h1_has_both_in_every_layer() -> None:
    found = _shape("falcon-h1", 1, ssm__inner_size=128, ssm__state_size=16)
    assert found == (Layer(32, 32, 16 * 128),)


def test_qwen3next_attends_in_every_fourth_layer() -> None:
    found = _shape("qwen3next", 4, ssm__inner_size=128, ssm__state_size=16)
    assert found == (Layer(0, 0, 16 * 128),) * 3 + (DENSE,)


def test_a_list_of_recurrent_layers_goes_before_the_interval() -> None:
    found = _shape(
        "qwen35",
        3,
        ssm__inner_size=128,
        ssm__state_size=16,
        attention__recurrent_layers=(False, True, False),
    )
    assert [layer.state > 0 for layer in found] == [False, True, False]


def test_rwkv_keeps_token_shifts_and_its_matrix() -> None:
    found = _shape("rwkv7", 1, wkv__head_size=64, token_shift_count=2)
    assert found == (Layer(0, 0, 64 * (2 + 64)),)


def test_nonsense_counts_do_no_harm() -> None:
    found = _shape("llama", 2, attention__head_count_kv=(-5,), attention__key_length=-1)
    assert found == (Layer(0, 0, 0),) * 2


def test_a_recurrent_layer_has_its_projection_and_three_convolutions_in_work() -> None:
    sizes = {"block_count": 2, "embedding_length": 64, "attention.head_count": 0}
    sizes |= {"ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 1}
    sizes |= {"ssm.time_step_rank": 8, "ssm.conv_kernel": 4}
    convolved = 128 + 2 * 16
    metadata = {f"mamba2.{key}": value for key, value in sizes.items()}
    assert recurrent_width("mamba2", metadata) == (128 + convolved + 8) + 3 * convolved + 128


def test_a_model_without_states_has_no_recurrent_width() -> None:
    metadata = {"llama.block_count": 1, "llama.embedding_length": 64}
    metadata |= {"llama.attention.head_count": 4}
    assert recurrent_width("llama", metadata) == 0
