"""Texts that are hard to tokenise, and the requests that carry them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.soak.attempts import Attempt, posted

UNITS: Mapping[str, Mapping[str, str]] = {
    "letters": {
        "letters": "a",
        "capitals": "A",
        "mixed case": "aB",
        "camel case": "CamelCase",
        "accents": "é",
    },
    "blanks": {
        "spaces": " ",
        "tabs": "\t",
        "newlines": "\n",
        "blank lines": " \n",
        "carriage returns": "\r\n",
        "words": "word ",
        "indented lines": "    x\n",
    },
    "marks": {
        "dots": ".",
        "marks": "!?",
        "slashes": "/\\",
        "underscores": "_",
        "apostrophes": "'s",
        "contractions": "I'LL",
        "tags": "<a>",
    },
    "digits": {
        "digits": "7",
        "numbers": "1,2.",
    },
    "scripts": {
        "CJK": "海",
        "kana": "うみ",
        "hangul": "바다",
        "Thai": "ทะเล",
        "Arabic": "بحر",
        "Devanagari": "क्ष",
    },
    "signs": {
        "letters with marks": "e\u0301",
        "marks alone": "\u0301",
        "emojis": "\U0001f469\u200d\U0001f680",
        "flags": "\U0001f1f9\U0001f1f7",
        "letters of other planes": "\U0001d54f",
    },
    "odd characters": {
        "no width": "\u200b",
        "right to left": "\u202e",
        "nulls": "\0",
        "escapes": "\x1b[",
        "byte order marks": "\ufeff",
        "non-characters": "\uffff",
        "private use": "\ue000",
        "replacements": "\ufffd",
        "halves of pairs": "\ud83d",
    },
}
"""What a text repeats, by group and name. JSON can spell halves of pairs; no text has them."""


@dataclass(frozen=True, slots=True)
class Target:
    """The worker that is asked, as far as requests differ by it.

    `marks`: spellings of its special tokens. `context`: tokens that a request may hold.
    `most`: characters of the longest text that it is sent.
    """

    marks: tuple[str, ...]
    context: int
    most: int


def _noise(chance: Random, size: int) -> str:
    return "".join(chr(chance.randrange(32, 0xD800)) for _ in range(size))


def _random_letters(chance: Random, size: int) -> str:
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=size))


def _base64(chance: Random, size: int) -> str:
    return base64.b64encode(chance.randbytes(size * 3 // 4)).decode()


_DRAWN: Mapping[str, Callable[[Random, int], str]] = {
    "noise": _noise,
    "random letters": _random_letters,
    "base64": _base64,
}
_SPELLED, _UNFINISHED = "spelled marks", "unfinished marks"
GROUPS: Mapping[str, tuple[str, ...]] = {
    **{group: tuple(units) for group, units in UNITS.items()},
    "drawn": tuple(_DRAWN),
    "special tokens": (_SPELLED, _UNFINISHED),
}
"""The names of texts, by group."""
TEXTS = tuple(name for names in GROUPS.values() for name in names)
_UNIT = {name: unit for units in UNITS.values() for name, unit in units.items()}


def text(name: str, size: int, target: Target, chance: Random) -> str:
    """Return the text of this name with about `size` characters."""
    if name in _DRAWN:
        return _DRAWN[name](chance, size)
    mark = chance.choice(target.marks)
    unit = {_SPELLED: mark, _UNFINISHED: mark[:-1]}.get(name) or _UNIT[name]
    return unit * (size // len(unit) + 1)


def _size(target: Target, chance: Random) -> int:
    """Return a length: one that the context takes, some that it doesn't, and the longest."""
    sizes = (target.context // 2, 30_000, 200_000, target.most)
    return min(target.most, chance.choice(sizes))


def _chat(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


BODIES: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "/tokenize": lambda prompt: {"prompt": prompt},
    "/v1/completions": lambda prompt: {"prompt": prompt, "max_tokens": 4},
    "/v1/chat/completions": lambda prompt: {"messages": _chat(prompt), "max_tokens": 4},
    "/v1/messages": lambda prompt: {"messages": _chat(prompt), "max_tokens": 4},
    "/v1/messages/count_tokens": lambda prompt: {"messages": _chat(prompt)},
    "/v1/responses": lambda prompt: {"input": prompt, "max_output_tokens": 16},
    "/v1/embeddings": lambda prompt: {"input": prompt},
    "/v1/rerank": lambda prompt: {"query": prompt, "documents": [prompt[:1000]]},
}
"""The body that has a route read a text, by route."""


def text_attempt(name: str, target: Target, chance: Random) -> Attempt:
    """Return a request to one of the routes with the text of this name, of any length."""
    size, route = _size(target, chance), chance.choice(tuple(BODIES))
    content = text(name, size, target, chance)
    return posted(route, BODIES[route](content), f"{size} {name} to {route}")
