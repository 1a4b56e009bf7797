"""Bodies and connections that are giant, broken, slow, or dropped."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from tests.soak.attempts import Attempt, Load, head, posted
from tests.soak.grammars import fresh_schemas, schemas
from tests.soak.samplers import generate, many_answers, many_breakers
from tests.soak.texts import BODIES, TEXTS, Target, text_attempt

_CHAT = "/v1/chat/completions"
_MIB = 2**20


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def giant(target: Target, chance: Random) -> Attempt:
    """A body near the limit of 32 MiB, or beyond."""
    size = chance.choice((8, 31, 33, 64)) * _MIB
    route = chance.choice((_CHAT, "/tokenize", "/v1/embeddings"))
    content = "sea " * (size // 4)
    return posted(route, BODIES[route](content), f"{size // _MIB} MiB to {route}")


def many_messages(target: Target, chance: Random) -> Attempt:
    count = chance.choice((500, 4096, 4097, 200_000))
    messages = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(count)]
    return posted(_CHAT, {"messages": messages, "max_tokens": 4}, f"{count} messages")


def many_parts(target: Target, chance: Random) -> Attempt:
    count = chance.choice((1024, 1025, 100_000))
    kind = chance.choice(({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}))
    body = {"messages": [_user([kind] * count)], "max_tokens": 4}
    return posted(_CHAT, body, f"{count} parts, {kind['type']}")


def wide(target: Target, chance: Random) -> Attempt:
    """A body of very many objects, lists or fields."""
    count = chance.choice((9_000, 100_001, 1_000_000))
    odd: Any = chance.choice(([{}] * count, [[]] * count, dict.fromkeys(map(str, range(count)), 0)))
    body = {"messages": [_user("Hello")], "max_tokens": 4, "metadata": odd}
    return posted(_CHAT, body, f"{count} objects in a field")


def deep(target: Target, chance: Random) -> Attempt:
    levels = chance.choice((199, 201, 5_000, 1_000_000))
    opened, closed = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inner = opened * levels + b"1" + closed * levels
    field = chance.choice((b"messages", b"metadata", b"tools", b"response_format", b"guided_json"))
    return posted(_CHAT, b'{"' + field + b'":' + inner + b"}", f"{levels} levels of {field!r}")


def template_options(target: Target, chance: Random) -> Attempt:
    options: Any = chance.choice(
        (
            {"messages": "x" * 60_000},
            {"a": "x" * 70_000},
            {"add_generation_prompt": [[[]]]},
            {"eos_token": "x" * 1000, "bos_token": 10**30},
        )
    )
    body = {"messages": [_user("Hello")], "chat_template_kwargs": options, "max_tokens": 4}
    return posted(_CHAT, body, "options of the template")


_BROKEN: Mapping[str, bytes] = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"1",
    "half a body": b'{"messages": [{"role": "user", "cont',
    "no numbers": b'{"temperature": NaN, "top_p": Infinity}',
    "a number too large": b'{"prompt": "a", "temperature": 1e400}',
    "a number of 100,000 digits": b'{"prompt": "a", "max_tokens": ' + b"9" * 100_000 + b"}",
    "a number of small digits": b'{"prompt": "a", "temperature": 0.' + b"0" * 100_000 + b"1}",
    "no UTF-8": b'{"prompt": "\xff\xfe\x80"}',
    "half a pair": b'{"prompt": "\\ud83d"}',
    "a null in a name": b'{"prompt\\u0000": "a"}',
    "the same key twice": b'{"prompt": "a", "prompt": ["b"], "max_tokens": 1, "max_tokens": "x"}',
    "a long name": b'{"prompt": "a", "' + b"k" * 1_000_000 + b'": 1}',
    "another type": b'{"prompt": {"a": 1}, "max_tokens": [1]}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "packed": gzip.compress(b'{"prompt": "a"}' * 1000),
}


def broken(target: Target, chance: Random) -> Attempt:
    name, data = chance.choice(sorted(_BROKEN.items()))
    return posted("/v1/completions", data, f"broken: {name}")


def odd_heads(target: Target, chance: Random) -> Attempt:
    """Heads that lie, are too long, or are no HTTP."""
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    route = "/v1/completions"
    heads = {
        "a length too short": head(route, 5) + body,
        "a length too long": head(route, 10**6) + body,
        "a negative length": head(route, -1) + body,
        "two lengths": head(route, len(body), {"content-length": "3"}) + body,
        "a long header": head(route, len(body), {"X": "a" * 40_000}) + body,
        "many headers": head(route, len(body), {f"X{n}": "a" for n in range(2000)}) + body,
        "a wrong key": head(route, len(body), {"Authorization": "Bearer no"}) + body,
        "another type": head(route, len(body), {"Content-Type": "text/plain"}) + body,
        "said to be packed": head(route, len(body), {"Content-Encoding": "gzip"}) + body,
        "no route": head("/v1/nothing", len(body)) + body,
        "odd chunks": head(route, 0, {"Content-Length": "", "Transfer-Encoding": "chunked"})
        + b"fffffffffffffffff\r\n",
        "one endless chunk": head(route, 0, {"Content-Length": "", "Transfer-Encoding": "chunked"})
        + b"ffffff\r\n"
        + b" " * 100_000,
        "no HTTP": chance.randbytes(2000),
        "a thousand at once": head(route, len(body), {"Connection": ""}) * 20,
    }
    name, data = chance.choice(sorted(heads.items()))
    return Attempt(f"head: {name}", data, Load(route), leave_after=3.0)


def slow(target: Target, chance: Random) -> Attempt:
    """A body that comes byte by byte."""
    return dataclasses.replace(
        generate("byte by byte"), piece=chance.choice((1, 7)), pause=0.05, leave_after=4.0
    )


Make = Callable[[Target, Random], Attempt]


def _any_text(target: Target, chance: Random) -> Attempt:
    return text_attempt(chance.choice(TEXTS), target, chance)


def _long_answer(target: Target, chance: Random) -> Attempt:
    return generate("a long answer", max_tokens=1000, stream=chance.random() < 0.7)


_TO_LEAVE: tuple[Make, ...] = (
    _any_text,
    _long_answer,
    many_answers,
    many_breakers,
    schemas,
    fresh_schemas,
    giant,
    many_messages,
)


def dropped(target: Target, chance: Random) -> Attempt:
    """A request of any kind whose client leaves at any moment."""
    attempt = chance.choice(_TO_LEAVE)(target, chance)
    stay = chance.choice((0.001, 0.05, 0.5, 2.0)) * chance.random()
    return dataclasses.replace(attempt, label=f"left: {attempt.label}", leave_after=stay)
