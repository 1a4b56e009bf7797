"""The protocol between the worker and its engine: framing, and every message there and back."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest

from gguf_worker.engine.messages import (
    Cancel,
    Compiling,
    Delta,
    DetokenizeTokens,
    Embed,
    EngineInfo,
    EngineRequest,
    EngineSpec,
    Failure,
    Framed,
    FromEngine,
    GpuSupport,
    Loading,
    Ready,
    Refused,
    Reply,
    Start,
    Step,
    Stop,
    Submit,
    ToEngine,
    TokenizeText,
    Tokenizing,
)
from gguf_worker.generation import Grammar, Sampling, TokenLogprob, Usage

INFO = EngineInfo("tiny", 64, 4, 256, 16, 16, 512, 10**10, 10**11, True, 2, 1.5, 0.25)
REQUEST = EngineRequest(
    prompt="deniz 🌊 海",
    sampling=Sampling(logit_bias=((3, -1.5), (4, 2.0)), seed=2**31, dry_sequence_breakers=("é",)),
    max_tokens=5,
    stop=("\n\n", "。"),
    ignore_eos=True,
    add_special=False,
    parse_special=False,
    deadline=1234.5,
)
SUBMIT = Submit(7, REQUEST)
TO_ENGINE: list[ToEngine] = [
    Start(EngineSpec(path="/models/ü.gguf", context=64, sequences=4, kv_type="q8_0")),
    SUBMIT,
    Submit(2**40, EngineRequest([1, 2, 3], Sampling())),
    Submit(
        8,
        EngineRequest(
            "", Sampling(), grammar=Grammar("regex", "é+"), logprobs=5, show_special=True
        ),
    ),
    Cancel(7),
    Stop(),
    TokenizeText(9, "é", False, False),
    DetokenizeTokens(10, [1, 2]),
    Embed(11, ("é", [1, 2]), dimensions=3, deadline=1.5),
    Embed(12, ("海", ""), query="é"),
]
FROM_ENGINE: list[FromEngine] = [
    Loading(0.5),
    Ready(INFO),
    Refused("model_corrupt", "no tensors", True),
    Refused("engine_start_failed", "no GPU", False, True, GpuSupport("no_device", "it is lost")),
    Tokenizing((7,)),
    Tokenizing(()),
    Compiling((7, 8)),
    Compiling(()),
    Reply(9, tokens=[1, 2]),
    Reply(10, text="é"),
    Reply(11, failure=Failure("invalid_request", "long", "prompt")),
    Step(rows=1, running=2, waiting=3, kv_used=4, kv_total=5, preempted=6, seconds=0.5),
    Step(
        rows=1,
        running=2,
        waiting=3,
        kv_used=4,
        kv_total=5,
        preempted=0,
        seconds=0.25,
        begun=(1, 2),
        deltas=(
            Delta(1, "é", 1),
            Delta(2, "", 1, "stop", None, Usage(3, 4)),
            Delta(1, "é", 1, logprobs=(TokenLogprob(5, b"\xc3", -0.5, ((6, b"", -0.25),)),)),
            Delta(4, finish="stop", usage=Usage(3, 0), vectors=(b"\0\1\2\3", b"")),
            Delta(3, failure=Failure("invalid_request", "empty", "prompt", 1.0)),
        ),
        intervals=(0.125, 0.5),
    ),
]


def frame(message: Any) -> bytes:
    data = msgspec.msgpack.encode(message)
    return Framed.HEADER.pack(len(data)) + data


def to_engine() -> Framed[ToEngine]:
    return Framed(msgspec.msgpack.Decoder(ToEngine))


def from_engine() -> Framed[FromEngine]:
    return Framed(msgspec.msgpack.Decoder(FromEngine))


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda m: type(m).__name__)
def test_a_message_to_the_engine_comes_back_as_it_was(message: ToEngine) -> None:
    assert to_engine().feed(frame(message)) == [message]


@pytest.mark.parametrize("message", FROM_ENGINE, ids=lambda m: type(m).__name__)
def test_a_message_from_the_engine_comes_back_as_it_was(message: FromEngine) -> None:
    assert from_engine().feed(frame(message)) == [message]


def test_every_message_is_among_the_examples() -> None:
    assert {type(message) for message in TO_ENGINE} == set(get_args(ToEngine))
    assert {type(message) for message in FROM_ENGINE} == set(get_args(FromEngine))


def test_messages_may_be_cut_anywhere() -> None:
    data = b"".join(map(frame, TO_ENGINE))
    for at in range(len(data) + 1):
        framed = to_engine()
        assert framed.feed(data[:at]) + framed.feed(data[at:]) == TO_ENGINE


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_messages_may_come_in_small_pieces(size: int) -> None:
    data = b"".join(map(frame, TO_ENGINE))
    framed = to_engine()
    cuts = [*range(0, len(data), size), len(data)]
    assert [m for a, b in pairwise(cuts) for m in framed.feed(data[a:b])] == TO_ENGINE


def test_a_message_is_not_given_before_its_last_byte() -> None:
    data = frame(SUBMIT)
    framed = to_engine()
    assert framed.feed(data[:-1]) == []
    assert framed.feed(data[-1:]) == [SUBMIT]


def test_a_long_prompt_in_many_pieces_arrives_whole() -> None:
    submit = Submit(7, msgspec.structs.replace(REQUEST, prompt="🌊" * 200_000))
    data = frame(submit)
    framed = to_engine()
    pieces = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    assert [m for piece in pieces for m in framed.feed(piece)] == [submit]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", 3) + b"\xc1\xc1\xc1",
        frame("text"),
        frame([99, 1]),
        frame(Cancel("seven")),  # type: ignore[arg-type]
        frame(Step(1, 2, 3, 4, 5, 6, 0.5)),
    ],
    ids=["garbage", "not a message", "unknown tag", "wrong type", "wrong direction"],
)
def test_bytes_that_are_no_message_are_an_error_and_not_taken_for_one(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        to_engine().feed(data)


def test_a_delta_is_the_last_one_with_a_finish_or_a_failure() -> None:
    assert not Delta(1, "text", 1).last
    assert Delta(1, finish="stop").last
    assert Delta(1, failure=Failure("overloaded", "")).last
