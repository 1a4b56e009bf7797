"""The backlog of parts to read: in order, whole, and in few parts."""

from __future__ import annotations

import asyncio

from gguf_worker.generation import Channel, TokenLogprob, Usage
from gguf_worker.providers import Ended, Part, TextDelta, ToolCallDelta
from gguf_worker.serving.backlog import Backlog
from tests.fakes import stop


async def read(*parts: Part) -> list[Part]:
    """Read a backlog in which all parts are there."""
    backlog = Backlog()
    for part in parts:
        backlog.put(part)
    backlog.end()
    return [part async for part in backlog]


async def test_a_fast_reader_gets_each_part_as_it_came() -> None:
    backlog = Backlog()
    seen: list[Part] = []

    async def reading() -> None:
        async for part in backlog:
            seen.append(part)

    reader = asyncio.ensure_future(reading())
    for text in "abc":
        backlog.put(TextDelta(text, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    backlog.end()
    await reader
    assert seen == [TextDelta(text, 1) for text in "abc"]


async def test_deltas_that_wait_become_one_with_all_their_tokens() -> None:
    a, b = (TokenLogprob(id, b"x", -1.0, ()) for id in (1, 2))
    parts = await read(
        TextDelta("a", 1, logprobs=(a,)), TextDelta("", 1), TextDelta("b", 2, logprobs=(b,)), stop()
    )
    assert parts == [TextDelta("ab", 4, logprobs=(a, b)), stop()]


async def test_the_cost_so_far_stays_with_the_first_of_those_that_became_one() -> None:
    usage = Usage(3, 1)
    parts = await read(TextDelta("a", 1, usage=usage), TextDelta("b", 1), stop())
    assert parts[0] == TextDelta("ab", 2, usage=usage)


async def test_deltas_of_another_answer_or_channel_stay_apart_and_in_order() -> None:
    apart: list[Part] = [
        TextDelta("a", 1, 0),
        TextDelta("b", 1, 1),
        TextDelta("c", 1, 1, Channel.REASONING),
        Ended("stop", 1),
        TextDelta("d", 1, 0),
        stop(),
    ]
    assert await read(*apart) == apart


async def test_a_call_keeps_its_name_and_no_other_call_joins_it() -> None:
    parts = await read(
        ToolCallDelta(0, "", 1, id="x", name="f"),
        ToolCallDelta(0, "{", 1),
        ToolCallDelta(0, "}", 1),
        ToolCallDelta(1, "", 1, id="y", name="g"),
        ToolCallDelta(1, "{}", 2),
    )
    assert parts == [
        ToolCallDelta(0, "{}", 3, id="x", name="f"),
        ToolCallDelta(1, "{}", 3, id="y", name="g"),
    ]


async def test_parts_that_are_there_can_be_read_after_the_end() -> None:
    assert await read() == []
    assert await read(TextDelta("a", 1)) == [TextDelta("a", 1)]
