"""Chooses among the chat templates of one model: files may have one for chats with tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_FOR_TOOLS = "tool_use"
_DEFAULT = "default"
_OTHERS = (_DEFAULT, "rag", "rerank")
"""Names of templates that are never for tools."""


@dataclass(frozen=True, slots=True)
class TemplateTexts:
    """The texts of a model's chat template, and of that for chats with tools, if it is another."""

    usual: str | None
    for_tools: str | None = None

    @property
    def all(self) -> str | None:
        """Both texts, whose marks tell the model's family."""
        return "\n".join(filter(None, (self.usual, self.for_tools))) or None


def chosen_templates(usual: str | None, named: Mapping[str, str]) -> TemplateTexts:
    """Return the templates to use, given that without a name and those with one.

    The one for tools is `tool_use`, or else any that writes tools if the usual one does not.
    """
    usual = usual or named.get(_DEFAULT)
    for_tools = named.get(_FOR_TOOLS)
    if for_tools is None and "tools" not in (usual or ""):
        names = sorted(name for name in named if name not in _OTHERS)
        for_tools = next((named[name] for name in names if "tools" in named[name]), None)
    return TemplateTexts(usual or for_tools, for_tools)
