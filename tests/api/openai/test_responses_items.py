"""Items of /v1/responses, also those of other servers' tools: all become turns of a chat."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import pytest
from openai.types.responses import ResponseInputItemParam

from gguf_worker.api.openai import read_responses
from gguf_worker.api.reading import MAX_ALL_PARTS, GenerationCall
from gguf_worker.errors import InvalidRequest
from tests.api.kinds import gone_wrong, kinds, outcome

IMAGE = "data:image/png;base64,iVBORw0KGgo="
ASK = {"role": "user", "content": "And now?"}

SAMPLES: dict[str, dict[str, Any]] = {
    "message": {"role": "assistant", "id": "msg_1", "status": "completed", "phase": "commentary",
        "content": [{"type": "output_text", "text": "Done.", "annotations": [], "logprobs": []}]},
    "function_call": {"id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}",
        "namespace": "home", "status": "completed"},
    "function_call_output": {"id": "o1", "call_id": "c1", "output": "12 °C"},
    "custom_tool_call": {"id": "ctc_1", "call_id": "c1", "name": "patch", "input": "*** Begin",
        "namespace": "edit"},
    "custom_tool_call_output": {"id": "o1", "call_id": "c1", "output": "ok"},
    "reasoning": {"id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}],
        "content": [{"type": "reasoning_text", "text": "Hm."}], "encrypted_content": "gAAA"},
    "web_search_call": {"id": "ws_1", "status": "completed",
        "action": {"type": "search", "query": "sea", "sources": [{"type": "url", "url": "u"}]}},
    "file_search_call": {"id": "fs_1", "status": "completed", "queries": ["sea"],
        "results": [{"file_id": "f", "filename": "sea.md", "score": 0.5, "text": "wide"}]},
    "computer_call": {"id": "cu_1", "call_id": "c1", "action": {"type": "click", "x": 1, "y": 2},
        "pending_safety_checks": [], "status": "completed"},
    "computer_call_output": {"call_id": "c1", "output": {"type": "computer_screenshot",
        "image_url": IMAGE}, "acknowledged_safety_checks": []},
    "image_generation_call": {"id": "ig_1", "status": "completed", "result": "iVBORw0K" * 200,
        "revised_prompt": "A wide sea"},
    "code_interpreter_call": {"id": "ci_1", "code": "print(1)", "container_id": "k",
        "status": "completed", "outputs": [{"type": "logs", "logs": "1"}]},
    "local_shell_call": {"id": "ls_1", "call_id": "c1", "status": "completed",
        "action": {"type": "exec", "command": ["ls", "-a"], "env": {"A": "b"}}},
    "local_shell_call_output": {"id": "ls_1", "output": "a b", "status": "completed"},
    "shell_call": {"id": "sh_1", "call_id": "c1", "action": {"commands": ["ls"]}},
    "shell_call_output": {"id": "o1", "call_id": "c1", "output": [
        {"stdout": "a b", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
    "apply_patch_call": {"id": "ap_1", "call_id": "c1", "status": "completed",
        "operation": {"type": "update_file", "path": "a.py", "diff": "+ x"}},
    "apply_patch_call_output": {"id": "o1", "call_id": "c1", "status": "failed", "output": "no"},
    "tool_search_call": {"id": "ts_1", "call_id": "c1", "arguments": {"goal": "x"},
        "execution": "client"},
    "tool_search_output": {"id": "o1", "call_id": "c1", "execution": "client",
        "status": "completed", "tools": [{"type": "function", "name": "found"}]},
    "additional_tools": {"id": "at_1", "role": "developer",
        "tools": [{"type": "function", "name": "added"}]},
    "configuration_update": {"id": "cf_1", "reasoning": {"effort": "low"}},
    "mcp_list_tools": {"id": "ml_1", "server_label": "s", "tools": [
        {"name": "t", "input_schema": {}}]},
    "mcp_approval_request": {"id": "mr_1", "arguments": "{}", "name": "t", "server_label": "s"},
    "mcp_approval_response": {"id": "x", "approval_request_id": "mr_1", "approve": True},
    "mcp_call": {"id": "mc_1", "arguments": '{"a":1}', "name": "t", "server_label": "s",
        "output": "found it", "error": None},
    "compaction": {"id": "cm_1", "encrypted_content": "gAAA"},
    "compaction_trigger": {"id": "cm_1"},
    "item_reference": {"id": "msg_0"},
    "program": {"id": "pr_1", "call_id": "c1", "code": "x = 1", "fingerprint": "f"},
    "program_output": {"id": "o1", "call_id": "c1", "result": "1", "status": "completed"},
}  # fmt: skip

CALLS = {"function_call_output", "custom_tool_call_output", "local_shell_call_output",
    "shell_call_output", "apply_patch_call_output", "computer_call_output", "tool_search_output",
    "program_output"}  # fmt: skip
NEEDED = {"type", "role", "name", "content", "text", "tools", "arguments"}
"""Members without which an item of our own kinds says nothing."""


def item(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **SAMPLES[kind], **more}


def read(*items: Any, **body: Any) -> GenerationCall:
    return read_responses({"input": list(items), **body}, id="r", deadline=None)


def turns(*items: Any, **body: Any) -> list[dict[str, Any]]:
    return [dict(each) for each in read(*items, **body).request.messages or ()]


def consistent(messages: Any) -> bool:
    """Tell whether each result follows the call that it belongs to, and ids are never twice."""
    made: list[str] = []
    for each in messages:
        made += [call["id"] for call in each.get("tool_calls", ())]
        if each["role"] == "tool" and each["tool_call_id"] not in made:
            return False
    return True


def test_the_samples_have_every_kind_that_openais_package_knows() -> None:
    known = kinds(ResponseInputItemParam)
    assert len(known) > 25
    assert known - set(SAMPLES) == set()


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_of_item_is_read_in_the_middle_of_a_conversation(kind: str) -> None:
    call = read({"role": "user", "content": "Q"}, item(kind), ASK)
    messages = call.request.messages or ()
    assert messages[0]["content"] == "Q"
    assert messages[-1]["content"].endswith("And now?")
    assert consistent(messages)


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_of_item_is_read_alone(kind: str) -> None:
    assert consistent(turns(item(kind)))


@pytest.mark.parametrize("kind", SAMPLES)
def test_an_odd_member_is_read_or_named(kind: str) -> None:
    for name, member, changed in gone_wrong(item(kind)):
        found = outcome(partial(read, {"role": "user", "content": "Q"}, changed, ASK))
        what = (name, member, changed, found)
        if isinstance(found, InvalidRequest):
            assert str(found.param).startswith(("input[1]", "tools")), what
            assert member.split(".")[-1] in NEEDED or name == "of the wrong type", what
        else:
            assert consistent(found.request.messages), what


@pytest.mark.parametrize("kind", ["web_search_call", "compaction", "mcp_list_tools", "moon"])
def test_what_cannot_be_shown_is_named_once_in_a_warning(kind: str) -> None:
    sample = {"type": kind, **SAMPLES.get(kind, {"id": "x"})}
    (warning,) = read(sample, sample, ASK).warnings
    assert warning.startswith(f"2 parts of the kind {kind!r} were ")


@pytest.mark.parametrize(
    "kind", ["function_call", "custom_tool_call", "local_shell_call", "shell_call",
        "apply_patch_call", "mcp_call", "code_interpreter_call", "file_search_call"]
)  # fmt: skip
def test_what_can_be_shown_as_text_needs_no_warning(kind: str) -> None:
    assert read(item(kind), ASK).warnings == ()


def test_a_custom_tools_call_has_its_text_as_its_input() -> None:
    first, second, _ = turns(
        item("custom_tool_call", namespace=None), item("custom_tool_call_output"), ASK
    )
    (call,) = first["tool_calls"]
    assert call["id"] == "c1"
    assert call["function"] == {"name": "patch", "arguments": {"input": "*** Begin"}}
    assert second == {"role": "tool", "tool_call_id": "c1", "content": "ok"}


def test_a_shells_output_finds_its_call_by_the_items_id() -> None:
    first, second, _ = turns(item("local_shell_call"), item("local_shell_call_output"), ASK)
    assert first["tool_calls"][0]["function"]["name"] == "local_shell"
    assert '"command":["ls","-a"]' in first["tool_calls"][0]["function"]["arguments"]
    assert second == {"role": "tool", "tool_call_id": "c1", "content": "a b"}


def test_a_hosted_tools_call_has_its_result_after_it() -> None:
    call, result, _ = turns(item("mcp_call"), ASK)
    assert call["tool_calls"][0]["function"] == {"name": "t", "arguments": '{"a":1}'}
    assert (result["role"], result["content"]) == ("tool", "found it")


def test_calls_without_ids_are_paired_with_their_results_in_order() -> None:
    calls = [{"type": "function_call", "name": name, "arguments": "{}"} for name in "ab"]
    outputs = [{"type": "function_call_output", "output": text} for text in ("one", "two")]
    first, *results, _ = turns(*calls, *outputs, ASK)
    ids = [call["id"] for call in first["tool_calls"]]
    assert len(set(ids)) == 2
    assert [(each["tool_call_id"], each["content"]) for each in results] == [
        (ids[0], "one"), (ids[1], "two")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_a_result_without_its_call_gets_one(kind: str) -> None:
    call, result, _ = turns(item(kind), ASK)
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]


@pytest.mark.parametrize(
    ("output", "content"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ("plain", "plain"),
        ([{"type": "input_text", "text": "a"}, {"type": "refusal", "refusal": "no"}], "a\nno"),
        ([{"type": "input_image", "image_url": IMAGE}], "[input_image]"),
        ([{"type": "input_file", "filename": "a.pdf", "file_id": "f"}], "[input_file: a.pdf]"),
        ({"rows": 1}, '{"rows":1}'),
        ([1, 2], "[1,2]"),
        (5, "5"),
    ],
)
def test_a_result_is_text_whatever_it_was(output: Any, content: str) -> None:
    result = turns(item("function_call"), item("function_call_output", output=output), ASK)[1]
    assert result["content"] == content


def test_a_file_of_text_is_shown() -> None:
    data = "data:text/markdown;base64," + base64.b64encode("# Sea 🌊".encode()).decode()
    part = {"type": "input_file", "filename": "sea.md", "file_data": data}
    (turn,) = turns({"role": "user", "content": [part]})
    assert turn["content"] == "sea.md\n# Sea 🌊"


def test_a_picture_is_a_placeholder_in_the_history_and_refused_in_the_last_turn() -> None:
    asked = {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}
    call = read(asked, item("message"), ASK)
    assert (call.request.messages or ())[0]["content"] == "[input_image]"
    assert len(call.warnings) == 1
    with pytest.raises(InvalidRequest, match="reads text only") as caught:
        read(ASK, asked, item("function_call"), item("function_call_output"))
    assert caught.value.param == "input[1].content[0].type"


def test_a_picture_that_was_refused_does_not_end_the_conversation() -> None:
    asked = {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}
    assert len(read(asked, ASK).warnings) == 1


@pytest.mark.parametrize("given", ["", []])
def test_an_empty_input_is_an_empty_turn_of_the_user(given: Any) -> None:
    call = read_responses({"input": given, "instructions": "Greet."}, id="r", deadline=None)
    assert call.request.messages == (
        {"role": "system", "content": "Greet."},
        {"role": "user", "content": ""},
    )


def test_an_item_that_is_referred_to_and_is_there_is_not_there_twice() -> None:
    first, *_ = turns(item("function_call"), {"type": "item_reference", "id": "fc_1"}, ASK)
    assert len(first["tool_calls"]) == 1


def test_parts_are_bounded_over_all_results() -> None:
    parts = [{"type": "input_text", "text": ""}] * 1024
    output = item("function_call_output", output=parts)
    with pytest.raises(InvalidRequest) as caught:
        read(*[output] * (MAX_ALL_PARTS // 1024 + 1), ASK)
    assert caught.value.param == "input"
