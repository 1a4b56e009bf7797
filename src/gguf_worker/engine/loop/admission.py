"""Decides whether a new request may wait for a slot."""

from __future__ import annotations

from collections.abc import Callable

from gguf_worker.engine.loop.scheduler import Scheduler
from gguf_worker.engine.loop.wait_estimator import WaitEstimator
from gguf_worker.engine.messages import EngineInfo, EngineRequest, Failure
from gguf_worker.errors import wrong_model


class Admission:
    """Refuses requests that cannot be served, and those that would wait too long.

    Learns from `note_held` how long requests hold a slot. `now` is the clock.
    """

    def __init__(self, info: EngineInfo, scheduler: Scheduler, now: Callable[[], float]) -> None:
        self._info = info
        self._scheduler = scheduler
        self._now = now
        self._wait_estimator = WaitEstimator(scheduler.slots)

    def note_held(self, seconds: float) -> None:
        """Note for how many seconds a request held its slot."""
        self._wait_estimator.note(seconds)

    def refusal(self, request: EngineRequest, promised: int) -> Failure | None:
        """Return the failure of a request that may not even wait; None if it may.

        `promised` others will be queued when their grammars are compiled.
        """
        return self._unable(request) or self._queue_full(promised) or self._would_be_late(request)

    def _unable(self, request: EngineRequest) -> Failure | None:
        if not self._info.generates:
            error = wrong_model("text", self._info.pooling)
            return Failure(error.code, error.message, param=error.param)
        if request.grammar is not None and request.ignore_eos:
            return Failure(
                "invalid_request",
                "An answer ends where its grammar does: ignore_eos cannot be had with a grammar.",
                param="ignore_eos",
            )
        if max(request.rules.allowed, default=0) >= self._info.vocabulary:
            return Failure(
                "invalid_request",
                f"`allowed_token_ids` has one outside the vocabulary of {self._info.vocabulary} "
                "tokens.",
                param="allowed_token_ids",
            )
        return None

    def _queue_full(self, promised: int) -> Failure | None:
        if self._scheduler.can_queue(promised):
            if self._scheduler.idle:
                self._wait_estimator.forget_turns()
            return None
        now, since = self._now(), self._scheduler.since
        return Failure(
            "overloaded",
            f"{self._scheduler.running} requests are running and {self._scheduler.waiting} are "
            "waiting, which is as many as this worker takes. Try again shortly.",
            retry_after=self._wait_estimator.turn(now, now if since is None else since),
        )

    def _would_be_late(self, request: EngineRequest) -> Failure | None:
        ahead = self._scheduler.ahead_of(request.priority, request.user, self._now())
        wait = self._wait_estimator.wait(ahead)
        if wait <= 0 or request.deadline is None or self._now() + wait < request.deadline:
            return None
        return Failure(
            "overloaded",
            f"{self._scheduler.waiting} requests are waiting, and this one would not begin within "
            f"the time it has: about {wait:.0f} seconds from now. Try again later, or allow it "
            "more time.",
            retry_after=max(1.0, wait),
        )
