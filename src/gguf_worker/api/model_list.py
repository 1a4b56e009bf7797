"""The served models: found by name, and listed as OpenAI and Anthropic list them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gguf_worker.errors import ModelNotFound
from gguf_worker.providers import ModelCard


def find_card(name: str | None, cards: Sequence[ModelCard]) -> ModelCard:
    """Return the card of the model with this name; the first for None. Raises ModelNotFound."""
    if name is None:
        return cards[0]
    for card in cards:
        if card.answers_to(name):
            return card
    raise ModelNotFound(
        f"There is no model {name[:200]!r} here; this worker serves "
        f"{', '.join(repr(card.name) for card in cards)}.",
        param="model",
    )


def model_object(card: ModelCard) -> dict[str, Any]:
    """Return OpenAI's model object and Anthropic's in one, with other servers' `max_model_len`."""
    created = datetime.fromtimestamp(card.created, UTC)
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "gguf-worker",
        "type": "model",
        "display_name": card.name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": card.context,
        "max_model_len": card.context,
        "meta": {"parameters": card.parameters, "quantisation": card.quantisation},
    }


def list_object(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """Return all models as one page of a list."""
    page = {"has_more": False, "first_id": cards[0].name, "last_id": cards[-1].name}
    return {"object": "list", "data": [model_object(card) for card in cards], **page}
