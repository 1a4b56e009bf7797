"""Families of models as the scripted worker plays them: a chat template, and how answers are
written.

The templates have the shapes of published ones: Qwen 3, Llama 3.2 and gpt-oss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arguments = Mapping[str, Any]

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Notation:
    """A family's notation. `marks` are its control tokens, beside those that all models have."""

    name: str
    marks: tuple[str, ...]
    says: Callable[[str], str]
    """Returns an answer to the user, as the model writes it."""
    calls: Callable[[str, Arguments], str]
    """Returns the call of a tool, by its name and arguments."""
    thinks: Callable[[str], str]
    """Returns a thought, to be put before an answer or a call."""

    @property
    def template(self) -> str:
        return (_TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


_ROLE = "<|start|>assistant"

_ALL = (
    Notation(
        "qwen",
        marks=(),
        says=lambda text: text,
        calls=lambda name, arguments: (
            f'<tool_call>\n{{"name": "{name}", "arguments": {_json(arguments)}}}\n</tool_call>'
        ),
        thinks=lambda text: f"<think>\n{text}\n</think>\n\n",
    ),
    Notation(
        "llama",
        marks=(
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
        ),
        says=lambda text: text,
        calls=lambda name, arguments: f'{{"name": "{name}", "parameters": {_json(arguments)}}}',
        thinks=lambda text: "",
    ),
    Notation(
        "harmony",
        marks=(
            "<|start|>",
            "<|end|>",
            "<|message|>",
            "<|channel|>",
            "<|constrain|>",
            "<|call|>",
            "<|return|>",
        ),
        says=lambda text: f"<|channel|>final<|message|>{text}",
        calls=lambda name, arguments: (
            f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
            f"{_json(arguments)}"
        ),
        thinks=lambda text: f"<|channel|>analysis<|message|>{text}<|end|>{_ROLE}",
    ),
)
NOTATIONS = {notation.name: notation for notation in _ALL}
