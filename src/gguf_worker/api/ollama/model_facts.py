"""The served models as Ollama lists and shows them, and its version.

Nothing is fetched: to pull a model that is served succeeds at once, and any other is not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gguf_worker import __version__
from gguf_worker.api.reading import StrictModel, read_model
from gguf_worker.providers import ModelCard

API_VERSION = "0.13.5"
"""The release of Ollama whose API is served here: some clients refuse older ones."""

_IN_MEMORY = "resident"
"""The state, in a catalog's health, of a model that is loaded."""


class ModelNameBody(StrictModel):
    """A body that names a model; `name` is the older field for it."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
    stream: bool | None = None
    insecure: bool | None = None
    system: str | None = None
    template: str | None = None
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A checked body that names a model."""

    model: str | None
    warnings: tuple[str, ...] = ()


def read_model_name(body: Mapping[str, Any], *, id: str, deadline: float | None) -> NamedModel:
    """Read the body of /api/show and /api/pull."""
    sent, warnings = read_model(body, ModelNameBody)
    return NamedModel(sent.model or sent.name or None, warnings)


def version_object() -> dict[str, Any]:
    """Return the version of the API, and our own."""
    return {"version": API_VERSION, "gguf_worker": __version__}


def write_tags(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """Return the list of all served models."""
    return {"models": [_listed(card, name) for card in cards for name in card.shown_names]}


def loaded_models(cards: Sequence[ModelCard], health: Mapping[str, Any]) -> dict[str, Any]:
    """Return the list of the models in memory, which the `health` of a catalog tells."""
    states = health.get("models", {})
    loaded = [
        card
        for card in cards
        if card.name not in states or states[card.name]["state"] == _IN_MEMORY
    ]
    more = [{"size_vram": 0, "context_length": card.context or 0} for card in loaded]
    named = zip(loaded, more, strict=True)
    return {"models": [_listed(card, card.name) | each for card, each in named]}


def write_model(call: NamedModel, card: ModelCard) -> dict[str, Any]:
    """Return what /api/show says of a model."""
    return {
        "modified_at": _time(card),
        "details": _details(card),
        "model_info": dict(_info(card)),
        "capabilities": list(_capabilities(card)),
        "parameters": "",
        "template": "",
    }


def write_pulled(call: NamedModel, card: ModelCard) -> dict[str, Any]:
    """Return the end of a pull of a model that is there."""
    return {"status": "success"}


def _listed(card: ModelCard, name: str) -> dict[str, Any]:
    name = _tagged(name)
    return {
        "name": name,
        "model": name,
        "modified_at": _time(card),
        "size": card.bytes or 0,
        # A name for this entry, not a hash of the file: clients only compare and cut it.
        "digest": hashlib.sha256(f"{name} {card.created}".encode()).hexdigest(),
        "details": _details(card),
    }


def _tagged(name: str) -> str:
    """Return the name with a tag, as each of Ollama's has one."""
    return name if ":" in name else f"{name}:latest"


def _details(card: ModelCard) -> dict[str, Any]:
    family = card.architecture or ""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _size(card.parameters),
        "quantization_level": card.quantisation or "",
    }


def _info(card: ModelCard) -> Iterator[tuple[str, Any]]:
    """Yield the facts under the keys of GGUF's metadata."""
    architecture = card.architecture or "unknown"
    yield "general.architecture", architecture
    yield "general.basename", card.name
    if card.parameters is not None:
        yield "general.parameter_count", card.parameters
    if card.context is not None:
        yield f"{architecture}.context_length", card.context


def _capabilities(card: ModelCard) -> Iterator[str]:
    can = card.capabilities
    if can is None or can.generates:
        yield "completion"
        yield "tools"
    if card.thinks:
        yield "thinking"
    if can is not None and can.infill:
        yield "insert"
    if can is not None and can.pooling not in ("none", "rank"):
        yield "embedding"


def _size(parameters: int | None) -> str:
    if parameters is None:
        return ""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M"


def _time(card: ModelCard) -> str:
    return datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z")
