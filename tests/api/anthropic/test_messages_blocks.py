"""Blocks of /v1/messages, also those of Anthropic's own tools: all become turns of a chat."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import pytest
from anthropic.types.beta import BetaContentBlockParam

from gguf_worker.api.anthropic import read_messages
from gguf_worker.api.reading import MAX_ALL_PARTS, GenerationCall
from gguf_worker.errors import InvalidRequest
from tests.api.kinds import gone_wrong, kinds, outcome

ASK = {"role": "user", "content": "And now?"}
BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=%s;"
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}

USER: dict[str, dict[str, Any]] = {
    "text": {"text": "Look.", "cache_control": {"type": "ephemeral"}, "citations": None},
    "image": {"source": PNG},
    "document": {"title": "Sea", "context": "a note",
        "source": {"type": "text", "media_type": "text/plain", "data": "The sea is wide."}},
    "search_result": {"title": "Sea", "source": "https://sea",
        "content": [{"type": "text", "text": "wide"}]},
    "tool_result": {"tool_use_id": "t1", "is_error": False, "content": [
        {"type": "text", "text": "12 °C"}, {"type": "image", "source": PNG},
        {"type": "tool_reference", "tool_name": "weather"}]},
    "container_upload": {"file_id": "f"},
    "tool_addition": {"tool": {"type": "tool_reference", "name": "weather"}},
    "tool_removal": {"tool": {"type": "tool_reference", "name": "weather"}},
    "mcp_tool_result": {"tool_use_id": "m1", "is_error": False,
        "content": [{"type": "text", "text": "found"}]},
}  # fmt: skip
ASSISTANT: dict[str, dict[str, Any]] = {
    "text": {"text": "Done."},
    "thinking": {"thinking": "Hm.", "signature": "s"},
    "redacted_thinking": {"data": "gAAA"},
    "tool_use": {"id": "t1", "name": "weather", "input": {"city": "Ye"}, "caller": {"type": "x"}},
    "server_tool_use": {"id": "s1", "name": "web_search", "input": {"query": "sea"}},
    "web_search_tool_result": {"tool_use_id": "s1", "content": [
        {"type": "web_search_result", "title": "Sea", "url": "https://sea",
         "encrypted_content": "gAAA", "page_age": "1 day"}]},
    "web_fetch_tool_result": {"tool_use_id": "s1", "content": {"type": "web_fetch_result",
        "url": "https://sea", "content": {"type": "document", "source": {"type": "text",
            "media_type": "text/plain", "data": "The sea is wide."}}}},
    "advisor_tool_result": {"tool_use_id": "s1", "content": {"type": "advisor_result",
        "text": "Go on."}},
    "code_execution_tool_result": {"tool_use_id": "s1", "content": {
        "type": "code_execution_result", "stdout": "1", "stderr": "", "return_code": 0,
        "content": []}},
    "bash_code_execution_tool_result": {"tool_use_id": "s1", "content": {
        "type": "bash_code_execution_result", "stdout": "1", "stderr": "", "return_code": 0,
        "content": []}},
    "text_editor_code_execution_tool_result": {"tool_use_id": "s1", "content": {
        "type": "text_editor_code_execution_view_result", "content": "a", "file_type": "text"}},
    "tool_search_tool_result": {"tool_use_id": "s1", "content": {
        "type": "tool_search_tool_search_result",
        "tool_references": [{"type": "tool_reference", "tool_name": "weather"}]}},
    "mcp_tool_use": {"id": "m1", "name": "find", "server_name": "s", "input": {}},
    "mcp_tool_result": {"tool_use_id": "m1", "is_error": False, "content": "found"},
    "mcp_tool_listing": {"server_name": "s", "tools": [{"name": "find"}]},
    "compaction": {"content": "They spoke of the sea."},
    "fallback": {"from": {"model": "a"}, "to": {"model": "b"}},
}  # fmt: skip
NEEDED = {"type", "name", "text", "content", "input"}
"""Members without which a block of our own kinds says nothing."""

SAMPLES = [
    *(pytest.param("user", kind, id=f"user-{kind}") for kind in USER),
    *(pytest.param("assistant", kind, id=f"assistant-{kind}") for kind in ASSISTANT),
]


def block(role: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **{"user": USER, "assistant": ASSISTANT}[role][kind], **more}


def read(*messages: Any, **body: Any) -> GenerationCall:
    whole = {"max_tokens": 9, "messages": list(messages), **body}
    return read_messages(whole, id="r", deadline=None)


def turns(*messages: Any, **body: Any) -> list[dict[str, Any]]:
    return [dict(each) for each in read(*messages, **body).request.messages or ()]


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def consistent(messages: Any) -> bool:
    """Tell whether each result follows the call that it belongs to."""
    made: list[str] = []
    for each in messages:
        made += [call["id"] for call in each.get("tool_calls", ())]
        if each["role"] == "tool" and each["tool_call_id"] not in made:
            return False
    return True


def test_the_samples_have_every_kind_that_anthropics_package_knows() -> None:
    known = kinds(BetaContentBlockParam)
    assert len(known) > 20
    assert known - {*USER, *ASSISTANT} == set()


@pytest.mark.parametrize(("role", "kind"), SAMPLES)
def test_every_kind_of_block_is_read_in_the_middle_of_a_conversation(role: str, kind: str) -> None:
    said = {"role": role, "content": [block(role, kind)]}
    messages = turns(ASK, assistant({"type": "text", "text": "A"}), said, assistant(), ASK)
    assert messages[0] == ASK
    assert messages[-1]["content"].endswith("And now?")
    assert consistent(messages)


@pytest.mark.parametrize(("role", "kind"), SAMPLES)
def test_an_odd_member_is_read_or_named(role: str, kind: str) -> None:
    for name, member, changed in gone_wrong(block(role, kind)):
        said = {"role": role, "content": [changed]}
        answer = assistant({"type": "text", "text": "A"})
        found = outcome(partial(read, ASK, said, answer, ASK))
        what = (name, member, changed, found)
        if isinstance(found, InvalidRequest):
            assert str(found.param).startswith(("messages[1]", "tools")), what
            assert member.split(".")[-1] in NEEDED or name == "of the wrong type", what
        else:
            assert consistent(found.request.messages), what


@pytest.mark.parametrize("changed", [{}, {"content": None}, {"content": 5}, {"role": None}])
def test_a_message_without_a_role_or_a_content_is_named(changed: dict[str, Any]) -> None:
    message = {"role": "user", "content": "Q"} if changed else {}
    with pytest.raises(InvalidRequest) as caught:
        read({**message, **changed})
    assert str(caught.value.param).startswith("messages[0].")


@pytest.mark.parametrize("empty", ["", []])
def test_an_empty_content_is_an_empty_turn(empty: Any) -> None:
    messages = turns(
        ASK, {"role": "assistant", "content": empty}, {"role": "user", "content": empty}
    )
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    assert messages[2]["content"] == ""


def test_the_line_that_differs_in_every_request_is_dropped() -> None:
    prompts = [
        turns(ASK, system=[{"type": "text", "text": BILLING % n}, {"type": "text", "text": "S"}])
        for n in "ab"
    ]
    assert prompts[0] == prompts[1] == [{"role": "system", "content": "S"}, ASK]


def test_only_that_line_is_dropped_and_only_at_the_beginning() -> None:
    line = BILLING % "a"
    assert turns(ASK, system=f"{line}\nS")[0]["content"] == "S"
    blocks = [{"type": "text", "text": "S"}, {"type": "text", "text": line}]
    assert line in turns(ASK, system=blocks)[0]["content"]
    assert turns(ASK, system=line) == [ASK]


def test_a_server_tools_call_has_its_result_before_the_text_that_uses_it() -> None:
    _, call, result, text, _ = turns(
        ASK,
        assistant(
            block("assistant", "server_tool_use"),
            block("assistant", "web_search_tool_result"),
            block("assistant", "text"),
        ),
        ASK,
    )
    assert call["tool_calls"][0]["function"] == {
        "name": "web_search", "arguments": '{"query":"sea"}'
    }  # fmt: skip
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert "https://sea" in result["content"]
    assert "gAAA" not in result["content"]
    assert text["content"] == "Done."


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "wide"}, "Sea\na note\nwide"),
        ({"type": "content", "content": "wide"}, "Sea\na note\nwide"),
        ({"type": "content", "content": [{"type": "text", "text": "wide"}]}, "Sea\na note\nwide"),
        ({"type": "content", "content": [{"type": "image"}]}, "Sea\na note\n[image]"),
        (
            {"type": "base64", "media_type": "text/csv",
             "data": base64.b64encode(b"a,b").decode()},
            "Sea\na note\na,b",
        ),
        ({**PNG, "media_type": "application/pdf"}, "[document: Sea]"),
        ({"type": "url", "url": "https://sea"}, "[document: Sea]"),
        (None, "[document: Sea]"),
    ],
)  # fmt: skip
def test_a_documents_text_is_shown(source: Any, text: str) -> None:
    document = block("user", "document", source=source)
    assert turns(user(document), assistant(), ASK)[0]["content"] == text


@pytest.mark.parametrize(
    "asked",
    [
        block("user", "image"),
        block("user", "document", source={"type": "url", "url": "https://sea"}),
        {"type": "moon"},
    ],
)
def test_what_cannot_be_shown_is_refused_in_the_last_turn_in_words(asked: Any) -> None:
    with pytest.raises(InvalidRequest, match="reads text only") as caught:
        read(user(asked), assistant(), user(asked))
    assert caught.value.param == "messages[2].content[0].type"
    assert len(read(user(asked), assistant(), user(asked), ASK).warnings) == 1


def test_a_picture_in_a_result_is_a_placeholder_also_in_the_last_turn() -> None:
    call = read(ASK, assistant(block("assistant", "tool_use")), user(block("user", "tool_result")))
    assert (call.request.messages or ())[-1]["content"] == (
        "12 °C\n[image]\n[tool_reference: weather]"
    )
    assert call.warnings == ("one part of the kind 'image' was replaced by a placeholder",)


@pytest.mark.parametrize("kind", ["redacted_thinking", "mcp_tool_listing", "moon"])
def test_what_is_left_out_or_replaced_is_named_once(kind: str) -> None:
    sample = {"type": kind, **ASSISTANT.get(kind, {})}
    (warning,) = read(ASK, assistant(sample, sample), ASK).warnings
    assert warning.startswith(f"2 parts of the kind {kind!r} were ")


def test_calls_without_ids_are_paired_with_their_results_in_order() -> None:
    calls = [{"type": "tool_use", "name": name, "input": None} for name in "ab"]
    results = [{"type": "tool_result", "content": text} for text in ("one", "two")]
    _, call, *said = turns(ASK, assistant(*calls), user(*results))
    ids = [each["id"] for each in call["tool_calls"]]
    assert [(each["tool_call_id"], each["content"]) for each in said] == [
        (ids[0], "one"), (ids[1], "two")
    ]  # fmt: skip


def test_parts_are_bounded_over_all_results() -> None:
    result = block("user", "tool_result", content=[{"type": "text", "text": ""}] * 1024)
    with pytest.raises(InvalidRequest) as caught:
        read(ASK, assistant(), user(*[result] * (MAX_ALL_PARTS // 1024 + 1)))
    assert caught.value.param == "messages"
