"""Bodies nobody would write: a call ends once, and a failure is one that has a name."""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import pytest

from gguf_worker.api.routes import GENERATE, ROUTES
from gguf_worker.api.writing import Body, Failed
from gguf_worker.errors import ERRORS_BY_CODE, RequestError
from gguf_worker.events import Outcome
from gguf_worker.providers import GenerationRequest, Part
from tests.api_doors import Bench, call
from tests.fakes import ScriptedProvider, answers

BODIES = 10_000
POST_PATHS = [path for route in ROUTES if "POST" in route.methods for path in route.paths]
PATHS = (*POST_PATHS, GENERATE)

FUNCTION = {
    "name": "weather",
    "description": "Of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
SAMPLING = {"temperature": 0.5, "top_k": 4, "seed": 3, "logit_bias": {"5": 1}, "top_p": 0.9}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "rain"},
    {"role": "user", "content": "Hi"},
]

VALID: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": TURNS, "tools": [TOOL], "tool_choice": "auto", "stream": True, **SAMPLING},
        {"messages": TURNS, "tools": [TOOL], "tool_choice": TOOL, "n": 2, "user": "u"},
        {
            "messages": TURNS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}},
            },
            "logprobs": True,
            "top_logprobs": 2,
            "chat_template_kwargs": {"enable_thinking": True},
        },
        {"messages": TURNS, "structured_outputs": {"choice": ["a", "b"]}, "max_tokens": 5},
    ],
    "/v1/completions": [
        {"prompt": "Hi", "stream": True, "stream_options": {"include_usage": True}, **SAMPLING},
        {"prompt": ["Hi", [1, 2]], "n": 2, "best_of": 2, "stop": ["x"], "echo": True},
        {"prompt": [1, 2], "logprobs": 2, "guided_json": '{"type": "object"}', "priority": "low"},
        {"prompt": "Hi", "suffix": "there", "grammar": 'start: "a"', "model": "demo"},
    ],
    "/v1/responses": [
        {"input": "Hi", "instructions": "Be brief.", "stream": True, "metadata": {"a": "b"}},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                {"type": "reasoning", "summary": [{"text": "Hm"}]},
                {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "rain"},
            ],
            "tools": [{"type": "function", **FUNCTION}],
            "tool_choice": {"type": "function", "name": "weather"},
            "max_output_tokens": 5,
            "reasoning": {"effort": "low"},
            "parallel_tool_calls": False,
        },
        {
            "input": "Hi",
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
        },
    ],
    "/v1/messages": [
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "stream": True},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm"},
                        {"type": "tool_use", "id": "c", "name": "weather", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "c", "content": "rain"}],
                },
            ],
            "max_tokens": 5,
            "system": [{"type": "text", "text": "Be brief."}],
            "stop_sequences": ["x"],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "tool", "name": "weather"},
            "thinking": {"type": "enabled", "budget_tokens": 5},
            "output_config": {"effort": "low"},
            "metadata": {"user_id": "u"},
            "context_management": {"edits": [{"keep": "all"}]},
        },
    ],
    "/tokenize": [
        {"prompt": "Hi", "add_special_tokens": True, "model": "demo"},
        {"content": "Hi", "add_special": False},
        {"messages": TURNS, "tools": [TOOL]},
    ],
    "/detokenize": [{"tokens": [1, 2, 3], "model": "demo"}],
    "/v1/embeddings": [
        {"input": "Hi", "model": "demo", "encoding_format": "base64", "user": "u"},
        {"input": ["Hi", "there"], "encoding_format": "float", "dimensions": 2},
        {"input": [[1, 2], [3]], "normalize": True, "embd_normalize": 2},
        {"input": [1, 2]},
    ],
    "/v1/rerank": [
        {"query": "Hi", "documents": ["a", "bc", {"text": "d", "title": "x"}], "model": "demo"},
        {
            "query": "Hi",
            "documents": ["a", "b"],
            "top_n": 1,
            "return_documents": False,
            "user": "u",
        },
    ],
    "/api/chat": [
        {"messages": [{"role": "user", "content": "Hi"}], "model": "demo:latest"},
        {
            "messages": [
                {"role": "user", "content": "Hi", "images": ["aGk="]},
                {
                    "role": "assistant",
                    "thinking": "Hm",
                    "tool_calls": [{"function": {"name": "weather", "arguments": {"a": 1}}}],
                },
                {"role": "tool", "tool_name": "weather", "content": "rain"},
                {"role": "user", "content": "Hi"},
            ],
            "tools": [TOOL],
            "options": {"num_ctx": 1, "num_predict": 5, "stop": ["x"], "temperature": 0.5},
            "think": True,
            "keep_alive": "5m",
            "stream": False,
        },
        {"messages": [{"role": "user", "content": "Hi"}], "format": {"type": "object"}},
    ],
    "/api/generate": [
        {"prompt": "Hi", "system": "Be brief.", "format": "json", "logprobs": True},
        {"prompt": "Hi", "raw": True, "suffix": "there", "options": SAMPLING, "stream": False},
    ],
    "/api/embed": [{"input": ["Hi", "there"], "truncate": True, "dimensions": 2}],
    "/api/embeddings": [{"prompt": "Hi", "options": {}, "keep_alive": 0}],
    "/api/show": [{"model": "demo", "verbose": True}],
    "/api/pull": [{"name": "demo", "stream": False, "insecure": False}],
    GENERATE: [
        {"prompt": "Hi", "sampling_params": SAMPLING, "timeout": 5},
        {"messages": TURNS, "stream": True, "logprobs": True},
    ],
}
VALID["/v1/messages/count_tokens"] = VALID["/v1/messages"]
VALID |= {path: VALID[route.path] for route in ROUTES for path in route.aliases}

FIELDS = [field for bodies in VALID.values() for body in bodies for field in body.items()]


ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    -0.0,
    0.5,
    2**31,
    2**53 + 1,
    -(2**63),
    2**64,
    10**4000,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    " ",
    "\x00",
    "\ud800",
    "\u2028\x85",
    "5",
    "٣",
    "²",
    "none",
    "null",
    "__class__",
    "text",
    "function",
    "{}",
    "[" * 5000,
    "`messages` {text} %s \\1 \n",
    "🦙" * 50,
    "x" * 5000,
    [],
    [[]],
    {},
    {"": ""},
    {"type": "text"},
    {"type": "text", "text": "Hi"},
    {"type": []},
    {"\ud800": 1},
    {"²": 1},
    {"a": {"b": [1, {"c": "\udfff"}]}},
    [None, 1, "a", {}, []],
    list(range(2000)),
    [-1, 2**40, True, 1.5],
]
KEYS = [
    "",
    " ",
    "a.b",
    "\x00",
    "\ud800",
    "²",
    "x" * 300,
    "`n`",
    "{text}",
    "0",
    "self",
    "model_config",
]


def odd(dice: random.Random) -> Any:
    if dice.random() < 0.9:
        return copy.deepcopy(dice.choice(ODD))
    value: Any = 1
    as_list = dice.random() < 0.5
    for _ in range(dice.choice((40, 200, 900, 5000))):
        value = [value] if as_list else {"a": value}
    return value


def places(value: Any, depth: int = 8) -> list[tuple[Any, Any]]:
    """The containers in the value, each with each of its keys or indices."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 20))
    found = [(value, key) for key in keys]
    for key in keys:
        if depth and isinstance(value[key], dict | list):
            found += places(value[key], depth - 1)
    return found


def mutated(body: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    body = copy.deepcopy(body)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        where, key = dice.choice(places(body) or [(body, "messages")])
        match dice.randrange(7):
            case 0 | 1:
                where[key] = odd(dice)
            case 2 if where:
                del where[key]
            case 3:
                name, value = dice.choice(FIELDS)
                body[name] = copy.deepcopy(value)
            case 4:
                body[dice.choice(FIELDS)[0]] = odd(dice)
            case 5 if isinstance(where, dict):
                where[dice.choice(KEYS)] = odd(dice)
            case 6 if where:
                where[key] = [where[key]] * dice.choice((1, 2, 40))
    return body


class Obliging(ScriptedProvider):
    """A provider of as many answers as are asked for, which knows every token."""

    async def text(self, tokens: Sequence[int]) -> str:
        return "a" * len(tokens)

    def answer(self, generation: GenerationRequest) -> AsyncGenerator[Part, None]:
        self.script = answers(*["a"] * generation.answers)
        return super().answer(generation)


async def asked(route: str, body: dict[str, Any]) -> str:
    """A call's end, its error's code or "ok", once it was held to the rules for all of them."""
    bench = Bench(Obliging())
    replies = await bench.ask(call(route, body))
    done = bench.done
    assert replies
    assert not any(isinstance(each, Failed) for each in replies[:-1])
    last = replies[-1]
    if not isinstance(last, Failed):
        msgspec.json.encode(
            [each.data if isinstance(each, Body) else str(each) for each in replies]
        )
        assert done.outcome is not Outcome.ERROR
        return "ok"
    error = last.error
    assert isinstance(error, RequestError), (error.code, error.message)
    assert ERRORS_BY_CODE[error.code] is type(error)
    assert error.message
    assert len(error.message) < 2000
    assert set(error.public()) == {"message", "type", "param", "code"}
    msgspec.json.encode(error.public())
    assert done.outcome is Outcome.ERROR
    assert done.code == error.code
    assert (last.event is not None) == (done.stream and route != GENERATE)
    return error.code


@pytest.mark.parametrize("route", PATHS)
async def test_a_body_as_it_should_be_is_answered(route: str) -> None:
    for body in VALID[route]:
        assert await asked(route, copy.deepcopy(body)) == "ok", body


@pytest.mark.parametrize("route", PATHS)
async def test_whatever_a_body_has_it_is_answered_or_refused_by_name(route: str) -> None:
    dice = random.Random(f"gguf {route}")
    ends = set()
    for number in range(BODIES // len(PATHS)):
        body = mutated(dice.choice(VALID[route]), dice)
        try:
            ends.add(await asked(route, body))
        except AssertionError as error:
            error.add_note(f"body {number} of {route}, with the fields {sorted(body)!r}")
            raise
    assert {"ok", "invalid_request"} <= ends
