"""Writes tiny GGUF files with random weights, which llama.cpp loads and runs in milliseconds.

The tokeniser is a byte-level BPE with a few merged words, so any text survives the round trip. What
the models say is noise, but the same noise for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

ARCHITECTURES = ("llama", "gemma3", "mamba2", "lfm2")

EMBEDDING, FEED_FORWARD, HEADS, KV_HEADS, HEAD = 64, 128, 4, 2, 16
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BOS, USER_START, EOS = range(256, 259)
"""Ids of the special tokens, in the order of SPECIAL."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_MERGES = "t h,th e,i n,in g,Ġ the,a n,an d,Ġ and,Ġ a,o n,e r,Ġ s,s e,se a,Ġ sea,o f,Ġ of,r e"
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_INNER, _KERNEL, _STATES, _GROUPS, _RANK = 2 * EMBEDDING, 4, 16, 1, 8
_CONVOLVED = _INNER + 2 * _GROUPS * _STATES


def write_tiny(
    path: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    layers: int | None = None,
    context_length: int = 4096,
    vocabulary: int = 512,
    chat_template: str | None = CHATML,
    metadata: Mapping[str, Any] | None = None,
    tied: bool = False,
    file_type: gguf.LlamaFileType = gguf.LlamaFileType.MOSTLY_F16,
) -> Path:
    """Write a model and return `path`.

    `metadata` adds or replaces keys (int, float, str, bool or list). `tied`: no output layer of its
    own, so that the models' favourite next token is the last one again.
    """
    writer = _Writer(path, architecture, np.random.default_rng(seed))
    blocks = layers or {"gemma3": 6, "lfm2": 4}.get(architecture, 2)
    keys: dict[str, Any] = {
        "general.name": f"tiny {architecture}",
        "general.file_type": int(file_type),
        f"{architecture}.context_length": context_length,
        f"{architecture}.embedding_length": EMBEDDING,
        f"{architecture}.block_count": blocks,
        f"{architecture}.vocab_size": vocabulary,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
    }
    if architecture != "mamba2":
        keys |= _attention_keys(architecture)
    keys |= _EXTRA_KEYS[architecture](blocks)
    keys |= _tokenizer_keys(vocabulary, chat_template)
    for key, value in (keys | dict(metadata or {})).items():
        writer.key(key, value)
    writer.matrix("token_embd.weight", EMBEDDING, vocabulary, scale=1.0)
    if not tied:
        writer.matrix("output.weight", EMBEDDING, vocabulary)
    norm = "token_embd_norm" if architecture == "lfm2" else "output_norm"
    writer.ones(f"{norm}.weight", EMBEDDING)
    for block in range(blocks):
        _BLOCKS[architecture](writer, block)
    writer.close()
    return path


class _Writer:
    """A GGUFWriter that draws its own weights. Shapes are in ggml's order, a row's length first."""

    def __init__(self, path: Path, architecture: str, random: np.random.Generator) -> None:
        self._gguf = gguf.GGUFWriter(path, architecture)
        self._random = random

    def key(self, name: str, value: Any) -> None:
        add: Callable[[str, Any], None] = {
            bool: self._gguf.add_bool,
            int: self._gguf.add_uint32,
            float: self._gguf.add_float32,
            str: self._gguf.add_string,
            list: self._gguf.add_array,
        }[type(value)]
        add(name, value)

    def matrix(self, name: str, *shape: int, scale: float | None = None) -> None:
        scale = shape[0] ** -0.5 if scale is None else scale
        weights = self._random.standard_normal(shape[::-1]) * scale
        self._gguf.add_tensor(name, weights.astype(np.float16))

    def convolution(self, name: str, *shape: int) -> None:
        weights = self._random.standard_normal(shape[::-1]) * shape[0] ** -0.5
        self._gguf.add_tensor(name, weights.astype(np.float32))

    def ones(self, name: str, *shape: int, value: float = 1.0) -> None:
        self._gguf.add_tensor(name, np.full(shape[::-1], value, dtype=np.float32))

    def close(self) -> None:
        self._gguf.write_header_to_file()
        self._gguf.write_kv_data_to_file()
        self._gguf.write_tensors_to_file()
        self._gguf.close()


def _attention_keys(architecture: str) -> dict[str, Any]:
    return {
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.key_length": HEAD,
        f"{architecture}.attention.value_length": HEAD,
        f"{architecture}.feed_forward_length": FEED_FORWARD,
        f"{architecture}.rope.dimension_count": HEAD,
        f"{architecture}.rope.freq_base": 10000.0,
    }


def _mamba2_keys(blocks: int) -> dict[str, Any]:
    return {
        "mamba2.ssm.conv_kernel": _KERNEL,
        "mamba2.ssm.inner_size": _INNER,
        "mamba2.ssm.state_size": _STATES,
        "mamba2.ssm.time_step_rank": _RANK,
        "mamba2.ssm.group_count": _GROUPS,
    }


def _lfm2_keys(blocks: int) -> dict[str, Any]:
    return {
        "lfm2.shortconv.l_cache": 3,
        "lfm2.attention.head_count_kv": [KV_HEADS * (block % 2) for block in range(blocks)],
    }


_EXTRA_KEYS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "llama": lambda blocks: {},
    "gemma3": lambda blocks: {"gemma3.attention.sliding_window": 32},
    "mamba2": _mamba2_keys,
    "lfm2": _lfm2_keys,
}


def _attention(writer: _Writer, block: int) -> None:
    at = f"blk.{block}."
    writer.ones(at + "attn_norm.weight", EMBEDDING)
    writer.matrix(at + "attn_q.weight", EMBEDDING, HEADS * HEAD)
    writer.matrix(at + "attn_k.weight", EMBEDDING, KV_HEADS * HEAD)
    writer.matrix(at + "attn_v.weight", EMBEDDING, KV_HEADS * HEAD)
    writer.matrix(at + "attn_output.weight", HEADS * HEAD, EMBEDDING)


def _head_norms(writer: _Writer, block: int) -> None:
    writer.ones(f"blk.{block}.attn_q_norm.weight", HEAD)
    writer.ones(f"blk.{block}.attn_k_norm.weight", HEAD)


def _feed_forward(writer: _Writer, block: int) -> None:
    at = f"blk.{block}."
    writer.ones(at + "ffn_norm.weight", EMBEDDING)
    writer.matrix(at + "ffn_gate.weight", EMBEDDING, FEED_FORWARD)
    writer.matrix(at + "ffn_up.weight", EMBEDDING, FEED_FORWARD)
    writer.matrix(at + "ffn_down.weight", FEED_FORWARD, EMBEDDING)


def _llama_block(writer: _Writer, block: int) -> None:
    _attention(writer, block)
    _feed_forward(writer, block)


def _gemma3_block(writer: _Writer, block: int) -> None:
    _attention(writer, block)
    _head_norms(writer, block)
    writer.ones(f"blk.{block}.post_attention_norm.weight", EMBEDDING)
    _feed_forward(writer, block)
    writer.ones(f"blk.{block}.post_ffw_norm.weight", EMBEDDING)


def _mamba2_block(writer: _Writer, block: int) -> None:
    at = f"blk.{block}."
    writer.ones(at + "attn_norm.weight", EMBEDDING)
    writer.matrix(at + "ssm_in.weight", EMBEDDING, _INNER + _CONVOLVED + _RANK)
    writer.convolution(at + "ssm_conv1d.weight", _KERNEL, _CONVOLVED)
    writer.ones(at + "ssm_conv1d.bias", _CONVOLVED, value=0.0)
    writer.ones(at + "ssm_dt.bias", _RANK, value=-2.0)
    writer.ones(at + "ssm_a", 1, _RANK, value=-1.0)
    writer.ones(at + "ssm_d", 1, _RANK)
    writer.ones(at + "ssm_norm.weight", _INNER // _GROUPS, _GROUPS)
    writer.matrix(at + "ssm_out.weight", _INNER, EMBEDDING)


def _lfm2_block(writer: _Writer, block: int) -> None:
    at = f"blk.{block}."
    if block % 2:
        _attention(writer, block)
        _head_norms(writer, block)
    else:
        writer.ones(at + "attn_norm.weight", EMBEDDING)
        writer.convolution(at + "shortconv.conv.weight", 3, EMBEDDING)
        writer.matrix(at + "shortconv.in_proj.weight", EMBEDDING, 3 * EMBEDDING)
        writer.matrix(at + "shortconv.out_proj.weight", EMBEDDING, EMBEDDING)
    _feed_forward(writer, block)


_BLOCKS: Mapping[str, Callable[[_Writer, int], None]] = {
    "llama": _llama_block,
    "gemma3": _gemma3_block,
    "mamba2": _mamba2_block,
    "lfm2": _lfm2_block,
}


def _tokenizer_keys(vocabulary: int, chat_template: str | None) -> dict[str, Any]:
    merges = _MERGES.split(",")
    tokens = [*_byte_alphabet(), *SPECIAL, *(merge.replace(" ", "") for merge in merges)]
    kinds = [_NORMAL] * 256 + [_CONTROL] * len(SPECIAL) + [_NORMAL] * len(merges)
    padding = vocabulary - len(tokens)
    if padding < 0:
        raise ValueError(f"a vocabulary needs {len(tokens)} tokens at least")
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens + [f"[unused{number}]" for number in range(padding)],
        "tokenizer.ggml.token_type": kinds + [_UNUSED] * padding,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.padding_token_id": BOS,
        "tokenizer.ggml.add_bos_token": False,
    }
    if chat_template is not None:
        keys["tokenizer.chat_template"] = chat_template
    return keys


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself where it prints, else a code from 256 up."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]
