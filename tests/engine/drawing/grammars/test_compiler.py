"""Grammars by llguidance, over a tiny model's vocabulary of bytes and over the demo model's."""

from __future__ import annotations

import itertools
import json
import random
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_worker.engine.drawing.grammars.compiler import Compiler
from gguf_worker.engine.drawing.grammars.constraint import (
    Constraint,
    ConstraintFailed,
    GrammarTooCostly,
)
from gguf_worker.engine.drawing.grammars.translation import GrammarRefused
from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.llama.vocabulary import Vocabulary
from gguf_worker.engine.messages import EngineSpec
from gguf_worker.generation import Grammar

pytestmark = pytest.mark.llama

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["x", "yé"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def opened(path: Path) -> Llama:
    spec = EngineSpec(path=str(path), context=256, sequences=1, batch_size=64, ubatch_size=64)
    return Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)


@pytest.fixture(scope="module", params=["tiny_model", "demo_model"])
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    with closing(opened(request.getfixturevalue(request.param))) as llama:
        yield llama.vocabulary


@pytest.fixture(scope="module")
def compile(vocabulary: Vocabulary) -> Iterator[Callable[[str, str], Constraint]]:
    with closing(Compiler(vocabulary)) as compiler:
        yield lambda kind, text: compiler.compile(Grammar(kind, text)).result(60)


Compile = Callable[[str, str], Constraint]


def schema(compile: Compile, document: Any) -> Constraint:
    return compile("json_schema", json.dumps(document))


def drawn(vocabulary: Vocabulary, constraint: Constraint, seed: int, most: int = 400) -> str | None:
    """A random answer that is not forbidden, as soon as it may end; None if that took too long."""
    chance = random.Random(seed)
    text = b""
    for _ in range(most):
        allowed = np.flatnonzero(~constraint.forbidden())
        ends = np.intersect1d(allowed, vocabulary.ends)
        if len(ends):
            return text.decode()
        token = int(chance.choice(allowed))
        constraint.accept(token)
        text += vocabulary.pieces[token]
        if constraint.complete:
            return text.decode()
    return None


def follow(vocabulary: Vocabulary, constraint: Constraint, text: str) -> bool:
    """Does `text` match, to its end?"""
    for token in vocabulary.tokenize(text, add_special=False, parse_special=False):
        if constraint.complete or constraint.forbidden()[token]:
            return False
        constraint.accept(token)
    return constraint.complete or not constraint.forbidden()[vocabulary.ends].all()


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_not_forbidden_makes_a_document_of_the_schema(
    vocabulary: Vocabulary, compile: Compile, seed: int
) -> None:
    text = drawn(vocabulary, schema(compile, PERSON), seed)
    assert text is not None
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"]
    assert isinstance(person["name"], str)
    assert len(person["name"]) <= 12
    assert 0 <= person["age"] <= 150
    assert len(person["tags"]) <= 2
    assert set(person["tags"]) <= {"x", "yé"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('{"a":1,"b":[1,2]}', True),
        ('{"a": 1, "b": [1, 2]}', True),
        (json.dumps({"a": 1, "b": [1, 2]}, indent=2), True),
        (json.dumps({"a": 1, "b": []}, indent=4), True),
        ('{\n"a": 1,"b":[\n]\n}', True),
        ('{"a":  1,"b":[]}', False),
        ('{"a": 1 ,"b":[]}', False),
        ('{"a": 1,  "b":[]}', False),
        ('{\n\n"a": 1,"b":[]}', False),
        ("{\n" + " " * 33 + '"a": 1,"b":[]}', False),
        ('{"a": 1,"b":[]}\n', False),
        (' {"a":1,"b":[]}', False),
    ],
)
def test_json_has_bounded_space_a_blank_after_a_sign_or_one_line_break_with_an_indent(
    vocabulary: Vocabulary, compile: Compile, text: str, matches: bool
) -> None:
    numbers = {"type": "array", "items": {"type": "integer"}}
    document = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": numbers},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    assert follow(vocabulary, schema(compile, document), text) is matches


@pytest.mark.parametrize(
    ("kind", "grammar", "good", "bad"),
    [
        ("regex", "[a-c]{2,3}", ["ab", "abc"], ["a", "abcd", "xy"]),
        ("regex", r"^\d+$", ["42"], ["٤٢", ""]),
        ("regex", "(ja|yes)", ["ja", "yes"], ["y", "jayes"]),
        ("lark", 'start: "a" n\nn: /[0-9]+/ | "(" n ")"', ["a1", "a((22))"], ["a", "a((2)"]),
        ("lark", 'root ::= "x" d d\nd ::= [0-9]', ["x12"], ["x1", "x123"]),  # llama.cpp's GBNF
        ("json_schema", "true", ['{"a": null}', "3", '"x"', "[]"], ["x", "{"]),
        ("json_schema", '{"const": "é🌊"}', ['"é🌊"'], ['"é"']),
        ("json_schema", '{"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", '
         '"items": {"$ref": "#/$defs/t"}}}}', ["[]", "[[], [[]]]"], ["[1]", "[[]"]),
    ],
)  # fmt: skip
def test_what_matches_may_come_and_nothing_else(
    vocabulary: Vocabulary,
    compile: Compile,
    kind: str,
    grammar: str,
    good: list[str],
    bad: list[str],
) -> None:
    for text in good:
        assert follow(vocabulary, compile(kind, grammar), text), text
    for text in bad:
        assert not follow(vocabulary, compile(kind, grammar), text), text


@pytest.mark.parametrize(
    ("kind", "grammar", "reason"),
    [
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"x-guidance": {"lenient": true}, "not": {}}', '"not"'),
        ("json_schema", '{"type": "object", "properties": {"a": {"if": {}}}}', '"if"'),
        ("json_schema", '{"type": "string", "format": "regex"}', "regex"),
        ("json_schema", '{"$ref": "http://localhost/x"}', "http://localhost/x"),
        ("json_schema", '{"type": "integer", "multipleOf": 9999991}', "multipleOf 9999991"),
        ("json_schema", '{"items": [' * 200 + "]}" * 200, "recursion"),
        ("json_schema", "[]", "no JSON object"),
        ("json_schema", "false", "no JSON object"),
        ("json_schema", '{"type": ', "EOF"),
        ("regex", "(", "unclosed group"),
        ("regex", "a(?=b)", "look-around"),
        ("lark", "start: nothing", "nothing"),
        ("lark", 'root ::= ( "x"', "Expected"),
        ("lark", "root ::= " + "(" * 9000 + '"a"' + ")" * 9000, "recursion"),
        ("lark", '{"grammars": [{"json_schema": {}}]}', "expecting rule"),
        ("lark", "start: " + "(" * 9000 + '"a"' + ")" * 9000, "nested"),
        ("lark", 'start: "a" %json {"multipleOf": 9999991}', "multipleOf 9999991"),
        ("lark", 'start: "a" b\nb: %json\n{"items": {"multipleOf": 0.1234567}}', "multipleOf"),
        ("lark", "start: @inner", "inner"),
        ("regex", "a" * (Grammar.MOST_CHARACTERS + 1), str(Grammar.MOST_CHARACTERS)),
        ("xml", "x", "'xml'"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_with_its_reason_in_one_line(
    compile: Compile, kind: str, grammar: str, reason: str
) -> None:
    with pytest.raises(GrammarRefused) as caught:
        compile(kind, grammar)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert "1 | " not in message
    assert len(message) < 400


AMBIGUOUS = {
    "lark": 'start: x\nx: x x | "a" | "b" | " " | /[a-z]+/',
    "gbnf": 'root ::= x\nx ::= x x | "a" | "b" | " " | [a-z]+',
}


@pytest.mark.parametrize("form", AMBIGUOUS)
def test_a_grammar_that_reads_a_text_in_too_many_ways_is_given_up_before_it_is_slow(
    demo_model: Path, form: str
) -> None:
    with closing(opened(demo_model)) as llama, closing(Compiler(llama.vocabulary)) as compiler:
        future = compiler.compile(Grammar("lark", AMBIGUOUS[form]))
        with pytest.raises((GrammarRefused, GrammarTooCostly), match="limit 13000") as caught:
            follow(llama.vocabulary, future.result(60), "ab " * 50)
    assert "<" not in str(caught.value)


def _object(fields: dict[str, Any], required: bool = True) -> dict[str, Any]:
    needed = list(fields) if required else []
    whole = {"type": "object", "properties": fields, "required": needed}
    return whole | {"additionalProperties": False}


_EITHER = {"type": ["string", "integer", "null", "array"], "items": {"type": "number"}}
_FEW = {"field1": "x", "field2": 12, "field3": None, "field5": [1.5, 2]}
_TOOL = {"name": "tool127", "arguments": {"field2": 3}}
_ARGUMENTS = _object({f"field{n}": _EITHER for n in range(3)}, required=False)
WIDE: dict[str, tuple[Any, Any]] = {
    "60 fields": (
        _object({f"field{n}": {"anyOf": [{"type": "string"}, _EITHER]} for n in range(60)}),
        {f"field{n}": "x" for n in range(60)},
    ),
    "400 optional fields": (
        _object({f"field{n}": _EITHER for n in range(400)}, required=False),
        _FEW | {"field399": "x"},
    ),
    "60 objects": (
        {"anyOf": [_object({f"only{n}": _EITHER, "b": _EITHER}) for n in range(60)]},
        {"only59": 1, "b": [2]},
    ),
    "128 tools": (
        {
            "type": "array",
            "items": {
                "anyOf": [
                    _object({"name": {"const": f"tool{n}"}, "arguments": _ARGUMENTS})
                    for n in range(128)
                ]
            },
        },
        [_TOOL, _TOOL],
    ),
    "1000 values": ({"enum": [f"value{n}" for n in range(1000)]}, "value999"),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_wide_schema_is_not_too_much_work(
    vocabulary: Vocabulary, compile: Compile, name: str
) -> None:
    document, answer = WIDE[name]
    assert follow(vocabulary, schema(compile, document), json.dumps(answer))


def test_the_longest_chain_of_rules_does_not_overflow_the_stack(compile: Compile) -> None:
    letters = string.ascii_lowercase
    names = ["".join(each) for each in itertools.product("abcd", letters, letters, letters)]
    count = (Grammar.MOST_CHARACTERS - 30) // len("name:name\n")
    rules = "".join(f"{name}:{below}\n" for name, below in itertools.pairwise(names[: count + 1]))
    text = f'start:{names[0]}\n{rules}{names[count]}:"x"'
    assert count > 13_000
    assert not compile("lark", text).forbidden().all()


@pytest.mark.parametrize(
    ("kind", "inner", "text"),
    [
        ("json_schema", json.dumps(PERSON), '{"name": "Ada", "age": 36, "tags": []}'),
        ("regex", "[0-9]{2}", "42"),
        ("lark", 'start: "a" | b\nb: "b"', "b"),
        ("lark", 'root ::= "yes" | "no"', "no"),
    ],
)
def test_a_grammar_of_any_kind_can_be_a_part_of_another(
    vocabulary: Vocabulary, kind: str, inner: str, text: str
) -> None:
    whole = Grammar("lark", 'start: ("<" /[a-z]/ ">" | "!") @inner', Grammar(kind, inner))
    with closing(Compiler(vocabulary)) as compiler:
        for lead, right in (("<a>", True), ("!", True), ("", False), ("<>", False)):
            assert follow(vocabulary, compiler.compile(whole).result(60), lead + text) is right
        assert not follow(vocabulary, compiler.compile(whole).result(60), "!x")


def test_a_free_text_up_to_a_mark_can_come_before_a_schema(
    vocabulary: Vocabulary,
) -> None:
    thought = 'TEXT: /(?s:.*)/\nthought[lazy]: TEXT "</think>"'
    schema = Grammar("json_schema", json.dumps(PERSON))
    whole = Grammar("lark", f"start: thought /[ \\n]{{0,4}}/ @inner\n{thought}", schema)
    person = '{"name": "Ada", "age": 36, "tags": []}'
    with closing(Compiler(vocabulary)) as compiler:
        for text, right in (
            (f"Hm </thin {{\n{person}\n</think>\n\n{person}", True),
            (f"</think>{person}", True),
            (f"Hm</think>\n\nWell: {person}", False),
            (f"Hm</think>{person}</think>{person}", False),
            (person, False),
            ("Hm</think>", False),
        ):
            assert follow(vocabulary, compiler.compile(whole).result(60), text) is right


@pytest.mark.parametrize(
    ("inner", "at_fault"),
    [
        (Grammar("json_schema", '{"uniqueItems": true}'), True),
        (Grammar("json_schema", '{"multipleOf": 9999991}'), True),
        (Grammar("lark", "start: @inner"), True),
        (Grammar("regex", "a"), False),
    ],
)
def test_a_refusal_says_whether_the_inner_grammar_is_at_fault(
    vocabulary: Vocabulary, inner: Grammar, at_fault: bool
) -> None:
    with closing(Compiler(vocabulary)) as compiler, pytest.raises(GrammarRefused) as caught:
        compiler.compile(Grammar("lark", "start: nothing @inner", inner)).result(60)
    assert caught.value.inner is at_fault


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ('{"allOf": [{"type": "string"}, {"type": "integer"}]}', "incompatible types"),
        ('{"type": "object", "required": ["a"], "properties": {"a": false}}', "property 'a'"),
        ('{"uniqueItems": true}', "uniqueItems"),
    ],
)
def test_a_schema_within_a_grammar_is_refused_in_the_words_of_the_schema(
    compile: Compile, schema: str, reason: str
) -> None:
    rules = f'start: "<call>" arguments_1 | "x"\narguments_1: %json {{}}\ncall_2: %json {schema}'
    with pytest.raises(GrammarRefused, match=r"^The JSON schema cannot be used: ") as caught:
        compile("lark", rules.replace("arguments_1 |", "arguments_1 call_2 |"))
    assert reason in str(caught.value)
    assert not any(ours in str(caught.value) for ours in ("arguments", "%json", "<call>"))


def test_a_grammar_and_its_inner_one_are_bounded_together(vocabulary: Vocabulary) -> None:
    inner = Grammar("regex", "a" * (Grammar.MOST_CHARACTERS - 10))
    with closing(Compiler(vocabulary)) as compiler:
        future = compiler.compile(Grammar("lark", "start: @inner", inner))
    with pytest.raises(GrammarRefused, match=str(Grammar.MOST_CHARACTERS)):
        future.result(60)


def test_special_tokens_come_only_where_a_grammar_names_them(
    vocabulary: Vocabulary, compile: Compile
) -> None:
    special = [t for t, piece in enumerate(vocabulary.pieces) if not piece]
    assert compile("regex", "(?s:.*)").forbidden()[special].sum() >= len(special) - len(
        vocabulary.ends
    )
    names = {vocabulary.spelled[t]: t for t in special if t not in vocabulary.ends}
    named = names.get(b"<|im_start|>")
    if named is not None:
        constraint = compile("lark", 'start: <|im_start|> "x"')
        assert np.flatnonzero(~constraint.forbidden()).tolist() == [named]
        constraint.accept(named)
        assert not constraint.complete


def test_a_token_that_was_forbidden_loses_the_answer_for_good(
    vocabulary: Vocabulary, compile: Compile
) -> None:
    constraint = compile("regex", "abc")
    (wrong, *_) = vocabulary.tokenize("z", add_special=False, parse_special=False)
    with pytest.raises(ConstraintFailed):
        constraint.accept(wrong)
    with pytest.raises(ConstraintFailed):
        constraint.forbidden()


def test_answers_of_one_grammar_go_their_own_ways(vocabulary: Vocabulary, compile: Compile) -> None:
    one, other = compile("regex", "ab|cd"), compile("regex", "ab|cd")
    (token, *_) = vocabulary.tokenize("cd", add_special=False, parse_special=False)
    one.accept(token)
    assert not other.forbidden()[token]


def test_a_grammar_that_was_given_up_before_its_turn_is_not_compiled(
    vocabulary: Vocabulary,
) -> None:
    compiler = Compiler(vocabulary)
    with closing(compiler):
        futures = [compiler.compile(Grammar("regex", "a")) for _ in range(50)]
        given_up = [future for future in futures[10:] if future.cancel()]
        assert given_up
        assert all(not future.result(60).complete for future in futures[:3])


def test_nothing_is_read_and_no_thread_runs_before_it_is_needed(vocabulary: Vocabulary) -> None:
    before = set(threading.enumerate())
    compiler = Compiler(vocabulary)
    assert set(threading.enumerate()) == before
    compiler.begin()
    compiler.begin()
    assert len(set(threading.enumerate()) - before) == 2
    compiler.close()
    assert set(threading.enumerate()) == before


def test_without_memory_for_threads_grammars_are_refused(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("can't start new thread")

    compiler = Compiler(vocabulary)
    usual = threading.stack_size()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        with pytest.raises(GrammarRefused, match="no memory"):
            compiler.compile(Grammar("regex", "a")).result(0)
    assert threading.stack_size() == usual
    with closing(compiler):
        assert not compiler.compile(Grammar("regex", "ab")).result(60).complete


def test_a_vocabulary_that_cannot_be_read_refuses_every_grammar(vocabulary: Vocabulary) -> None:
    class Broken:
        pieces: list[bytes] = [b"x" * 5000]  # noqa: RUF012 - longer than llguidance takes
        spelled = pieces
        ends = suppressed = np.array([], np.int32)
        tokenizer_addresses = vocabulary.tokenizer_addresses

    with closing(Compiler(Broken())) as compiler:
        for _ in range(2):
            with pytest.raises(GrammarRefused, match="This model cannot"):
                compiler.compile(Grammar("regex", "a")).result(60)


def test_the_module_is_loaded_without_llguidance() -> None:
    code = "import sys, gguf_worker.engine.loop.server; print('llguidance' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
