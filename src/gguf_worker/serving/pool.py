"""The models of one worker, some of them in memory: carries out what `residency` decides, on threads of its
own, and lets requests wait for their turn.

What a model is, and how it is opened, is known to whoever makes one.
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
from gguf_worker.serving.swap_policy import (
    Action,
    Admit,
    Close,
    Fetch,
    ModelPolicy,
    Open,
    Refuse,
    SwapPolicy,
)

log = logging.getLogger("gguf_worker.models")

_END_SECONDS = 30.0
"""For a thread that opens or closes a model, when the pool is closed."""
_AGAIN_SECONDS = 1.0
"""After a bug, until time's part is tried again."""


class LoadableModel(Protocol):
    """A model: fetched, then opened, then used, then closed. All of that blocks, and may raise WorkerError."""

    def fetch(self) -> None:
        """Have it on this machine, in use, until `close`."""
        ...

    def open(self, others: Sequence[Self], /) -> bool:
        """Have it in memory; False: there is no room beside the `others`. May be tried again."""
        ...

    @property
    def places(self) -> int:
        """So many requests may run and wait in it at once."""
        ...

    @property
    def dead(self) -> str | None:
        """Why it will not answer any more; None as long as it does."""
        ...

    def close(self) -> None:
        """Its memory is free. Safe at any time, and twice."""
        ...


T = TypeVar("T", bound=LoadableModel)


class Pool(Generic[T]):
    """The models in `keep_alive`: for how many seconds without a request each stays, None: until another needs
    its room. Thread-safe; `close` ends all of them.

    `make` gives a new tenant for a name; what it is given beside that is to be called, on any thread, when
    the tenant is lost for good. `patience`: seconds that a request without a deadline waits. `on_hopeless` is
    called when a model fails and none is left that could be served, or is likely to be soon.
    """

    def __init__(
        self,
        keep_alive: Mapping[str, float | None],
        make: Callable[[str, Callable[[str], None]], T],
        *,
        observe: Observer,
        most_waiting: int,
        patience: float = 600.0,
        on_hopeless: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        terms = [ModelPolicy(name, seconds) for name, seconds in keep_alive.items()]
        self._residency = SwapPolicy(terms, most_waiting=most_waiting)
        self._make = make
        self._observe = observe
        self._patience = patience
        self._on_hopeless = on_hopeless
        self._now = now
        self._changed = threading.Condition()  # guards everything below, and the residency
        self._tenants: dict[str, T] = {}
        self._waiting: dict[int, tuple[str, Future[T]]] = {}
        self._working: set[threading.Thread] = set()
        self._next_id = 1
        self._due = math.inf
        self._closed = False
        self._ticker = threading.Thread(target=self._tick, name="pool", daemon=True)
        self._ticker.start()

    @asynccontextmanager
    async def turn(
        self, name: str, *, deadline: float | None = None, weight: int = 1
    ) -> AsyncIterator[T]:
        """The model, which stays until the block is left; waits until it is in memory.

        `weight`: how many of its places are taken. Raises Overloaded and EngineUnavailable, which say when to
        try again, DeadlineExceeded, or why the model cannot be served.
        """
        if deadline is None:
            deadline = self._now() + self._patience
        id, future = self._ask(name, deadline=deadline, weight=weight)
        try:
            yield future.result() if future.done() else await asyncio.wrap_future(future)
        finally:
            self._leave(id)

    def load(self, name: str, *, modest: bool = False) -> None:
        """Have the model in memory, and wait for that; `modest`: only beside those that are. The errors are
        those of `turn`."""
        id, future = self._ask(name, deadline=math.inf, weight=1, modest=modest)
        try:
            future.result()
        finally:
            self._leave(id)

    def admits(self, name: str) -> bool:
        """Is the model in memory, and not about to leave? Then a new request need not wait for its loading."""
        with self._changed:
            return self._residency.admits(name)

    def facts(self) -> Mapping[str, dict[str, object]]:
        """Of each model: its state, how many requests run and wait, and why it failed where it did."""
        with self._changed:
            return self._residency.facts(self._now())

    def close(self) -> None:
        """End all models, and those who wait; safe to call twice."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
            tenants = list(self._tenants.values())
            working = list(self._working)
            self._changed.notify()
        for _, future in waiting.values():
            _fail(future, EngineUnavailable("The worker is being shut down."))
        for tenant in tenants:
            tenant.close()
        for thread in (self._ticker, *working):
            thread.join(_END_SECONDS)

    # Requests

    def _ask(
        self, name: str, *, deadline: float, weight: int, modest: bool = False
    ) -> tuple[int, Future[T]]:
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise EngineUnavailable("The worker is being shut down.")
            id = self._next_id
            self._next_id += 1
            self._waiting[id] = (name, future)
            now = self._now()
            self._residency.ask(id, name, now, deadline=deadline, weight=weight, modest=modest)
            self._carry_out(now)
        return id, future

    def _leave(self, id: int) -> None:
        with self._changed:  # in one hold: a plan between the two would admit who has gone
            self._waiting.pop(id, None)
            self._tell(partial(self._residency.leave, id))

    # Carrying out

    def _tell(self, what: Callable[[float], None]) -> None:
        with self._changed:
            if not self._closed:
                now = self._now()
                what(now)
                self._carry_out(now)

    def _carry_out(self, now: float) -> None:
        """Do what is planned; the lock is held, so what blocks is left to threads."""
        for action in self._residency.plan(now):
            match action:
                case Admit(id):
                    self._admit(id, now)
                case Refuse(id, error):
                    if found := self._waiting.pop(id, None):
                        _fail(found[1], error)
                case _:
                    self._begin(action)
        due = self._residency.due(now)
        if due is not None and due < self._due:
            self._changed.notify()
        self._due = math.inf if due is None else due

    def _admit(self, id: int, now: float) -> None:
        found = self._waiting.pop(id, None)
        if found is None:  # it holds no place, then, and the rest of the plan goes on
            self._residency.leave(id, now)
            return
        name, future = found
        if future.set_running_or_notify_cancel():  # else its task is cancelled, and about to leave
            future.set_result(self._tenants[name])

    def _tick(self) -> None:
        """What time alone brings: deadlines, ends of turns, models that nobody uses."""
        with self._changed:
            while not self._closed:
                now = self._now()
                if now < self._due:
                    left = None if self._due == math.inf else self._due - now
                    self._changed.wait(left)
                    continue
                try:
                    self._carry_out(now)
                except Exception:  # this thread's wall: without it no wait would ever end
                    log.exception("the turns of the models were not carried on as they should be")
                    self._due = now + _AGAIN_SECONDS

    def _begin(self, action: Action) -> None:
        """On a thread of its own: a download may take hours."""

        def work() -> None:
            try:
                match action:
                    case Fetch(name):
                        self._fetch(name)
                    case Open(name, alone):
                        self._open(name, alone)
                    case Close(name, cause):
                        self._close(name, cause)
            except Exception:  # this thread's wall
                log.exception("%s was not carried out as it should be", action)
            finally:
                with self._changed:
                    self._working.discard(thread)

        thread = threading.Thread(target=work, name=f"pool-{type(action).__name__}", daemon=True)
        if not isinstance(action, Fetch):  # that cannot be cut short, and nobody waits for it
            self._working.add(thread)
        thread.start()

    # On such threads

    def _fetch(self, name: str) -> None:
        # What it is given names the tenant itself: another of this name may have taken its place.
        try:
            tenant: T = self._make(name, lambda reason: self._lost(name, tenant, reason))
        except Exception as error:
            self._failed(name, error)
            return
        with self._changed:
            if self._closed:
                return
            self._tenants[name] = tenant
        try:
            tenant.fetch()
        except Exception as error:
            self._failed(name, error)
        else:
            self._tell(partial(self._residency.fetched, name))
        self._close_late(tenant)

    def _open(self, name: str, alone: bool) -> None:
        tenant = self._tenants[name]
        try:
            room = tenant.open([] if alone else self._others(name))
        except Exception as error:
            self._failed(name, error)
        else:
            if room:
                self._tell(partial(self._residency.opened, name, places=tenant.places))
                if (reason := tenant.dead) is not None:
                    self._lost(name, tenant, reason)
            else:
                self._tell(partial(self._residency.crowded, name))
        self._close_late(tenant)

    def _others(self, name: str) -> list[T]:
        with self._changed:
            tenants = self._tenants.items()
            return [each for other, each in tenants if self._residency.resident(other)]

    def _close(self, name: str, cause: str) -> None:
        tenant = self._tenants[name]
        was_open = cause != "unwanted"
        _end(name, tenant)
        with self._changed:
            self._tenants.pop(name, None)
        if was_open:
            self._observe(ModelUnloaded(name, cause))
        self._tell(partial(self._residency.closed, name))

    def _close_late(self, tenant: T) -> None:
        """The pool was closed meanwhile, perhaps before there was anything to close in this one."""
        if self._closed:
            tenant.close()

    def _failed(self, name: str, problem: Exception) -> None:
        error = problem
        if not isinstance(error, WorkerError):  # the wall of what is made elsewhere
            log.error("the model %s cannot be opened", name, exc_info=problem)
            error = InternalError("The model could not be opened; the worker's log says why.")
        with self._changed:
            if self._closed:
                return
            now = self._now()
            self._residency.failed(name, now, error)
            given_up = self._residency.facts(now)[name]["state"] == "failed"
            tenant = self._tenants.pop(name, None) if given_up else None
        if tenant is not None:
            _end(name, tenant)
        self._tell(lambda now: None)
        if given_up:
            self._report(name, error)

    def _lost(self, name: str, tenant: T, reason: str) -> None:
        with self._changed:
            if self._closed or self._tenants.get(name) is not tenant:
                return
            known = self._residency.resident(name)  # else `_open` comes to it
            self._residency.lost(name, self._now(), reason)
        self._tell(lambda now: None)
        if known:
            self._report(name, EngineUnavailable(reason))

    def _report(self, name: str, error: WorkerError) -> None:
        with self._changed:
            now = self._now()
            seconds = self._residency.facts(now)[name].get("retry_seconds", 0.0)
            hopeless = self._residency.hopeless(now)
        assert isinstance(seconds, float)
        self._observe(ModelFailed(name, error.code, error.message, seconds))
        if hopeless:
            self._on_hopeless(error.message)


def _fail(future: Future[T], error: WorkerError) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _end(name: str, tenant: LoadableModel) -> None:
    try:
        tenant.close()
    except Exception:  # a wall: without it nobody would get a turn any more
        log.exception("the model %s was not closed as it should be", name)
