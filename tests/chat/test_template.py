from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from gguf_worker.chat import ChatTemplate, Rendered
from gguf_worker.chat.template import MAX_SEARCHED
from gguf_worker.errors import GenerationFailed, InvalidRequest
from tests.chat.template_shapes import SHAPES

Message = Mapping[str, Any]

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


def render(template: str, *messages: Message, **options: object) -> str:
    chat_template = ChatTemplate(template, "<s>", "</s>", now=lambda: datetime(2026, 3, 4))
    return chat_template.render(messages or [USER], options).text


def refusal(template: str, *messages: Message, **options: object) -> InvalidRequest:
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


def test_a_templates_refusal_is_the_callers_fault_in_the_templates_words() -> None:
    error = refusal("{{ raise_exception('Never ' + messages[0].role) }}", SYSTEM, USER)
    assert "Never system" in error.message
    assert error.param == "messages"
    assert "Traceback" not in error.message


def test_a_model_without_a_template_says_what_to_use_instead() -> None:
    chat_template = ChatTemplate(None, "", "")
    assert not chat_template.can_chat
    with pytest.raises(InvalidRequest, match=r"no chat template.*`prompt`.*/v1/completions"):
        chat_template.render([USER], {})


@pytest.mark.parametrize(
    "template",
    ["{% if %}", "{% for m in messages %}", "{{ x is no_such_test }}", "{{ '" * 3],
)
def test_a_broken_template_is_logged_once_and_fails_only_chats(
    template: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        chat_template = ChatTemplate(template, "", "")
    for _ in range(2):
        with pytest.raises(GenerationFailed, match=r"broken: .*\(line 1\).*`prompt`"):
            chat_template.render([USER], {})
    assert len(caplog.records) == 1
    assert not chat_template.can_chat


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


@pytest.mark.parametrize("tags", [("{%", "%}"), ("{%-", "-%}")])
def test_a_generation_block_may_stand_anywhere(tags: tuple[str, str]) -> None:
    begin, end = (f"{tags[0]} {name} {tags[1]}" for name in ("generation", "endgeneration"))
    template = f"{{% for m in messages %}}{begin} {{{{ m.content }}}} {end}{{% endfor %}}"
    assert render(template, ASSISTANT, USER).replace(" ", "") == "Hi.Merhaba👋"


def test_filters_of_other_servers_are_known_and_unknown_ones_keep_the_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert render("""{{ ('{"a": 1}' | from_json).a }}{{ ('[2]' | fromjson)[0] }}""") == "12"
    with caplog.at_level(logging.WARNING):
        text = render("{{ messages[0].content | polish(1, a=2) | trim | shine }}!", ASSISTANT)
    assert text == "Hi.!"
    assert [each.getMessage().endswith("polish, shine") for each in caplog.records] == [True]


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
def test_a_failure_in_the_sandbox_is_a_plain_refusal(template: str) -> None:
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
    ChatTemplate(QWEN, "", "").render(messages, options)
    assert messages == [USER]
    assert options == {"enable_thinking": False}


def test_multiplying_numbers_and_short_texts_still_works() -> None:
    assert render("{{ 6 * 7 }} {{ '=' * 3 }} {{ 2 ** 5 }}") == "42 === 32"


def test_a_template_may_add_to_the_messages_which_are_a_list_to_it() -> None:
    chat_template = ChatTemplate("{{ (messages + messages[:1]) | length }}", "", "")
    assert chat_template.render((USER, ASSISTANT), {}).text == "3"


THINKING = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")

GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% endif %}"
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{{ first if loop.first else '' }}{{ message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

TEACHER = {"role": "system", "content": "You teach Turkish to beginners."}


def parts(template: str, *messages: Message, **options: object) -> list[str]:
    """Render a chat and cut it at its reuse points."""
    chat_template = ChatTemplate(template, "<s>", "</s>", now=lambda: datetime(2026, 3, 4))
    chat = chat_template.render(messages, options, reuse_points=True)
    assert chat.text == chat_template.render(messages, options).text
    cuts = [0, *chat.reuse_points, len(chat.text)]
    return [chat.text[start:end] for start, end in pairwise(cuts)]


def test_a_chat_has_reuse_points_behind_its_system_prompt_and_its_last_turn() -> None:
    assert parts(CHATML, TEACHER, USER, ASSISTANT, USER) == [
        "<|im_start|>system\nYou teach Turkish to beginners.<|im_end|>\n<|im_start|>user\n",
        "Merhaba 👋<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n"
        "<|im_start|>user\nMerhaba 👋<|im_end|>\n",
        "<|im_start|>assistant\n",
    ]


def test_the_begin_of_a_thinking_models_answer_is_behind_the_last_reuse_point() -> None:
    assert parts(THINKING, TEACHER, USER)[-1] == "<|im_start|>assistant\n<think>\n"
    assert parts(QWEN, TEACHER, USER, enable_thinking=False)[-1] == (
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_llama3s_header_is_shared_with_and_without_a_system_prompt() -> None:
    header = "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 04 Mar 2026\n\n"
    turn = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    rest = ["Merhaba 👋<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"]
    assert parts(LLAMA3, TEACHER, USER) == [f"{header}{TEACHER['content']}{turn}", *rest]
    assert parts(LLAMA3, USER) == [header + turn, *rest]


def test_a_default_system_prompt_is_shared_too() -> None:
    prefix, *_ = parts(SMOLLM2, USER)
    assert "named SmolLM" in prefix
    assert prefix.endswith("<|im_start|>user\n")


def test_a_system_prompt_inside_the_first_question_ends_there() -> None:
    assert parts(GEMMA3, TEACHER, USER) == [
        "<s><start_of_turn>user\nYou teach Turkish to beginners.\n\n",
        "Merhaba 👋<end_of_turn>\n",
        "<start_of_turn>model\n",
    ]


def test_a_template_without_a_system_role_has_the_reuse_point_of_the_last_turn_only() -> None:
    assert parts(GEMMA, USER) == [
        "<s><start_of_turn>user\nMerhaba 👋<end_of_turn>\n", "<start_of_turn>model\n"
    ]  # fmt: skip


def test_a_system_prompt_behind_other_turns_gives_no_reuse_point() -> None:
    chat_template = ChatTemplate(MISTRAL, "<s>", "</s>")
    long = {"role": "user", "content": "What does merhaba mean, and when is it said?"}
    assert (
        chat_template.render([TEACHER, long, ASSISTANT, USER], {}, reuse_points=True).reuse_points
        == ()
    )


@pytest.mark.parametrize(
    "refusal",
    [
        "{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}",
        "{% if messages[-1].content in 'AB' %}{{ missing.field }}{% endif %}",
        "{% if messages[-1].content == 'B' %}{{ 'x' * 20000000 }}{% endif %}",
    ],
)
def test_a_template_that_refuses_a_part_of_a_chat_costs_a_reuse_point_and_no_request(
    refusal: str,
) -> None:
    assert len(parts(refusal + CHATML, TEACHER, USER)) == 2


def test_a_template_that_always_begins_the_answer_leaves_no_reuse_point_at_its_end() -> None:
    template = CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")
    assert len(parts(template, TEACHER, USER)) == 2


def test_reuse_points_are_not_looked_for_unless_wanted_nor_in_a_huge_chat() -> None:
    huge = {"role": "user", "content": "x" * MAX_SEARCHED}
    chat_template = ChatTemplate(CHATML, "", "")
    assert chat_template.render([TEACHER, USER], {}).reuse_points == ()
    assert chat_template.render([TEACHER, huge], {}, reuse_points=True).reuse_points == ()


def test_a_prefix_is_rendered_once_for_each_system_prompt_and_its_options() -> None:
    asked: list[str] = []

    def clock() -> datetime:
        asked.append("when")
        return datetime(2026, 3, 4)

    chat_template = ChatTemplate(LLAMA3, "<s>", "</s>", now=clock)
    chat_template.prepare()

    def renderings(*messages: Message, **options: object) -> int:
        before = len(asked)
        assert len(chat_template.render(messages, options, reuse_points=True).reuse_points) == 2
        return len(asked) - before

    assert renderings(TEACHER, USER) == 4
    assert renderings(TEACHER, USER, ASSISTANT, USER) == 2
    assert renderings({**TEACHER, "content": "Another one."}, USER) == 4
    assert renderings(TEACHER, USER, tone="kind") == 4
    assert renderings(TEACHER, USER) == 2


def test_a_prefix_that_has_changed_with_the_day_is_found_again() -> None:
    days = iter([4] * 100)
    chat_template = ChatTemplate(LLAMA3, "<s>", "</s>", now=lambda: datetime(2026, 3, next(days)))
    chat_template.prepare()
    days = iter([4, 4, 4, 4, *[5] * 10])
    before = chat_template.render([TEACHER, USER], {}, reuse_points=True)
    after = chat_template.render([TEACHER, USER], {}, reuse_points=True)
    assert before.text != after.text
    assert before.reuse_points == after.reuse_points


def test_only_the_prefixes_used_last_are_kept() -> None:
    chat_template = ChatTemplate(CHATML, "", "")
    for number in range(100):
        system = {"role": "system", "content": f"You are assistant number {number}."}
        assert len(chat_template.render([system, USER], {}, reuse_points=True).reuse_points) == 2
    assert len(chat_template._reuse_points._prefixes) < 10


@pytest.mark.parametrize(
    "mark",
    ["<think>\n", "<think>", "[THINK]", "<seed:think>", "<|channel>thought\n", "<thought>\n"],
)
def test_a_prompt_that_opens_a_thought_says_so(mark: str) -> None:
    chat_template = ChatTemplate(f"{{{{ messages[0].content }}}}\n{mark}", "", "")
    assert chat_template.render([USER], {}).thinking


def test_a_prompt_that_closes_its_thought_or_has_none_is_not_inside_of_one() -> None:
    chat_template = ChatTemplate(QWEN, "", "")
    assert not chat_template.render([USER], {}).thinking
    assert not chat_template.render([USER], {"enable_thinking": False}).thinking


def test_a_folded_system_prompt_has_a_reuse_point_behind_it() -> None:
    assert parts(GEMMA, TEACHER, USER) == [
        "<s><start_of_turn>user\nYou teach Turkish to beginners.\n\n",
        "Merhaba 👋<end_of_turn>\n",
        "<start_of_turn>model\n",
    ]


def begun(template: str, *messages: Message, **options: object) -> Rendered:
    chat = ChatTemplate(template, "<s>", "</s>", now=lambda: datetime(2026, 3, 4))
    return chat.render(messages, options, ending="inside")


def test_a_last_message_is_gone_on_from_where_its_text_ends() -> None:
    opened = {"role": "assistant", "content": "Once upon "}
    assert begun(CHATML, USER, opened).text.endswith("<|im_start|>assistant\nOnce upon ")
    assert begun(LLAMA3, USER, opened).text.endswith("assistant<|end_header_id|>\n\nOnce upon ")
    assert begun(MISTRAL, SYSTEM, USER, opened).text.endswith("[/INST] Once upon ")
    assert begun(THINKING, USER, opened).text.endswith("<|im_start|>assistant\nOnce upon ")


def test_a_last_message_without_text_is_a_new_turn() -> None:
    for empty in ("", None):
        chat = begun(CHATML, USER, {"role": "assistant", "content": empty})
        assert (chat.text, chat.within) == (render(CHATML, USER), "")


def test_a_thought_is_gone_on_from_as_a_thought() -> None:
    template = SHAPES["Qwen3"]
    alone = begun(template, USER, {"role": "assistant", "content": "", "reasoning_content": "Hm"})
    assert alone.text.endswith("<|im_start|>assistant\n<think>\nHm")
    assert (alone.within, alone.thinking) == ("thought", True)
    written = begun(template, USER, {"role": "assistant", "content": "<think>\nHm"})
    assert written.text.endswith("<|im_start|>assistant\n<think>\nHm")
    assert written.thinking
    opened = begun(THINKING, USER, {"role": "assistant", "content": "<think>\nHm"})
    assert opened.text.endswith("<|im_start|>assistant\n<think>\n\nHm")
    closed = begun(template, USER, {"role": "assistant", "content": "<think>\nHm</think>\n\nA"})
    assert closed.text.endswith("<think>\nHm\n</think>\n\nA")
    assert not closed.thinking


def test_where_a_template_leaves_the_last_message_out_its_text_follows_an_opened_turn() -> None:
    hides = CHATML.replace("{% for message in messages %}", "{% for message in messages if "
                           "message.role != 'assistant' %}")  # fmt: skip
    assert begun(hides, USER, ASSISTANT).text == render(CHATML, USER) + "Hi."


def test_a_prompt_may_end_with_its_last_message() -> None:
    chat = ChatTemplate(CHATML, "", "").render([USER], {}, ending="bare")
    assert chat.text == "<|im_start|>user\nMerhaba 👋<|im_end|>\n"


def test_a_begun_answer_has_the_reuse_points_of_the_turns_before() -> None:
    opened = {"role": "assistant", "content": "Once"}
    chat = ChatTemplate(CHATML, "", "").render(
        [TEACHER, USER, opened], {}, ending="inside", reuse_points=True
    )
    assert chat.text[chat.reuse_points[-1] :] == "<|im_start|>assistant\nOnce"


def test_the_demo_models_prompts_are_what_its_own_template_makes() -> None:
    for messages in ([USER], [SYSTEM, USER], [SYSTEM, USER, ASSISTANT, USER], [USER, SYSTEM]):
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        if messages[0] is not SYSTEM:
            text = (
                "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
                f"Hugging Face<|im_end|>\n{text}"
            )
        assert render(SMOLLM2, *messages) == f"{text}<|im_start|>assistant\n"
