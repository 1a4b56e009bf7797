"""Answers of the demo model, by a real engine process: held to grammars, with log probabilities,
and free ones beside them."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.engine.cells.unified import Trim
from gguf_worker.engine.drawing.logprobs import token_logprob
from gguf_worker.engine.llama.context import Llama, Logits
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.messages import Delta, EngineRequest, EngineSpec
from gguf_worker.engine.parent.answer_stream import AnswerStream
from gguf_worker.engine.parent.client import EngineClient
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import (
    Grammar,
    Outline,
    Phase,
    PhaseMark,
    Sampling,
    TokenLogprob,
)

pytestmark = pytest.mark.llama

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=1.0, seed=7)
PROMPT = "<|im_start|>user\nTell me about a person, as JSON.<|im_end|>\n<|im_start|>assistant\n"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["tea", "chess", "rain"]}, "maxItems": 3},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def spec(demo_model: Path) -> EngineSpec:
    return EngineSpec(path=str(demo_model), context=512, sequences=4, threads=2)


@pytest.fixture(scope="module")
def engine(spec: EngineSpec) -> Iterator[EngineClient]:
    client = EngineClient(spec, observe=lambda _: None)
    client.start()
    yield client
    client.close()


async def read(stream: AnswerStream) -> tuple[str, Delta, list[TokenLogprob]]:
    """All of its text, the last delta, and the log probabilities of all its tokens."""
    text = ""
    logprobs: list[TokenLogprob] = []
    async with asyncio.timeout(120):
        async for delta in stream:
            text += delta.text
            logprobs += delta.logprobs
            assert len(delta.logprobs) in (0, delta.tokens)
    return text, delta, logprobs


async def answer(engine: EngineClient, **more: Any) -> str:
    settings: dict[str, Any] = {"prompt": PROMPT, "sampling": GREEDY, "max_tokens": 120}
    text, last, _ = await read(engine.submit(EngineRequest(**(settings | more))))
    assert last.finish == "stop", text
    return text


def schema(document: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(document))


def check(person: Any) -> None:
    assert list(person) == ["name", "age", "likes"]
    assert len(person["name"]) <= 20
    assert 1 <= person["age"] <= 120
    assert set(person["likes"]) <= {"tea", "chess", "rain"}


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
async def test_an_answer_held_to_a_schema_is_a_document_of_it(
    engine: EngineClient, sampling: Sampling
) -> None:
    check(json.loads(await answer(engine, grammar=schema(PERSON), sampling=sampling)))


@pytest.mark.parametrize(
    "more",
    [
        {"typical_p": 0.5},
        {"mirostat": 1},
        {"mirostat": 2},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"top_n_sigma": 1.0},
        {"top_k": 0, "top_p": 0.5, "min_p": 0.0},
        {"top_k": 0, "min_p": 0.2},
        {"repeat_penalty": 1.5},
        {"dry_multiplier": 0.8},
        {"dynatemp_range": 0.5},
        {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    ],
    ids=lambda more: " ".join(more),
)
async def test_every_sampler_keeps_to_the_mask(engine: EngineClient, more: dict[str, Any]) -> None:
    sampling = Sampling(**{"temperature": 1.0, "seed": 3, **more})
    check(json.loads(await answer(engine, grammar=schema(PERSON), sampling=sampling)))


async def test_an_answer_held_to_a_regex_matches_it(engine: EngineClient) -> None:
    pattern = r"(Monday|Friday), \d{1,2}:[0-5]\d"
    assert re.fullmatch(pattern, await answer(engine, grammar=Grammar("regex", pattern)))


async def test_an_answer_held_to_a_lark_grammar_matches_it(engine: EngineClient) -> None:
    lark = 'start: "sum(" n ("," n){0,3} ")"\nn: /[0-9]{1,3}/'
    text = await answer(engine, grammar=Grammar("lark", lark))
    assert re.fullmatch(r"sum\([0-9]{1,3}(,[0-9]{1,3}){0,3}\)", text)


async def test_a_stop_string_ends_a_constrained_answer(engine: EngineClient) -> None:
    assert (
        await answer(engine, grammar=Grammar("regex", "one two three"), stop=(" thr",)) == "one two"
    )


async def test_a_refusal_names_the_keyword_and_the_engine_goes_on(engine: EngineClient) -> None:
    with pytest.raises(InvalidRequest, match="uniqueItems") as caught:
        await answer(engine, grammar=schema({"type": "array", "uniqueItems": True}))
    assert caught.value.param == "grammar"
    assert await answer(engine, grammar=Grammar("regex", "fine")) == "fine"


async def test_constrained_and_free_streams_run_together(engine: EngineClient) -> None:
    free: dict[str, Any] = {
        "prompt": "The capital of France is",
        "sampling": GREEDY,
        "max_tokens": 24,
    }

    async def text_of(**more: Any) -> str:
        return (await read(engine.submit(EngineRequest(**(free | more)))))[0]

    alone = await text_of()
    held: dict[str, Any] = {
        "prompt": PROMPT,
        "max_tokens": 120,
        "grammar": schema(PERSON),
        "sampling": WARM,
    }
    *persons, one, other = await asyncio.gather(
        text_of(**held), text_of(**held), text_of(), text_of()
    )
    for person in persons:
        check(json.loads(person))
    assert one[:20] == other[:20] == alone[:20]


async def test_an_answer_given_up_while_its_grammar_is_compiled_leaves_the_engine_in_order(
    engine: EngineClient,
) -> None:
    many = {f"p{n}": {"type": "string", "maxLength": n} for n in range(2000)}
    slow = schema({"type": "object", "properties": many, "additionalProperties": False})
    streams = [engine.submit(EngineRequest(PROMPT, GREEDY, grammar=slow)) for _ in range(3)]
    await asyncio.sleep(0.01)  # nothing tells when the engine has begun to compile
    for stream in streams:
        stream.close()
    assert await answer(engine, grammar=Grammar("regex", "done")) == "done"


# Log probabilities


@pytest.fixture(scope="module")
def llama(spec: EngineSpec) -> Iterator[Llama]:
    with closing(
        Llama(spec, progress=lambda _: None, beat=lambda: None, log=lambda _: None)
    ) as llama:
        yield llama


THOUGHT = Outline(
    (
        Phase("content", (PhaseMark("<think>", 1, first=True),)),
        Phase("thought", (PhaseMark("</think>", 0),)),
    ),
    begin=1,
    closings=("</think>",),
)
"""Marks that are no tokens of the model's vocabulary."""
SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repeat_penalty": 1.3},
    {"temperature": 1.0},
    {"temperature": 1.0, "mirostat": 2},
    {"temperature": 1.0, "xtc_probability": 1.0, "dry_multiplier": 0.8},
]


@pytest.mark.parametrize("sampling", SAMPLERS)
async def test_a_thought_is_ended_token_by_token_whatever_draws_them(
    engine: EngineClient, sampling: dict[str, Any]
) -> None:
    text, last, logprobs = await read(
        engine.submit(
            EngineRequest(
                PROMPT,
                Sampling(seed=3, **sampling),
                max_tokens=40,
                logprobs=0,
                ignore_eos=True,
                outline=THOUGHT,
                thought_budget=6,
            )
        )
    )
    thought, _, content = text.partition("</think>")
    assert thought
    assert content
    assert last.usage is not None
    assert last.usage.reasoning_tokens == 6
    assert len(logprobs) == last.usage.completion_tokens == 40
    assert b"".join(each.piece for each in logprobs[:6]).decode() == thought


async def test_a_grammar_begins_behind_a_thought_that_was_ended(engine: EngineClient) -> None:
    lark = 'start: thought @inner\nTEXT: /(?s:.*)/\nthought[lazy]: TEXT "</think>"\n'
    grammar = Grammar("lark", lark, schema(PERSON))
    text = await answer(engine, grammar=grammar, outline=THOUGHT, thought_budget=6)
    thought, _, document = text.partition("</think>")
    assert thought
    assert set(json.loads(document)) == {"name", "age", "likes"}


async def test_log_probabilities_are_those_of_the_model_over_the_tokens_before(
    engine: EngineClient, llama: Llama
) -> None:
    prompt = llama.vocabulary.tokenize(
        "The capital of France is", add_special=True, parse_special=True
    )
    _, last, reported = await read(
        engine.submit(EngineRequest(prompt, GREEDY, max_tokens=8, logprobs=5))
    )
    assert last.usage is not None
    assert len(reported) == last.usage.completion_tokens == 8
    tokens = [*prompt, *(each.token for each in reported)]
    for at, each in enumerate(reported):
        own = token_logprob(
            logits_after(llama, tokens[: len(prompt) + at]), each.token, 5, llama.vocabulary.spelled
        )
        assert each.logprob == pytest.approx(own.logprob, abs=0.2)
        assert each.token == each.top[0][0], "greedy draws the likeliest"
        values = [value for _, _, value in each.top]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-6


def logits_after(llama: Llama, tokens: list[int]) -> Logits:
    sequence = Sequence.of(1, tokens, 1)
    sequence.slot = 0
    code, _ = llama.decode([Chunk(sequence, 0, len(tokens), True)])
    assert code == 0
    logits: Logits = llama.logits(1)[0].copy()
    llama.arrange([Trim(0, 0)])
    return logits


async def test_their_bytes_are_the_text(engine: EngineClient) -> None:
    text, _, reported = await read(
        engine.submit(EngineRequest("Emoji: 🌊", WARM, max_tokens=12, logprobs=0, ignore_eos=True))
    )
    assert b"".join(each.piece for each in reported).decode("utf-8", "replace") == text
    assert all(each.top == () for each in reported)


# Special tokens and questions


async def test_special_tokens_are_shown_where_that_is_wanted(engine: EngineClient) -> None:
    grammar = Grammar("lark", 'start: <|im_start|> "x"')
    assert await answer(engine, grammar=grammar, show_special=True) == "<|im_start|>x"
    assert await answer(engine, grammar=grammar) == "x"


@pytest.mark.parametrize("text", ["", "the sea", "deniz 🌊 ığüş 海", "<|im_start|>a<|im_end|>"])
async def test_a_text_comes_back_from_its_tokens(engine: EngineClient, text: str) -> None:
    tokens = await engine.tokenize(text)
    assert await engine.detokenize(tokens) == text


async def test_special_tokens_of_a_text_are_read_as_wanted(engine: EngineClient) -> None:
    assert len(await engine.tokenize("<|im_start|>")) == 1
    assert len(await engine.tokenize("<|im_start|>", parse_special=False)) > 1
