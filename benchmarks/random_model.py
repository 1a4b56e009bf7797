"""Write GGUF files with random weights in a chosen shape, to measure speed on any machine.

The tokeniser is a byte-level BPE with a few merged words, so any text survives the round trip. The
models write noise, but the same noise for the same seed. Weights are drawn as they are written, a
tensor at a time, in half precision or directly as quantised blocks: a file of gigabytes takes
seconds.

    python -m benchmarks.random_model 8b FILE [--weights Q8_0] [--seed 1]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BOS, USER_START, EOS = range(256, 259)
"""Ids of the special tokens, in the order of SPECIAL."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Weights = Literal["F16", "Q8_0", "Q4_0"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes. Fields that its architecture does not have are 0."""

    architecture: str
    layers: int
    embedding: int
    vocabulary: int
    feed_forward: int = 0
    heads: int = 0
    kv_heads: int = 0
    head: int = 0
    window: int = 0
    """Tokens that a layer with a sliding window sees."""
    experts: int = 0
    experts_used: int = 0
    states: int = 0
    """Numbers that each inner channel of a state-space model remembers."""
    ssm_heads: int = 0
    labels: tuple[str, ...] = ()
    """The classes of a reranker's head."""
    context: int = 32_768
    tied: bool = False
    """Whether the output layer is the embedding: then the likeliest next token is the last one."""
    weights: Weights = "F16"

    @property
    def inner(self) -> int:
        return 2 * self.embedding

    @property
    def convolved(self) -> int:
        return self.inner + 2 * _GROUPS * self.states


_TINY: dict[str, Any] = {"embedding": 64, "vocabulary": 512, "context": 4096}
_TINY_HEADS: dict[str, Any] = {"heads": 4, "kv_heads": 2, "head": 16}
_BIG: dict[str, Any] = {"weights": "Q4_0", "vocabulary": 128_256}

SHAPES: Mapping[str, Shape] = {
    "tiny": Shape("llama", 2, feed_forward=128, **_TINY, **_TINY_HEADS),
    "tiny-moe": Shape(
        "qwen3moe", 2, feed_forward=32, experts=8, experts_used=2, **_TINY, **_TINY_HEADS
    ),
    "tiny-reranker": Shape(
        "qwen3", 2, feed_forward=128, labels=("yes", "no"), **_TINY, **_TINY_HEADS
    ),
    "tiny-sliding": Shape("gemma3", 6, feed_forward=128, window=32, **_TINY, **_TINY_HEADS),
    "tiny-hybrid": Shape("lfm2", 4, feed_forward=128, **_TINY, **_TINY_HEADS),
    "tiny-recurrent": Shape("mamba2", 2, states=16, ssm_heads=8, **_TINY),
    "1b": Shape("llama", 16, 2048, feed_forward=8192, heads=32, kv_heads=8, head=64, **_BIG),
    "8b": Shape("llama", 32, 4096, feed_forward=14336, heads=32, kv_heads=8, head=128, **_BIG),
    "moe": Shape(
        "qwen3moe",
        24,
        2048,
        feed_forward=768,
        heads=32,
        kv_heads=4,
        head=128,
        experts=64,
        experts_used=8,
        **_BIG,
    ),
    "sliding": Shape(
        "gemma3", 26, 1152, feed_forward=6912, heads=4, kv_heads=1, head=256, window=512, **_BIG
    ),
    "hybrid": Shape("lfm2", 16, 2048, feed_forward=8192, heads=32, kv_heads=8, head=64, **_BIG),
    "recurrent": Shape("mamba2", 48, 2048, states=128, ssm_heads=64, **_BIG),
    "encoder": Shape(
        "bert",
        24,
        1024,
        feed_forward=4096,
        heads=16,
        kv_heads=16,
        head=64,
        tied=True,
        vocabulary=250_002,
        context=8192,
    ),
}
"""Shapes by name: tiny ones that run in milliseconds, and ones of the sizes that people serve."""

_FILE_TYPES: Mapping[Weights, gguf.LlamaFileType] = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
_MERGES = "t h,th e,i n,in g,Ġ the,a n,an d,Ġ and,Ġ a,o n,e r,Ġ s,s e,se a,Ġ sea,o f,Ġ of,r e"
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_KERNEL, _GROUPS, _SHORT_KERNEL = 4, 1, 3
_ALIGNMENT = 32


def write(
    path: Path,
    shape: Shape,
    *,
    seed: int = 0,
    name: str | None = None,
    chat_template: str | None = CHATML,
    metadata: Mapping[str, Any] | None = None,
    tensors_per_file: int = 0,
    hollow: bool = False,
) -> Path:
    """Write a model and return its path; of a split one, that of its first part.

    `metadata` adds or replaces keys (int, float, str, bool, list). `tensors_per_file` splits the
    model into files of at most so many tensors; 0 writes one file. `hollow` leaves a hole in the
    file in place of the weights, which takes no space on the disk and reads as zeros.
    """
    writer = gguf.GGUFWriter(path, shape.architecture, split_max_tensors=tensors_per_file)
    keys = {"general.name": name or f"random {shape.architecture}", **_keys(shape)}
    keys |= _tokenizer_keys(shape.vocabulary, chat_template) | dict(metadata or {})
    for key, value in keys.items():
        _add_key(writer, key, value)
    tensors = list(_tensors(shape))
    for tensor in tensors:
        tensor.announce(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if hollow:
        writer.close()
        sizes = (path.stat().st_size, *(tensor.bytes for tensor in tensors))
        os.truncate(path, sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes))
        return path
    random = np.random.default_rng(seed)
    for tensor in tensors:
        writer.write_tensor_data(tensor.draw(random))
    writer.close()
    if tensors_per_file:
        count = -(-len(tensors) // tensors_per_file)
        return path.with_name(f"{path.stem}-00001-of-{count:05d}.gguf")
    return path


def _add_key(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    adders: Mapping[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adders[type(value)](name, value)


# Tensors. Shapes are in ggml's order, the length of a row first.


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor: a constant if `value` is set, else noise with `scale` as standard deviation."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    scale: float = 0.0
    value: float | None = None

    def announce(self, writer: gguf.GGUFWriter) -> None:
        plain = np.dtype(np.float32)  # the type given beside it is what counts
        writer.add_tensor_info(self.name, self.shape[::-1], plain, self.bytes, raw_dtype=self.type)

    @property
    def bytes(self) -> int:
        elements, size = gguf.GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // elements * size

    def draw(self, random: np.random.Generator) -> npt.NDArray[Any]:
        if self.value is not None:
            return np.full(self.shape[::-1], self.value, dtype=np.float32)
        if self.type in _BLOCK_SPREAD:
            return self._blocks(random)
        precision = np.float16 if self.type == gguf.GGMLQuantizationType.F16 else np.float32
        return (random.standard_normal(self.shape[::-1]) * self.scale).astype(precision)

    def _blocks(self, random: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Return blocks of random bytes, each behind the factor that gives the wanted spread."""
        words = random.integers(0, 2**64, -(-self.bytes // 8), dtype=np.uint64)
        blocks = words.view(np.uint8)[: self.bytes].reshape(-1, gguf.GGML_QUANT_SIZES[self.type][1])
        factor = np.array([self.scale / _BLOCK_SPREAD[self.type]], np.float16)
        blocks[:, :2] = factor.view(np.uint8)
        return blocks


_BLOCK_SPREAD = {
    gguf.GGMLQuantizationType.Q8_0: 73.9,
    gguf.GGMLQuantizationType.Q4_0: 4.61,
}
"""Standard deviations of a block's numbers before its factor; all numbers are equally likely."""


def _matrix(shape: Shape, name: str, *size: int, scale: float | None = None) -> _Tensor:
    scale = size[0] ** -0.5 if scale is None else scale
    return _Tensor(name, size, gguf.GGMLQuantizationType[shape.weights], scale)


def _noise(name: str, *size: int) -> _Tensor:
    return _Tensor(name, size, gguf.GGMLQuantizationType.F32, size[0] ** -0.5)


def _ones(name: str, *size: int, value: float = 1.0) -> _Tensor:
    return _Tensor(name, size, gguf.GGMLQuantizationType.F32, value=value)


def _tensors(shape: Shape) -> Iterator[_Tensor]:
    yield _matrix(shape, "token_embd.weight", shape.embedding, shape.vocabulary, scale=1.0)
    if shape.architecture == "bert":
        yield _matrix(shape, "position_embd.weight", shape.embedding, shape.context)
        yield _ones("token_types.weight", shape.embedding, 2)
        yield from _biased_norm(shape, "token_embd_norm")
        for block in range(shape.layers):
            yield from _bert_block(shape, f"blk.{block}.", block)
        return
    if not shape.tied:
        yield _matrix(shape, "output.weight", shape.embedding, shape.vocabulary)
    if shape.labels:
        yield _matrix(shape, "cls.output.weight", shape.embedding, len(shape.labels))
    norm = "token_embd_norm" if shape.architecture == "lfm2" else "output_norm"
    yield _ones(f"{norm}.weight", shape.embedding)
    for block in range(shape.layers):
        yield from _BLOCKS[shape.architecture](shape, f"blk.{block}.", block)


def _attention(shape: Shape, at: str) -> Iterator[_Tensor]:
    queries, values = shape.heads * shape.head, shape.kv_heads * shape.head
    yield _ones(at + "attn_norm.weight", shape.embedding)
    yield _matrix(shape, at + "attn_q.weight", shape.embedding, queries)
    yield _matrix(shape, at + "attn_k.weight", shape.embedding, values)
    yield _matrix(shape, at + "attn_v.weight", shape.embedding, values)
    yield _matrix(shape, at + "attn_output.weight", queries, shape.embedding)


def _head_norms(shape: Shape, at: str) -> Iterator[_Tensor]:
    yield _ones(at + "attn_q_norm.weight", shape.head)
    yield _ones(at + "attn_k_norm.weight", shape.head)


def _feed_forward(shape: Shape, at: str) -> Iterator[_Tensor]:
    yield _ones(at + "ffn_norm.weight", shape.embedding)
    yield _matrix(shape, at + "ffn_gate.weight", shape.embedding, shape.feed_forward)
    yield _matrix(shape, at + "ffn_up.weight", shape.embedding, shape.feed_forward)
    yield _matrix(shape, at + "ffn_down.weight", shape.feed_forward, shape.embedding)


def _llama_block(shape: Shape, at: str, block: int) -> Iterator[_Tensor]:
    yield from _attention(shape, at)
    yield from _feed_forward(shape, at)


def _qwen3_block(shape: Shape, at: str, block: int) -> Iterator[_Tensor]:
    yield from _attention(shape, at)
    yield from _head_norms(shape, at)
    yield from _feed_forward(shape, at)


def _qwen3moe_block(shape: Shape, at: str, block: int) -> Iterator[_Tensor]:
    yield from _attention(shape, at)
    yield from _head_norms(shape, at)
    width, inside, experts = shape.embedding, shape.feed_forward, shape.experts
    yield _ones(at + "ffn_norm.weight", width)
    yield _noise(at + "ffn_gate_inp.weight", width, experts)
    yield _matrix(shape, at + "ffn_gate_exps.weight", width, inside, experts)
    yield _matrix(shape, at + "ffn_up_exps.weight", width, inside, experts)
    yield _matrix(shape, at + "ffn_down_exps.weight", inside, width, experts)


def _gemma3_block(shape: Shape, at: str, block: int) -> Iterator[_Tensor]:
    yield from _attention(shape, at)
    yield from _head_norms(shape, at)
    yield _ones(at + "post_attention_norm.weight", shape.embedding)
    yield from _feed_forward(shape, at)
    yield _ones(at + "post_ffw_norm.weight", shape.embedding)


def _bert_block(shape: Shape, at: str, block: int) -> Iterator[_Tensor]:
    width, inside = shape.embedding, shape.feed_forward
    sizes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    sizes |= {"ffn_up": (width, inside), "ffn_down": (inside, width)}
    for name, size in sizes.items():
        yield _matrix(shape, f"{at}{name}.weight", *size)
        yield _ones(f"{at}{name}.bias", size[1], value=0.0)
    yield from _biased_norm(shape, at + "attn_output_norm")
    yield from _biased_norm(shape, at + "layer_output_norm")


def _biased_norm(shape: Shape, name: str) -> Iterator[_Tensor]:
    yield _ones(f"{name}.weight", shape.embedding)
    yield _ones(f"{name}.bias", shape.embedding, value=0.0)


def _mamba2_block(shape: Shape, at: str, block: int) -> Iterator[_Tensor]:
    projected = shape.inner + shape.convolved + shape.ssm_heads
    yield _ones(at + "attn_norm.weight", shape.embedding)
    yield _matrix(shape, at + "ssm_in.weight", shape.embedding, projected)
    yield _noise(at + "ssm_conv1d.weight", _KERNEL, shape.convolved)
    yield _ones(at + "ssm_conv1d.bias", shape.convolved, value=0.0)
    yield _ones(at + "ssm_dt.bias", shape.ssm_heads, value=-2.0)
    yield _ones(at + "ssm_a", 1, shape.ssm_heads, value=-1.0)
    yield _ones(at + "ssm_d", 1, shape.ssm_heads)
    yield _ones(at + "ssm_norm.weight", shape.inner // _GROUPS, _GROUPS)
    yield _matrix(shape, at + "ssm_out.weight", shape.inner, shape.embedding)


def _lfm2_block(shape: Shape, at: str, block: int) -> Iterator[_Tensor]:
    if _attends(block):
        yield from _attention(shape, at)
        yield from _head_norms(shape, at)
    else:
        width = shape.embedding
        yield _ones(at + "attn_norm.weight", width)
        yield _noise(at + "shortconv.conv.weight", _SHORT_KERNEL, width)
        yield _matrix(shape, at + "shortconv.in_proj.weight", width, 3 * width)
        yield _matrix(shape, at + "shortconv.out_proj.weight", width, width)
    yield from _feed_forward(shape, at)


def _attends(block: int) -> bool:
    """Return whether this block of a hybrid model has attention, which every other one has."""
    return block % 2 == 1


_BLOCKS: Mapping[str, Callable[[Shape, str, int], Iterator[_Tensor]]] = {
    "llama": _llama_block,
    "qwen3": _qwen3_block,
    "qwen3moe": _qwen3moe_block,
    "gemma3": _gemma3_block,
    "mamba2": _mamba2_block,
    "lfm2": _lfm2_block,
}


# Metadata


def _keys(shape: Shape) -> dict[str, Any]:
    of = shape.architecture
    keys: dict[str, Any] = {
        "general.file_type": int(_FILE_TYPES[shape.weights]),
        f"{of}.context_length": shape.context,
        f"{of}.embedding_length": shape.embedding,
        f"{of}.block_count": shape.layers,
        f"{of}.vocab_size": shape.vocabulary,
        f"{of}.attention.layer_norm_rms_epsilon": 1e-5,
    }
    if shape.heads:
        keys |= _attention_keys(shape)
    if of == "bert":
        keys["tokenizer.ggml.token_type_count"] = 2
    if of in _EXTRA_KEYS:
        keys |= {f"{of}.{key}": value for key, value in _EXTRA_KEYS[of](shape).items()}
    return keys


def _attention_keys(shape: Shape) -> dict[str, Any]:
    of = shape.architecture
    return {
        f"{of}.attention.head_count": shape.heads,
        f"{of}.attention.head_count_kv": shape.kv_heads,
        f"{of}.attention.key_length": shape.head,
        f"{of}.attention.value_length": shape.head,
        f"{of}.feed_forward_length": shape.feed_forward,
        f"{of}.rope.dimension_count": shape.head,
        f"{of}.rope.freq_base": 10000.0,
    }


_EXTRA_KEYS: Mapping[str, Callable[[Shape], dict[str, Any]]] = {
    "qwen3": lambda shape: (
        {"pooling_type": 4, "classifier.output_labels": list(shape.labels)} if shape.labels else {}
    ),
    "gemma3": lambda shape: {"attention.sliding_window": shape.window},
    "bert": lambda shape: {
        "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False,
        "pooling_type": 2,
    },
    "qwen3moe": lambda shape: {
        "expert_count": shape.experts,
        "expert_used_count": shape.experts_used,
        "expert_feed_forward_length": shape.feed_forward,
    },
    "mamba2": lambda shape: {
        "ssm.conv_kernel": _KERNEL,
        "ssm.inner_size": shape.inner,
        "ssm.state_size": shape.states,
        "ssm.time_step_rank": shape.ssm_heads,
        "ssm.group_count": _GROUPS,
    },
    "lfm2": lambda shape: {
        "shortconv.l_cache": _SHORT_KERNEL,
        "attention.head_count_kv": [shape.kv_heads * _attends(n) for n in range(shape.layers)],
    },
}


def _tokenizer_keys(vocabulary: int, chat_template: str | None) -> dict[str, Any]:
    merges = _MERGES.split(",")
    tokens = [*byte_alphabet(), *SPECIAL, *(merge.replace(" ", "") for merge in merges)]
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


def byte_alphabet() -> list[str]:
    """Return GPT-2's printable stand-in for each byte: itself where it prints, else from 256 up."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=Path)
    parser.add_argument("--weights", choices=_FILE_TYPES, help="by default as the shape says")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    shape = dataclasses.replace(shape, weights=given.weights or shape.weights)
    write(given.file, shape, seed=given.seed, name=f"random {given.shape}")


if __name__ == "__main__":
    main()
