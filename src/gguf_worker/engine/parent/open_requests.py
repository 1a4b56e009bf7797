"""The requests that have not ended, and which of them are suspected of killing the engine.

A request that was being computed when a process died is a suspect. Suspects are sent to the next
process one at a time, so that a deadly one takes down no other; after its second death a request is
refused. Knows neither the process nor the socket; times are arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from gguf_worker.engine.messages import Delta, Embed, Failure, Submit
from gguf_worker.engine.parent.answer_stream import AnswerStream
from gguf_worker.generation import Usage

_DEADLY = 2
"""Processes that a request may take down before it is refused."""


@dataclass(slots=True, eq=False)
class OpenRequest:
    """A request that has not ended. Times are on the client's clock."""

    message: Submit | Embed
    encoded: bytes
    stream: AnswerStream
    submitted: float
    begun: float | None = None
    """Time when its computation began."""
    first: float | None = None
    """Time of its first delta."""
    deaths: int = 0
    """Processes that died while it was being computed."""
    sent: bool = False

    @property
    def deadline(self) -> float | None:
        """The time at which it fails unless it has ended."""
        message = self.message
        return message.request.deadline if isinstance(message, Submit) else message.deadline

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
        self._suspects: deque[int] = deque()
        self.tokenizing: frozenset[int] = frozenset()
        self.compiling: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def suspected(self) -> bool:
        """Tells whether any request is under suspicion."""
        return bool(self._suspects)

    def get(self, id: int) -> OpenRequest | None:
        """Return the request, None if it has ended."""
        return self._requests.get(id)

    def add(self, request: OpenRequest) -> None:
        """Add a new request."""
        self._requests[request.message.id] = request

    def remove(self, id: int) -> OpenRequest | None:
        """Forget a request and return it, None if it has ended before."""
        return self._requests.pop(id, None)

    def clear(self) -> list[OpenRequest]:
        """Forget all requests and return them."""
        requests = list(self._requests.values())
        self._requests.clear()
        self._suspects.clear()
        return requests

    def begin(self, ids: Iterable[int], now: float) -> None:
        """Note that the computation of these requests has begun."""
        for id in ids:
            if (request := self._requests.get(id)) and request.begun is None:
                request.begun = now

    def for_new_process(self) -> Iterator[OpenRequest]:
        """Yield the requests to send to a process that is ready: all but the suspects, and the
        first of those."""
        for id, request in self._requests.items():
            if id not in self._suspects:
                yield request
        if self._suspects:
            yield self._requests[self._suspects[0]]

    def clear_suspicion(self, id: int) -> OpenRequest | None:
        """Clear request `id` of suspicion: it has answered, or is gone.

        Returns the suspect to be sent next, None if there is none.
        """
        if id not in self._suspects:
            return None
        was_sent = self._suspects[0] == id
        self._suspects.remove(id)
        return self._requests[self._suspects[0]] if was_sent and self._suspects else None

    def after_loss(self) -> list[tuple[OpenRequest, Failure]]:
        """Decide which requests fail because the process died.

        Returns and forgets those; the others are to be sent to the next process.
        """
        failed: list[tuple[OpenRequest, Failure]] = []
        for id, request in list(self._requests.items()):
            if (failure := self._settle(request)) is not None:
                del self._requests[id]
                failed.append((request, failure))
        on_threads = self.tokenizing | self.compiling
        suspects = (id for id, each in self._requests.items() if each.deaths)
        # A step crashes far more seldom than a tokeniser or a grammar's compiler.
        self._suspects = deque(sorted(suspects, key=lambda id: id not in on_threads))
        self.tokenizing = self.compiling = frozenset()
        return failed

    def remove_late(self, now: float) -> list[OpenRequest]:
        """Forget and return the requests whose deadline has passed and that no process has."""
        late = [
            request
            for request in self._requests.values()
            if not request.sent and request.deadline is not None and request.deadline <= now
        ]
        for request in late:
            del self._requests[request.message.id]
        return late

    def _settle(self, request: OpenRequest) -> Failure | None:
        """Return the failure that ends a request, or None after preparing it to be sent again."""
        if request.first is not None:
            return Failure(
                "engine_interrupted",
                "The engine stopped while it was answering, after the answer had begun. "
                "Send the request again.",
                retry_after=1.0,
            )
        if self._is_suspicious(request):
            request.deaths += 1
        request.begun, request.sent = None, False
        if request.deaths < _DEADLY:
            return None
        return Failure(
            "request_quarantined",
            f"The engine died {request.deaths} times while computing this request, so it is not "
            "tried again. Please report the request and the model.",
        )

    def _is_suspicious(self, request: OpenRequest) -> bool:
        """Tell whether the process was working on this request when it died.

        Texts are tokenised and grammars compiled beside everything else, so nothing that the
        process did clears another request.
        """
        id = request.message.id
        return request.begun is not None or id in self.compiling or id in self.tokenizing
