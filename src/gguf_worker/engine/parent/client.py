"""The worker's end of the engine: keeps a process running, and keeps its requests alive.

One supervisor thread owns the child process and its restarts; an event loop only submits and iterates. Every
submitted request ends exactly once: with the engine's last delta, or, when the process dies, with a clear
error if it had streamed and with another try if it had not.

Knows no model file, no chat and no front door.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from gguf_worker.engine.messages import (
    UNLIMITED,
    Cancel,
    Compiling,
    Delta,
    Detokenize,
    Embed,
    EngineInfo,
    EngineSpec,
    Failure,
    FromEngine,
    Loading,
    Ready,
    Refused,
    Reply,
    Start,
    Step,
    Stop,
    Submit,
    ToEngine,
    Tokenize,
    Tokenizing,
)
from gguf_worker.engine.parent.answer_stream import Stream, hand_over
from gguf_worker.engine.parent.pending_replies import PendingReplies
from gguf_worker.engine.parent.process import EngineProcess, Lost
from gguf_worker.errors import (
    ERRORS_BY_CODE,
    EngineStartFailed,
    EngineUnavailable,
    InvalidRequest,
    StartError,
)
from gguf_worker.events import EngineBack, EngineLost, Observer, StepDone
from gguf_worker.generation import Grammar, Sampling, Usage

log = logging.getLogger("gguf_worker.engine")

_ENCODER = msgspec.msgpack.Encoder()
_TICK_SECONDS = 0.25
_FROZEN_SECONDS = 5.0
"""A gap between two looks at the clock after which this process itself must have stood still, as when its
container is revived from a snapshot: the engine stood still too, and its silence means nothing."""
_DEADLY = 2
"""Processes that a request may take down before it is refused."""
_LOSSES = 5
"""Processes lost one after another, with no answer finished between them, before giving up."""
_BACKOFF_SECONDS = (0.0, 0.0, 1.0, 4.0, 16.0)
"""Pause before a start, by the number of losses in a row before it."""


@dataclass(slots=True, eq=False)
class _Request:
    """A request that has not ended. Times are on the client's clock."""

    message: Submit | Embed
    encoded: bytes
    stream: Stream
    submitted: float
    begun: float | None = None
    first: float | None = None
    deaths: int = 0
    sent: bool = False

    def usage(self, counted: Usage | None, now: float) -> Usage:
        """The engine's token counts with our seconds."""
        counted = counted or Usage(0, 0)
        first = self.first or now
        begun = self.begun or first
        return msgspec.structs.replace(
            counted,
            queue_seconds=begun - self.submitted,
            prefill_seconds=first - begun,
            ttft_seconds=first - self.submitted,
            seconds=now - self.submitted,
        )


class EngineClient:
    """Runs one engine process for `spec`. Thread-safe; `start` blocks until the model answers.

    `name`: the model's, for the events, where there are several.
    `silence`: seconds without a sign of life after which a running process is replaced; `patience`: the same
    while it loads. `tries`: how often the first start is tried.
    `on_dead` is called, on the supervisor's thread, when no further process will be started.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        observe: Observer,
        name: str = "",
        silence: float = 30.0,
        patience: float = 900.0,
        tries: int = 1,
        progress: Callable[[float], None] = lambda _: None,
        on_dead: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
        command: Sequence[str] = (sys.executable, "-m", "gguf_worker.engine"),
        environ: Mapping[str, str] | None = None,
        backoff: Sequence[float] = _BACKOFF_SECONDS,
    ) -> None:
        self._spec = spec
        self._observe = observe
        self._name = name
        self._silence = silence
        self._patience = patience
        self._tries = tries
        self._progress = progress
        self._on_dead = on_dead
        self._now = now
        self._command = command
        self._environ = os.environ if environ is None else environ
        self._backoff = backoff
        self._lock = threading.Lock()  # guards everything below
        self._requests: dict[int, _Request] = {}
        self._suspects: deque[int] = deque()  # were being computed when a process died
        self._next_id = 1
        self._child: EngineProcess | None = None
        self._opened: EngineInfo | None = None  # by the first process that was ready
        self._dead: str | None = None
        self._refused: StartError | None = None
        self._closing = False
        self._reading: int | None = None  # the request whose prompt is being tokenised
        self._compiling: frozenset[int] = frozenset()  # those whose grammars are being compiled
        self._questions = PendingReplies()
        self._restarts = 0
        self._losses = 0
        self._last_loss = self._last_cause = ""
        self._started = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._supervise, name="engine", daemon=True)

    # For the worker

    def start(self) -> EngineInfo:
        """Start the process and wait for the model; StartError with the reason if it cannot be."""
        self._thread.start()
        self._started.wait()
        if self._opened is None:
            lacking = self._last_cause == "refused"
            reason = self._dead or "the engine was closed"
            raise self._refused or EngineStartFailed(reason, lacking=lacking)
        return self._opened

    @property
    def info(self) -> EngineInfo | None:
        """What the running process opened; None while there is none."""
        child = self._child
        return child.info if child else None

    @property
    def pid(self) -> int | None:
        """The process id of the engine, None while there is none."""
        child = self._child
        return child.pid if child else None

    @property
    def dead(self) -> str | None:
        """Why there will be no engine any more; None as long as there may be one."""
        return self._dead

    def submit(
        self,
        prompt: str | list[int],
        sampling: Sampling,
        *,
        max_tokens: int | None = None,
        stop: tuple[str, ...] = (),
        ignore_eos: bool = False,
        add_special: bool = True,
        parse_special: bool = True,
        deadline: float | None = None,
        priority: int = 1,
        user: str = "",
        reuse_points: tuple[int, ...] = (),
        grammar: Grammar | None = None,
        logprobs: int = -1,
        show_special: bool = False,
        min_interval: float = 0.0,
    ) -> Stream:
        """Ask for an answer; the stream belongs to the running event loop.

        Raises EngineUnavailable when no engine will come back, and InvalidRequest for text that is not
        Unicode. `deadline` is on the monotonic clock; `priority` and what follows are as in Submit, and
        `min_interval` as in Stream.
        """
        return self._ask_for(
            lambda id: Submit(
                id=id,
                prompt=prompt,
                sampling=sampling,
                max_tokens=UNLIMITED if max_tokens is None else max_tokens,
                stop=stop,
                ignore_eos=ignore_eos,
                add_special=add_special,
                parse_special=parse_special,
                deadline=deadline,
                priority=priority,
                user=user,
                reuse_points=reuse_points,
                grammar=grammar,
                logprobs=logprobs,
                show_special=show_special,
            ),
            min_interval,
        )

    async def embed(
        self,
        texts: Sequence[str | list[int]],
        *,
        dimensions: int | None = None,
        deadline: float | None = None,
    ) -> tuple[list[bytes], int]:
        """A vector for each text (little-endian float32, of length 1), and the tokens of all of them.

        `dimensions` and `deadline` are as in Embed. Raises the error of its code when the model gives none or
        a text is wrong, and EngineUnavailable and InvalidRequest as `submit` does. Cancelling the task cancels.
        """
        wanted = tuple(texts)
        return await self._vectors(lambda id: Embed(id, wanted, None, dimensions, deadline))

    async def rank(
        self, query: str, documents: Sequence[str], *, deadline: float | None = None
    ) -> tuple[list[float], int]:
        """A score for each document, and the tokens that were read; the errors are those of `embed`."""
        wanted = tuple(documents)
        scores, tokens = await self._vectors(lambda id: Embed(id, wanted, query, deadline=deadline))
        return [struct.unpack("<f", score)[0] for score in scores], tokens

    async def _vectors(self, embed: Callable[[int], Embed]) -> tuple[list[bytes], int]:
        vectors: list[bytes] = []
        tokens = 0
        with contextlib.closing(self._ask_for(embed)) as stream:
            async for delta in stream:
                vectors += delta.vectors
                if delta.usage is not None:
                    tokens = delta.usage.prompt_tokens
        return vectors, tokens

    def _ask_for(
        self, message: Callable[[int], Submit | Embed], min_interval: float = 0.0
    ) -> Stream:
        """Send what `message` makes of its id; what comes belongs to the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            id = self._new_id()
            asked = message(id)
            encoded = _encoded(asked)
            stream = Stream(loop, lambda: self._cancel(id), min_interval)
            request = _Request(asked, encoded, stream, self._now())
            self._requests[id] = request
            if self._child is not None and self._child.info is not None:
                self._send(self._child, request)
        self._wake()
        return stream

    async def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """The tokens of a text.

        Raises EngineUnavailable when there is no engine now or it is lost meanwhile, and InvalidRequest for
        a text that is too long or not Unicode.
        """
        reply = await self._ask(lambda id: Tokenize(id, text, add_special, parse_special))
        return reply.tokens

    async def detokenize(self, tokens: list[int]) -> str:
        """The text of tokens, special ones as they are spelled; the errors are those of `tokenize`."""
        reply = await self._ask(lambda id: Detokenize(id, tokens))
        return reply.text

    async def _ask(self, question: Callable[[int], Tokenize | Detokenize]) -> Reply:
        with self._lock:
            id = self._new_id()
            encoded = _encoded(question(id))
            if self._child is None or self._child.info is None:
                raise EngineUnavailable("The engine is being restarted. Try again shortly.")
            answer = self._questions.add(id)
            self._child.post(encoded)
        self._wake()
        try:
            return await answer
        finally:
            self._questions.drop(id)

    def close(self) -> None:
        """End the process; requests that still run fail. Safe to call twice, and before `start`."""
        with self._lock:
            self._closing = True
            if self._child is not None:
                self._child.post(_encoded(Stop()))
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        self._fail_all("engine_unavailable", "The engine was shut down.")
        with self._lock:
            if self._wake_write >= 0:
                os.close(self._wake_write)
                os.close(self._wake_read)
                self._wake_read = self._wake_write = -1

    # Sending; the lock is held

    def _new_id(self) -> int:
        """An id for a request or a question; EngineUnavailable if nobody will ever answer."""
        if self._dead is not None or self._closing:
            raise EngineUnavailable(f"The engine is not running: {self._dead or 'closing'}.")
        id = self._next_id
        self._next_id += 1
        return id

    def _send(self, child: EngineProcess, request: _Request) -> None:
        request.sent = True
        child.post(request.encoded)

    def _cancel(self, id: int) -> None:
        with self._lock:
            request = self._requests.pop(id, None)
            if request is None:
                return
            if request.sent and self._child is not None:
                self._child.post(_encoded(Cancel(id)))
            self._next_suspect(id)
        self._wake()

    def _wake(self) -> None:
        # A full pipe will wake it anyway; a closed one means that nobody is left to wake.
        with self._lock, contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"!")

    # The supervisor's thread

    def _supervise(self) -> None:
        """Keep a process running until closed, refused, or lost too often."""
        try:
            lost_at: float | None = None
            while not self._closing and not self._exhausted():
                lost_at = self._live(lost_at)
            if not self._closing:
                times = f", {self._losses} times in a row" if self._losses > 1 else ""
                self._give_up(self._last_loss + times)
        except StartError as error:
            self._refused = error
            self._give_up(error.message)
        except Exception as error:  # the wall of this thread: without it every caller would hang
            log.exception("the engine's supervisor failed")
            self._give_up(f"the supervisor failed: {error!r}")
        finally:
            self._fail_all("engine_unavailable", "The engine was shut down.")
            self._started.set()

    def _exhausted(self) -> bool:
        return self._losses >= (_LOSSES if self._started.is_set() else self._tries)

    def _live(self, lost_at: float | None) -> float | None:
        """One life of the process, and what its loss means; when it was lost, None at a close."""
        self._pause()
        if self._closing:
            return None
        child: EngineProcess | None = None
        try:
            child = EngineProcess(self._command, self._environ, self._now)
            self._serve(child, lost_at)
        except Lost as loss:
            self._after_loss(loss, child)
            return self._now() if lost_at is None or (child and child.info) else lost_at
        finally:
            with self._lock:
                self._child = None
            if child is not None:
                child.bury(gently=self._closing and child.info is not None)
        return None

    def _pause(self) -> None:
        """Wait before a further start; requests may run out of time meanwhile."""
        until = self._now() + self._backoff[min(self._losses, len(self._backoff) - 1)]
        while (left := until - self._now()) > 0 and not self._closing:
            self._expire()
            time.sleep(min(left, _TICK_SECONDS))

    def _serve(self, child: EngineProcess, lost_at: float | None) -> None:
        """Carry messages both ways until the process is lost or we are closing."""
        with self._lock:
            self._child = child
            child.post(_encoded(Start(self._spec)))
        looked = self._now()
        while True:
            with self._lock:
                child.flush()
                closing = self._closing
            if closing:
                return
            messages = child.wait(self._wake_read, _TICK_SECONDS)
            for message in messages:
                self._receive(child, message, lost_at)
            if not messages:  # else it can wait: the next `wait` would not
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            now = self._now()
            if now - looked > _FROZEN_SECONDS:
                child.heard = now
            looked = now
            limit = self._silence if child.info is not None else self._patience
            if now - child.heard > limit:
                raise Lost("wedged", f"the engine gave no sign of life for {limit:g} seconds")
            if child.info is None or self._suspects:
                self._expire()

    # Receiving

    def _receive(self, child: EngineProcess, message: FromEngine, lost_at: float | None) -> None:
        match message:
            case Step():
                self._deliver(message)
            case Tokenizing():
                self._reading = message.id
            case Compiling():
                self._compiling = frozenset(message.ids)
            case Reply():
                self._questions.answer(message)
            case Loading():
                self._progress(message.fraction)
            case Ready():
                self._on_ready(child, message.info, lost_at)
            case Refused():
                self._on_refused(message)

    def _on_ready(self, child: EngineProcess, info: EngineInfo, lost_at: float | None) -> None:
        with self._lock:
            child.info = info
            self._opened = self._opened or info
            for id, request in self._requests.items():
                if id not in self._suspects:
                    self._send(child, request)
            if self._suspects:
                self._send(child, self._requests[self._suspects[0]])
        if lost_at is not None:
            self._restarts += 1
            self._observe(EngineBack(self._restarts, self._now() - lost_at, self._name))
        self._started.set()

    def _on_refused(self, refused: Refused) -> None:
        if refused.permanent:
            error = ERRORS_BY_CODE[refused.code](refused.message)
            assert isinstance(error, StartError)
            error.permanent = True
            raise error
        raise Lost("refused", refused.message)

    def _deliver(self, step: Step) -> None:
        self._observe(_as_event(step, self._name))
        now = self._now()
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, Delta]]] = {}
        with self._lock:
            for id in step.begun:
                if (request := self._requests.get(id)) and request.begun is None:
                    request.begun = now
            for delta in step.deltas:
                request = self._requests.get(delta.id)
                if request is None:  # cancelled meanwhile
                    continue
                if request.first is None:
                    request.first = now
                    self._next_suspect(delta.id)
                if delta.last:
                    del self._requests[delta.id]
                    usage = request.usage(delta.usage, now)
                    delta = msgspec.structs.replace(delta, usage=usage)
                    if delta.finish is not None:
                        self._losses = 0
                by_loop.setdefault(request.stream.loop, []).append((request.stream, delta))
        for loop, deltas in by_loop.items():
            hand_over(loop, deltas)

    def _next_suspect(self, id: int) -> None:
        """`id` is cleared of suspicion, or gone: the next one may try. The lock is held."""
        if id in self._suspects:
            head = self._suspects[0] == id
            self._suspects.remove(id)
            if head and self._suspects and self._child is not None and self._child.info is not None:
                self._send(self._child, self._requests[self._suspects[0]])

    # Losing

    def _after_loss(self, loss: Lost, child: EngineProcess | None) -> None:
        """Settle every request: an error for those that streamed, another try for the others."""
        was_ready = child is not None and child.info is not None
        self._last_loss, self._last_cause = str(loss), loss.cause
        self._losses += 1
        log.error("engine lost (%s): %s", loss.cause, loss)
        ended: list[tuple[_Request, Failure]] = []
        with self._lock:
            self._child = None
            for id, request in list(self._requests.items()):
                if (failure := self._settle(request)) is not None:
                    del self._requests[id]
                    ended.append((request, failure))
            self._suspects = deque(id for id, r in self._requests.items() if r.deaths)
            kept = len(self._requests)
        self._reading, self._compiling = None, frozenset()
        self._questions.fail("The engine stopped before it had answered. Try again shortly.")
        for request, failure in ended:
            self._finish(request, failure)
        self._wake()
        if was_ready:
            self._observe(EngineLost(loss.cause, str(loss), len(ended), kept, self._name))

    def _settle(self, request: _Request) -> Failure | None:
        """What a death of the engine means for one request; None: it is submitted again."""
        if request.first is not None:
            return Failure(
                "engine_interrupted",
                "The engine stopped while it was answering, after the answer had begun. "
                "Send the request again.",
                retry_after=1.0,
            )
        if self._suspicious(request):
            request.deaths += 1
        request.begun, request.sent = None, False
        if request.deaths < _DEADLY:
            return None
        return Failure(
            "request_quarantined",
            f"The engine died {request.deaths} times while computing this request, so it is not "
            "tried again. Please report the request and the model.",
        )

    def _suspicious(self, request: _Request) -> bool:
        """Was the process at this request when it died? Grammars are compiled beside everything else."""
        id = request.message.id
        if id in self._compiling or id == self._reading:
            return True
        return self._reading is None and request.begun is not None

    def _give_up(self, reason: str) -> None:
        log.error("the engine will not be started again: %s", reason)
        self._dead = reason
        self._fail_all("engine_unavailable", f"The engine is not running: {reason}.")
        self._started.set()
        self._on_dead(reason)

    def _fail_all(self, code: str, message: str) -> None:
        with self._lock:
            requests = list(self._requests.values())
            self._requests.clear()
            self._suspects.clear()
        self._questions.fail(message)
        for request in requests:
            self._finish(request, Failure(code, message))

    def _expire(self) -> None:
        """End requests whose time is over while they are in no engine that would."""
        now = self._now()
        with self._lock:
            late = [
                request
                for request in self._requests.values()
                if not request.sent
                and request.message.deadline is not None
                and request.message.deadline <= now
            ]
            for request in late:
                del self._requests[request.message.id]
                self._next_suspect(request.message.id)
        for request in late:
            message = "The time for this request was over while the engine was being restarted."
            self._finish(request, Failure("deadline_exceeded", message))

    def _finish(self, request: _Request, failure: Failure) -> None:
        usage = request.usage(None, self._now())
        delta = Delta(request.message.id, failure=failure, usage=usage)
        hand_over(request.stream.loop, [(request.stream, delta)])


def _encoded(message: ToEngine) -> bytes:
    try:
        return _ENCODER.encode(message)
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise InvalidRequest(
            "The request holds half of a surrogate pair, which is no character. Send whole characters.",
            param=_param(message),
        ) from error


def _param(message: ToEngine) -> str:
    """What the caller calls the texts of a message."""
    if not isinstance(message, Embed):
        return "prompt"
    return "input" if message.query is None else "documents"


def _as_event(step: Step, model: str) -> StepDone:
    return StepDone(
        seconds=step.seconds,
        rows=step.rows,
        running=step.running,
        waiting=step.waiting,
        kv_used=step.kv_used,
        kv_total=step.kv_total,
        preempted=step.preempted,
        token_intervals=step.intervals,
        kv_cached=step.kv_cached,
        steps=step.steps,
        model=model,
    )
