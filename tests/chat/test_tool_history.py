from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gguf_worker.chat import ChatTemplate
from gguf_worker.errors import InvalidRequest

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
  {{- message.tool_call_id }}
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
    [("", "{}"), (None, "{}"), ({"a": 1}, '{"a": 1}'), ("{broken", '"{broken"'), ("[1]", '"[1]"')],
)
def test_arguments_that_are_no_object_in_a_text_are_given_as_well_as_can_be(
    arguments: object, printed: str
) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    assert f'"arguments": {printed}}}' in rendered(QWEN, {**CALLED, "tool_calls": [call]})


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


def test_a_template_that_writes_no_calls_is_known_and_renders_all_the_same() -> None:
    for template, written in ((QWEN, True), (R1, True), (MISTRAL, True), (IGNORES, False)):
        assert ChatTemplate(template, "", "").writes_calls is written
    assert not ChatTemplate(None, "", "").writes_calls
    assert not ChatTemplate("{% if %}", "", "").writes_calls
    assert rendered(IGNORES, USER, CALLED, RESULT) == "userWeather?assistanttoolsunny"


def test_the_callers_messages_are_not_changed() -> None:
    messages = [copy.deepcopy(CALLED), copy.deepcopy(RESULT)]
    rendered(MISTRAL, *messages)
    assert messages == [CALLED, RESULT]


def test_calls_of_no_known_shape_are_left_to_the_template() -> None:
    odd = {**CALLED, "tool_calls": [{"name": "f"}]}
    with pytest.raises(InvalidRequest):
        rendered(MISTRAL, odd)


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
