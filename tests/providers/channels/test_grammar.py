"""The grammars of forced calls, as llguidance follows them, against what the same family's parser reads."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from gguf_worker.providers.channels import (
    CallArguments,
    CallBegun,
    CallEnded,
    Event,
    Family,
    Text,
    family_for,
)
from gguf_worker.providers.request import Channel

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
    """Every byte, and every mark as a special token."""

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
    tokenizer: LLTokenizer, grammar: str, text: str, special: Mapping[str, int] = SPECIAL
) -> bool:
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar))
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
CODER = "<tool_call> <function="

PARIS, ANY = '{"city": "Paris"}', "{}"

ONE_CALL = [
    (HERMES, '<tool_call>\n{"name": "get_weather", "arguments": ARGS}\n</tool_call>'),
    (CODER, '<tool_call>\n{"name": "get_weather", "arguments": ARGS}\n</tool_call>'),
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
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": ARGS}\n]'
        "<|END_ACTION|>",
    ),
]
IDS = [family_for(template).name + str(number) for number, (template, _) in enumerate(ONE_CALL)]

SPECIALS = pytest.mark.parametrize("special", [SPECIAL, {}], ids=["tokens", "text"])
"""Whether the vocabulary's marks are special tokens or plain text."""


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
    grammar = family_for(template).call_grammar(TOOLS, special=special)
    for arguments in (PARIS, '{"city":"Rome", "days":7}'):
        assert matches(tokenizer, grammar, filled(text, arguments), special)


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_arguments_that_break_the_schema_do_not_match(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    grammar = family_for(template).call_grammar(TOOLS, special=special)
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
    grammar = family_for(template).call_grammar(TOOLS, special=special)
    called = filled(text, PARIS)
    for other in ("", "Hello.", f"Hello. {called}", called.replace("get_weather", "other", 1)):
        assert not matches(tokenizer, grammar, other, special)


@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_a_named_tool_is_the_only_one(tokenizer: LLTokenizer, template: str, text: str) -> None:
    special = plain(SPECIAL)
    family = family_for(template)
    clock = filled(text, ANY).replace("get_weather", "get_time", 1)
    weather = filled(text, PARIS)
    only = family.call_grammar(TOOLS, name="get_time", special=special)
    assert matches(tokenizer, only, clock, special)
    assert not matches(tokenizer, only, weather, special)
    either = family.call_grammar(TOOLS, special=special)
    assert matches(tokenizer, either, clock, special)


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_text_before_a_call_matches_where_it_may_be(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    family = family_for(template)
    grammar = family.call_grammar(TOOLS, any_text_before=True, special=special)
    called = filled(text, PARIS)
    thought = f"{family.thought.open}Hm < {{\n{family.thought.close}\n\n"
    before = {
        "harmony": "<|channel|>analysis<|message|>Hm {<|end|><|start|>assistant",
        "llama": thought,
    }.get(family.name, f"{thought}I look, <b>.\n")
    assert matches(tokenizer, grammar, called, special)
    assert matches(tokenizer, grammar, before + called, special)
    assert not matches(tokenizer, grammar, before, special)
    if family.name not in ("harmony",):
        inside = f"Hm\n{family.thought.close}\n\n"
        assert matches(tokenizer, grammar, inside + called, special)


@SPECIALS
@pytest.mark.parametrize(("template", "text"), ONE_CALL, ids=IDS)
def test_a_thought_that_the_prompt_began_has_to_end_and_then_the_call_comes(
    tokenizer: LLTokenizer, template: str, text: str, special: dict[str, int]
) -> None:
    special = plain(special)
    family = family_for(template)
    grammar = family.call_grammar(TOOLS, thinking=True, special=special)
    called = filled(text, PARIS)
    harmony = family.name == "harmony"
    end = "<|end|><|start|>assistant" if harmony else family.thought.close
    assert matches(tokenizer, grammar, f"Hm {{\n{end}{called}", special)
    assert matches(tokenizer, grammar, f"{end}{called}", special)
    assert harmony or matches(tokenizer, grammar, f"Hm\n{end}\n\n{called}", special)
    assert not matches(tokenizer, grammar, called, special)
    assert not matches(tokenizer, grammar, f"Hm{end}Well. {called}", special)
    both = family.call_grammar(TOOLS, thinking=True, any_text_before=True, special=special)
    assert matches(tokenizer, both, f"Hm{end}{called}", special)


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
    """A text that the grammar leads to, drawn with a love for ends; None: it went on too long."""
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


def calls(events: Iterable[Event]) -> tuple[str, list[tuple[str, Any]]]:
    content, found, arguments = "", [], ""
    name = ""
    for event in events:
        if isinstance(event, Text):
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
def test_whatever_a_grammar_leads_to_is_calls_to_the_same_familys_parser(
    tokenizer: LLTokenizer, template: str, many: bool, parallel: bool
) -> None:
    special = plain(SPECIAL)
    family: Family = family_for(template)
    grammar = family.call_grammar(TOOLS, parallel=parallel, special=special)
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
