from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest

from gguf_worker.errors import GenerationFailed, InvalidRequest
from gguf_worker.models import Dialect

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim }}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}"""

QWEN = """{%- set ns = namespace(multi_step=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role != "user" %}{%- continue %}{%- endif %}
    {%- if not(message.content.startswith('<tool_response>')) %}
        {%- set ns.last_query_index = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" and '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- else %}
        {%- set content = message.content %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Merhaba 👋"}
ASSISTANT = {"role": "assistant", "content": "Hi."}


def render(template: str, *messages: dict[str, object], **options: object) -> str:
    return Dialect(template, "<s>", "</s>", now=lambda: datetime(2026, 3, 4)).render(
        messages or [USER], options
    )


def refusal(template: str, *messages: dict[str, object], **options: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        render(template, *messages, **options)
    return caught.value


def test_chatml_is_written_as_its_models_were_trained() -> None:
    assert render(CHATML, SYSTEM, USER) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nMerhaba 👋<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_smollm2_gets_its_own_system_message_only_when_there_is_none() -> None:
    assert render(SMOLLM2, USER).startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert render(SMOLLM2, SYSTEM, USER) == render(CHATML, SYSTEM, USER)


def test_llama3_takes_the_date_from_the_given_clock() -> None:
    assert render(LLAMA3, SYSTEM, USER) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\n"
        "Today Date: 04 Mar 2026\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nMerhaba 👋<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_a_template_option_is_a_variable_of_the_template() -> None:
    assert "Today Date: yesterday" in render(LLAMA3, USER, date_string="yesterday")
    assert render(QWEN, USER, enable_thinking=False).endswith("<think>\n\n</think>\n\n")


def test_mistral_puts_the_system_message_before_the_last_question() -> None:
    assert render(MISTRAL, SYSTEM, USER, ASSISTANT, USER) == (
        "<s>[INST] Merhaba 👋[/INST] Hi.</s>[INST] Be brief.\n\nMerhaba 👋[/INST]"
    )


def test_gemma_renames_the_assistant_and_keeps_its_bos() -> None:
    assert render(GEMMA, USER, ASSISTANT, USER) == (
        "<s><start_of_turn>user\nMerhaba 👋<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n"
        "<start_of_turn>user\nMerhaba 👋<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_namespace_and_loop_controls_work() -> None:
    thought = {"role": "assistant", "content": "<think>hm</think>\nYes."}
    assert "<|im_start|>assistant\nYes.<|im_end|>" in render(QWEN, USER, thought, USER)


@pytest.mark.parametrize(
    ("messages", "words"),
    [((SYSTEM, USER), "System role not supported"), ((USER, USER), "roles must alternate")],
)
def test_what_a_template_refuses_is_the_callers_fault_in_the_templates_words(
    messages: tuple[dict[str, object], ...], words: str
) -> None:
    error = refusal(GEMMA, *messages)
    assert words in error.message
    assert error.param == "messages"
    assert "Traceback" not in error.message


def test_a_model_without_a_template_says_what_to_use_instead() -> None:
    dialect = Dialect(None, "", "")
    assert not dialect.can_chat
    with pytest.raises(InvalidRequest, match=r"no chat template.*`prompt`.*/v1/completions"):
        dialect.render([USER], {})


@pytest.mark.parametrize(
    "template",
    ["{% if %}", "{% for m in messages %}", "{{ x | no_such_filter }}", "{{ '" * 3],
)
def test_a_broken_template_is_logged_once_and_fails_only_chats(
    template: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dialect = Dialect(template, "", "")
    for _ in range(2):
        with pytest.raises(GenerationFailed, match=r"broken: .*\(line 1\).*`prompt`"):
            dialect.render([USER], {})
    assert len(caplog.records) == 1
    assert not dialect.can_chat


def test_tojson_is_that_of_hugging_face() -> None:
    value = {"b": "<é & 'ş'>", "a": [1, None]}
    message = {"role": "user", "content": value}
    assert render("{{ messages[0].content | tojson }}", message) == json.dumps(
        value, ensure_ascii=False
    )
    assert render("{{ messages[0].content | tojson(indent=2, sort_keys=true) }}", message) == (
        json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
    )


def test_a_generation_block_passes_its_content_and_its_variables() -> None:
    template = (
        "{% generation %}{% set x = 'in' %}{{ messages[0].content }}{% endgeneration %}{{ x }}"
    )
    assert render(template, ASSISTANT) == "Hi.in"


def test_blocks_leave_no_space_behind() -> None:
    assert render("a\n    {% if true %}\n  b\n    {% endif %}\n") == "a\n  b\n"


def test_tools_are_none_and_can_be_asked_for() -> None:
    assert render("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}") == (
        "True True True"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ strftime_now.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{{ missing.field }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content | int | tojson(indent=missing) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'x' }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 9 ** 9999 }}",
    ],
)
def test_what_goes_wrong_in_the_sandbox_is_a_plain_refusal(template: str) -> None:
    error = refusal(template)
    assert error.param == "messages"
    assert "Traceback" not in error.message


def test_an_endless_text_is_cut_off_before_it_fills_the_memory() -> None:
    template = "{% for i in range(90000) %}{{ messages[0].content }}{% endfor %}"
    error = refusal(template, {"role": "user", "content": "x" * 10_000})
    assert "longer than" in error.message


def test_a_long_refusal_is_shortened() -> None:
    error = refusal("{{ raise_exception(messages[0].content) }}", {"content": "x" * 10_000})
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "name", ["messages", "bos_token", "add_generation_prompt", "raise_exception", "range", "tools"]
)
def test_an_option_cannot_take_the_place_of_what_the_worker_gives(name: str) -> None:
    assert refusal(CHATML, USER, **{name: 1}).param == f"chat_template_kwargs.{name}"


def test_rendering_changes_neither_messages_nor_options() -> None:
    messages, options = [dict(USER)], {"enable_thinking": False}
    Dialect(QWEN, "", "").render(messages, options)
    assert messages == [USER]
    assert options == {"enable_thinking": False}


def test_multiplying_numbers_and_short_texts_still_works() -> None:
    assert render("{{ 6 * 7 }} {{ '=' * 3 }} {{ 2 ** 5 }}") == "42 === 32"


def test_a_template_may_add_to_the_messages_which_are_a_list_to_it() -> None:
    dialect = Dialect("{{ (messages + messages[:1]) | length }}", "", "")
    assert dialect.render((USER, ASSISTANT), {}) == "3"
