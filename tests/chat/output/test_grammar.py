"""Grammars of demanded calls, as llguidance follows them, against the same family's parser."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from gguf_worker.chat import (
    AnswerEvent,
    AnswerText,
    CallArguments,
    CallBegun,
    CallEnded,
    Family,
    Thinking,
    family_for,
)
from gguf_worker.generation import Channel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"$ref": "#/$defs/City"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city"],
            "$defs": {"City": {"enum": ["Paris", "Rome"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
TOOLS = (WEATHER, CLOCK)

MARKS = (
    *("<think>", "</think>", "[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    *("<|channel|>", "<|message|>", "<|constrain|>", "<|start|>", "<|end|>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
    *("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    *("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>"),
    *("<|tool_call_end|>", "<|tool_calls_section_end|>", "<|tool_call|>"),
    *("<|START_ACTION|>", "<|END_ACTION|>", "<|START_THINKING|>", "<|END_THINKING|>"),
)
SPECIAL = {mark: 256 + number for number, mark in enumerate(MARKS)}
END = 256 + len(MARKS)
PLAIN = ("<think>", "</think>", "<tool_call>")
"""Marks that are text to most vocabularies."""


class _Vocabulary:
    """All bytes, and every mark as a special token."""

    eos_token_id = END
    bos_token_id = None
    tokens = (
        *(bytes([byte]) for byte in range(256)),
        *(b"\xff" + mark.encode() for mark in MARKS),
        b"\xff<end>",
    )
    special_token_ids = ()

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Vocabulary()))


def tokens(text: str, special: Mapping[str, int]) -> list[int]:
    parts = re.split("|".join(map(re.escape, special)) or r"(?!)", text)
    marks = re.findall("|".join(map(re.escape, special)) or r"(?!)", text)
    read: list[int] = []
    for part, mark in zip(parts, [*marks, None], strict=True):
        read += part.encode()
        if mark is not None:
            read.append(special[mark])
    return read


def matches(
    tokenizer: LLTokenizer,
    grammar: str,
    text: str,
    special: Mapping[str, int] = SPECIAL,
    inner: Mapping[str, Any] | None = None,
) -> bool:
    grammars = [{"lark_grammar": grammar}, *([{"name": "inner", **inner}] if inner else [])]
    matcher = LLMatcher(tokenizer, json.dumps({"grammars": grammars}))
    assert not matcher.is_error(), matcher.get_error()
    wanted = tokens(text, special)
    return matcher.try_consume_tokens(wanted) == len(wanted) and matcher.is_accepting()


HERMES = "<think> <tool_call>"
MISTRAL_LIST = "[TOOL_CALLS]["
MISTRAL = "[TOOL_CALLS] [ARGS] [THINK]"
MISTRAL_IDS = "[TOOL_CALLS] [CALL_ID] [ARGS]"
LLAMA = '{"parameters": } ipython'
FUNCTIONARY = "<function="
R1 = "<think> <｜tool▁calls▁begin｜> ```"
V31 = "<think> <｜tool▁calls▁begin｜>"
GPT_OSS = "<|channel|> <|message|>"
KIMI = "<|tool_calls_section_begin|>"
GRANITE = "<|tool_call|>"
NEMOTRON = "<TOOLCALL>"
COMMAND = "<|START_ACTION|> <|START_THINKING|>"

PARIS, ANY = '{"city": "Paris"}', "{}"

ONE_CALL = [
    (HERMES, '<tool_call>\n{"name": "get_weather", "arguments": ARGS}\n</tool_call>'),
    ("", '<tool_call>\n{"name": "get_weather", "arguments": ARGS}\n</tool_call>'),
    (LLAMA, '{"name": "get_weather", "parameters": ARGS}'),
    (FUNCTIONARY, "<function=get_weather>ARGS</function>"),
    (MISTRAL_LIST, '[TOOL_CALLS][{"name": "get_weather", "arguments": ARGS}]'),
    (MISTRAL, "[TOOL_CALLS]get_weather[ARGS]ARGS"),
    (MISTRAL_IDS, "[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]ARGS"),
    (
        R1,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\nARGS\n"
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        V31,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>ARGS<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
    ),
    (
        GPT_OSS,
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>ARGS",
    ),
    (
        KIMI,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        "<|tool_call_argument_begin|>ARGS<|tool_call_end|><|tool_calls_section_end|>",
    ),
    (GRANITE, '<|tool_call|>[{"name": "get_weather", "arguments": ARGS}]'),
    (NEMOTRON, '<TOOLCALL>[{"name": "get_weather", "arguments": ARGS}]</TOOLCALL>'),
    (
        COMMAND,
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": ARGS}\n]'
        "<|END_ACTION|>",
    ),
]
IDS = [family_for(template).name + str(number) for number, (template, _) in enumerate(ONE_CALL)]


def thought_of(family: Family) -> str:
    if family.name == "harmony":
        return "<|channel|>analysis<|message|>Hm {<|end|><|start|>assistant"
    return f"{family.thought.open}Hm < {{\n{family.thought.close}\n\n"


def content_mark(family: Family) -> str:
    """Return the text that the family writes before an answer that calls nothing."""
    marks = {
        "harmony": "<|channel|>final<|message|>",
        "command-r": "<|START_RESPONSE|>",
    }
    return marks.get(family.name, "")


SPECIALS = pytest.mark.parametrize("special", [SPECIAL, {}], ids=["tokens", "text"])
"""Vocabularies whose marks are special tokens, or plain text."""


def filled(text: str, arguments: str) -> str:
    before, _, after = text.rpartition("ARGS")
    return f"{before}{arguments}{after}"


def plain(special: Mapping[str, int]) -> dict[str, int]:
    return {mark: id for mark, id in special.items() if mark not in PLAIN}


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_a_call_in_the_familys_notation_with_valid_arguments_matches(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    grammar = family_for(template).answer_grammar(TOOLS, special=special)
    for arguments in (PARIS, '{"city":"Rome", "days":7}'):
        assert matches(tokenizer, grammar, filled(text, arguments), special)


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_arguments_that_break_the_schema_do_not_match(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    grammar = family_for(template).answer_grammar(TOOLS, special=special)
    for arguments in (
        "{}",
        '{"city": "Oslo"}',
        '{"city": "Paris", "days": 8}',
        '{"city": "Paris", "more": 1}',
        '{"city": "Paris"',
    ):
        assert not matches(tokenizer, grammar, filled(text, arguments), special)


@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_nothing_but_a_call_of_a_tool_matches(
    tokenizer: LLTokenizer, template: str, text: str
) -> None:
    special = plain(SPECIAL)
    grammar = family_for(template).answer_grammar(TOOLS, special=special)
    called = filled(text, PARIS)
    for other in ("", "Hello.", f"Hello. {called}", called.replace("get_weather", "other", 1)):
        assert not matches(tokenizer, grammar, other, special)


@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_a_named_tool_is_the_only_one(tokenizer: LLTokenizer, template: str, text: str) -> None:
    special = plain(SPECIAL)
    family = family_for(template)
    clock = filled(text, ANY).replace("get_weather", "get_time", 1)
    weather = filled(text, PARIS)
    only = family.answer_grammar([CLOCK], special=special)
    assert matches(tokenizer, only, clock, special)
    assert not matches(tokenizer, only, weather, special)
    either = family.answer_grammar(TOOLS, special=special)
    assert matches(tokenizer, either, clock, special)


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_a_thought_may_come_before_a_call_where_the_model_has_them(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    family = family_for(template)
    grammar = family.answer_grammar(TOOLS, thinking=Thinking.OPTIONAL, special=special)
    called = filled(text, PARIS)
    thought = thought_of(family)
    assert matches(tokenizer, grammar, called, special)
    assert matches(tokenizer, grammar, thought + called, special)
    assert not matches(tokenizer, grammar, thought, special)
    assert not matches(tokenizer, grammar, f"{thought}Well. {called}", special)


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_a_thought_that_the_prompt_began_has_to_end_and_then_the_call_comes(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    family = family_for(template)
    grammar = family.answer_grammar(TOOLS, thinking=Thinking.BEGUN, special=special)
    called = filled(text, PARIS)
    harmony = family.name == "harmony"
    end = "<|end|><|start|>assistant" if harmony else family.thought.close
    assert matches(tokenizer, grammar, f"Hm {{\n{end}{called}", special)
    assert matches(tokenizer, grammar, f"{end}{called}", special)
    assert harmony or matches(tokenizer, grammar, f"Hm\n{end}\n\n{called}", special)
    assert not matches(tokenizer, grammar, called, special)
    assert not matches(tokenizer, grammar, f"Hm{end}Well. {called}", special)


FORMAT = {
    "json_schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["name", "days"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False, "key_separator": ": "},
    }
}
REPORT = '{"name": "get_weather","days": 3}'
"""A document of the format, which begins as a call of Llama's does."""


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_with_a_format_an_answer_is_a_call_or_a_document_of_the_format(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    family = family_for(template)
    for thinking in Thinking:
        grammar = family.answer_grammar(TOOLS, thinking=thinking, formatted=True, special=special)
        begun = {
            Thinking.OVER: [""],
            Thinking.OPTIONAL: ["", thought_of(family)],
            Thinking.BEGUN: ["Hm {\n" + family.thought.close + "\n\n"],
        }[thinking]
        if family.name == "harmony" and thinking is Thinking.BEGUN:
            begun = ["Hm {\n<|end|><|start|>assistant"]
        document, called = content_mark(family) + REPORT, filled(text, PARIS)
        for lead in begun:
            assert matches(tokenizer, grammar, lead + document, special, FORMAT)
            assert matches(tokenizer, grammar, lead + called, special, FORMAT)
            assert not matches(tokenizer, grammar, f"{lead}Well.", special, FORMAT)
            assert not matches(tokenizer, grammar, lead + document + called, special, FORMAT)


@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_an_answer_with_a_format_is_read_as_such_by_the_same_familys_parser(
    template: str, text: str
) -> None:
    family = family_for(template)
    quoting = content_mark(family) + json.dumps({"name": f"as in {text} and <think>", "days": 3})
    if family.name == "harmony":  # there marks in a text are its end
        quoting = content_mark(family) + REPORT
    for written in (quoting, f"{thought_of(family)}{quoting}"):
        parser = family.parser(TOOLS, formatted=True)
        content, found = calls([*parser.feed(written), *parser.flush()])
        assert content_mark(family) + content == quoting
        assert not found
    parser = family.parser(TOOLS, formatted=True)
    called = filled(text, PARIS)
    content, found = calls([*parser.feed(called), *parser.flush()])
    assert (content, found) == ("", [("get_weather", {"city": "Paris"})])


@pytest.mark.parametrize("format", ["start: /[a-z ]+/", 'start: "yes" | "no"'])
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_a_format_that_is_no_schema_goes_with_calls_too(
    tokenizer: LLTokenizer, template: str, text: str, format: str
) -> None:
    family = family_for(template)
    grammar = family.answer_grammar(TOOLS, formatted=True, special=plain(SPECIAL))
    inner = {"lark_grammar": format}
    for each in (content_mark(family) + "yes", filled(text, PARIS)):
        assert matches(tokenizer, grammar, each, plain(SPECIAL), inner)


def test_a_thought_whose_mark_is_a_token_and_text_is_written_as_both(
    tokenizer: LLTokenizer,
) -> None:
    family = family_for("<|channel>thought <|tool_call>")
    special = {"<|channel>": SPECIAL["[THINK]"], "<channel|>": SPECIAL["[/THINK]"]}
    grammar = family.answer_grammar((), thinking=Thinking.OPTIONAL, formatted=True, special=special)
    written = f"<|channel>thought\nHm<channel|>{REPORT}"
    assert matches(tokenizer, grammar, written, special, FORMAT)
    assert matches(tokenizer, grammar, REPORT, special, FORMAT)


def test_a_familys_models_think_first_if_their_template_knows_thoughts() -> None:
    qwen = family_for(HERMES)
    assert qwen.thinking("<|im_start|>assistant\n", begun=False) is Thinking.OPTIONAL
    assert qwen.thinking("<|im_start|>assistant\n<think>\n", begun=True) is Thinking.BEGUN
    assert qwen.thinking("assistant\n<think>\n\n</think>\n\n", begun=False) is Thinking.OVER
    assert family_for("<tool_call>").thinking("assistant\n", begun=False) is Thinking.OVER
    assert family_for(GPT_OSS).thinking("<|start|>assistant", begun=False) is Thinking.OPTIONAL


SEVERAL = [
    (HERMES, True),
    (MISTRAL_LIST, True),
    (MISTRAL, True),
    (R1, True),
    (V31, True),
    (KIMI, True),
    (GRANITE, True),
    (COMMAND, True),
    (FUNCTIONARY, True),
    (LLAMA, False),
    (GPT_OSS, False),
]


def walked(tokenizer: LLTokenizer, grammar: str, chance: random.Random) -> str | None:
    """Draw a text that the grammar allows, with a bias to its end; None: it went on too long."""
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    spelled = {id: mark.encode() for mark, id in SPECIAL.items()}
    text = b""
    for _ in range(3000):
        bias = matcher.compute_logit_bias()
        allowed = [token for token, weight in enumerate(bias) if weight]
        if END in allowed and (len(allowed) == 1 or chance.random() < 0.3):
            return text.decode()
        allowed = [token for token in allowed if token != END]
        liked = [token for token in allowed if token >= 256 or token in b'"}]<' or token > 127]
        token = chance.choice(liked if liked and chance.random() < 0.6 else allowed)
        assert matcher.consume_token(token)
        text += spelled.get(token) or bytes([token])
    return None


def calls(events: Iterable[AnswerEvent]) -> tuple[str, list[tuple[str, Any]]]:
    content, found, arguments = "", [], ""
    name = ""
    for event in events:
        if isinstance(event, AnswerText):
            content += event.text if event.channel is Channel.CONTENT else ""
        elif isinstance(event, CallBegun):
            name, arguments = event.name, ""
        elif isinstance(event, CallArguments):
            arguments += event.text
        else:
            assert isinstance(event, CallEnded)
            found.append((name, json.loads(arguments)))
    return content, found


@pytest.mark.parametrize(("template", "many"), SEVERAL)
@pytest.mark.parametrize("parallel", [True, False])
def test_all_texts_of_a_grammar_are_calls_to_the_same_familys_parser(
    tokenizer: LLTokenizer, template: str, many: bool, parallel: bool
) -> None:
    special = plain(SPECIAL)
    family: Family = family_for(template)
    grammar = family.answer_grammar(TOOLS, parallel=parallel, special=special)
    counts = set()
    chance = random.Random(1)
    for _ in range(15):
        text = walked(tokenizer, grammar, chance)
        if text is None:
            continue
        parser = family.parser(TOOLS)
        content, found = calls([*parser.feed(text), *parser.flush()])
        assert content == ""
        assert found
        counts.add(len(found))
        for name, arguments in found:
            if name == "get_time":
                assert arguments == {}
            else:
                assert name == "get_weather"
                assert arguments["city"] in ("Paris", "Rome")
                assert arguments.keys() <= {"city", "days"}
    assert counts
    if not (parallel and many):
        assert counts == {1}
    else:
        assert max(counts) > 1
