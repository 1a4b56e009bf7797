"""The requests that have not ended: which are sent, suspected, refused and too late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from gguf_worker.engine.messages import Delta
from gguf_worker.engine.parent.answer_stream import AnswerStream
from gguf_worker.engine.parent.open_requests import OpenRequest, OpenRequests
from gguf_worker.generation import Usage


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def stream(loop: asyncio.AbstractEventLoop) -> AnswerStream:
    return AnswerStream(loop, lambda: None)


@pytest.fixture
def whole(loop: asyncio.AbstractEventLoop) -> AnswerStream:
    """The stream of an answer of which nobody is shown a part."""
    return AnswerStream(loop, lambda: None, whole=True)


def opened(stream: AnswerStream, *ids: int, deadline: float | None = None) -> OpenRequests:
    """Requests that were all sent."""
    requests = OpenRequests()
    add(requests, stream, *ids, deadline=deadline)
    requests.take_due()
    return requests


def add(
    requests: OpenRequests, stream: AnswerStream, *ids: int, deadline: float | None = None
) -> None:
    for id in ids:
        requests.add(OpenRequest(id, b"hi", stream, submitted=10.0, deadline=deadline))


def request(requests: OpenRequests, id: int) -> OpenRequest:
    found = requests.get(id)
    assert found is not None
    return found


def ids_of(requests: Sequence[OpenRequest]) -> list[int]:
    return [request.id for request in requests]


def codes(requests: OpenRequests) -> list[str]:
    return [failure.code for _, failure in requests.after_loss()]


def test_all_requests_are_due_once_in_their_order(stream: AnswerStream) -> None:
    requests = OpenRequests()
    add(requests, stream, 1, 2, 3)
    assert requests.waiting == 3
    assert ids_of(requests.take_due()) == [1, 2, 3]
    assert (requests.waiting, requests.take_due()) == (0, [])


def test_after_a_loss_those_that_were_computed_are_sent_one_at_a_time(
    stream: AnswerStream,
) -> None:
    requests = opened(stream, 1, 2, 3)
    requests.begin([1, 3, 99], 11.0)
    assert requests.after_loss() == []
    assert ids_of(requests.take_due()) == [1, 2]
    requests.note_first(request(requests, 2), 12.0)
    assert requests.take_due() == []
    requests.note_first(request(requests, 1), 12.0)
    assert ids_of(requests.take_due()) == [3]
    add(requests, stream, 4)
    assert ids_of(requests.take_due()) == [4]


def test_the_next_suspect_is_due_when_the_one_on_trial_is_gone(stream: AnswerStream) -> None:
    requests = opened(stream, 1, 2)
    requests.begin([1, 2], 11.0)
    requests.after_loss()
    assert ids_of(requests.take_due()) == [1]
    requests.remove(1)
    assert ids_of(requests.take_due()) == [2]


def test_a_request_that_was_shown_in_part_fails_and_is_forgotten(stream: AnswerStream) -> None:
    requests = opened(stream, 1, 2)
    shown = request(requests, 1)
    requests.note_first(shown, 12.0)
    ((failed, failure),) = requests.after_loss()
    assert (failed, failure.code, failure.retry_after) == (shown, "engine_interrupted", 1.0)
    assert (requests.get(1), len(requests)) == (None, 1)


def test_an_answer_of_which_nobody_was_shown_a_part_begins_anew(
    whole: AnswerStream, loop: asyncio.AbstractEventLoop
) -> None:
    requests = opened(whole, 1)
    requests.begin([1], 11.0)
    requests.note_first(request(requests, 1), 12.0)
    loop.call_soon(whole.put, Delta(1, "half"))
    assert requests.after_loss() == []
    loop.call_soon(whole.put, Delta(1, "all", finish="stop"))
    assert loop.run_until_complete(anext(whole)).text == "all"
    (again,) = requests.take_due()
    assert (again.begun, again.first) == (None, None)


def test_a_second_death_quarantines_a_request_that_was_alone(stream: AnswerStream) -> None:
    requests = opened(stream, 1)
    for expected in ([], ["request_quarantined"]):
        requests.take_due()
        requests.begin([1], 11.0)
        assert codes(requests) == expected


def test_a_suspect_that_dies_in_company_is_tried_alone_and_then_refused(
    stream: AnswerStream,
) -> None:
    requests = opened(stream, 1, 2)
    requests.begin([1], 11.0)
    requests.after_loss()
    requests.take_due()
    requests.begin([1], 11.0)
    assert codes(requests) == []
    add(requests, stream, 3)
    assert ids_of(requests.take_due()) == [1]
    requests.begin([1], 11.0)
    assert codes(requests) == ["request_quarantined"]
    assert ids_of(requests.take_due()) == [2, 3]


def test_a_neighbour_that_has_ended_was_company_too(stream: AnswerStream) -> None:
    """Its end may reach the parent, or its cancel the engine, during the step that kills it."""
    requests = opened(stream, 1, 2)
    requests.begin([1], 11.0)
    requests.after_loss()
    requests.take_due()
    requests.begin([1, 2], 11.0)
    requests.remove(2)
    assert codes(requests) == []


def test_the_trial_of_one_that_can_come_back_again_lasts_as_long_as_its_answer(
    whole: AnswerStream,
) -> None:
    requests = opened(whole, 1, 2)
    requests.begin([1, 2], 11.0)
    requests.after_loss()
    for id in (1, 2):
        assert ids_of(requests.take_due()) == [id]
        requests.begin([id], 11.0)
        requests.note_first(request(requests, id), 12.0)
    assert codes(requests) == []
    assert ids_of(requests.take_due()) == [1]
    requests.note_first(request(requests, 1), 12.0)
    assert requests.take_due() == []
    requests.remove(1)
    assert ids_of(requests.take_due()) == [2]


@pytest.mark.parametrize("work", ["tokenizing", "compiling"])
def test_what_was_done_on_threads_is_suspected_first_and_beside_it_what_was_computed(
    stream: AnswerStream, work: str
) -> None:
    requests = opened(stream, 1, 2, 3, 4)
    requests.begin([1], 11.0)
    setattr(requests, work, frozenset({2, 3, 99}))
    requests.after_loss()
    assert not getattr(requests, work)
    assert ids_of(requests.take_due()) == [2, 4]
    for cleared, next_one in ((2, [3]), (3, [1]), (1, [])):
        requests.note_first(request(requests, cleared), 12.0)
        assert ids_of(requests.take_due()) == next_one


def test_only_requests_that_no_process_has_are_late(stream: AnswerStream) -> None:
    requests = opened(stream, 1, deadline=20.0)
    assert requests.remove_late(20.0) == []
    requests.after_loss()
    assert requests.remove_late(19.9) == []
    assert ids_of(requests.remove_late(20.0)) == [1]
    assert (len(requests), requests.waiting) == (0, 0)


def test_a_message_is_held_until_it_can_no_longer_be_needed(
    stream: AnswerStream, whole: AnswerStream
) -> None:
    requests = opened(stream, 1, 2)
    add(requests, whole, 3)
    assert requests.bytes == 6
    requests.note_first(request(requests, 1), 12.0)
    requests.note_first(request(requests, 3), 12.0)
    assert requests.bytes == 4
    for id in (1, 2, 3):
        requests.remove(id)
    assert requests.bytes == 0


def test_the_last_delta_has_the_counts_of_the_engine_and_our_seconds(stream: AnswerStream) -> None:
    request = OpenRequest(1, b"", stream, submitted=10.0, begun=11.0, first=13.0)
    delta = request.last_delta(Delta(1, finish="stop", usage=Usage(7, 2)), 16.0)
    assert delta.usage == Usage(7, 2, 0, 1.0, 2.0, 3.0, 6.0)


def test_a_request_that_never_began_waited_all_the_time(stream: AnswerStream) -> None:
    request = OpenRequest(1, b"", stream, submitted=10.0)
    assert request.last_delta(Delta(1), 16.0).usage == Usage(0, 0, 0, 6.0, 0.0, 6.0, 6.0)


# Any culprits among any innocents


@dataclass
class Script:
    """A request of the random world: it takes `steps`, and kills the engine at `deadly`, if any; 0
    is before its first delta."""

    id: int
    whole: bool
    steps: int
    deadly: int | None
    done: int = 0


@dataclass
class World:
    """An engine of `slots` whose processes die of culprits only, and of all of them."""

    seed: int
    loop: asyncio.AbstractEventLoop
    slots: int = 4
    requests: OpenRequests = field(default_factory=OpenRequests)
    ends: dict[int, list[str]] = field(default_factory=dict)
    losses: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.arriving = [
            Script(
                id,
                whole=self.random.random() < 0.5,
                steps=self.random.randint(1, 12),
                deadly=self.random.randint(0, 4) if self.random.random() < 0.3 else None,
            )
            for id in range(self.random.randint(1, 40))
        ]
        for script in self.arriving:
            if script.deadly is not None:
                script.steps = max(script.steps, script.deadly + 1)
        self.scripts = {script.id: script for script in self.arriving}
        self.queue: list[Script] = []
        self.running: list[Script] = []

    @property
    def culprits(self) -> set[int]:
        return {id for id, script in self.scripts.items() if script.deadly is not None}

    def run(self) -> None:
        for _ in range(20_000):
            if not self.arriving and not self.requests:
                return
            self._arrive()
            self._cancel()
            for request in self.requests.take_due():
                self.scripts[request.id].done = 0
                self.queue.append(self.scripts[request.id])
            self._step()
        raise AssertionError("it goes on for ever")

    def _arrive(self) -> None:
        while self.arriving and self.random.random() < 0.4:
            script = self.arriving.pop(0)
            stream = AnswerStream(self.loop, lambda: None, whole=script.whole)
            self.requests.add(OpenRequest(script.id, b"x", stream, 0.0))

    def _cancel(self) -> None:
        """Cancel a request now and then, which may be in the step that is being computed."""
        for script in [*self.running]:
            if self.random.random() < 0.005:
                self.requests.remove(script.id)
                self._end(script.id, "cancelled")
                if self.random.random() < 0.5:
                    self.running.remove(script)

    def _step(self) -> None:
        while self.queue and len(self.running) < self.slots:
            self.running.append(self.queue.pop(0))
        self.requests.begin([script.id for script in self.running], 1.0)
        if any(script.deadly == script.done for script in self.running):
            return self._die()
        for script in list(self.running):
            script.done += 1
            request = self.requests.get(script.id)
            if request is None:
                self.running.remove(script)
                continue
            if request.first is None:
                self.requests.note_first(request, 1.0)
            if script.done == script.steps:
                self.running.remove(script)
                self.requests.remove(script.id)
                self._end(script.id, "answered")
        return None

    def _die(self) -> None:
        self.losses += 1
        self.queue, self.running = [], []
        for request, failure in self.requests.after_loss():
            self._end(request.id, failure.code)

    def _end(self, id: int, how: str) -> None:
        self.ends.setdefault(id, []).append(how)


@pytest.mark.parametrize("start", range(0, 2000, 100))
def test_whoever_kills_the_engine_is_convicted_and_nobody_else(
    start: int, loop: asyncio.AbstractEventLoop
) -> None:
    for seed in range(start, start + 100):
        world = World(seed, loop)
        world.run()
        assert all(len(ends) == 1 for ends in world.ends.values())
        assert world.ends.keys() == world.scripts.keys()
        ends = {id: how for id, (how,) in world.ends.items()}
        for id, script in world.scripts.items():
            if script.deadly is None:
                allowed = {"answered", "cancelled"} | (
                    set() if script.whole else {"engine_interrupted"}
                )
            elif script.whole or script.deadly == 0:
                allowed = {"request_quarantined", "cancelled"}
            else:  # it had been shown in part
                allowed = {"engine_interrupted", "cancelled"}
            assert ends[id] in allowed, f"seed {seed}: {script} ended {ends[id]}"
        assert world.losses <= 4 * len(world.culprits)
