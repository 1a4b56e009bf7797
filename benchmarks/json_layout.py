"""What a model puts into lists, by the white space that JSON may have.

The engine is the real process with a real model, which is asked for lists in answers held to a
schema. A model that is used to JSON over several lines may close a list at once if it may not break
the line.

    python -m benchmarks.json_layout [MODEL] [--seeds N]        prints a table
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.demo_model import ensure
from gguf_worker.engine import EngineClient, EngineRequest, EngineSpec
from gguf_worker.generation import Grammar, Sampling
from tests.paths import DEMO_MODEL

COMPACT = {
    "whitespace_flexible": False,
    "whitespace_pattern": None,
    "item_separator": ",\\x20?",
    "key_separator": ":\\x20?",
}
LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "one space": COMPACT,
    "a line break too": {**COMPACT, "whitespace_pattern": "\\n"},
    "and 32 spaces after it": {**COMPACT, "whitespace_pattern": "\\n\\x20{0,32}"},
    "any white space": {"whitespace_flexible": True},
}
TEXTS = {"type": "array", "items": {"type": "string"}}


def _record(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


STEPS = {"type": "array", "items": _record(step={"type": "string"}, minutes={"type": "integer"})}
NAME = {"type": "string"}
PEOPLE = {"type": "array", "items": _record(name=NAME)}
TASKS: Sequence[tuple[str, dict[str, Any]]] = (
    ("List five fruits as JSON.", _record(fruits=TEXTS)),
    ("Give me the ingredients of pancakes as JSON.", _record(name=NAME, ingredients=TEXTS)),
    ("Write the steps of making tea as JSON, each with its minutes.", _record(steps=STEPS)),
    ("Name three cities in France and in Italy, as JSON.", _record(france=TEXTS, italy=TEXTS)),
    (
        "Extract the people from this text as JSON: Ada met Bob and Carol in London.",
        _record(people=PEOPLE, place=NAME),
    ),
    ("Return the tags for an article about cats in JSON.", _record(title=NAME, tags=TEXTS)),
)
_MOST_TOKENS = 300


@dataclass(frozen=True, slots=True)
class LayoutFigures:
    """What came of one layout: lists, those without an item, items, answers cut off, tokens."""

    lists: int
    empty: int
    items: int
    cut: int
    tokens: int


async def measure(model: Path, seeds: int) -> dict[str, LayoutFigures]:
    """Return the figures of each layout."""
    spec = EngineSpec(path=str(model), context=1024, sequences=4, threads=2)
    client = EngineClient(spec, observe=lambda _: None)
    with closing(client):
        await asyncio.to_thread(client.start)
        figures = {}
        for name, layout in LAYOUTS.items():
            print(name, file=sys.stderr)
            answers = [
                await answer
                for seed in range(seeds)
                for answer in asyncio.as_completed(
                    [_answer(client, prompt, schema, layout, seed) for prompt, schema in TASKS]
                )
            ]
            figures[name] = _summed(answers)
        return figures


async def _answer(
    client: EngineClient, text: str, schema: Any, layout: Mapping[str, Any], seed: int
) -> tuple[str, int]:
    grammar = Grammar("json_schema", json.dumps({**schema, "x-guidance": layout}))
    request = EngineRequest(
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n",
        Sampling(seed=seed),
        max_tokens=_MOST_TOKENS,
        grammar=grammar,
    )
    said, tokens = "", 0
    async for delta in client.submit(request):
        said += delta.text
        tokens = delta.usage.completion_tokens if delta.usage else tokens
    return said, tokens


def _summed(answers: Sequence[tuple[str, int]]) -> LayoutFigures:
    lists: list[list[Any]] = []
    cut = 0
    for text, _ in answers:
        try:
            document = json.loads(text)
        except ValueError:
            cut += 1
            continue
        lists += [each for each in document.values() if isinstance(each, list)]
    return LayoutFigures(
        lists=len(lists),
        empty=sum(not each for each in lists),
        items=sum(map(len, lists)),
        cut=cut,
        tokens=sum(tokens for _, tokens in answers),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    if options.model is None:
        ensure(DEMO_MODEL)
    figures = asyncio.run(measure(options.model or DEMO_MODEL, options.seeds))
    print("| white space | lists | empty | items a list | answers cut | tokens |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, each in figures.items():
        mean = each.items / max(1, each.lists)
        print(f"| {name} | {each.lists} | {each.empty} | {mean:.1f} | {each.cut} | {each.tokens} |")


if __name__ == "__main__":
    main()
