"""The served models: found by name, and listed as each kind of client lists them.

One answer has OpenAI's and Anthropic's list under `data`, and Codex's and Ollama's under `models`:
the names of their fields do not meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from gguf_worker import __version__
from gguf_worker.errors import ModelNotFound
from gguf_worker.providers import ModelCard

_CODEX_INSTRUCTIONS = (
    "You are a coding agent in the user's terminal. Read a file before you change it, make the "
    "change with the tools that you are given, check it, and say in few words what you did."
)
"""What Codex tells a model that it knows from this list alone."""

_CODEX_OUTPUT = 10_000
"""Bytes of a tool's output that Codex shows to the model, as it does for models unknown to it."""


def find_card(name: str | None, cards: Sequence[ModelCard]) -> ModelCard:
    """Return the card of the model with this name; the first for None. Raises ModelNotFound.

    A model that answers to any name does so where no other has the name.
    """
    if name is None:
        return cards[0]
    for card in cards:
        if card.answers_to(name):
            return card
    for card in cards:
        if card.answers_to_any:
            return card
    served = dict.fromkeys(each for card in cards for each in card.shown_names)
    raise ModelNotFound(
        f"There is no model {name[:200]!r} here; this worker serves "
        f"{', '.join(map(repr, served))}.",
        param="model",
    )


def model_object(card: ModelCard, name: str | None = None) -> dict[str, Any]:
    """Return a model under one of its names, in OpenAI's and Anthropic's object in one.

    The context is there by each name by which clients look for it.
    """
    created = _written(card.created)
    return {
        "id": name or card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "gguf-worker",
        "type": "model",
        "display_name": name or card.name,
        "created_at": created,
        "lifecycle": "active",
        "root": card.name,
        "max_input_tokens": card.context,
        "max_model_len": card.context,
        "context_length": card.context,
        "context_window": card.context,
        "meta": {
            "parameters": card.parameters,
            "quantisation": card.quantisation,
            "n_ctx": card.context,
            "n_params": card.parameters,
        },
    }


def list_object(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """Return all models under all names that are shown, as one page of a list."""
    named = [(card, name) for card in cards for name in card.shown_names]
    page = {"has_more": False, "first_id": named[0][1], "last_id": named[-1][1]}
    return {
        "object": "list",
        "data": [model_object(card, name) for card, name in named],
        "models": list(_by_other_fields(named)),
        **page,
    }


def properties_object(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """Return the facts that llama-server's clients read at `/props`, about the first model."""
    card = cards[0]
    return {
        "default_generation_settings": {"n_ctx": card.context},
        "model_alias": card.name,
        "modalities": {"vision": False, "audio": False},
        "build_info": f"gguf-worker {__version__}",
    }


def _by_other_fields(named: Sequence[tuple[ModelCard, str]]) -> Iterator[dict[str, Any]]:
    """Yield each model in Codex's form and Ollama's in one."""
    for priority, (card, name) in enumerate(named):
        details = {
            "format": "gguf",
            "parameter_size": _size(card.parameters),
            "quantization_level": card.quantisation or "",
        }
        yield {
            "name": name,
            "model": name,
            "modified_at": _written(card.created),
            "size": 0,
            "digest": "",
            "details": {"parent_model": "", "family": "", "families": [], **details},
            "slug": name,
            "display_name": name,
            "description": None,
            "supported_reasoning_levels": [],
            "shell_type": "shell_command",
            "visibility": "list",
            "supported_in_api": True,
            "priority": priority,
            "availability_nux": None,
            "upgrade": None,
            "base_instructions": _CODEX_INSTRUCTIONS,
            "supports_reasoning_summaries": False,
            "support_verbosity": False,
            "default_verbosity": None,
            "apply_patch_tool_type": None,
            "truncation_policy": {"mode": "bytes", "limit": _CODEX_OUTPUT},
            "supports_parallel_tool_calls": True,
            "context_window": card.context,
            "experimental_supported_tools": [],
            "input_modalities": ["text"],
        }


def _written(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _size(parameters: int | None) -> str:
    """Return a number of parameters as Ollama writes it, such as 8.0B."""
    if parameters is None:
        return ""
    unit, letter = (1e9, "B") if parameters >= 1e9 else (1e6, "M")
    return (
        f"{parameters / unit:.1f}{letter}" if letter == "B" else f"{parameters / unit:.0f}{letter}"
    )
