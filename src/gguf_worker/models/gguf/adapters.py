"""LoRA adapters: the header of an adapter's file, and the memory that it adds to a model.

Whether its matrices have the model's shapes is checked by llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from gguf_worker.errors import ModelUnsupported
from gguf_worker.models.gguf.container import Container, read_container, shown
from gguf_worker.models.gguf.header import Header, bytes_of_blocks

_HALVES = (".lora_a", ".lora_b")
_IGNORED = "_norm.weight"


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """The facts of an adapter's file."""

    path: Path
    architecture: str
    tensor_bytes: Mapping[str, int]
    """The bytes of its matrices, by the name of the model's tensor that they change."""


def is_adapter(container: Container) -> bool:
    """Return whether the file says that it is an adapter."""
    return container.texts.get("general.type") == "adapter"


def read_adapter(path: Path) -> AdapterHeader:
    """Read and check the header of an adapter's file.

    Raises ModelUnavailable when there is no readable file, ModelCorrupt when it is damaged or no
    GGUF file, ModelUnsupported when it is no LoRA adapter that llama.cpp can apply.
    """
    container = read_container(path)
    texts = container.texts
    if not is_adapter(container):
        _refuse(path, "is no adapter (general.type)")
    if texts.get("adapter.type") != "lora":
        _refuse(path, f"is an adapter of type {shown(texts.get('adapter.type', ''))}, not a LoRA")
    if "adapter.alora.invocation_tokens" in container.values:
        _refuse(path, "is an activated LoRA, which only works behind certain words")
    # llama.cpp asserts this type, and ends the process.
    if not isinstance(container.values.get("adapter.lora.alpha", 0.0), float):
        _refuse(path, "has an adapter.lora.alpha that is no fraction")
    return AdapterHeader(path, texts.get("general.architecture", ""), _pairs(container))


def check_goes_with(adapter: AdapterHeader, model: Header) -> None:
    """Raise ModelUnsupported if the adapter is of another architecture than the model."""
    if adapter.architecture != model.architecture:
        _refuse(
            adapter.path,
            f"was made for the architecture {shown(adapter.architecture)}, and the model's is "
            f"{model.architecture!r}",
        )


def with_weights_of(model: Header, adapters: Sequence[AdapterHeader]) -> Header:
    """Return the model's header with the adapters' weights added to its sizes."""
    for each in adapters:
        sizes = each.tensor_bytes
        blocks = bytes_of_blocks(sizes, model.block_count)
        model = replace(
            model,
            tensor_bytes=model.tensor_bytes + sum(sizes.values()),
            block_bytes=tuple(map(sum, zip(model.block_bytes, blocks, strict=True))),
            embedding_bytes=model.embedding_bytes + sizes.get("token_embd.weight", 0),
        )
    return model


def _pairs(container: Container) -> dict[str, int]:
    """Return the sizes of the pairs of matrices, by the tensors that they change."""
    sizes: dict[str, int] = {}
    halves: dict[str, set[str]] = {}
    for tensor in container.tensors:
        base, half = tensor.name[:-7], tensor.name[-7:]
        if half in _HALVES:
            sizes[base] = sizes.get(base, 0) + tensor.bytes
            halves.setdefault(base, set()).add(half)
        elif not tensor.name.endswith(_IGNORED):
            _refuse(container.path, f"has the tensor {shown(tensor.name)}, which no LoRA has")
    alone = [base for base, found in halves.items() if len(found) == 1]
    if alone or not sizes:
        what = f"only half of the matrices for {shown(alone[0])}" if alone else "no matrices"
        _refuse(container.path, f"has {what}")
    return sizes


def _refuse(path: Path, why: str) -> NoReturn:
    raise ModelUnsupported(
        f"{path} {why}. LORA_ADAPTERS takes LoRA adapters in GGUF files (convert_lora_to_gguf.py "
        "makes them) of the model in MODEL."
    )
