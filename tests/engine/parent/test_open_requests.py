"""The requests that have not ended: which are sent, suspected, refused and too late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gguf_worker.engine.messages import Delta, Embed, EngineRequest, Submit
from gguf_worker.engine.parent.answer_stream import AnswerStream
from gguf_worker.engine.parent.open_requests import OpenRequest, OpenRequests
from gguf_worker.generation import Sampling, Usage


@pytest.fixture
def stream() -> Iterator[AnswerStream]:
    loop = asyncio.new_event_loop()
    yield AnswerStream(loop, lambda: None)
    loop.close()


def opened(stream: AnswerStream, *ids: int, deadline: float | None = None) -> OpenRequests:
    """Requests that were all sent."""
    requests = OpenRequests()
    for id in ids:
        message = Submit(id, EngineRequest("hi", Sampling(), deadline=deadline))
        requests.add(OpenRequest(message, b"", stream, submitted=10.0, sent=True))
    return requests


def ids_of(requests: Iterator[OpenRequest] | list[OpenRequest]) -> list[int]:
    return [request.message.id for request in requests]


def test_a_new_process_gets_all_requests_in_their_order(stream: AnswerStream) -> None:
    assert ids_of(opened(stream, 1, 2, 3).for_new_process()) == [1, 2, 3]


def test_after_a_loss_those_that_were_computed_are_sent_one_at_a_time(
    stream: AnswerStream,
) -> None:
    requests = opened(stream, 1, 2, 3)
    requests.begin([1, 3, 99], 11.0)
    assert requests.after_loss() == []
    assert ids_of(requests.for_new_process()) == [2, 1]
    assert requests.suspected
    assert requests.clear_suspicion(2) is None
    suspect = requests.clear_suspicion(1)
    assert suspect is not None
    assert suspect.message.id == 3
    assert requests.clear_suspicion(3) is None
    assert not requests.suspected


def test_a_request_that_had_streamed_fails_and_is_forgotten(stream: AnswerStream) -> None:
    requests = opened(stream, 1, 2)
    first = requests.get(1)
    assert first is not None
    first.first = 12.0
    ((failed, failure),) = requests.after_loss()
    assert (failed, failure.code, failure.retry_after) == (first, "engine_interrupted", 1.0)
    assert (requests.get(1), len(requests)) == (None, 1)


def test_a_second_death_quarantines(stream: AnswerStream) -> None:
    requests = opened(stream, 1)
    for expected in ([], ["request_quarantined"]):
        requests.begin([1], 11.0)
        assert [failure.code for _, failure in requests.after_loss()] == expected


@pytest.mark.parametrize("work", ["tokenizing", "compiling"])
def test_what_was_done_on_threads_is_suspected_first_and_beside_it_what_was_computed(
    stream: AnswerStream, work: str
) -> None:
    requests = opened(stream, 1, 2, 3, 4)
    requests.begin([1], 11.0)
    setattr(requests, work, frozenset({2, 3, 99}))
    requests.after_loss()
    assert not getattr(requests, work)
    assert ids_of(requests.for_new_process()) == [4, 2]
    suspects = [requests.clear_suspicion(id) for id in (2, 3, 1)]
    assert [suspect and suspect.message.id for suspect in suspects] == [3, 1, None]


def test_only_requests_that_no_process_has_are_late(stream: AnswerStream) -> None:
    requests = opened(stream, 1, deadline=20.0)
    assert requests.remove_late(20.0) == []
    requests.after_loss()
    assert requests.remove_late(19.9) == []
    assert ids_of(requests.remove_late(20.0)) == [1]
    assert len(requests) == 0


def test_the_deadline_is_that_of_the_message(stream: AnswerStream) -> None:
    embed = OpenRequest(Embed(1, ("a",), deadline=5.0), b"", stream, submitted=0.0)
    assert embed.deadline == 5.0


def test_the_last_delta_has_the_counts_of_the_engine_and_our_seconds(stream: AnswerStream) -> None:
    message = Submit(1, EngineRequest("hi", Sampling()))
    request = OpenRequest(message, b"", stream, submitted=10.0, begun=11.0, first=13.0)
    delta = request.last_delta(Delta(1, finish="stop", usage=Usage(7, 2)), 16.0)
    assert delta.usage == Usage(7, 2, 0, 1.0, 2.0, 3.0, 6.0)


def test_a_request_that_never_began_waited_all_the_time(stream: AnswerStream) -> None:
    message = Submit(1, EngineRequest("hi", Sampling()))
    request = OpenRequest(message, b"", stream, submitted=10.0)
    assert request.last_delta(Delta(1), 16.0).usage == Usage(0, 0, 0, 6.0, 0.0, 6.0, 6.0)
