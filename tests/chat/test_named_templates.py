from __future__ import annotations

import pytest

from gguf_worker.chat import chosen_templates

PLAIN, TOOLS = "{{ messages }}", "{{ tools }}"


@pytest.mark.parametrize(
    ("usual", "named", "chosen"),
    [
        (PLAIN, {}, (PLAIN, None)),
        (None, {}, (None, None)),
        (PLAIN, {"tool_use": TOOLS}, (PLAIN, TOOLS)),
        (TOOLS, {"tool_use": TOOLS + "!"}, (TOOLS, TOOLS + "!")),
        (None, {"tool_use": TOOLS}, (TOOLS, TOOLS)),
        (None, {"default": PLAIN, "tool_use": TOOLS}, (PLAIN, TOOLS)),
        (PLAIN, {"hermes_tools": TOOLS}, (PLAIN, TOOLS)),
        (TOOLS, {"hermes_tools": TOOLS}, (TOOLS, None)),
        (PLAIN, {"rag": TOOLS, "rerank": TOOLS, "other": PLAIN}, (PLAIN, None)),
    ],
)
def test_chats_with_tools_have_the_template_that_the_file_has_for_them(
    usual: str | None, named: dict[str, str], chosen: tuple[str | None, str | None]
) -> None:
    texts = chosen_templates(usual, named)
    assert (texts.usual, texts.for_tools) == chosen


def test_the_family_is_told_by_both_templates() -> None:
    assert chosen_templates(PLAIN, {"tool_use": TOOLS}).all == f"{PLAIN}\n{TOOLS}"
    assert chosen_templates(None, {}).all is None
