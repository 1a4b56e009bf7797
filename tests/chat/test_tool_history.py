from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gguf_worker.chat import ChatTemplate

Message = Mapping[str, Any]

USER = {"role": "user", "content": "Weather?"}
CALL = {
    "id": "call_1234567890",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Şile", "days": [1]}'},
}
CALLED: Message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: Message = {"role": "tool", "tool_call_id": "call_1234567890", "content": "sunny"}
TOOL = {"type": "function", "function": {"name": "get_weather"}}

QWEN = """{%- for message in messages %}
{%- if message.role == 'assistant' %}
    {{- '</think>' in message.content }}{{- message.content }}
    {%- for tool_call in message.tool_calls %}
        {{- '<tool_call>{"name": "' + tool_call.function.name + '", "arguments": ' }}
        {{- tool_call.function.arguments | tojson }}{{- '}</tool_call>' }}
    {%- endfor %}
{%- else %}{{- '[' + message.role + ']' + message.content }}{%- endif %}
{%- endfor %}"""

R1 = """{%- for message in messages -%}
{%- if message['role'] == 'assistant' and message['content'] is none -%}
  {%- for tool in message['tool_calls'] -%}
    {{ tool['type'] + '<sep>' + tool['function']['name'] + '\\n' +
       tool['function']['arguments'] + '\\n' }}
  {%- endfor -%}
{%- else -%}{{ message['content'] }}{%- endif -%}
{%- endfor -%}"""

MISTRAL = """{%- for message in messages %}
{%- if message.tool_calls is defined %}
  {%- for tool_call in message.tool_calls %}
    {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
      {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
    {%- endif %}
    {{- tool_call.id + tool_call.function|tojson }}
  {%- endfor %}
{%- elif message.role == "tool" %}
  {%- if message.tool_call_id|length != 9 %}{{- raise_exception("length 9!") }}{%- endif %}
  {{- message.content + message.tool_call_id }}
{%- endif %}
{%- endfor %}"""

VISIBLE = """{%- for message in messages %}{{- message.content }}
{%- for call in message.tool_calls %}{{- call.function | tojson }}{%- endfor %}{%- endfor %}"""

PRINTS = """{%- for message in messages %}{%- for call in message.tool_calls %}
{{- call.function.name ~ call.function.arguments }}{%- endfor %}
{{- message.content or '' }}{%- endfor %}"""

IGNORES = "{% for message in messages %}{{ message.role + message.content }}{% endfor %}"


def rendered(template: str, *messages: Message) -> str:
    return ChatTemplate(template, "", "").render(messages, {}).text


def test_arguments_are_an_object_to_a_template_that_prints_them_as_json() -> None:
    assert '"arguments": {"city": "Şile", "days": [1]}}' in rendered(QWEN, USER, CALLED, RESULT)


def test_arguments_are_a_text_to_a_template_that_adds_them_to_one() -> None:
    text = rendered(R1, USER, CALLED, RESULT)
    assert text == 'Weather?function<sep>get_weather\n{"city": "Şile", "days": [1]}\nsunny'


def test_arguments_are_a_text_to_a_template_that_would_print_python() -> None:
    assert rendered(PRINTS, CALLED) == 'get_weather{"city": "Şile", "days": [1]}'


def test_no_content_is_an_empty_text_to_a_template_that_reads_it() -> None:
    assert rendered(QWEN, {"role": "assistant", "content": None}) == "False"
    assert rendered(QWEN, USER, CALLED).startswith("[user]Weather?False<tool_call>")
    assert rendered(QWEN, {**RESULT, "content": None}) == "[tool]"


def test_no_content_is_an_empty_text_to_a_template_that_would_print_python() -> None:
    assert "None" not in rendered(VISIBLE, USER, CALLED, RESULT)


def test_no_content_stays_null_to_a_template_that_knows_a_call_by_it() -> None:
    for content in (None, ""):
        assert "get_weather" in rendered(R1, {**CALLED, "content": content})


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("", "{}"),
        (None, "{}"),
        ("null", "{}"),
        (" ", "{}"),
        ('"null"', "{}"),
        ('""', "{}"),
        ({"a": 1}, '{"a": 1}'),
        ('{"a": 1}', '{"a": 1}'),
        (json.dumps('{"a": 1}'), '{"a": 1}'),
        (json.dumps(json.dumps('{"a": 1}')), '{"a": 1}'),
        ("{broken", '{"arguments": "{broken"}'),
        (
            '{"path": "a.py", "text": "cut',
            json.dumps({"arguments": '{"path": "a.py", "text": "cut'}),
        ),
        ("[1]", '{"arguments": "[1]"}'),
        ("5", '{"arguments": "5"}'),
        ("NaN", '{"arguments": "NaN"}'),
        ([1], '{"arguments": [1]}'),
        ("[" * 100_000, json.dumps({"arguments": "[" * 100_000})),
    ],
)
def test_arguments_are_an_object_always(arguments: object, printed: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    assert f'"arguments": {printed}}}' in rendered(QWEN, {**CALLED, "tool_calls": [call]})


@pytest.mark.parametrize(
    ("arguments", "printed"), [(None, "{}"), ("null", "{}"), ("{cut", "{cut"), ("[1]", "[1]")]
)
def test_a_template_that_adds_arguments_to_a_text_gets_what_the_model_wrote(
    arguments: object, printed: str
) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    assert f"f\n{printed}\n" in rendered(R1, {**CALLED, "tool_calls": [call]})


IDS = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.id }}={{ c.function | tojson }} "
IDS += "{% endfor %}{{ m.tool_call_id }} {% endfor %}"


@pytest.mark.parametrize("lost", [{}, {"id": None}, {"id": ""}])
@pytest.mark.parametrize("unnamed", [{}, {"tool_call_id": None}, {"tool_call_id": ""}])
def test_ids_that_were_lost_are_made_up_and_pair_in_order(
    lost: dict[str, Any], unnamed: dict[str, Any]
) -> None:
    bare = {name: value for name, value in CALL.items() if name != "id"} | lost
    called = {**CALLED, "tool_calls": [bare, bare]}
    result = {"role": "tool", "content": "x"} | unnamed
    text = rendered(IDS, called, result, result, called, result)
    ids = [each.partition("=")[0] for each in text.split() if each.startswith("c0")]
    assert [ids[0], ids[1], ids[4]] == [*ids[2:4], ids[6]]
    assert len(set(ids)) == 4
    assert all(len(id) == 9 and id.isalnum() for id in ids)


def test_a_result_without_a_name_is_that_of_the_call_that_no_other_result_names() -> None:
    called = {**CALLED, "tool_calls": [{**CALL, "id": "a"}, {**CALL, "id": "b"}]}
    text = rendered(IDS, called, {**RESULT, "tool_call_id": None}, {**RESULT, "tool_call_id": "a"})
    assert text.split()[-2:] == ["b", "a"]


def test_a_result_to_no_call_gets_an_id_all_the_same() -> None:
    assert len(rendered(MISTRAL, {"role": "tool", "content": ""})) == 9


def test_text_beside_a_call_is_a_message_of_its_own_where_it_would_be_left_out() -> None:
    assert "Well." in rendered(R1, {**CALLED, "content": "Well."})
    assert rendered(R1, {**CALLED, "content": "Well."}).startswith("Well.function<sep>get_weather")
    assert rendered(QWEN, {**CALLED, "content": "Well."}).startswith("FalseWell.<tool_call>")


def test_longer_ids_are_left_to_templates_that_take_them() -> None:
    later = MISTRAL.replace("!= 9", "< 9")
    assert rendered(later, CALLED).startswith("call_1234567890{")
    short = {**CALLED, "tool_calls": [{**CALL, "id": "c1"}]}
    assert rendered(later, short)[:9].isalnum()


def test_ids_get_nine_characters_where_the_template_insists_and_stay_a_pair() -> None:
    text = rendered(MISTRAL, CALLED, RESULT)
    id = text[:9]
    assert id.isalnum()
    assert text.endswith(id)
    kept = rendered(MISTRAL, {**CALLED, "tool_calls": [{**CALL, "id": "abcDEF123"}]})
    assert kept.startswith("abcDEF123{")


GPT_OSS = """{%- for message in messages %}
{%- if message.tool_calls and message.content and message.thinking %}
    {{- raise_exception("Cannot pass both content and thinking in a message with tool calls!") }}
{%- endif %}
{{- message.thinking }}|{{ message.content }}
{%- endfor %}"""


def test_a_thought_has_the_name_that_the_template_reads() -> None:
    thought = {"reasoning_content": "Hm."}
    assert rendered(GPT_OSS, {"role": "assistant", "content": "a", **thought}) == "Hm.|a"
    assert rendered(GPT_OSS, {**CALLED, **thought}) == "Hm.|"
    assert rendered(GPT_OSS, {**CALLED, "content": "a", **thought}) == "|a"
    assert rendered(GPT_OSS, {**CALLED, "thinking": "So.", **thought}) == "So.|"


def test_a_thought_has_the_newer_name_that_a_template_reads() -> None:
    for reads in ("message.reasoning", "message['reasoning']", "message.get('reasoning')"):
        template = f"{{% for message in messages %}}{{{{ {reads} }}}}{{% endfor %}}"
        assert (
            rendered(template, {"role": "assistant", "content": "", "reasoning_content": "Hm"})
            == "Hm"
        )


def test_a_template_that_writes_no_calls_is_known_and_renders_all_the_same() -> None:
    for template, written in ((QWEN, True), (R1, True), (MISTRAL, True), (IGNORES, False)):
        assert ChatTemplate(template, "", "").writes_calls is written
    assert not ChatTemplate(None, "", "").writes_calls
    assert not ChatTemplate("{% if %}", "", "").writes_calls
    assert rendered(IGNORES, USER, CALLED, RESULT) == "userWeather?assistanttoolsunny"


def test_a_template_that_leaves_results_out_writes_no_calls() -> None:
    hides = QWEN.replace("{%- else %}", "{%- elif message.role != 'tool' %}")
    assert not ChatTemplate(hides, "", "").writes_calls


def test_the_callers_messages_are_not_changed() -> None:
    messages = [copy.deepcopy(CALLED), copy.deepcopy(RESULT)]
    rendered(MISTRAL, *messages)
    assert messages == [CALLED, RESULT]


def test_calls_of_no_known_shape_are_left_to_the_template() -> None:
    odd = {**CALLED, "tool_calls": [{"name": "f"}]}
    assert rendered("{{ messages[0].tool_calls[0].name }}", odd) == "f"


def test_tools_reach_the_template_with_the_fields_that_it_may_read() -> None:
    chat_template = ChatTemplate(
        "{{ tools | tojson }}{{ tools[0].function.description + '!' }}", "", ""
    )
    assert chat_template.uses_tools
    text = chat_template.render([USER], {}, tools=[TOOL]).text
    [tool] = json.loads(text.removesuffix("!"))
    assert tool["function"] == {
        "name": "get_weather",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }
    assert TOOL == {"type": "function", "function": {"name": "get_weather"}}


def test_no_tools_are_none_to_the_template() -> None:
    chat_template = ChatTemplate("{{ tools is none }}", "", "")
    assert chat_template.render([USER], {}, tools=()).text == "True"


@pytest.mark.parametrize(
    ("template", "uses"),
    [
        ("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}", True),
        ("{% if custom is defined %}{% set tools = custom %}{% endif %}{{ tools }}", True),
        ("{%- macro m(t) -%}{{ t }}{%- endmacro -%}{{ m(tools) }}", True),
        ("{{ messages }}", False),
        ("{# tools #}tools", False),
        ("{% for tool in messages[0].tools %}{{ tool }}{% endfor %}", False),
        ("{% if %}", False),
        (None, False),
    ],
)
def test_whether_a_template_uses_tools_is_known(template: str | None, uses: bool) -> None:
    assert ChatTemplate(template, "", "").uses_tools is uses


def test_tools_belong_to_the_prefix_that_chats_share() -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    chat = ChatTemplate(template, "", "").render([USER], {}, tools=[TOOL], reuse_points=True)
    assert "get_weather" in chat.text[: chat.reuse_points[0]]
