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
from gguf_worker.generation import Channel, Grammar, Sampling, TokenLogprob, TokenRules, Usage
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


PLAIN: dict[str, Any] = {
    "show_special": False,
    "rules": TokenRules(),
    "show_stop": False,
    "truncate": None,
    "prompt_logprobs": -1,
}
"""What the engine is told where a request says nothing of it."""


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
        "outline": None,
        "thought_budget": None,
    }
    limits |= PLAIN
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
        Usage(7, 3, 2, 0.2, 0.3, ttft_seconds=0.5, seconds=2.0, reasoning_tokens=2),
        Usage(7, 5, 6, 0.1, 0.3, ttft_seconds=0.4, seconds=1.5, reasoning_tokens=4),
        Usage(7, 1, 6, 0.3, 0.3, ttft_seconds=0.6, seconds=1.0),
    )
    *_, last = await answered(several(*((end(usage=each),) for each in usages)), request_for(3))
    assert isinstance(last, Finish)
    assert msgspec.structs.astuple(last.usage) == (7, 9, 2, 0.1, 0.3, 0.4, 2.0, 6)


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


async def test_a_chat_with_tools_is_written_by_the_template_for_tools() -> None:
    for_tools = ChatTemplate(HERMES, "", "")
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = ({"role": "assistant", "content": None, "tool_calls": [called]}, *QUESTION)
    writes = HERMES.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls | tojson }}")
    for template, request, expected in (
        (for_tools, chat_request(tools=(TOOL,)), "<tool_call><|im_start|>user"),
        (for_tools, chat_request(), "<|im_start|>user\nHi"),
        (None, chat_request(tools=(TOOL,)), "<|im_start|>system\n# Tools"),
        (
            ChatTemplate(writes.replace("tojson", "default('') | tojson"), "", ""),
            GenerationRequest("r", Sampling(), messages=history),
            "<|im_start|>assistant\n[{",
        ),
    ):
        engine = speaking("x")
        family = family_for(HERMES)
        provider = local(engine, CHATML, tool_template=template, family=family)
        assert [part async for part in provider.answer(request)]
        assert expected in engine.asked[0][0]


BEGUN = (*QUESTION, {"role": "assistant", "content": "Once upon"})
HARMONY = CHATML.replace("assistant\n", "assistant<|channel|>") + "{# <|channel|><|message|> #}"


@pytest.mark.parametrize("template", [CHATML, THINKING])
async def test_an_answer_that_goes_on_from_a_text_is_all_that_comes_after_it(template: str) -> None:
    engine = speaking(" a time.")
    request = GenerationRequest("r", Sampling(), messages=BEGUN, ending="inside")
    parts = await parts_of(engine, request, template)
    assert engine.asked[0][0].endswith("<|im_start|>assistant\nOnce upon")
    assert "".join(part.text for part in parts if isinstance(part, TextDelta)) == " a time."


async def test_an_answer_that_goes_on_is_within_the_message_that_the_notation_began() -> None:
    engine = speaking(" a time.<|end|><|start|>assistant<|channel|>analysis<|message|>Hm")
    request = GenerationRequest("r", Sampling(), messages=BEGUN, ending="inside")
    parts = await parts_of(engine, request, HARMONY)
    said = dict.fromkeys(Channel, "")
    for part in parts:
        if isinstance(part, TextDelta):
            said[part.channel] += part.text
    assert said == {Channel.CONTENT: " a time.", Channel.REASONING: "Hm"}


@pytest.mark.parametrize("thinking", [None, False])
async def test_an_answer_that_goes_on_is_held_from_within_the_message(
    thinking: bool | None,
) -> None:
    engine = speaking(" a time.")
    request = GenerationRequest(
        "r",
        Sampling(),
        messages=BEGUN,
        ending="inside",
        tools=(TOOL,),
        parallel_calls=False,
        thinking=thinking,
    )
    parts = await parts_of(engine, request, HARMONY)
    grammar = engine.asked[0][2]["grammar"]
    assert engine.asked[0][0].endswith("Once upon")
    assert grammar.text.startswith("start: ALL | ")
    assert "".join(part.text for part in parts if isinstance(part, TextDelta)) == " a time."


@pytest.mark.parametrize("n", [1, 2])
async def test_the_end_says_what_the_template_did_not_take_as_it_was_sent(n: int) -> None:
    once = "{% for m in messages[1:] if m.role == 'system' %}{{ raise_exception('no') }}"
    messages = (*QUESTION, {"role": "system", "content": "Be brief."})
    request = GenerationRequest("r", Sampling(), messages=messages, n=n)
    parts = await parts_of(several(*[(end(),)] * n), request, once + "{% endfor %}" + CHATML)
    assert isinstance(parts[-1], Finish)
    assert ["system message" in each for each in parts[-1].warnings] == [True]


async def test_an_answer_that_must_not_call_reads_of_no_tools_and_is_all_text() -> None:
    engine = speaking(f"Well. {CALLED}")
    parts = await parts_of(
        engine, chat_request(tools=(TOOL,), tool_choice=ToolChoice("none")), HERMES
    )
    assert '"name": "f"' not in engine.asked[0][0]
    assert not calls(parts)
    said = "".join(part.text for part in parts if isinstance(part, TextDelta))
    assert said.strip() == "Well."
    assert isinstance(parts[-1], Finish)
    assert parts[-1].reason == "stop"
    assert parts[-1].warnings == ("the model called 'f', which was left out: none may be called",)


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
    wide = {"type": "object", "properties": {"a": enum}}
    tools = tuple(
        {"type": "function", "function": {"name": name, "parameters": wide}} for name in "abc"
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


# Thoughts

QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
ASKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
UNSWITCHED = CHATML + "{# <think> #}"
GRANITE = "{% if thinking %}Think. {% endif %}" + CHATML + "{# <think> #}"
HARMONY = (
    "Reasoning: {{ reasoning_effort | default('medium') }}\n"
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "<|start|>assistant{# <|channel|>analysis<|message|> #}"
)
SEED = "Budget {{ thinking_budget }}. " + CHATML + "{# <seed:think> #}"


async def prompt_of(template: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """Return the prompt of a chat, and all else that the engine is asked."""
    engine = speaking("x")
    await parts_of(engine, chat_request(**more), template)
    prompt, _, limits = engine.asked[0]
    return prompt, limits


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (QWEN3, f"{ASKED}<think>\n\n</think>\n\n"),
        (THINKING, f"{ASKED}<think>\n\n</think>\n\n"),
        (UNSWITCHED, f"{ASKED}<think>\n\n</think>\n\n"),
        (GRANITE, ASKED),
        (CHATML, ASKED),
        (
            HARMONY,
            "Reasoning: low\n<|start|>user<|message|>Hi<|end|><|start|>assistant"
            "<|channel|>analysis<|message|><|end|><|start|>assistant",
        ),
        (SEED, f"Budget 0. {ASKED}"),
    ],
    ids=["switch", "begun", "no switch", "other switch", "no thoughts", "harmony", "budget"],
)
async def test_without_a_thought_the_prompt_holds_an_empty_one_unless_the_template_does_it(
    template: str, prompt: str
) -> None:
    sent, limits = await prompt_of(template, thinking=False)
    assert sent == prompt
    assert limits["thought_budget"] == 0
    assert limits["outline"].phases[limits["outline"].begin].kind == "content"


async def test_a_prompt_without_a_thought_has_as_many_tokens_as_are_counted() -> None:
    provider = local(speaking("x"), UNSWITCHED, family=family_for(UNSWITCHED))
    tokens = await provider.tokens(chat_request(thinking=False), add_special=False)
    assert bytes(tokens).decode().endswith("</think>\n\n")


@pytest.mark.parametrize("called", [False, True])
async def test_an_answer_that_goes_on_from_the_assistants_text_gets_no_thought_before_it(
    called: bool,
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    last = {"role": "assistant", "content": "Well", **({"tool_calls": [call]} if called else {})}
    engine = speaking("x")
    request = GenerationRequest(
        "r",
        Sampling(),
        messages=(*QUESTION, last),
        thinking=False,
        ending="turn" if called else "inside",
    )
    await parts_of(engine, request, UNSWITCHED)
    assert ("think" in engine.asked[0][0]) is called


@pytest.mark.parametrize("thinking", [None, True])
async def test_a_thought_and_its_budget_go_to_the_engine(thinking: bool | None) -> None:
    prompt, limits = await prompt_of(THINKING, thinking=thinking, thinking_budget=9)
    assert prompt == f"{ASKED}<think>\n"
    outline = limits["outline"]
    assert limits["thought_budget"] == 9
    assert outline.phases[outline.begin].kind == "thought"
    assert outline.closings == ("</think>",)
    prompt, _ = await prompt_of(SEED, thinking=thinking, thinking_budget=9)
    assert prompt.startswith("Budget 9. ")
    prompt, _ = await prompt_of(GRANITE, thinking=thinking)
    assert prompt.startswith("Think. ") is (thinking is True)


async def test_the_callers_own_variables_of_the_template_are_kept() -> None:
    options = {"thinking_budget": 3, "reasoning_effort": "high"}
    for template, begin in ((SEED, "Budget 3."), (HARMONY, "Reasoning: high")):
        prompt, _ = await prompt_of(template, thinking=False, template_options=options)
        assert prompt.startswith(begin)


async def test_a_format_comes_at_once_where_no_thought_is_wanted() -> None:
    format = Grammar("regex", "[0-9]")
    _, limits = await prompt_of(UNSWITCHED, thinking=False, grammar=format)
    assert limits["grammar"] == format
    _, limits = await prompt_of(UNSWITCHED, grammar=format)
    assert "<think>" in limits["grammar"].text


@pytest.mark.parametrize("tools", [(), (TOOL,)], ids=["plain", "tools"])
@pytest.mark.parametrize("usual", [QWEN3, UNSWITCHED], ids=["switch", "no switch"])
@pytest.mark.parametrize("for_tools", [QWEN3, UNSWITCHED], ids=["switch", "no switch"])
async def test_the_template_that_writes_the_prompt_is_the_one_that_may_switch_thoughts(
    usual: str, for_tools: str, tools: tuple[dict[str, Any], ...]
) -> None:
    engine = speaking("x")
    template = ChatTemplate(for_tools, "", "")
    provider = local(engine, usual, tool_template=template, family=family_for(UNSWITCHED))
    assert [part async for part in provider.answer(chat_request(thinking=False, tools=tools))]
    prompt = engine.asked[0][0]
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("thinking", [None, False])
async def test_a_format_is_behind_the_header_of_its_message_where_answers_have_such(
    thinking: bool | None,
) -> None:
    format = Grammar("json", "{}")
    engine = speaking("<|channel|>final<|message|>{}")
    parts = await parts_of(engine, chat_request(thinking=thinking, grammar=format), HARMONY)
    grammar = engine.asked[0][2]["grammar"]
    assert grammar.inner == format
    assert '"<|channel|>final<|message|>" @inner' in grammar.text
    assert ("analysis" in grammar.text) is (thinking is None)
    assert "".join(part.text for part in parts if isinstance(part, TextDelta)) == "{}"


@pytest.mark.parametrize("n", [1, 2])
async def test_a_thought_that_no_template_of_the_model_knows_is_warned_about_once(n: int) -> None:
    for template, thinking, warned in (
        (CHATML, True, 1), (CHATML, None, 0), (CHATML, False, 0), (THINKING, True, 0),
        (UNSWITCHED, True, 0),
    ):  # fmt: skip
        engine = several(*[(end(),)] * n)
        parts = await parts_of(engine, chat_request(thinking=thinking, n=n), template)
        assert isinstance(parts[-1], Finish)
        assert len(parts[-1].warnings) == warned


@pytest.mark.parametrize("thinking", [None, False, True])
async def test_a_thought_that_no_template_knows_is_warned_about_beside_a_format_too(
    thinking: bool | None,
) -> None:
    request = chat_request(thinking=thinking, grammar=Grammar("regex", "[0-9]"))
    parts = await parts_of(speaking("1"), request)
    assert isinstance(parts[-1], Finish)
    assert len(parts[-1].warnings) == (thinking is True)


@pytest.mark.parametrize("n", [1, 2])
async def test_tokens_and_their_logprobs_count_where_they_were_drawn(n: int) -> None:
    drawn = [TokenLogprob(number, b"x", -1.0) for number in range(54)]
    deltas = (
        Delta(1, "Hm, so.", 4, logprobs=tuple(drawn[:4]), thought=True),
        Delta(
            1, "</think>\n\nYes, it is.", 50, "stop",
            usage=Usage(7, 54, reasoning_tokens=4), logprobs=tuple(drawn[4:]),
        ),
    )  # fmt: skip
    engine = several(*[deltas] * n)
    *parts, last = await parts_of(engine, chat_request(logprobs=0, n=n), THINKING)
    for index in range(n):
        thought, text = (
            part for part in parts if isinstance(part, TextDelta) and part.index == index
        )
        assert (thought.channel, thought.tokens, text.tokens) == (Channel.REASONING, 4, 50)
        assert [*thought.logprobs, *text.logprobs] == drawn
        assert list(thought.logprobs) == drawn[:4]
    assert isinstance(last, Finish)
    assert last.usage.reasoning_tokens == 4 * n


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


async def test_the_marks_before_a_text_have_no_logprobs() -> None:
    pieces = ("<|channel|>", "final", "<|message|>", "So", " it", " is")
    drawn = [TokenLogprob(at, piece.encode(), -1.0) for at, piece in enumerate(pieces)]
    engine = ScriptedEngine(
        Delta(1, "".join(pieces[:5]), 5, logprobs=tuple(drawn[:5])),
        Delta(1, pieces[5], 1, logprobs=tuple(drawn[5:])),
        end(),
    )
    parts = await parts_of(engine, chat_request(logprobs=0), "<|channel|>analysis<|message|>")
    texts = [part for part in parts if isinstance(part, TextDelta)]
    assert "".join(part.text for part in texts) == "So it is"
    assert [each for part in texts for each in part.logprobs] == drawn[3:]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("most", [True, False], ids=["called", "left out"])
@pytest.mark.parametrize("text", ["f", "a", "name", '{"a": 1}', "tool_call", "f f"])
async def test_a_text_behind_a_call_has_its_own_logprobs_though_the_call_has_the_same_text(
    text: str, most: bool, size: int
) -> None:
    choice = ToolChoice("auto" if most else "none")
    request = chat_request(tools=(TOOL,), tool_choice=choice, logprobs=0)
    await _require_own_logprobs(request, HERMES, CALLED, text, size)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("text", ["f", "final", "n", "message", "fin fin"])
async def test_a_text_behind_a_mark_has_its_own_logprobs_though_the_mark_has_the_same_text(
    text: str, size: int
) -> None:
    marks = "<|channel|>final<|message|>"
    await _require_own_logprobs(chat_request(logprobs=0), HARMONY, marks, text, size)


async def _require_own_logprobs(
    request: GenerationRequest, template: str, before: str, text: str, size: int
) -> None:
    """Check that a text gets its tokens' logprobs, and none of those of what is before it."""
    said = before + text
    drawn = [TokenLogprob(at, char.encode(), -1.0) for at, char in enumerate(said)]
    cuts = range(0, len(said), size)
    deltas = (
        Delta(1, said[at : at + size], size, logprobs=tuple(drawn[at : at + size])) for at in cuts
    )
    parts = await parts_of(ScriptedEngine(*deltas, end()), request, template)
    texts = [part for part in parts if isinstance(part, TextDelta)]
    assert "".join(part.text for part in texts) == text
    assert [each for part in texts for each in part.logprobs] == drawn[len(before) :]


@pytest.mark.parametrize(
    ("said", "channel"),
    [("Hm, so", Channel.REASONING), ("Hm</think>\n\nSo", Channel.CONTENT)],
)
async def test_what_is_left_of_a_cut_answer_is_of_the_channel_that_was_open(
    said: str, channel: Channel
) -> None:
    left = TokenLogprob(1, b"\xf0", -1.0)
    engine = ScriptedEngine(
        Delta(1, said, 2), Delta(1, "", 1, finish="length", usage=USAGE, logprobs=(left,))
    )
    parts = await parts_of(engine, chat_request(logprobs=0), THINKING)
    texts = [part for part in parts if isinstance(part, TextDelta)]
    assert (texts[-1].text, texts[-1].channel, texts[-1].logprobs) == ("", channel, (left,))


async def test_the_logprobs_of_an_answer_that_ends_with_a_call_come_too() -> None:
    logprob = TokenLogprob(1, b"x", -1.0)
    engine = ScriptedEngine(Delta(1, CALLED, 5, logprobs=(logprob,) * 5), end())
    parts = await parts_of(engine, chat_request(tools=(TOOL,), logprobs=0), HERMES)
    deltas = [part for part in parts if isinstance(part, TextDelta)]
    assert [each for delta in deltas for each in delta.logprobs] == [logprob] * 5
    assert sum(part.tokens for part in parts if isinstance(part, TextDelta | ToolCallDelta)) == 5


async def test_rules_about_tokens_go_to_the_engine_as_they_are() -> None:
    rules = TokenRules(2, (5,), (5, 6), ("no",))
    request = GenerationRequest(
        "r", Sampling(), ("Hi",), rules=rules, show_stop=True, show_special=True, truncate=9,
        prompt_logprobs=3,
    )  # fmt: skip
    engine = ScriptedEngine(Delta(1, finish="stop", usage=USAGE))
    _ = [part async for part in local(engine).answer(request)]
    ((_, _, asked),) = engine.asked
    assert {name: asked[name] for name in PLAIN} == {
        "show_special": True, "rules": rules, "show_stop": True, "truncate": 9,
        "prompt_logprobs": 3,
    }  # fmt: skip


@pytest.mark.parametrize("chat", [False, True])
async def test_the_logprobs_of_a_prompt_come_before_the_answer_and_are_no_tokens_of_it(
    chat: bool,
) -> None:
    one, two = TokenLogprob(1, b"H", None), TokenLogprob(2, b"i", -2.0)
    engine = ScriptedEngine(
        Delta(1, prompt_logprobs=(one,)),
        Delta(1, "ok", 1, prompt_logprobs=(two,)),
        Delta(1, finish="stop", usage=USAGE, stop=5),
    )
    source: Any = (
        {"messages": ({"role": "user", "content": "Hi"},)} if chat else {"prompts": ("Hi",)}
    )
    request = GenerationRequest("r", Sampling(), prompt_logprobs=0, **source)
    *parts, finish = [part async for part in local(engine).answer(request)]
    assert parts[:3] == [
        TextDelta("", 0, prompt_logprobs=(one,)),
        TextDelta("", 0, prompt_logprobs=(two,)),
        TextDelta("ok", 1),
    ]
    assert isinstance(finish, Finish)
    assert finish.stop == 5


async def test_the_logprobs_of_all_prompts_together_are_bounded() -> None:
    many = tuple(TokenLogprob(1, b"H", -1.0) for _ in range(50_000))
    scripts = [(Delta(1, prompt_logprobs=many), Delta(1, finish="stop", usage=USAGE))] * 3
    request = GenerationRequest("r", Sampling(), ("a", "b", "c"), prompt_logprobs=1)
    with pytest.raises(InvalidRequest, match="fewer prompts") as caught:
        _ = [part async for part in local(several(*scripts)).answer(request)]
    assert caught.value.param == "prompt"
    fewer = dataclasses.replace(request, prompt_logprobs=0)
    parts = [part async for part in local(several(*scripts)).answer(fewer)]
    assert sum(isinstance(part, Ended | Finish) for part in parts) == 3


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


@pytest.mark.parametrize("text", ["a", "<think>", '<tool_call>{"name":"f","arguments":{}}'])
async def test_the_first_part_has_the_cost_so_far_and_no_other_has(text: str) -> None:
    so_far = Usage(7, 1, 2)
    engine = ScriptedEngine(Delta(1, text, 1, usage=so_far), Delta(1, " b", 1), END)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    provider = local(engine, family=family_for("<tool_call><think>"))
    parts = [part async for part in provider.answer(conversation(1, tools=(tool,)))]
    deltas = [part for part in parts if isinstance(part, TextDelta | ToolCallDelta)]
    assert [part.usage for part in deltas] == [so_far, *[None] * (len(deltas) - 1)]
