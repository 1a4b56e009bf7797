"""The local provider: its requests to the engine, and the parts that it makes of the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gguf_worker.chat import ChatTemplate, family_for
from gguf_worker.engine import Delta, EngineRequest
from gguf_worker.errors import (
    ContextLengthExceeded,
    EngineInterrupted,
    EngineUnavailable,
    InvalidRequest,
)
from gguf_worker.generation import Channel, Grammar, Sampling, TokenLogprob, Usage
from gguf_worker.providers import (
    SEEDS,
    Capabilities,
    EmbeddingRequest,
    Embeddings,
    Ended,
    Finish,
    GenerationRequest,
    Part,
    Priority,
    Ranking,
    RankingRequest,
    TextDelta,
    ToolCallDelta,
    ToolChoice,
)
from gguf_worker.providers.local import LocalProvider

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USAGE = Usage(7, 3, queue_seconds=0.1, prefill_seconds=0.2, ttft_seconds=0.3, seconds=1.3)


ScriptEntry = Delta | Exception | asyncio.Event


class ScriptedStream:
    """Gives its deltas; raises an exception among them, and waits for an event."""

    def __init__(self, *script: ScriptEntry) -> None:
        self._script = iter(script)
        self.closes = 0

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        for entry in self._script:
            if isinstance(entry, Exception):
                raise entry
            if isinstance(entry, Delta):
                return entry
            await entry.wait()
        raise StopAsyncIteration

    def close(self) -> None:
        self.closes += 1


class ScriptedEngine:
    """An engine client that notes its requests and answers with a stream for each script."""

    def __init__(
        self, *script: ScriptEntry, others: tuple[tuple[ScriptEntry, ...], ...] = ()
    ) -> None:
        self.streams = [ScriptedStream(*each) for each in (script, *others)]
        self.asked: list[tuple[str, Sampling, dict[str, Any]]] = []

    @property
    def stream(self) -> ScriptedStream:
        (stream,) = self.streams
        return stream

    async def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        return [1] * add_special + list(text.encode())

    async def detokenize(self, tokens: list[int]) -> str:
        return bytes(tokens).decode()

    async def embed(self, texts: list[str | list[int]], **more: Any) -> tuple[list[bytes], int]:
        return [f"{text} {more}".encode() for text in texts], 7

    async def rank(
        self, query: str, documents: Sequence[str], **more: Any
    ) -> tuple[list[float], int]:
        assert (query, more) == ("sea", {"deadline": 5.0})
        return [float(len(document)) for document in documents], 8

    def submit(self, request: EngineRequest, *, min_interval: float, whole: bool) -> ScriptedStream:
        given = {"min_interval": min_interval, "whole": whole}
        limits = msgspec.structs.asdict(request) | given
        assert limits.pop("add_special")
        assert limits.pop("parse_special")
        prompt, sampling = limits.pop("prompt"), limits.pop("sampling")
        self.asked.append((prompt, sampling, limits))
        if len(self.asked) > len(self.streams):
            raise EngineUnavailable("closing")
        return self.streams[len(self.asked) - 1]


def local(engine: ScriptedEngine, template: str | None = CHATML, **more: Any) -> LocalProvider:
    return LocalProvider(engine, ChatTemplate(template, "", ""), **more)  # type: ignore[arg-type]


def several(*scripts: tuple[ScriptEntry, ...]) -> ScriptedEngine:
    return ScriptedEngine(*scripts[0], others=scripts[1:])


def end(reason: str = "stop", usage: Usage = USAGE) -> Delta:
    return Delta(1, finish=reason, usage=usage)


async def answered(engine: ScriptedEngine, request: GenerationRequest) -> list[Part]:
    return [part async for part in local(engine).answer(request)]


def request_for(n: int, **more: Any) -> GenerationRequest:
    return GenerationRequest("r", Sampling(), ("Hi",), n=n, **more)


async def test_a_prompt_goes_to_the_engine_as_it_is_with_its_limits() -> None:
    engine = ScriptedEngine(Delta(1, finish="stop", usage=USAGE))
    sampling = Sampling(temperature=0.1)
    limits: dict[str, Any] = {
        "max_tokens": 5, "stop": ("x",), "ignore_eos": True, "deadline": 9.0, "user": "ayşe"
    }  # fmt: skip
    request = GenerationRequest("r", sampling, ("Hi",), priority=Priority.HIGH, **limits)
    _ = [part async for part in local(engine, reuse_points=True).answer(request)]
    limits |= {
        "priority": 2,
        "reuse_points": (),
        "min_interval": 0.0,
        "whole": False,
        "grammar": None,
        "logprobs": -1,
    }
    limits["show_special"] = False
    assert engine.asked == [("Hi", sampling, limits)]


async def test_messages_are_written_down_with_the_models_template() -> None:
    engine = ScriptedEngine(Delta(1, finish="stop", usage=USAGE))
    request = GenerationRequest("r", Sampling(), messages=({"role": "user", "content": "Hi"},))
    _ = [part async for part in local(engine).answer(request)]
    assert engine.asked[0][0] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


async def test_parts_come_as_the_deltas_do_and_the_end_carries_the_usage() -> None:
    engine = ScriptedEngine(
        Delta(1, "The ", 1), Delta(1, "sea", 2), Delta(1, ".", 1, finish="length", usage=USAGE)
    )
    answer = [
        part async for part in local(engine).answer(GenerationRequest("r", Sampling(), ("Hi",)))
    ]
    *deltas, finish = answer
    assert deltas == [TextDelta("The ", 1), TextDelta("sea", 2), TextDelta(".", 1)]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.usage.prompt_tokens) == ("length", 7)
    assert finish.usage.tokens_per_second == pytest.approx(2.0)


async def test_an_end_without_text_is_no_text_delta() -> None:
    engine = ScriptedEngine(Delta(1, finish="stop", usage=USAGE))
    answer = [
        part async for part in local(engine).answer(GenerationRequest("r", Sampling(), ("Hi",)))
    ]
    assert [type(part) for part in answer] == [Finish]


async def test_closing_the_answer_early_closes_the_stream() -> None:
    engine = ScriptedEngine(Delta(1, "a", 1), Delta(1, "b", 1))
    answer = local(engine).answer(GenerationRequest("r", Sampling(), ("Hi",)))
    await anext(answer)
    assert engine.stream.closes == 0
    await answer.aclose()
    assert engine.stream.closes == 1


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (GenerationRequest("r", Sampling(), ("Hi",)), "prompt"),
        (
            GenerationRequest("r", Sampling(), messages=({"role": "user", "content": "Hi"},)),
            "messages",
        ),
    ],
)
async def test_a_too_long_prompt_names_the_field_that_the_caller_wrote(
    sent: GenerationRequest, param: str
) -> None:
    engine = ScriptedEngine(ContextLengthExceeded("too long", param="prompt"))
    with pytest.raises(ContextLengthExceeded) as error:
        _ = [part async for part in local(engine).answer(sent)]
    assert error.value.param == param
    assert engine.stream.closes == 1


async def test_a_chat_without_a_template_never_reaches_the_engine() -> None:
    engine = ScriptedEngine()
    request = GenerationRequest("r", Sampling(), messages=({"role": "user", "content": "Hi"},))
    with pytest.raises(InvalidRequest, match="no chat template"):
        _ = [part async for part in local(engine, None).answer(request)]
    assert engine.asked == []


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_engine_gets_a_chats_reuse_points_only_if_its_memory_needs_them(
    wanted: bool,
) -> None:
    engine = ScriptedEngine(end())
    request = GenerationRequest("r", Sampling(), messages=({"role": "user", "content": "Hi"},))
    _ = [part async for part in local(engine, reuse_points=wanted).answer(request)]
    prompt, _, limits = engine.asked[0]
    assert [prompt[at:] for at in limits["reuse_points"]] == ["<|im_start|>assistant\n"] * wanted


async def test_several_answers_are_as_many_requests_that_differ_in_their_seed_only() -> None:
    engine = several(*[(end(),)] * 3)
    request = dataclasses.replace(request_for(3, max_tokens=5), sampling=Sampling(seed=SEEDS - 2))
    await answered(engine, request)
    assert [sampling.seed for _, sampling, _ in engine.asked] == [SEEDS - 2, SEEDS - 1, 0]
    asked = [(text, msgspec.structs.replace(s, seed=0), more) for text, s, more in engine.asked]
    assert asked == [asked[0]] * 3


async def test_without_a_seed_each_answer_draws_its_own() -> None:
    engine = several((end(),), (end(),))
    await answered(engine, request_for(2))
    assert [sampling.seed for _, sampling, _ in engine.asked] == [None, None]


async def test_several_answers_come_in_turns_and_each_but_the_last_to_end_says_so() -> None:
    engine = several(
        (Delta(1, "a", 1), Delta(1, "b", 1), end("length")),
        (Delta(1, "c", 1, "stop", usage=USAGE),),
    )
    *parts, last = await answered(engine, request_for(2))
    assert parts == [
        TextDelta("a", 1, 0),
        TextDelta("c", 1, 1),
        Ended("stop", 1),
        TextDelta("b", 1, 0),
    ]
    assert isinstance(last, Finish)
    assert (last.reason, last.index) == ("length", 0)


async def test_the_stop_string_that_ended_an_answer_comes_with_its_end() -> None:
    ended = Delta(1, "a", 1, "stop", usage=USAGE, stop="x")
    *_, last = await answered(ScriptedEngine(ended), request_for(1))
    assert isinstance(last, Finish)
    assert (last.reason, last.stop) == ("stop", "x")
    parts = await answered(several((ended,), (ended,)), request_for(2))
    assert [part.stop for part in parts if isinstance(part, Ended | Finish)] == ["x", "x"]


async def test_an_answer_that_waits_holds_up_no_other() -> None:
    go_on = asyncio.Event()
    engine = several((go_on, end()), (Delta(1, "a", 1), Delta(1, "b", 1), end()))
    answer = local(engine).answer(request_for(2))
    assert [await anext(answer) for _ in range(3)] == [
        TextDelta("a", 1, 1), TextDelta("b", 1, 1), Ended("stop", 1)
    ]  # fmt: skip
    go_on.set()
    assert [type(part) async for part in answer] == [Finish]


async def test_a_slow_reader_is_not_read_ahead_of() -> None:
    engine = several(*[(*(Delta(1, letter, 1) for letter in "abc"), end())] * 2)
    answer = local(engine).answer(request_for(2))
    await anext(answer)
    for _ in range(20):
        await asyncio.sleep(0)
    left = [len(list(stream._script)) for stream in engine.streams]
    assert left == [3, 3]
    await answer.aclose()


async def test_the_cost_of_several_answers_counts_their_prompt_once() -> None:
    usages = (
        Usage(7, 3, 2, queue_seconds=0.2, prefill_seconds=0.3, ttft_seconds=0.5, seconds=2.0),
        Usage(7, 5, 6, queue_seconds=0.1, prefill_seconds=0.3, ttft_seconds=0.4, seconds=1.5),
        Usage(7, 1, 6, queue_seconds=0.3, prefill_seconds=0.3, ttft_seconds=0.6, seconds=1.0),
    )
    *_, last = await answered(several(*((end(usage=each),) for each in usages)), request_for(3))
    assert isinstance(last, Finish)
    assert msgspec.structs.astuple(last.usage) == (7, 9, 2, 0.1, 0.3, 0.4, 2.0)


async def test_one_failure_ends_all_answers_once_and_silently(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = several(
        (Delta(1, "a", 1), asyncio.Event()),
        (Delta(1, "b", 1), EngineInterrupted("first")),
        (Delta(1, "c", 1), EngineInterrupted("second")),
    )
    answer = local(engine).answer(request_for(3))
    for index, text in enumerate("abc"):
        assert await anext(answer) == TextDelta(text, 1, index)
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineInterrupted, match="first"):
        await anext(answer)
    assert [stream.closes for stream in engine.streams] == [1, 1, 1]
    assert await only_this_task_is_left()
    assert not caplog.records


async def test_closing_several_answers_closes_every_stream() -> None:
    engine = several((Delta(1, "a", 1),), (asyncio.Event(),), (asyncio.Event(),))
    answer = local(engine).answer(request_for(3))
    await anext(answer)
    await answer.aclose()
    assert [stream.closes for stream in engine.streams] == [1, 1, 1]
    assert await only_this_task_is_left()


async def test_cancelling_a_reader_of_several_answers_closes_every_stream() -> None:
    engine = several((asyncio.Event(),), (asyncio.Event(),))
    waiting = asyncio.create_task(answered(engine, request_for(2)))
    for _ in range(3):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [stream.closes for stream in engine.streams] == [1, 1]
    assert await only_this_task_is_left()


async def test_answers_that_were_begun_are_cancelled_when_another_cannot_be() -> None:
    engine = several((asyncio.Event(),), (asyncio.Event(),))
    with pytest.raises(EngineUnavailable):
        await answered(engine, request_for(3))
    assert [stream.closes for stream in engine.streams] == [1, 1]


async def test_a_stream_that_stops_without_an_end_leaves_the_whole_without_one() -> None:
    engine = several((Delta(1, "a", 1),), (end(),))
    assert await answered(engine, request_for(2)) == [TextDelta("a", 1, 0), Ended("stop", 1)]


async def test_several_too_long_chats_name_the_messages() -> None:
    engine = several(*[(ContextLengthExceeded("too long", param="prompt"),)] * 2)
    request = GenerationRequest("r", Sampling(), messages=({"role": "user", "content": "Hi"},), n=2)
    with pytest.raises(ContextLengthExceeded) as error:
        await answered(engine, request)
    assert error.value.param == "messages"


async def test_a_single_answer_needs_no_task() -> None:
    answer = local(ScriptedEngine(Delta(1, "a", 1), end())).answer(request_for(1))
    await anext(answer)
    assert await only_this_task_is_left()
    await answer.aclose()


async def only_this_task_is_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# Tools and thoughts

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
QUESTION = ({"role": "user", "content": "Hi"},)
CALLED = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
HERMES = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}" + CHATML
THINKING = CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}"


def chat_request(**more: Any) -> GenerationRequest:
    return GenerationRequest("r", Sampling(), messages=QUESTION, **more)


def speaking(text: str, size: int = 3) -> ScriptedEngine:
    """Return an engine that gives a text in deltas of `size` characters and as many tokens."""
    cuts = [text[at : at + size] for at in range(0, len(text), size)]
    return ScriptedEngine(*(Delta(1, cut, len(cut)) for cut in cuts), end())


async def parts_of(
    engine: ScriptedEngine, request: GenerationRequest, template: str = CHATML
) -> list[Part]:
    provider = local(engine, template, family=family_for(template), new_id=lambda: "call_1")
    return [part async for part in provider.answer(request)]


def calls(parts: list[Part]) -> list[ToolCallDelta]:
    return [part for part in parts if isinstance(part, ToolCallDelta)]


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_a_call_comes_as_its_name_and_then_its_arguments(size: int) -> None:
    parts = await parts_of(speaking(CALLED, size), chat_request(tools=(TOOL,)), HERMES)
    first, *others = calls(parts)
    assert (first.call, first.id, first.name, first.text) == (0, "call_1", "f", "")
    assert json.loads("".join(part.text for part in others)) == {"a": 1}
    assert all(part.id is None and part.name is None for part in others)
    assert isinstance(parts[-1], Finish)
    assert parts[-1].reason == "tool_calls"


@pytest.mark.parametrize("text", [CALLED, "Hi <tool", "plain", f"Well.\n{CALLED}"])
async def test_no_token_gets_lost_on_the_way(text: str) -> None:
    parts = await parts_of(speaking(text), chat_request(tools=(TOOL,)), HERMES)
    assert sum(part.tokens for part in parts if isinstance(part, TextDelta | ToolCallDelta)) == len(
        text
    )


async def test_tools_reach_a_template_that_uses_them() -> None:
    engine = speaking("x")
    await parts_of(engine, chat_request(tools=(TOOL,)), HERMES)
    assert '"name": "f"' in engine.asked[0][0]
    assert "signatures" not in engine.asked[0][0]


async def test_a_model_whose_template_knows_no_tools_reads_of_them_in_the_messages() -> None:
    engine = speaking("x")
    await parts_of(engine, chat_request(tools=(TOOL,)))
    prompt = engine.asked[0][0]
    assert prompt.startswith("<|im_start|>system\n# Tools")
    assert '"name": "f"' in prompt


async def test_an_answer_that_must_not_call_reads_of_no_tools_and_is_all_text() -> None:
    engine = speaking(CALLED)
    parts = await parts_of(
        engine, chat_request(tools=(TOOL,), tool_choice=ToolChoice("none")), HERMES
    )
    assert '"name": "f"' not in engine.asked[0][0]
    assert not calls(parts)
    assert "".join(part.text for part in parts if isinstance(part, TextDelta)) == CALLED


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("required", "f")])
async def test_a_call_that_is_demanded_is_held_to_a_grammar(choice: ToolChoice) -> None:
    engine = speaking(CALLED)
    parts = await parts_of(engine, chat_request(tools=(TOOL,), tool_choice=choice), HERMES)
    grammar = engine.asked[0][2]["grammar"]
    assert grammar.kind == "lark"
    assert "tool_call" in grammar.text
    assert len(calls(parts)) >= 1


async def test_an_answer_that_was_cut_in_a_call_ended_by_length() -> None:
    engine = ScriptedEngine(Delta(1, CALLED[:40], 9), end("length"))
    parts = await parts_of(engine, chat_request(tools=(TOOL,)), HERMES)
    assert isinstance(parts[-1], Finish)
    assert parts[-1].reason == "length"


async def test_thoughts_are_apart_from_the_text() -> None:
    parts = await parts_of(speaking("Hm, so.\n</think>\n\nYes."), chat_request(), THINKING)
    said = dict.fromkeys(Channel, "")
    for part in parts:
        if isinstance(part, TextDelta):
            said[part.channel] += part.text
    assert said == {Channel.REASONING: "Hm, so.", Channel.CONTENT: "Yes."}


ANYTHING = Grammar("regex", "(?s:.*)")
CLOSED = CHATML + "{% if add_generation_prompt %}<think>\n\n</think>\n\n{% endif %}"


def said(parts: list[Part]) -> tuple[str, str]:
    """Return the reasoning and the content of an answer."""
    texts = dict.fromkeys(Channel, "")
    for part in parts:
        if isinstance(part, TextDelta):
            texts[part.channel] += part.text
    return texts[Channel.REASONING], texts[Channel.CONTENT]


@pytest.mark.parametrize("template", [CHATML, CLOSED])
async def test_text_that_has_to_match_a_grammar_is_content_whatever_it_looks_like(
    template: str,
) -> None:
    engine = speaking("<think>x</think>")
    request = chat_request(grammar=ANYTHING, tools=(TOOL,), tool_choice=ToolChoice("none"))
    parts = await parts_of(engine, request, template)
    assert engine.asked[0][2]["grammar"] == ANYTHING
    assert said(parts) == ("", "<think>x</think>")


@pytest.mark.parametrize(
    ("template", "spoken"),
    [
        (THINKING, "Hm.\n</think>\n\n[1]"),
        (CHATML + "{# <think> #}", "<think>\nHm.\n</think>\n\n[1]"),
    ],
    ids=["begun by the prompt", "begun by the model"],
)
async def test_a_model_that_thinks_does_so_before_the_text_that_has_to_match(
    template: str, spoken: str
) -> None:
    engine = speaking(spoken)
    parts = await parts_of(engine, chat_request(grammar=ANYTHING), template)
    grammar = engine.asked[0][2]["grammar"]
    assert "</think>" in grammar.text
    assert grammar.inner == ANYTHING
    assert said(parts) == ("Hm.", "[1]")


async def test_with_tools_and_a_format_an_answer_is_held_to_either() -> None:
    request = chat_request(grammar=ANYTHING, tools=(TOOL,))
    engine = speaking(CALLED)
    assert len(calls(await parts_of(engine, request, HERMES))) > 1
    grammar = engine.asked[0][2]["grammar"]
    assert "tool_call" in grammar.text
    assert grammar.inner == ANYTHING
    quoted = f'{{"like": "{CALLED}"}}'
    parts = await parts_of(speaking(quoted), request, HERMES)
    assert not calls(parts)
    assert said(parts) == ("", quoted)


async def test_a_format_has_no_place_in_an_answer_that_has_to_call() -> None:
    engine = speaking(CALLED)
    choice = ToolChoice("required")
    request = chat_request(grammar=ANYTHING, tools=(TOOL,), tool_choice=choice)
    assert calls(await parts_of(engine, request, HERMES))
    assert engine.asked[0][2]["grammar"].inner is None


@pytest.mark.parametrize(
    ("blamed", "more", "param"),
    [
        ("grammar", {"tools": (TOOL,), "grammar": ANYTHING}, "tools"),
        ("grammar.inner", {"tools": (TOOL,), "grammar": ANYTHING}, "grammar"),
        ("grammar.inner", {"grammar": ANYTHING}, "grammar"),
        ("grammar", {"grammar": ANYTHING}, "grammar"),
        ("grammar", {"tools": (TOOL,), "tool_choice": ToolChoice("required")}, "tools"),
    ],
)
async def test_a_refused_grammar_is_the_tools_or_the_format(
    blamed: str, more: dict[str, Any], param: str
) -> None:
    engine = ScriptedEngine(InvalidRequest("bad", param=blamed))
    with pytest.raises(InvalidRequest) as caught:
        await parts_of(engine, chat_request(**more), HERMES)
    assert caught.value.param == param


@pytest.mark.parametrize("more", [{"grammar": ANYTHING}, {"tool_choice": ToolChoice("required")}])
async def test_tools_too_large_to_hold_an_answer_to_are_refused_before_the_engine_is_asked(
    more: dict[str, Any],
) -> None:
    enum = {"enum": ["é" * (Grammar.MOST_CHARACTERS // 3)]}
    tools = tuple(
        {"type": "function", "function": {"name": name, "parameters": enum}} for name in "abc"
    )
    engine = speaking(CALLED)
    with pytest.raises(InvalidRequest, match=r"tools.*too large") as caught:
        await parts_of(engine, chat_request(tools=tools, **more), HERMES)
    assert caught.value.param == "tools"
    assert not engine.asked
    await parts_of(engine, chat_request(tools=tools[:2], **more), HERMES)
    assert engine.asked


async def test_marks_that_are_special_tokens_are_shown_where_the_family_has_such() -> None:
    template = CHATML + "[TOOL_CALLS]"
    engine = speaking("x")
    await parts_of(engine, chat_request(tools=(TOOL,)), template)
    assert engine.asked[0][2]["show_special"] is True


@pytest.mark.parametrize(
    ("special", "shown"), [({"<think>": 5}, True), ({"<tool_call>": 5}, True), ({"<s>": 1}, False)]
)
async def test_marks_that_are_special_tokens_of_the_vocabulary_are_shown(
    special: dict[str, int], shown: bool
) -> None:
    engine = speaking("x")
    provider = local(engine, HERMES, family=family_for(HERMES), special=special)
    assert [part async for part in provider.answer(chat_request(tools=(TOOL,)))]
    assert engine.asked[0][2]["show_special"] is shown


async def test_each_of_several_answers_has_its_own_calls() -> None:
    deltas = (Delta(1, CALLED, 5), end())
    parts = await parts_of(several(deltas, deltas), chat_request(tools=(TOOL,), n=2), HERMES)
    assert sorted({part.index for part in calls(parts)}) == [0, 1]
    reasons = [part.reason for part in parts if isinstance(part, Ended | Finish)]
    assert reasons == ["tool_calls", "tool_calls"]


# Log probabilities, echo, several prompts, tokens


async def test_logprobs_come_with_the_part_that_is_made_after_their_tokens() -> None:
    one, two = TokenLogprob(1, b"<t", -1.0), TokenLogprob(2, b"a", -2.0)
    engine = ScriptedEngine(
        Delta(1, "<t", 1, logprobs=(one,)), Delta(1, "a", 1, logprobs=(two,)), end()
    )
    parts = await parts_of(engine, chat_request(logprobs=0))
    logprobs = [each for part in parts if isinstance(part, TextDelta) for each in part.logprobs]
    assert logprobs == [one, two]
    assert engine.asked[0][2]["logprobs"] == 0


async def test_the_logprobs_of_an_answer_that_ends_with_a_call_come_too() -> None:
    logprob = TokenLogprob(1, b"x", -1.0)
    engine = ScriptedEngine(Delta(1, CALLED, 5, logprobs=(logprob,) * 5), end())
    parts = await parts_of(engine, chat_request(tools=(TOOL,), logprobs=0), HERMES)
    deltas = [part for part in parts if isinstance(part, TextDelta)]
    assert [each for delta in deltas for each in delta.logprobs] == [logprob] * 5
    assert sum(part.tokens for part in parts if isinstance(part, TextDelta | ToolCallDelta)) == 5


async def test_an_echo_comes_before_the_answer_and_costs_no_tokens() -> None:
    request = GenerationRequest("r", Sampling(), ("Hi", (89, 111)), n=2, echo=True)
    engine = several(*[(Delta(1, "!", 1), end())] * 4)
    parts = [part async for part in local(engine).answer(request)]
    texts = ["", "", "", ""]
    for part in parts:
        if isinstance(part, TextDelta):
            texts[part.index] += part.text
    assert texts == ["Hi!", "Hi!", "Yo!", "Yo!"]


async def test_several_prompts_cost_what_each_of_them_does() -> None:
    request = GenerationRequest("r", Sampling(), ("Hi", (89, 111)), n=2)
    engine = several(*[(Delta(1, "!", 1), end())] * 4)
    parts = [part async for part in local(engine).answer(request)]
    assert [asked[0] for asked in engine.asked] == ["Hi", "Hi", [89, 111], [89, 111]]
    assert isinstance(parts[-1], Finish)
    assert parts[-1].usage.prompt_tokens == 2 * USAGE.prompt_tokens
    assert parts[-1].usage.completion_tokens == 4 * USAGE.completion_tokens


async def test_a_suffix_goes_to_a_model_that_fills_in_the_middle() -> None:
    engine = speaking("x")
    provider = local(
        engine,
        infill=("<pre>", "<suf>", "<mid>"),
        capabilities=Capabilities(infill=True),
    )
    request = GenerationRequest("r", Sampling(), ("def f(",), suffix="    return 1", echo=True)
    (echo, *_) = [part async for part in provider.answer(request)]
    assert engine.asked[0][0] == "<pre>def f(<suf>    return 1<mid>"
    assert echo == TextDelta("def f(", 0)


async def test_a_suffix_that_the_model_cannot_read_is_refused() -> None:
    request = GenerationRequest("r", Sampling(), ("a",), suffix="b")
    with pytest.raises(InvalidRequest) as refused:
        _ = [part async for part in local(ScriptedEngine()).answer(request)]
    assert refused.value.param == "suffix"


async def test_the_tokens_of_a_chat_are_those_of_its_prompt() -> None:
    provider = local(ScriptedEngine())
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert await provider.tokens(chat_request(), add_special=True) == [1, *text.encode()]
    assert await provider.tokens("Hi", add_special=False) == [72, 105]
    assert await provider.text([72, 105]) == "Hi"


# Embeddings


async def test_texts_and_token_ids_become_vectors() -> None:
    request = EmbeddingRequest("r", ("a", (1, 2)), dimensions=3, deadline=5.0)
    provider = local(ScriptedEngine(), capabilities=Capabilities(pooling="mean"))
    found = await provider.embed(request)
    more = {"dimensions": 3, "deadline": 5.0}
    assert found == Embeddings((f"a {more}".encode(), f"[1, 2] {more}".encode()), 7)


async def test_documents_become_scores() -> None:
    request = RankingRequest("r", "sea", ("a", "abc"), deadline=5.0)
    provider = local(ScriptedEngine(), capabilities=Capabilities(pooling="rank"))
    assert await provider.rank(request) == Ranking((1.0, 3.0), 8)


@pytest.mark.parametrize(
    "asked", [{"prompts": ("a",)}, {"messages": ({"role": "user", "content": "a"},)}]
)
async def test_a_model_that_writes_no_text_says_what_it_is_for(asked: dict[str, Any]) -> None:
    provider = local(
        ScriptedEngine(), None, capabilities=Capabilities(generates=False, pooling="mean")
    )
    with pytest.raises(InvalidRequest, match="served for embeddings") as error:
        await anext(provider.answer(GenerationRequest("r", Sampling(), **asked)))
    assert error.value.param == "model"
    assert await provider.tokens("a", add_special=False) == [97]


@pytest.mark.parametrize(("more", "param"), [({"n": 5}, "n"), ({"prompts": ("a",) * 5}, "prompt")])
def test_more_answers_than_can_ever_be_held_are_refused_and_not_as_an_overload(
    more: dict[str, Any], param: str
) -> None:
    engine = ScriptedEngine()
    request = GenerationRequest("1", Sampling(), **({"prompts": ("a",)} | more))
    with pytest.raises(InvalidRequest, match="more than this worker can hold") as refused:
        local(engine, capabilities=Capabilities(most_answers=4)).answer(request)
    assert refused.value.param == param


class MeasuredEngine(ScriptedEngine):
    """Refuses prompts of more bytes than its context, of which a token is one."""

    info = SimpleNamespace(context=400)

    def submit(self, request: EngineRequest, *, min_interval: float, whole: bool) -> ScriptedStream:
        stream = super().submit(request, min_interval=min_interval, whole=whole)
        if len(str(request.prompt)) >= self.info.context:
            return ScriptedStream(ContextLengthExceeded("too long", param="prompt"))
        return stream


def conversation(turns: int, **more: Any) -> GenerationRequest:
    messages = [{"role": "system", "content": "Be brief."}]
    for number in range(turns):
        messages.append({"role": "user", "content": f"question {number}"})
        messages.append({"role": "assistant", "content": f"answer {number}"})
    messages.append({"role": "user", "content": "last"})
    return GenerationRequest("r", Sampling(), messages=tuple(messages), **more)


END = Delta(1, "a", 1, "stop", usage=USAGE)


async def test_the_oldest_turns_of_a_chat_that_is_too_long_are_left_out() -> None:
    engine = MeasuredEngine(END, others=((END,),))
    *_, finish = await parts_of(engine, conversation(20, drop_oldest=True, max_tokens=50))
    prompt = engine.asked[-1][0]
    assert "Be brief." in prompt
    assert "last" in prompt
    assert "question 19" in prompt
    assert "question 0" not in prompt
    assert prompt.count("question") == prompt.count("answer")
    assert 250 < len(prompt) + 1 <= 350
    left_out = 42 - (prompt.count("<|im_start|>") - 1)
    assert isinstance(finish, Finish)
    assert finish.warnings == (
        f"the conversation was too long: its oldest {left_out} messages were left out",
    )


async def test_a_chat_that_fits_is_left_as_it_is_and_read_once() -> None:
    engine = MeasuredEngine(END)
    *_, finish = await parts_of(engine, conversation(2, drop_oldest=True))
    assert isinstance(finish, Finish)
    assert finish.warnings == ()
    assert len(engine.asked) == 1


@pytest.mark.parametrize("more", [{}, {"drop_oldest": True}])
async def test_a_chat_that_is_too_long_is_refused_where_nothing_may_or_can_go(
    more: dict[str, Any],
) -> None:
    message = {"role": "user", "content": "x" * 500}
    request = GenerationRequest("r", Sampling(), messages=(message,), **more)
    with pytest.raises(ContextLengthExceeded):
        await parts_of(MeasuredEngine(END), request)


async def test_the_answer_may_have_less_room_than_its_share_where_nothing_else_can_go() -> None:
    *messages, _ = conversation(3).messages or ()
    messages.append({"role": "user", "content": "x" * 260})
    request = GenerationRequest("r", Sampling(), messages=tuple(messages), drop_oldest=True)
    engine = MeasuredEngine(END, others=((END,),))
    await parts_of(engine, request)
    assert "question" not in engine.asked[-1][0]


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_of_no_tokens_is_empty_and_has_its_prompt_computed(n: int) -> None:
    cut = Delta(1, "a", 1, "length", usage=USAGE)
    engine = several(*[(Delta(1, "b", 1), cut)] * n)
    parts = await parts_of(engine, conversation(1, max_tokens=0, n=n))
    *others, finish = parts
    assert [type(part) for part in others] == [Ended] * (n - 1)
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.usage.completion_tokens) == ("length", 0)
    assert finish.usage.prompt_tokens == USAGE.prompt_tokens
    assert engine.asked[0][2]["max_tokens"] == 1


@pytest.mark.parametrize("text", ["a", "<think>", '<tool_call>{"name":"f","arguments":{}}'])
async def test_the_first_part_has_the_cost_so_far_and_no_other_has(text: str) -> None:
    so_far = Usage(7, 1, 2)
    engine = ScriptedEngine(Delta(1, text, 1, usage=so_far), Delta(1, " b", 1), END)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    provider = local(engine, family=family_for("<tool_call><think>"))
    parts = [part async for part in provider.answer(conversation(1, tools=(tool,)))]
    deltas = [part for part in parts if isinstance(part, TextDelta | ToolCallDelta)]
    assert [part.usage for part in deltas] == [so_far, *[None] * (len(deltas) - 1)]
