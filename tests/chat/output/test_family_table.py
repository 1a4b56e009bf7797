"""Families by their models' templates: each excerpt is the part that writes a call down."""

from __future__ import annotations

import pytest

from gguf_worker.chat import CallArguments, CallBegun, CallEnded, Family, family_for
from gguf_worker.chat.output import family_table
from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.notation import whole_call

QWEN3 = """{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n')
    + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
{%- for tool_call in message.tool_calls %}
    {{- '<tool_call>\\n{"name": "' }}
    {{- tool_call.name }}
    {{- '", "arguments": ' }}
    {{- tool_call.arguments | tojson }}
    {{- '}\\n</tool_call>' }}
{%- endfor %}"""

QWEN3_CODER = """{{- '\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' }}
{%- for args_name, args_value in tool_call.arguments|items %}
    {{- '<parameter=' + args_name + '>\\n' }}{{- args_value }}{{- '\\n</parameter>\\n' }}
{%- endfor %}
{{- '</function>\\n</tool_call>' }}"""

GLM = """{{ '\\n<tool_call>' + tc.name }}
{% for k, v in _args.items() %}
<arg_key>{{ k }}</arg_key>
<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>
{% endfor %}
</tool_call>"""

LLAMA31 = """{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument
    name and its value}.' }}
{{- "<|python_tag|>" + tool_call.name + ".call(" }}
{{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}
{{- tool_call.arguments | tojson }}
{{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}"""

LLAMA4 = """{{- '<|python_start|>' }}{{- message['content'] }}{{- '<|python_end|>' }}
{{- '{"name": "' + tool_call.function.name + '", ' }}{{- '"parameters": ' }}
{{- tool_call.function.arguments | tojson }}{{- "<|header_start|>ipython<|header_end|>" }}"""

LLAMA32 = LLAMA31.replace('{{- "<|python_tag|>" + tool_call.name + ".call(" }}\n', "")

FUNCTIONARY = """{{ '<|python_tag|>' + tool_call['function']['arguments'] | tojson }}
{{ '<function=' + tool_call['function']['name'] + '>' + tool_call['function']['arguments'] | tojson
    + '</function>' }}"""

NEMO = """{{- "[TOOL_CALLS][" }}
{%- set out = tool_call.function|tojson %}{{- out[:-1] }}{{- ', "id": "' + tool_call.id + '"}' }}"""

SMALL32 = """{{- '[TOOL_CALLS]' + tool_call.function.name }}{{- '[CALL_ID]' + tool_call.id }}
{{- '[ARGS]' + tool_call['function']['arguments']|tojson }}"""

MINISTRAL3 = """{{- '[THINK]' + block['thinking'] + '[/THINK]' }}{{- '[TOOL_CALLS]' }}
{{- name + '[ARGS]' + arguments }}"""

R1 = """{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] +
    '<｜tool▁sep｜>' + tool['function']['name'] + '\\n' + '```json' + '\\n' +
    tool['function']['arguments'] + '\\n' + '```' +
    '<｜tool▁call▁end｜>'}}{%- set content = content.split('</think>')[-1] -%}"""

V31 = """{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] +
    '<｜tool▁sep｜>' + tool['function']['arguments'] | tojson +
    '<｜tool▁call▁end｜>'}}{{'<think></think>'}}"""

V32 = """{%- set dsml_token = '｜DSML｜' -%}
{{- '<' + dsml_token + 'invoke name="' + func['name'] + '">\\n' -}}"""

GPT_OSS = """{{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking }}
{{- "<|end|>" }}
{{- "<|start|>assistant to=" }}{{- "functions." + tool_call.name + "<|channel|>commentary " }}"""

KIMI = """<|tool_calls_section_begin|><|tool_call_begin|>{{ formatted_id }}
<|tool_call_argument_begin|>"""

GRANITE33 = """respond only with <|tool_call|> followed by a JSON list of tools used.
Write your thoughts between <think></think>"""

COMMAND = """<|START_THINKING|>{{message.reasoning_content}}<|END_THINKING|><|START_ACTION|>["""

GEMMA4 = """{{- '<|channel>thought\\n' + thinking_text + '\\n<channel|>' -}}
{{- '<|tool_call>call:' + function['name'] + '{' -}}"""

SEED = """{%- set toolcall_begin_token = '<seed:tool_call>' -%}
{%- set think_end_token = '</seed:think>' -%}
{{ "\\n" + toolcall_begin_token + "\\n<function=" + tool_call.name + ">\\n" }}"""

MINIMAX = """{%- set toolcall_begin_token   = '<minimax:tool_call>' -%}
{{- '<think>' ~ reasoning_content }}{{- '<invoke name="' + tool_call.name + '">' }}"""

LFM2 = """{{- "List of tools: <|tool_list_start|>[" -}}"""

NEMOTRON = """{{- '<TOOLCALL>[' -}}{{- '{"name": "' + fn.name + '", "arguments": ' -}}"""

APRIEL = """{{ '<tool_calls>[' }}{{ '{"name": "' + tool_call.name + '", "arguments": ' }}
Write <tool_call> {{ '<thinking>' }}"""

GEMMA3 = """{{ '<start_of_turn>' + role + '\\n' }}{{ message['content'] | trim }}
{{ '<end_of_turn>\\n' }}"""

UNKNOWN = """{{ '<invoke name="' }}{% for tool in tools %}{{ '<tool_call>' }}"""


@pytest.mark.parametrize(
    ("template", "name", "thought", "show_special"),
    [
        (QWEN3, "hermes", "<think>", False),
        (QWEN3_CODER, "qwen-coder", "<think>", False),
        (GLM, "glm", "<think>", False),
        (LLAMA31, "llama", "<think>", True),
        (LLAMA32, "llama", "<think>", True),
        (LLAMA4, "llama4", "<think>", True),
        (FUNCTIONARY, "functionary", "<think>", True),
        (NEMO, "mistral", "<think>", True),
        (SMALL32, "mistral", "<think>", True),
        (MINISTRAL3, "mistral", "[THINK]", True),
        (R1, "deepseek-r1", "<think>", True),
        (V31, "deepseek-v3.1", "<think>", True),
        (V32, "deepseek-v3.2", "<think>", True),
        (GPT_OSS, "harmony", "<think>", True),
        (KIMI, "kimi", "<think>", True),
        (GRANITE33, "granite", "<think>", True),
        (COMMAND, "command-r", "<|START_THINKING|>", True),
        (GEMMA4, "gemma4", "<|channel>thought", True),
        (SEED, "seed", "<seed:think>", True),
        (MINIMAX, "minimax", "<think>", True),
        (LFM2, "lfm2", "<think>", True),
        (NEMOTRON, "nemotron", "<think>", True),
        (APRIEL, "apriel", "<thinking>", True),
        (GEMMA3, "gemma3", "<think>", False),
        (UNKNOWN, "generic", "<think>", False),
        ("", "generic", "<think>", False),
        (None, "generic", "<think>", False),
    ],
)
def test_a_template_tells_its_models_family(
    template: str | None, name: str, thought: str, show_special: bool
) -> None:
    family = family_for(template, "llama")
    assert family.name == name
    assert family.thought.open == thought
    assert family.show_special is show_special
    assert family.needs_instructions is (name in ("generic", "gemma3"))


def test_gpt_oss_is_known_by_its_architecture_whatever_its_template() -> None:
    assert family_for(GEMMA3, "gpt-oss").name == "harmony"
    assert family_for(None, "gpt-oss").name == "harmony"


def test_a_template_that_thinks_between_marks_of_special_tokens_has_them_shown() -> None:
    assert family_for("{{ '[THINK]' }}").show_special
    assert not family_for("{{ '<think>' }}").show_special


def shouted(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read a call in a notation that no model has: `name!text!`."""
    name = yield from reader.before("!")
    text = yield from reader.before("!")
    whole_call(reader, writer, name, {"text": declared.argument(name, "text", text)})


SAY = {"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}}


def test_a_new_notation_is_a_reader_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("shouted", notations={"<|shout|>": shouted})
    row = family_table._FamilyRow(family, has=("<|shout|>",))
    monkeypatch.setattr(family_table, "_TABLE", (row, *family_table._TABLE))
    parser = family_for("{{ '<|shout|>' + call.name }}").parser([SAY])
    events = [event for piece in "Well. <|shout|>say!Hi!" for event in parser.feed(piece)]
    assert [*events, *parser.flush()][-3:] == [
        CallBegun("say"),
        CallArguments('{"text": "Hi"}'),
        CallEnded(),
    ]
