from __future__ import annotations

import asyncio
import base64
import json
import math
import random
import struct
import sys
from typing import Any

import msgspec
import openai
import pytest
from openai.types import CreateEmbeddingResponse

from gguf_worker.api import answer_job
from gguf_worker.api.openai import EmbeddingsCall, read_embeddings, write_embeddings
from gguf_worker.api.openai.embeddings_reader import MAX_INPUTS
from gguf_worker.api.reading import MAX_CHARACTERS, MAX_TOKENS
from gguf_worker.api.writing import Body, Failed
from gguf_worker.errors import (
    ContextLengthExceeded,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
)
from gguf_worker.events import Outcome
from gguf_worker.providers import EmbeddingRequest, Embeddings
from tests.api_doors import CARD, Bench, call
from tests.fakes import ScriptedProvider, vector
from tests.http_door import application, client, posted, served

ROUTE = "/v1/embeddings"


def read(**body: Any) -> Any:
    return read_embeddings(body, id="r1", deadline=None)


def refusal(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    return caught.value


def asked(base64: bool = False) -> EmbeddingsCall:
    return EmbeddingsCall(None, EmbeddingRequest("r1", ("Hi",)), base64)


def bench(*script: Any) -> Bench:
    return Bench(ScriptedProvider(*script))


async def answer(**body: Any) -> Any:
    (reply,) = await bench().ask(call(ROUTE, body))
    assert isinstance(reply, Body)
    return json.loads(msgspec.json.encode(reply.data))


def float32(values: list[float]) -> list[float]:
    """The numbers once they have been stored in 32 bits."""
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


@pytest.mark.parametrize(
    ("sent", "inputs"),
    [
        ("Hi", ("Hi",)),
        (["Hi", "there"], ("Hi", "there")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["x"] * MAX_INPUTS, ("x",) * MAX_INPUTS),
    ],
)
def test_an_input_has_all_of_openais_forms(sent: Any, inputs: Any) -> None:
    assert read(input=sent).request.inputs == inputs


@pytest.mark.parametrize(
    ("sent", "param", "says"),
    [
        (None, "input", "required"),
        ("", "input", "is empty"),
        ([], "input", "1 to 2048"),
        (["x"] * (MAX_INPUTS + 1), "input", "1 to 2048"),
        (5, "input", "should be text, token ids"),
        ({"text": "Hi"}, "input", "should be text, token ids"),
        (["Hi", ""], "input[1]", "is empty"),
        ([[1], []], "input[1]", "is empty"),
        (["Hi", [1]], "input[1]", "should be text, as `input[0]` is"),
        ([[1], "Hi"], "input[1]", "should be token ids, as `input[0]` is"),
        ([[1], 2], "input[1]", "should be text or token ids"),
        ([None], "input[0]", "should be text or token ids"),
        ([True], "input[0]", "should be text or token ids"),
        ([1, "Hi"], "input[1]", "should be a token id"),
        ([1, -1], "input[1]", "should be a token id"),
        ([[1], [2, 2**31]], "input[1][1]", "should be a token id"),
        ([[1], [2, True]], "input[1][1]", "should be a token id"),
        (["\ud800"], "input", "not valid Unicode"),
        (["x" * MAX_CHARACTERS, "x"], "input", f"more than {MAX_CHARACTERS} characters"),
        ([1] * (MAX_TOKENS + 1), "input", f"more than {MAX_TOKENS} tokens"),
    ],
)
def test_a_fault_of_an_input_names_its_place(sent: Any, param: str, says: str) -> None:
    error = refusal(input=sent)
    assert error.param == param
    assert f"`{param}`" in error.message
    assert says in error.message


@pytest.mark.parametrize("lists", [1, 2000])
def test_millions_of_token_ids_cost_no_call_of_python_each(lists: int) -> None:
    ids = [[5] * (MAX_TOKENS // lists)] * lists
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        read(input=ids if lists > 1 else ids[0])
    finally:
        sys.setprofile(None)
    assert calls < MAX_TOKENS / 20


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"dimensions": 2**31}, "dimensions"),
        ({"user": 5}, "user"),
        ({"normalize": False}, "normalize"),
        ({"embd_normalize": -1}, "embd_normalize"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"truncate": "END"}, "truncate"),
    ],
)
def test_a_wrong_field_is_named(more: Any, param: str) -> None:
    assert refusal(input="Hi", **more).param == param


def test_what_would_not_change_the_answer_may_be_sent() -> None:
    harmless = {"normalize": True, "embd_normalize": 2, "truncate": None, "banana": 1, "user": "u"}
    read_call = read(input="Hi", dimensions=None, encoding_format=None, **harmless)
    assert read_call.request == EmbeddingRequest("r1", ("Hi",))
    assert not read_call.base64


async def test_the_answer_is_what_the_openai_package_expects() -> None:
    data = await answer(input=["Hi", "there"], user="u")
    given = CreateEmbeddingResponse.model_validate_json(json.dumps(data), strict=True)
    assert given.to_dict() == data
    assert [(each.index, each.object) for each in given.data] == [
        (0, "embedding"), (1, "embedding")
    ]  # fmt: skip
    assert [float32(each.embedding) for each in given.data] == [
        float32(vector(2)), float32(vector(5))
    ]  # fmt: skip
    assert (given.model, given.object) == ("demo", "list")
    assert (given.usage.prompt_tokens, given.usage.total_tokens) == (7, 7)


async def test_base64_is_little_endian_float32() -> None:
    data = await answer(input=[1, 2, 3], encoding_format="base64")
    (each,) = data["data"]
    assert base64.b64decode(each["embedding"]) == struct.pack("<4f", *vector(3))


async def test_numbers_are_exact_and_short() -> None:
    dice = random.Random("gguf")
    words = [
        *(dice.getrandbits(32) & 0xBFFFFFFF for _ in range(20_000)),  # all below 2: any of a vector
        *(struct.unpack("<I", struct.pack("<f", dice.gauss(0, 0.03)))[0] for _ in range(20_000)),
        0, 1, 0x3F800000, 0x00800000, 0x007FFFFF,
    ]  # fmt: skip
    stored = struct.pack(f"<{len(words)}I", *words)
    data = await write_embeddings(Embeddings((stored,), 1), asked(), CARD)
    text = msgspec.json.encode(data["data"][0]["embedding"])
    assert struct.pack(f"<{len(words)}f", *json.loads(text)) == stored
    assert len(max(text[1:-1].split(b","), key=len)) <= len("-1.23456789e-38")


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
async def test_a_vector_without_a_length_is_a_failure_with_a_name(
    bad: float, as_text: bool
) -> None:
    vectors = tuple(struct.pack("<2f", *each) for each in ((0.6, 0.8), (1.0, bad)))
    with pytest.raises(GenerationFailed, match=r"input\[1\]"):
        await write_embeddings(Embeddings(vectors, 1), asked(as_text), CARD)


async def test_others_get_their_turn_while_a_large_answer_is_written() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await write_embeddings(Embeddings((struct.pack("<f", 1.0),) * 256, 1), asked(), CARD)
    task.cancel()
    assert turns >= 15


async def test_the_request_has_what_was_asked_for_and_the_report_what_it_cost() -> None:
    worker = bench()
    body = {"input": ["Hi", "there"], "dimensions": 2}
    await worker.ask(call(ROUTE, body, deadline=7.0))
    assert worker.provider.embedded == [EmbeddingRequest("r1", ("Hi", "there"), 2, 7.0)]
    done = worker.done
    assert (done.route, done.outcome, done.stream) == (ROUTE, Outcome.STOP, False)
    assert (done.prompt_tokens, done.completion_tokens) == (7, 0)


async def test_another_model_is_not_found() -> None:
    worker = bench()
    (reply,) = await worker.ask(call(ROUTE, {"input": "Hi", "model": "other"}))
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, ModelNotFound)
    assert worker.provider.embedded == []


async def test_a_providers_fault_is_no_event_whatever_the_body_says() -> None:
    error = ContextLengthExceeded("input[1] has 9 tokens.", param="input")
    (reply,) = await bench(error).ask(call(ROUTE, {"input": ["a", "b"], "stream": True}))
    assert isinstance(reply, Failed)
    assert reply.event is None
    assert reply.error is error


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_the_queue_gives_the_same_object(encoding: str) -> None:
    body = {"input": ["Hi", "there"], "encoding_format": encoding}
    async with client(application(bench())) as http:
        over_http = (await http.post(ROUTE, json=body)).json()
    for given in ({"openai_route": ROUTE, "openai_input": body}, {"route": ROUTE, "body": body}):
        job = answer_job(bench().gateway, {"id": "j", "input": given}, default_timeout=60)
        (item,) = [item async for item in job]
        assert json.loads(json.dumps(item)) == over_http


def test_the_openai_client_embeds() -> None:
    worker = bench()
    with (
        served(application(worker)) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k") as api,
    ):
        plain = api.embeddings.create(model="demo", input="Hi")
        listed = api.embeddings.create(model="demo", input=["Hi", "there"], encoding_format="float")
        tokens = api.embeddings.create(model="demo", input=[[1, 2, 3], [4]], dimensions=3)
        with pytest.raises(openai.BadRequestError) as caught:
            api.embeddings.create(model="demo", input=["Hi", ""])
    assert caught.value.param == "input[1]"
    assert plain.data[0].embedding == float32(vector(2))
    assert [float32(each.embedding) for each in listed.data] == [
        float32(vector(2)), float32(vector(5))
    ]  # fmt: skip
    assert [each.embedding for each in tokens.data] == [
        float32(vector(3))[:3], float32(vector(1))[:3]
    ]  # fmt: skip
    assert tokens.usage.prompt_tokens == 4
    assert worker.provider.embedded[-1].dimensions == 3


def test_a_client_that_leaves_cancels() -> None:
    worker = bench(asyncio.Event())
    with served(application(worker)) as port:
        with posted(port, {"input": "Hi"}, ROUTE):
            assert worker.provider.parked.wait(5)
        assert worker.provider.ended.wait(5)
    assert worker.done.outcome is Outcome.CANCELLED
