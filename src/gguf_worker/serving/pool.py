"""The pool of one worker's models: requests wait here until their model is in memory.

It carries out the swap policy's decisions, on threads of its own. What a model is, and how it is
opened, is known to `LoadableModel` alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

from gguf_worker.errors import EngineUnavailable, InternalError, WorkerError
from gguf_worker.events import ModelFailed, ModelUnloaded, Observer
from gguf_worker.serving.model_record import ModelPolicy
from gguf_worker.serving.swap_policy import (
    Action,
    Admit,
    Close,
    Fetch,
    Open,
    Refuse,
    SwapPolicy,
)

log = logging.getLogger("gguf_worker.models")

_CLOSE_SECONDS = 30.0
"""The longest that `Pool.close` waits for a thread that opens or closes a model."""
_AFTER_BUG_SECONDS = 1.0
"""The pause of the pool's timer thread after a bug."""


class LoadableModel(Protocol):
    """A model: fetched, opened, used, closed. Each step blocks, and may raise WorkerError."""

    def fetch(self) -> None:
        """Fetch the model to this machine, and mark it as in use until `close`."""
        ...

    def open(self, others: Sequence[Self], /) -> bool:
        """Load the model into memory, beside the `others` that are there.

        Returns False if there is no memory for it; it may be called again then.
        """
        ...

    @property
    def max_requests(self) -> int:
        """Requests that may run and wait in it at once."""
        ...

    @property
    def dead(self) -> str | None:
        """The reason why it will not answer any more; None as long as it does."""
        ...

    def close(self) -> None:
        """Free its memory. Safe at any time, and twice."""
        ...


T = TypeVar("T", bound=LoadableModel)


class Pool(Generic[T]):
    """A pool of models. Thread-safe; `close` ends all of them.

    `keep_alive`: for each model the seconds without a request after which it leaves memory; None:
    it leaves when another needs its memory. `make`: makes a new model of this name; its second
    argument is to be called, on any thread, when the model's engine is lost for good.
    `max_waiting`: requests that may wait at once. `max_wait`: seconds that a request without a
    deadline waits. `on_unservable`: called when a model fails and none is left that can be served,
    or is likely to be soon.
    """

    def __init__(
        self,
        keep_alive: Mapping[str, float | None],
        make: Callable[[str, Callable[[str], None]], T],
        *,
        observe: Observer,
        max_waiting: int,
        max_wait: float = 600.0,
        on_unservable: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        policies = [ModelPolicy(name, seconds) for name, seconds in keep_alive.items()]
        self._policy = SwapPolicy(policies, max_waiting=max_waiting)
        self._make = make
        self._observe = observe
        self._max_wait = max_wait
        self._on_unservable = on_unservable
        self._now = now
        self._changed = threading.Condition()  # guards everything below, and the policy
        self._models: dict[str, T] = {}
        self._waiting: dict[int, tuple[str, Future[T]]] = {}
        self._workers: set[threading.Thread] = set()
        self._next_id = 1
        self._due_at = math.inf
        self._closed = False
        self._timer = threading.Thread(target=self._run_timer, name="pool", daemon=True)
        self._timer.start()

    @asynccontextmanager
    async def acquire(
        self, name: str, *, deadline: float | None = None, weight: int = 1
    ) -> AsyncIterator[T]:
        """Wait until the model is in memory, and keep it there until the block is left.

        `weight`: how many of the model's requests this one counts as. Raises Overloaded and
        EngineUnavailable, which say when to try again, DeadlineExceeded, or the reason why the
        model cannot be served.
        """
        if deadline is None:
            deadline = self._now() + self._max_wait
        id, future = self._request(name, deadline=deadline, weight=weight)
        try:
            yield future.result() if future.done() else await asyncio.wrap_future(future)
        finally:
            self._end_request(id)

    def load(self, name: str, *, no_evict: bool = False) -> None:
        """Load the model into memory, and wait for that. Raises as `acquire` does.

        `no_evict`: only if there is memory beside the models that are there.
        """
        id, future = self._request(name, deadline=math.inf, weight=1, no_evict=no_evict)
        try:
            future.result()
        finally:
            self._end_request(id)

    def admits(self, name: str) -> bool:
        """Tell whether a new request may use the model at once: in memory, and not draining."""
        with self._changed:
            return self._policy.admits(name)

    def facts(self) -> Mapping[str, dict[str, object]]:
        """Return the models' states and numbers of requests, with the errors of failed ones."""
        with self._changed:
            return self._policy.facts(self._now())

    def close(self) -> None:
        """End all models, and the requests that wait. Safe to call twice."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
            models = list(self._models.values())
            workers = list(self._workers)
            self._changed.notify()
        for _, future in waiting.values():
            _fail(future, EngineUnavailable("The worker is being shut down."))
        for model in models:
            model.close()
        for thread in (self._timer, *workers):
            thread.join(_CLOSE_SECONDS)

    # Requests

    def _request(
        self, name: str, *, deadline: float, weight: int, no_evict: bool = False
    ) -> tuple[int, Future[T]]:
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise EngineUnavailable("The worker is being shut down.")
            id = self._next_id
            self._next_id += 1
            self._waiting[id] = (name, future)
            now = self._now()
            self._policy.request_arrived(
                id, name, now, deadline=deadline, weight=weight, no_evict=no_evict
            )
            self._carry_out(now)
        return id, future

    def _end_request(self, id: int) -> None:
        # The lock is held over both: a plan between them would admit a request that is gone.
        with self._changed:
            self._waiting.pop(id, None)
            self._report_event(partial(self._policy.request_ended, id))

    # The policy's decisions

    def _report_event(self, report: Callable[[float], None]) -> None:
        """Tell the policy of an event, at the present time, and carry out what follows."""
        with self._changed:
            if not self._closed:
                now = self._now()
                report(now)
                self._carry_out(now)

    def _carry_out(self, now: float) -> None:
        """Carry out the policy's plan. The lock is held, so whatever blocks goes to a thread."""
        for action in self._policy.plan(now):
            match action:
                case Admit(id):
                    self._admit(id, now)
                case Refuse(id, error):
                    if found := self._waiting.pop(id, None):
                        _fail(found[1], error)
                case _:
                    self._start_worker(action)
        due_at = self._policy.due_at(now)
        if due_at is not None and due_at < self._due_at:
            self._changed.notify()
        self._due_at = math.inf if due_at is None else due_at

    def _admit(self, id: int, now: float) -> None:
        found = self._waiting.pop(id, None)
        if found is None:  # the request is gone; the rest of the plan goes on
            self._policy.request_ended(id, now)
            return
        name, future = found
        if future.set_running_or_notify_cancel():  # else its task is cancelled, and about to leave
            future.set_result(self._models[name])

    def _run_timer(self) -> None:
        """Carry out the plan when time alone changes it: deadlines, ends of slices, idle models."""
        with self._changed:
            while not self._closed:
                now = self._now()
                if now < self._due_at:
                    left = None if self._due_at == math.inf else self._due_at - now
                    self._changed.wait(left)
                    continue
                try:
                    self._carry_out(now)
                except Exception:  # the thread's error boundary: waits would never end
                    log.exception("the turns of the models were not carried on as they should be")
                    self._due_at = now + _AFTER_BUG_SECONDS

    def _start_worker(self, action: Action) -> None:
        """Carry out an action on a thread of its own: a download may take hours."""

        def work() -> None:
            try:
                match action:
                    case Fetch(name):
                        self._fetch(name)
                    case Open(name, alone):
                        self._open(name, alone)
                    case Close(name, cause):
                        self._close(name, cause)
            except Exception:  # the thread's error boundary
                log.exception("%s was not carried out as it should be", action)
            finally:
                with self._changed:
                    self._workers.discard(thread)

        thread = threading.Thread(target=work, name=f"pool-{type(action).__name__}", daemon=True)
        if not isinstance(action, Fetch):  # it cannot be cut short, so `close` does not wait for it
            self._workers.add(thread)
        thread.start()

    # On worker threads

    def _fetch(self, name: str) -> None:
        # The callback passes the model itself: by then, another of this name may be in its place.
        try:
            model: T = self._make(name, lambda reason: self._lost(name, model, reason))
        except Exception as error:
            self._failed(name, error)
            return
        with self._changed:
            if self._closed:
                return
            self._models[name] = model
        try:
            model.fetch()
        except Exception as error:
            self._failed(name, error)
        else:
            self._report_event(partial(self._policy.fetched, name))
        self._close_late(model)

    def _open(self, name: str, alone: bool) -> None:
        model = self._models[name]
        try:
            is_open = model.open([] if alone else self._others(name))
        except Exception as error:
            self._failed(name, error)
        else:
            if is_open:
                opened = partial(self._policy.opened, name, max_requests=model.max_requests)
                self._report_event(opened)
                if (reason := model.dead) is not None:
                    self._lost(name, model, reason)
            else:
                self._report_event(partial(self._policy.out_of_memory, name))
        self._close_late(model)

    def _others(self, name: str) -> list[T]:
        """Return the models that are in memory."""
        with self._changed:
            models = self._models.items()
            return [model for other, model in models if self._policy.is_resident(other)]

    def _close(self, name: str, cause: str) -> None:
        model = self._models[name]
        was_open = cause != "unwanted"
        _close_safely(name, model)
        with self._changed:
            self._models.pop(name, None)
        if was_open:
            self._observe(ModelUnloaded(name, cause))
        self._report_event(partial(self._policy.closed, name))

    def _close_late(self, model: T) -> None:
        """Close a model that was fetched or opened while the pool was closed."""
        if self._closed:
            model.close()

    def _failed(self, name: str, problem: Exception) -> None:
        error = problem
        if not isinstance(error, WorkerError):  # the error boundary around code of models
            log.error("the model %s cannot be opened", name, exc_info=problem)
            error = InternalError("The model could not be opened; the worker's log says why.")
        with self._changed:
            if self._closed:
                return
            now = self._now()
            self._policy.failed(name, now, error)
            given_up = self._policy.has_failed(name, now)
            model = self._models.pop(name, None) if given_up else None
        if model is not None:
            _close_safely(name, model)
        self._report_event(lambda now: None)
        if given_up:
            self._announce_failure(name, error)

    def _lost(self, name: str, model: T, reason: str) -> None:
        with self._changed:
            if self._closed or self._models.get(name) is not model:
                return
            known = self._policy.is_resident(name)  # else `_open` reports it
            self._policy.lost(name, self._now(), reason)
        self._report_event(lambda now: None)
        if known:
            self._announce_failure(name, EngineUnavailable(reason))

    def _announce_failure(self, name: str, error: WorkerError) -> None:
        with self._changed:
            now = self._now()
            retry_seconds = self._policy.retry_seconds(name, now)
            unservable = self._policy.is_unservable(now)
        self._observe(ModelFailed(name, error.code, error.message, retry_seconds))
        if unservable:
            self._on_unservable(error.message)


def _fail(future: Future[T], error: WorkerError) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _close_safely(name: str, model: LoadableModel) -> None:
    try:
        model.close()
    except Exception:  # an error boundary: without it no other model would be opened any more
        log.exception("the model %s was not closed as it should be", name)
