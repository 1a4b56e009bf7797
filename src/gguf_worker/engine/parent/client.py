"""The worker's end of the engine: keeps a process running, and keeps its requests alive.

One supervisor thread owns the child process and its restarts; event loops only submit and iterate.
Every submitted request ends exactly once, with the engine's last delta or with an error. When the
process dies, a request of whose answer some was shown fails, and any other is sent to the next
process.

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
from collections.abc import Callable, Mapping, Sequence

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
    TokenizeText,
    Tokenizing,
)
from gguf_worker.engine.parent.allowance import Allowance
from gguf_worker.engine.parent.answer_stream import AnswerStream, hand_over
from gguf_worker.engine.parent.losses import BACKOFF_SECONDS, Losses
from gguf_worker.engine.parent.open_requests import OpenRequest, OpenRequests
from gguf_worker.engine.parent.outgoing import encoded, least_size, trial_request
from gguf_worker.engine.parent.pending_replies import PendingReplies
from gguf_worker.engine.parent.process import EngineProcess, ProcessLost
from gguf_worker.errors import (
    ERRORS_BY_CODE,
    EngineStartFailed,
    EngineUnavailable,
    StartError,
)
from gguf_worker.events import EngineBack, EngineLost, Observer, StepDone

log = logging.getLogger("gguf_worker.engine")

_TICK_SECONDS = 0.25
_FROZEN_SECONDS = 5.0
"""Seconds between two rounds of the supervisor beyond which this process itself was suspended, as
when its container is restored from a snapshot. The engine was suspended too, so its silence means
nothing."""


class EngineClient:
    """Runs one engine process for `spec`. Thread-safe; `start` blocks until the model answers.

    `name`: the model's name in the events, where a worker has several.
    `silence`: seconds without a sign of life after which a running process is replaced; `patience`:
    the same while it loads. `tries`: how often the first start is tried; `backoff`: seconds before
    a further start, by the number of losses in a row; `variables`: what the process has in its
    environment in place of ours. `progress` is called with the fraction of the
    model that is loaded, and `on_dead` with the reason when no further process will be started,
    both on the supervisor's thread.
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
        variables: Mapping[str, str] | None = None,
        backoff: Sequence[float] = BACKOFF_SECONDS,
    ) -> None:
        self._spec = spec
        self._observe = observe
        self._name = name
        self._silence = silence
        self._patience = patience
        self._progress = progress
        self._on_dead = on_dead
        self._now = now
        self._command = command
        self._environ = {**os.environ, **(variables or {})}
        self._lock = threading.Lock()  # guards everything below
        self._open = OpenRequests()
        self._next_id = 1
        self._child: EngineProcess | None = None
        self._opened: EngineInfo | None = None  # by the first process that was ready
        self._dead: str | None = None
        self._refused: StartError | None = None
        self._gpu_fault: GpuSupport | None = None
        self._closing = False
        self._replies = PendingReplies()
        self._allowance = Allowance(spec.sequences + spec.max_queue)
        self._trial: int | None = None  # the client's own request, until it is answered
        self._restarts = 0
        self._losses = Losses(backoff, tries)
        self._started = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._supervise, name="engine", daemon=True)

    # For the worker

    def start(self) -> EngineInfo:
        """Start the process and wait for the model; raises StartError if it cannot be opened."""
        self._thread.start()
        self._started.wait()
        if self._opened is None:
            reason = self._dead or "the engine was closed"
            raise self._refused or EngineStartFailed(reason, lacking=self._losses.lacking)
        return self._opened

    @property
    def info(self) -> EngineInfo | None:
        """The model as the running process opened it; None while there is none."""
        child = self._child
        return child.info if child else None

    @property
    def pid(self) -> int | None:
        """The process id of the engine, None while there is none."""
        child = self._child
        return child.pid if child else None

    @property
    def dead(self) -> str | None:
        """The reason why there will be no engine any more; None as long as there may be one."""
        return self._dead

    @property
    def gpu_fault(self) -> GpuSupport | None:
        """What was wrong with GPUs when a process refused the model; None if nothing was."""
        return self._gpu_fault

    def submit(
        self, request: EngineRequest, *, min_interval: float = 0.0, whole: bool = False
    ) -> AnswerStream:
        """Ask for an answer; the stream belongs to the running event loop.

        `min_interval` and `whole` are as in AnswerStream; a whole answer outlives the engine, and
        is begun anew. Raises EngineUnavailable when no engine will come back, Overloaded when too
        much waits for it, and InvalidRequest for text that is not Unicode.
        """
        return self._open_stream(
            lambda id: Submit(id, request), request.deadline, min_interval, whole=whole
        )

    async def embed(
        self,
        texts: Sequence[str | list[int]],
        *,
        dimensions: int | None = None,
        deadline: float | None = None,
    ) -> tuple[list[bytes], int]:
        """Return a vector for each text (little-endian float32, of length 1), and the number of all
        tokens.

        `dimensions` and `deadline` are as in Embed. Raises the failure's error when the model gives
        no vectors or a text is wrong, and other errors as `submit` does. Cancelling the task
        cancels the request.
        """
        inputs = tuple(texts)
        return await self._vectors(
            lambda id: Embed(id, inputs, None, dimensions, deadline), deadline
        )

    async def rank(
        self, query: str, documents: Sequence[str], *, deadline: float | None = None
    ) -> tuple[list[float], int]:
        """Return a score for each document, and the number of all tokens; the errors are those of
        `embed`."""
        inputs = tuple(documents)
        scores, tokens = await self._vectors(
            lambda id: Embed(id, inputs, query, deadline=deadline), deadline
        )
        return [struct.unpack("<f", score)[0] for score in scores], tokens

    async def _vectors(
        self, embed: Callable[[int], Embed], deadline: float | None
    ) -> tuple[list[bytes], int]:
        vectors: list[bytes] = []
        tokens = 0
        with contextlib.closing(self._open_stream(embed, deadline, whole=True)) as stream:
            async for delta in stream:
                vectors += delta.vectors
                if delta.usage is not None:
                    tokens = delta.usage.prompt_tokens
        return vectors, tokens

    def _open_stream(
        self,
        make: Callable[[int], Submit | Embed],
        deadline: float | None,
        min_interval: float = 0.0,
        *,
        whole: bool,
    ) -> AnswerStream:
        """Send the message that `make` returns for a new id; the stream of its answer belongs to
        the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            id = self._new_id()
            message = make(id)
            self._require_place(least_size(message))
        data = encoded(message)  # a large one takes long, and needs no lock
        stream = AnswerStream(loop, lambda: self._cancel(id), min_interval, whole=whole)
        with self._lock:
            self._require_engine()
            self._require_place(len(data))
            self._open.add(OpenRequest(id, data, stream, self._now(), deadline))
            self._send_due()
        self._wake()
        return stream

    async def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Return the tokens of a text.

        Raises EngineUnavailable when there is no engine now or it is lost meanwhile, Overloaded
        when too much waits for it, and InvalidRequest for a text that is too long or not Unicode.
        """
        reply = await self._ask(lambda id: TokenizeText(id, text, add_special, parse_special))
        return reply.tokens

    async def detokenize(self, tokens: list[int]) -> str:
        """Return the text of tokens, special ones as they are spelled; raises as `tokenize`
        does."""
        reply = await self._ask(lambda id: DetokenizeTokens(id, tokens))
        return reply.text

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        """Return the bytes of each token, special ones as they are spelled; raises as `tokenize`
        does."""
        reply = await self._ask(lambda id: DetokenizeTokens(id, tokens, pieces=True))
        return reply.pieces

    async def _ask(self, make: Callable[[int], TokenizeText | DetokenizeTokens]) -> Reply:
        with self._lock:
            id = self._new_id()
            question = make(id)
            self._allowance.check_bytes(least_size(question), self._held)
            self._ready_child()
        data = encoded(question)
        with self._lock:
            self._require_engine()
            self._allowance.check_bytes(len(data), self._held)
            child = self._ready_child()
            reply = self._replies.add(id, len(data))
            child.post(data)
        self._wake()
        try:
            return await reply
        finally:
            if self._replies.drop(id):
                self._take_back(child, id, data)

    def close(self) -> None:
        """End the process; requests that still run fail. Safe to call twice, and before `start`."""
        with self._lock:
            self._closing = True
            if self._child is not None:
                self._child.post(encoded(Stop()))
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
        """Return an id for a request or a question; raises EngineUnavailable if no engine will ever
        answer."""
        self._require_engine()
        id = self._next_id
        self._next_id += 1
        return id

    def _require_engine(self) -> None:
        if self._dead is not None or self._closing:
            raise EngineUnavailable(f"The engine is not running: {self._dead or 'closing'}.")

    def _require_place(self, size: int) -> None:
        """Raise Overloaded if no further request of `size` bytes may be open."""
        opened = self._opened
        restart = opened.load_seconds + opened.warmup_seconds if opened is not None else 0.0
        self._allowance.check_waiting(self._open.waiting, retry_after=max(1.0, restart))
        self._allowance.check_bytes(size, self._held)

    @property
    def _held(self) -> int:
        """Bytes of all that is open."""
        return self._open.bytes + self._replies.bytes

    def _ready_child(self) -> EngineProcess:
        """Return the process that answers questions; raises EngineUnavailable if there is none
        now."""
        child, on_trial = self._child, self._trial is not None or self._open.isolated
        if child is None or child.info is None or on_trial:
            raise EngineUnavailable("The engine is being restarted. Try again shortly.")
        return child

    def _send_due(self) -> None:
        """Send the requests whose turn it is, if there is a process for them."""
        child = self._child
        if child is not None and child.info is not None and self._trial is None:
            for request in self._open.take_due():
                child.post(request.encoded)

    def _cancel(self, id: int) -> None:
        with self._lock:
            request = self._open.remove(id)
            if request is None:
                return
            sent_to = self._child if request.sent else None
            self._send_due()
        self._take_back(sent_to, id, request.encoded)

    def _take_back(self, child: EngineProcess | None, id: int, message: bytes) -> None:
        """Have the process forget a request or a question that it was sent."""
        with self._lock:
            if child is not None and child is self._child and not child.withdraw(message):
                child.post(encoded(Cancel(id)))
        self._wake()

    def _wake(self) -> None:
        # A full pipe wakes the supervisor anyway; a closed one means that it has ended.
        with self._lock, contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"!")

    # The supervisor's thread

    def _supervise(self) -> None:
        """Keep a process running until closed, refused, or lost too often."""
        try:
            lost_at: float | None = None
            while not (self._closing or self._losses.too_many(started=self._started.is_set())):
                lost_at = self._run_process(lost_at)
            if not self._closing:
                self._give_up(self._losses.reason)
        except StartError as error:
            self._refused = error
            self._give_up(error.message)
        except Exception as error:  # this thread's error boundary: else every caller would hang
            log.exception("the engine's supervisor failed")
            self._give_up(f"the supervisor failed: {error!r}")
        finally:
            self._fail_all("engine_unavailable", "The engine was shut down.")
            self._started.set()

    def _run_process(self, lost_at: float | None) -> float | None:
        """Run one process until it is lost or the client is closed.

        `lost_at`: the time since which no engine is ready, None before the first loss. Returns the
        same for the next process, None when the client is closed.
        """
        self._pause()
        if self._closing:
            return None
        child: EngineProcess | None = None
        try:
            child = EngineProcess(self._command, self._environ, self._now)
            self._serve(child, lost_at)
        except ProcessLost as loss:
            self._after_loss(loss, child)
            return self._now() if lost_at is None or (child and child.info) else lost_at
        finally:
            with self._lock:
                self._child = None
            if child is not None:
                child.reap(gently=self._closing and child.info is not None)
        return None

    def _pause(self) -> None:
        """Wait before a further start, failing the requests whose deadline passes meanwhile."""
        until = self._now() + self._losses.pause
        while (left := until - self._now()) > 0 and not self._closing:
            self._expire()
            time.sleep(min(left, _TICK_SECONDS))

    def _serve(self, child: EngineProcess, lost_at: float | None) -> None:
        """Carry messages both ways until the process is lost or the client is closed."""
        with self._lock:
            self._child = child
            child.post(encoded(Start(self._spec)))
        looked_at = self._now()
        while True:
            with self._lock:
                child.flush()
                closing = self._closing
            if closing:
                return
            messages = child.wait(self._wake_read, _TICK_SECONDS)
            for message in messages:
                self._receive(child, message, lost_at)
            if not messages:  # else later: until the pipe is read, `wait` returns at once
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            now = self._now()
            if now - looked_at > _FROZEN_SECONDS:
                child.excuse_silence()
            looked_at = now
            limit = self._silence if child.info is not None else self._patience
            if child.silent_seconds > limit:
                detail = f"the engine gave no sign of life for {limit:g} seconds"
                raise ProcessLost("wedged", detail)
            if self._open.waiting:
                self._expire()

    # Receiving

    def _receive(self, child: EngineProcess, message: FromEngine, lost_at: float | None) -> None:
        match message:
            case Step():
                self._deliver(message)
            case Tokenizing():
                self._open.tokenizing = frozenset(message.ids)
            case Compiling():
                self._open.compiling = frozenset(message.ids)
            case Reply():
                self._replies.answer(message)
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
            if self._losses.doubtful:
                self._trial, self._next_id = self._next_id, self._next_id + 1
                child.post(encoded(trial_request(self._trial, info)))
            self._send_due()
        if lost_at is not None:
            self._restarts += 1
            self._observe(EngineBack(self._restarts, self._now() - lost_at, self._name))
        self._started.set()

    def _on_refused(self, refused: Refused) -> None:
        self._gpu_fault = refused.gpu
        if not refused.permanent:
            raise ProcessLost("lacking" if refused.lacking else "refused", refused.message)
        error = ERRORS_BY_CODE[refused.code]
        assert issubclass(error, StartError)
        raise error(refused.message, permanent=True)

    def _deliver(self, step: Step) -> None:
        self._observe(_as_event(step, self._name))
        now = self._now()
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[AnswerStream, Delta]]] = {}
        with self._lock:
            self._open.begin(step.begun, now)
            for delta in step.deltas:
                if delta.id == self._trial and delta.last:
                    self._trial = None
                    self._losses.acquit()
                request = self._open.get(delta.id)
                if request is None:  # cancelled meanwhile
                    continue
                if request.first is None and (delta.begins_answer or not request.stream.whole):
                    self._open.note_first(request, now)
                if delta.last:
                    self._open.remove(delta.id)
                    delta = request.last_delta(delta, now)
                    if delta.finish is not None:
                        self._losses.reset()
                by_loop.setdefault(request.stream.loop, []).append((request.stream, delta))
            self._send_due()  # a suspect may have been cleared
        for loop, deltas in by_loop.items():
            hand_over(loop, deltas)

    # Losses

    def _after_loss(self, loss: ProcessLost, child: EngineProcess | None) -> None:
        """Fail the requests that were shown in part or are quarantined, and keep the others for
        another try."""
        was_ready = child is not None and child.info is not None
        log.error("engine lost (%s): %s", loss.cause, loss)
        with self._lock:
            self._child = None
            by_text = bool(self._open.tokenizing) and self._trial is None
            self._losses.add(loss, by_text=by_text, with_requests=self._open.given)
            self._trial = None
            failed = self._open.after_loss()
            kept = len(self._open)
        self._replies.fail("The engine stopped before it had answered. Try again shortly.")
        for request, failure in failed:
            self._fail(request, failure)
        self._wake()
        if was_ready:
            self._observe(EngineLost(loss.cause, str(loss), len(failed), kept, self._name))

    def _give_up(self, reason: str) -> None:
        log.error("the engine will not be started again: %s", reason)
        self._dead = reason
        self._fail_all("engine_unavailable", f"The engine is not running: {reason}.")
        self._started.set()
        self._on_dead(reason)

    def _fail_all(self, code: str, message: str) -> None:
        with self._lock:
            requests = self._open.clear()
        self._replies.fail(message)
        for request in requests:
            self._fail(request, Failure(code, message))

    def _expire(self) -> None:
        """Fail the requests whose deadline has passed and that were sent to no process."""
        with self._lock:
            late = self._open.remove_late(self._now())
            self._send_due()
        for request in late:
            message = "The time for this request was over while the engine was being restarted."
            self._fail(request, Failure("deadline_exceeded", message))

    def _fail(self, request: OpenRequest, failure: Failure) -> None:
        delta = request.last_delta(Delta(request.id, failure=failure), self._now())
        hand_over(request.stream.loop, [(request.stream, delta)])


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
