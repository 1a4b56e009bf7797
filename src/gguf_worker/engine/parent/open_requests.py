"""The requests that have not ended, and which of them are suspected of killing the engine.

A request that was being computed when a process died is a suspect. The next process gets one
suspect at a time, beside the requests that are none. If it dies too, the next one gets nothing but
that suspect: a request is refused only after a death in a process that was given no other.
Knows neither the process nor the socket; times are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from gguf_worker.engine.messages import Delta, Failure
from gguf_worker.engine.parent.answer_stream import AnswerStream
from gguf_worker.generation import Usage

_DEADLY = 2
"""Processes that a request may take down before it is refused."""


@dataclass(slots=True, eq=False)
class OpenRequest:
    """A request that has not ended. Times are on the client's clock."""

    id: int
    encoded: bytes
    """The message, for as long as it may have to be sent again."""
    stream: AnswerStream
    submitted: float
    deadline: float | None = None
    """Time at which it fails unless it has ended."""
    begun: float | None = None
    """Time when its computation began."""
    first: float | None = None
    """Time of its first delta."""
    deaths: int = 0
    """Processes that died while it was being computed."""
    tried: bool = False
    """One of them died while this request was the suspect on trial."""
    sent: bool = False

    @property
    def settled(self) -> bool:
        """Tells whether some of its answer may have been shown, so that it is never sent again."""
        return self.first is not None and not self.stream.whole

    def last_delta(self, delta: Delta, now: float) -> Delta:
        """Complete the last delta with the engine's token counts and the client's seconds."""
        first = self.first or now
        begun = self.begun or first
        usage = msgspec.structs.replace(
            delta.usage or Usage(0, 0),
            queue_seconds=begun - self.submitted,
            prefill_seconds=first - begun,
            ttft_seconds=first - self.submitted,
            seconds=now - self.submitted,
        )
        return msgspec.structs.replace(delta, usage=usage)


class OpenRequests:
    """The open requests in the order in which they came. Not thread-safe: its owner holds a lock.

    `tokenizing` are the ids of the requests and questions whose texts are being tokenised,
    `compiling` those of the requests whose grammars are being compiled: both happen on threads,
    beside everything else.
    """

    def __init__(self) -> None:
        self._requests: dict[int, OpenRequest] = {}
        self._unsent: dict[int, OpenRequest] = {}
        self._suspects: dict[int, OpenRequest] = {}  # the first is on trial
        self._given = 0  # requests that the present process was sent
        self._bytes = 0
        self.tokenizing: frozenset[int] = frozenset()
        self.compiling: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def waiting(self) -> int:
        """The number of requests that no process has."""
        return len(self._unsent)

    @property
    def bytes(self) -> int:
        """Bytes of all messages that are kept."""
        return self._bytes

    @property
    def given(self) -> bool:
        """Tells whether the present process was sent any request."""
        return self._given > 0

    @property
    def isolated(self) -> bool:
        """Tells whether the process may be given nothing but the suspect on trial."""
        return any(each.tried for each in self._suspects.values())

    def get(self, id: int) -> OpenRequest | None:
        """Return the request, None if it has ended."""
        return self._requests.get(id)

    def add(self, request: OpenRequest) -> None:
        """Add a new request."""
        self._requests[request.id] = self._unsent[request.id] = request
        self._bytes += len(request.encoded)

    def remove(self, id: int) -> OpenRequest | None:
        """Forget a request and return it, None if it has ended before."""
        request = self._requests.pop(id, None)
        if request is not None:
            self._unsent.pop(id, None)
            self._suspects.pop(id, None)
            self._bytes -= len(request.encoded)
        return request

    def clear(self) -> list[OpenRequest]:
        """Forget all requests and return them."""
        return [request for id in list(self._requests) if (request := self.remove(id))]

    def take_due(self) -> list[OpenRequest]:
        """Return the requests that the process may be sent now, and note them as sent.

        These are all but the suspects, and the suspect on trial; or that one alone, if a process
        died while it was on trial.
        """
        if not self._unsent:
            return []
        trial = next(iter(self._suspects.values()), None)
        if trial is not None and trial.tried:
            due = [] if trial.sent else [trial]
        else:
            suspects = self._suspects
            due = [
                request
                for id, request in self._unsent.items()
                if request is trial or id not in suspects
            ]
        for request in due:
            del self._unsent[request.id]
            request.sent = True
        self._given += len(due)
        return due

    def begin(self, ids: Iterable[int], now: float) -> None:
        """Note that the computation of these requests has begun."""
        for id in ids:
            if (request := self._requests.get(id)) and request.begun is None:
                request.begun = now

    def note_first(self, request: OpenRequest, now: float) -> None:
        """Note the first delta of a request.

        It ends the trial of a suspect, unless the request may come back after one more death: then
        its trial lasts as long as its answer, or it could take down one process after the other.
        """
        request.first = now
        if request.settled:
            self._bytes -= len(request.encoded)
            request.encoded = b""
        if request.settled or request.deaths < _DEADLY:
            self._suspects.pop(request.id, None)
            request.tried = False

    def after_loss(self) -> list[tuple[OpenRequest, Failure]]:
        """Decide which requests fail because the process died.

        Returns and forgets those; the others are to be sent to the next process.
        """
        trial = next(iter(self._suspects), None)
        failed: list[tuple[OpenRequest, Failure]] = []
        for id, request in list(self._requests.items()):
            if (failure := self._settle(request, on_trial=id == trial)) is not None:
                self.remove(id)
                failed.append((request, failure))
        on_threads = self.tokenizing | self.compiling
        suspects = [request for request in self._requests.values() if request.deaths]
        # A step crashes far more seldom than a tokeniser or a grammar's compiler.
        suspects.sort(key=lambda request: (not request.tried, request.id not in on_threads))
        self._unsent = dict(self._requests)
        self._suspects = {request.id: request for request in suspects}
        self.tokenizing, self.compiling, self._given = frozenset(), frozenset(), 0
        return failed

    def remove_late(self, now: float) -> list[OpenRequest]:
        """Forget and return the requests whose deadline has passed and that no process has."""
        late = [
            request
            for request in self._unsent.values()
            if request.deadline is not None and request.deadline <= now
        ]
        for request in late:
            self.remove(request.id)
        return late

    def _settle(self, request: OpenRequest, *, on_trial: bool) -> Failure | None:
        """Return the failure that ends a request, or None after preparing it to be sent again."""
        if request.settled:
            return Failure(
                "engine_interrupted",
                "The engine stopped while it was answering, after the answer had begun. "
                "Send the request again.",
                retry_after=1.0,
            )
        if self._is_suspicious(request):
            request.deaths += 1
            request.tried = on_trial
            if request.deaths >= _DEADLY and self._was_alone(request):
                return Failure(
                    "request_quarantined",
                    f"The engine died {request.deaths} times while computing this request, so it "
                    "is not tried again. Please report the request and the model.",
                )
        request.stream.start_over()  # it may have been given its prompt's logprobs
        request.begun, request.first, request.sent = None, None, False
        return None

    def _is_suspicious(self, request: OpenRequest) -> bool:
        """Tell whether the process was working on this request when it died.

        Texts are tokenised and grammars compiled beside everything else, so nothing that the
        process did clears another request.
        """
        id = request.id
        return request.begun is not None or id in self.compiling or id in self.tokenizing

    def _was_alone(self, request: OpenRequest) -> bool:
        """Tell whether the process had no other request, not even one that has ended since."""
        return self._given == 1 and self.tokenizing <= {request.id}
