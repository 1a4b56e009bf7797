"""The header of a GGUF file: the facts of a model, or the reason why this worker cannot serve it.

The file's lengths and counts are checked by `container`; here its metadata becomes a model's facts.
Weights are never read. Where the file came from, and how large a context it gets, is not known
here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gguf_worker.errors import ModelCorrupt, ModelUnsupported
from gguf_worker.models.gguf.architectures import (
    ARCHITECTURES,
    DRAFT,
    EMBEDDERS,
    ENCODERS,
    NOT_SERVED,
    Layer,
    layers,
    recurrent_width,
)
from gguf_worker.models.gguf.container import Container, read_container, shown
from gguf_worker.models.gguf.header_bytes import AGAIN
from gguf_worker.models.gguf.splits import join
from gguf_worker.models.gguf.tensor_types import TENSOR_TYPES
from gguf_worker.models.gguf.tokenizers import TOKENIZERS, splits_fatally, splits_unknown

_MAX_LAYERS = 512
_MAX_COUNT = 2**32 - 1
_GUESSED = 1024
"""llama.cpp's flag in general.file_type for a type that was guessed."""

_FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
"""The common names of llama_ftype, the value of general.file_type."""

_TEMPLATE = "tokenizer.chat_template"
_CLASSIFIER_TENSORS = ("cls.weight", "cls.output.weight")
"""The tensors of a classifier, which a reranker is."""
_POOLINGS: Mapping[int, str] = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""The names of llama_pooling_type, the value of {arch}.pooling_type."""


@dataclass(frozen=True, slots=True)
class Header:
    """The facts of a model in a GGUF file.

    Sizes are bytes; absent lengths are 0, absent ids None.
    """

    path: Path
    version: int
    architecture: str
    name: str | None
    quantization: str
    parameters: int
    file_bytes: int
    tensor_bytes: int
    embedding_bytes: int
    """The token embeddings, which llama.cpp keeps in the machine's memory."""
    tied_embeddings: bool
    """The output layer uses the token embeddings, so that a GPU gets a copy of them."""
    block_bytes: tuple[int, ...]
    """Weights of each block, in order."""
    context_length: int
    """Length of the context that the model was trained with, in tokens."""
    block_count: int
    embedding_length: int
    feed_forward_length: int
    """The width of the widest layer, all experts of a token together."""
    gated: bool
    """The feed-forward multiplies two activations; False: it has no gate, and works in place."""
    vocabulary: int
    head_count: tuple[int, ...]
    """Attention heads of each block; 0 where a block has none. So too in `head_count_kv`."""
    head_count_kv: tuple[int, ...]
    key_length: int
    value_length: int
    expert_count: int
    experts_used: int
    """Experts of one token; 0 where there are none."""
    sliding_window: int
    layers: tuple[Layer, ...]
    """The memory that each layer keeps while it generates."""
    recurrent_width: int
    """Elements per token that a recurrent layer computes with; 0 where there is none."""
    chat_template: str | None
    named_templates: Mapping[str, str]
    """Chat templates for certain chats, such as `tool_use`, by their names."""
    tokenizer: str
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    bos_token: str
    """The token's text, as chat templates want it; empty if there is none. So too `eos_token`."""
    eos_token: str
    add_bos: bool | None
    """The tokeniser begins a text with BOS; None: the file leaves it to llama.cpp."""
    embeds_only: bool
    """The architecture gives embeddings or scores, and never text."""
    causal: bool
    """A token sees only those before it; False: it sees its whole text, which must be read at once.
    """
    pooling: str | None
    """The way from a text's tokens to one vector (none, mean, cls, last), or to one score (rank).
    """
    ranks: bool
    """The model has a classifier head, which gives scores."""


def read_header(path: Path) -> Header:
    """Read and check a GGUF file's header, or those of all parts if it is a split model's first.

    Raises ModelUnavailable when there is no readable file, ModelCorrupt when it is damaged or no
    GGUF file, ModelUnsupported when it is intact but this worker cannot serve it.
    """
    return header_of(join(read_container(path)))


def header_of(container: Container) -> Header:
    """Return the facts of the model in a container; that of a split model has to be joined before.

    Raises as read_header does.
    """
    return _ModelFacts(container).header()


class _ModelFacts:
    """Reads a model's facts from a container's metadata, as llama.cpp would."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._path = container.path
        self._texts = container.texts
        self._values = container.values
        self._architecture = ""

    def header(self) -> Header:
        self._check_purpose()
        self._architecture = self._check_architecture()
        blocks = self._count("block_count", least=1, most=_MAX_LAYERS)
        embedding = self._count("embedding_length", least=1)
        heads = self._per_block("attention.head_count", blocks, (0,) * blocks)
        head_length = embedding // heads[0] if heads[0] else 0
        sizes = {tensor.name: tensor.bytes for tensor in self._container.tensors}
        return Header(
            path=self._path,
            version=self._container.version,
            architecture=self._architecture,
            name=self._texts.get("general.name") or None,
            quantization=self._quantization(),
            parameters=sum(tensor.elements for tensor in self._container.tensors),
            file_bytes=self._container.size,
            tensor_bytes=sum(sizes.values()),
            embedding_bytes=sizes.get("token_embd.weight", 0),
            tied_embeddings="output.weight" not in sizes and self._architecture not in EMBEDDERS,
            block_bytes=bytes_of_blocks(sizes, blocks),
            context_length=self._count("context_length", least=1),
            block_count=blocks,
            embedding_length=embedding,
            feed_forward_length=self._feed_forward(blocks),
            gated=self._gated(embedding, blocks),
            vocabulary=len(self._container.tokens) or self._count("vocab_size", least=1),
            head_count=heads,
            head_count_kv=self._per_block("attention.head_count_kv", blocks, heads),
            key_length=self._count("attention.key_length", default=head_length),
            value_length=self._count("attention.value_length", default=head_length),
            expert_count=self._count("expert_count", default=0),
            experts_used=self._widest("expert_used_count", blocks),
            sliding_window=self._count("attention.sliding_window", default=0),
            layers=layers(self._architecture, self._values),
            recurrent_width=recurrent_width(self._architecture, self._values),
            chat_template=self._texts.get(_TEMPLATE) or None,
            named_templates={
                key.removeprefix(f"{_TEMPLATE}."): text
                for key, text in self._texts.items()
                if key.startswith(f"{_TEMPLATE}.") and text
            },
            tokenizer=self._texts["tokenizer.ggml.model"],
            bos_id=self._token_id("bos"),
            eos_id=self._token_id("eos"),
            eot_id=self._token_id("eot"),
            bos_token=self._token_text("bos"),
            eos_token=self._token_text("eos"),
            add_bos=self._flag("tokenizer.ggml.add_bos_token"),
            embeds_only=self._architecture in EMBEDDERS,
            causal=self._architecture not in ENCODERS
            and self._flag(f"{self._architecture}.attention.causal") is not False,
            pooling=_POOLINGS.get(self._integer(f"{self._architecture}.pooling_type", -1)),
            ranks=any(name in sizes for name in _CLASSIFIER_TENSORS),
        )

    def _check_purpose(self) -> None:
        purpose = self._texts.get("general.type", "model")
        if purpose == "mmproj":
            self._unsupported(
                "is a projector (mmproj), which shows pictures or sounds to a language model, and "
                "none itself; this worker reads text only",
                "Name the language model's own file",
            )
        if "adapter.type" in self._texts:
            self._unsupported(
                "is an adapter and no model",
                "Name the language model's own file, and this one in LORA_ADAPTERS",
            )
        if purpose != "model":
            self._unsupported(
                f"is of type {shown(purpose)} and no model", "Name the language model's own file"
            )
        if not self._container.tensors:
            self._unsupported(
                "has a vocabulary but no weights", "Name the language model's own file"
            )

    def _check_architecture(self) -> str:
        architecture = self._texts.get("general.architecture")
        if architecture is None:
            self._corrupt("does not say its architecture (general.architecture)")
        if architecture not in ARCHITECTURES:
            self._unknown("architecture", architecture)
        why = DRAFT if self._is_draft(architecture) else NOT_SERVED.get(architecture)
        if why is not None:
            self._unsupported(
                f"has the architecture {architecture!r}: {why}", "Name a language model"
            )
        if "tokenizer.ggml.model" not in self._texts:
            self._corrupt("has no tokeniser (tokenizer.ggml.model)")
        self._check_tokenizer(self._texts["tokenizer.ggml.model"])
        return architecture

    def _check_tokenizer(self, tokenizer: str) -> None:
        pre = self._texts.get("tokenizer.ggml.pre", "")
        if tokenizer not in TOKENIZERS:
            self._unknown("tokeniser", tokenizer)
        if splits_unknown(tokenizer, pre):
            self._unknown("pre-tokeniser (tokenizer.ggml.pre)", pre)
        if splits_fatally(tokenizer, pre):
            self._unsupported(
                f"has the pre-tokeniser {shown(pre)} beside the tokeniser {shown(tokenizer)}, with "
                "which llama.cpp ends at two spaces in a row",
                "Convert the model again, or name another",
            )

    def _unknown(self, what: str, name: str) -> NoReturn:
        self._unsupported(
            f"has the {what} {shown(name)}, which this worker's llama.cpp does not know",
            "It needs a newer release of this worker, or another model",
        )

    def _is_draft(self, architecture: str) -> bool:
        """Return whether the file has only the layers that predict further tokens (MTP)."""
        ahead = self._values.get(f"{architecture}.nextn_predict_layers", 0)
        return bool(ahead) and not any(
            each.name.startswith("blk.0.") for each in self._container.tensors
        )

    def _feed_forward(self, blocks: int) -> int:
        length = self._widest("feed_forward_length", blocks)
        one = self._widest("expert_feed_forward_length", blocks) or length
        return max(length, self._widest("expert_used_count", blocks) * one)

    def _gated(self, embedding: int, blocks: int) -> bool:
        """Return whether the feed-forward has a gate.

        A gate is a matrix of its own, or half of the up projection.
        """
        elements = {tensor.name: tensor.elements for tensor in self._container.tensors}
        up = elements.get("blk.0.ffn_up.weight", 0)
        plain = up == embedding * self._widest("feed_forward_length", blocks)
        return "blk.0.ffn_gate.weight" in elements or not plain

    def _widest(self, key: str, blocks: int) -> int:
        return max(self._per_block(key, blocks, (0,) * blocks))

    def _quantization(self) -> str:
        file_type = self._integer("general.file_type", -1)
        if file_type >= 0 and file_type & ~_GUESSED in _FILE_TYPES:
            return _FILE_TYPES[file_type & ~_GUESSED]
        weight: Counter[int] = Counter()
        for tensor in self._container.tensors:
            weight[tensor.kind] += tensor.bytes
        return TENSOR_TYPES[weight.most_common(1)[0][0]][0]

    def _token_id(self, name: str) -> int | None:
        value = self._integer(f"tokenizer.ggml.{name}_token_id", -1)
        return value if 0 <= value < _MAX_COUNT else None

    def _token_text(self, name: str) -> str:
        number = self._token_id(name)
        known = number is not None and number < len(self._container.tokens)
        return self._container.token(number) if number is not None and known else ""

    def _count(
        self, key: str, *, default: int | None = None, least: int = 0, most: int = _MAX_COUNT
    ) -> int:
        """Return the number under one of the architecture's keys, required if it has no default.

        Raises ModelCorrupt where it is missing, no whole number, or out of bounds.
        """
        full = f"{self._architecture}.{key}"
        if full not in self._values and default is None:
            self._corrupt(f"lacks the metadata {full}, which a language model needs")
        value = self._integer(full, default or 0)
        if not least <= value <= most:
            self._corrupt(f"has an impossible value for {full}, {value:,}")
        return value

    def _per_block(self, key: str, blocks: int, default: tuple[int, ...]) -> tuple[int, ...]:
        full = f"{self._architecture}.{key}"
        value = self._values.get(full)
        if value is None:
            return default
        if not isinstance(value, tuple):
            return (self._count(key),) * blocks
        counts = tuple(item for item in value if isinstance(item, int) and item >= 0)
        if len(counts) < max(blocks, len(value)):
            self._corrupt(f"has {full} with {len(counts)} usable counts for {blocks} blocks")
        return counts[:blocks]

    def _integer(self, key: str, default: int) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int):
            self._corrupt(f"has {shown(key)}, which must be a whole number, as something else")
        return value

    def _flag(self, key: str) -> bool | None:
        value = self._values.get(key)
        return value if isinstance(value, bool) else None

    def _corrupt(self, what: str) -> NoReturn:
        raise ModelCorrupt(f"{self._path} {what}. {AGAIN}.")

    def _unsupported(self, what: str, advice: str) -> NoReturn:
        raise ModelUnsupported(f"{self._path} {what}. {advice}.")


def bytes_of_blocks(by_name: Mapping[str, int], blocks: int) -> tuple[int, ...]:
    """Return the bytes of each block; `by_name` has the bytes of all tensors."""
    sizes = [0] * blocks
    for name, size in by_name.items():
        head, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if head == "blk" and number.isdecimal() and int(number) < blocks:
            sizes[int(number)] += size
    return tuple(sizes)
