"""The local provider: what it asks of the engine, and what it makes of the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gguf_worker.engine import Delta, Sampling
from gguf_worker.engine.messages import Usage
from gguf_worker.errors import ContextLengthExceeded, InvalidRequest
from gguf_worker.models import Dialect
from gguf_worker.providers import Finish, Local, Piece, Wish

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USAGE = Usage(7, 3, queue_seconds=0.1, prefill_seconds=0.2, ttft_seconds=0.3, seconds=1.3)


class ScriptedStream:
    """Gives its deltas; an exception among them is raised."""

    def __init__(self, *script: Delta | Exception) -> None:
        self._script = iter(script)
        self.closes = 0

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        for entry in self._script:
            if isinstance(entry, Exception):
                raise entry
            return entry
        raise StopAsyncIteration

    def close(self) -> None:
        self.closes += 1


class ScriptedEngine:
    """An engine client that notes what it is asked and answers with one stream."""

    def __init__(self, *script: Delta | Exception) -> None:
        self.stream = ScriptedStream(*script)
        self.asked: list[tuple[str, Sampling, dict[str, Any]]] = []

    def submit(self, prompt: str, sampling: Sampling, **limits: Any) -> ScriptedStream:
        self.asked.append((prompt, sampling, limits))
        return self.stream


def local(engine: ScriptedEngine, template: str | None = CHATML) -> Local:
    return Local(engine, Dialect(template, "", ""))  # type: ignore[arg-type]


async def test_a_prompt_goes_to_the_engine_as_it_is_with_its_limits() -> None:
    engine = ScriptedEngine(Delta(1, finish="stop", usage=USAGE))
    sampling = Sampling(temperature=0.1)
    wish = Wish("r", sampling, "Hi", max_tokens=5, stop=("x",), ignore_eos=True, deadline=9.0)
    _ = [piece async for piece in local(engine).answer(wish)]
    limits = {"max_tokens": 5, "stop": ("x",), "ignore_eos": True, "deadline": 9.0}
    assert engine.asked == [("Hi", sampling, limits)]


async def test_messages_are_written_down_with_the_models_template() -> None:
    engine = ScriptedEngine(Delta(1, finish="stop", usage=USAGE))
    wish = Wish("r", Sampling(), messages=({"role": "user", "content": "Hi"},))
    _ = [piece async for piece in local(engine).answer(wish)]
    assert engine.asked[0][0] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


async def test_pieces_come_as_the_deltas_do_and_the_end_carries_the_usage() -> None:
    engine = ScriptedEngine(
        Delta(1, "The ", 1), Delta(1, "sea", 2), Delta(1, ".", 1, finish="length", usage=USAGE)
    )
    answer = [piece async for piece in local(engine).answer(Wish("r", Sampling(), "Hi"))]
    *pieces, finish = answer
    assert pieces == [Piece("The ", 1), Piece("sea", 2), Piece(".", 1)]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.usage.prompt_tokens) == ("length", 7)
    assert finish.usage.tokens_per_second == pytest.approx(2.0)


async def test_an_end_without_text_is_no_piece() -> None:
    engine = ScriptedEngine(Delta(1, finish="stop", usage=USAGE))
    answer = [piece async for piece in local(engine).answer(Wish("r", Sampling(), "Hi"))]
    assert [type(piece) for piece in answer] == [Finish]


async def test_closing_the_answer_early_closes_the_stream() -> None:
    engine = ScriptedEngine(Delta(1, "a", 1), Delta(1, "b", 1))
    answer = local(engine).answer(Wish("r", Sampling(), "Hi"))
    await anext(answer)
    assert engine.stream.closes == 0
    await answer.aclose()
    assert engine.stream.closes == 1


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        (Wish("r", Sampling(), "Hi"), "prompt"),
        (Wish("r", Sampling(), messages=({"role": "user", "content": "Hi"},)), "messages"),
    ],
)
async def test_a_too_long_prompt_names_the_field_that_the_caller_wrote(
    wish: Wish, param: str
) -> None:
    engine = ScriptedEngine(ContextLengthExceeded("too long", param="prompt"))
    with pytest.raises(ContextLengthExceeded) as error:
        _ = [piece async for piece in local(engine).answer(wish)]
    assert error.value.param == param
    assert engine.stream.closes == 1


async def test_a_chat_without_a_template_never_reaches_the_engine() -> None:
    engine = ScriptedEngine()
    wish = Wish("r", Sampling(), messages=({"role": "user", "content": "Hi"},))
    with pytest.raises(InvalidRequest, match="no chat template"):
        _ = [piece async for piece in local(engine, None).answer(wish)]
    assert engine.asked == []
