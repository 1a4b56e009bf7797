"""The engine process's loop: take messages, plan a step, compute it, sample, and tell the parent.

Single-threaded. One message goes out for a whole step. A request's own mistakes fail that request; anything
that makes the context doubtful ends the process, and the parent starts another.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing import Drawing, Draws, Row
from gguf_worker.engine.kv import Operation
from gguf_worker.engine.messages import (
    Cancel,
    Delta,
    EngineInfo,
    Failure,
    FromEngine,
    Reading,
    Sampling,
    Start,
    Step,
    Stop,
    Submit,
    ToEngine,
    Usage,
)
from gguf_worker.engine.pace import Pace
from gguf_worker.engine.radix import common_length
from gguf_worker.engine.scheduler import Chunk, Plan, Scheduler
from gguf_worker.engine.sequence import Sequence
from gguf_worker.engine.text import TextStream

BEAT_SECONDS = 0.5
"""How often the process says that it is alive, at least, unless it hangs."""


class Backend(Protocol):
    """What the loop needs of the library under it; see `llama.Llama`."""

    info: EngineInfo
    pieces: list[bytes]
    ends: npt.NDArray[np.int32]
    suppressed: npt.NDArray[np.int32]

    asynchronous: bool
    """Does `decode` come back before the step is computed?"""

    def fewest_tokens(self, text: str) -> int: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def arrange(self, operations: Iterable[Operation]) -> None: ...
    def decode(self, chunks: tuple[Chunk, ...]) -> tuple[int, list[int]]: ...
    def wait(self) -> None: ...
    def logits(self, outputs: int) -> npt.NDArray[np.float32]: ...
    def sampler(self, sampling: Sampling, seed: int, prompt: list[int]) -> Draws: ...


class Inbox(Protocol):
    """Messages from the parent; raises EOFError when it is gone."""

    def receive(self, timeout: float) -> Iterable[ToEngine]: ...
    def send(self, message: FromEngine) -> None: ...


class ContextLost(Exception):
    """llama_decode left the context in an unknown state: the process has to end."""


@dataclass(slots=True)
class _Request:
    """What the loop keeps of a request beside its sequence."""

    sequence: Sequence
    sampler: Draws
    text: TextStream
    ignore_eos: bool
    deadline: float | None
    banned: npt.NDArray[np.int32]
    admitted_at: float | None = None
    last_token_at: float | None = None
    unsent: int = 0
    """Tokens whose text is held back."""
    spoke: bool = False


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A token that was drawn but not spoken yet. `finish`: the request ends with it, for this reason."""

    request: _Request
    token: int
    finish: str | None = None


@dataclass(slots=True)
class _News:
    """What one step has to tell."""

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    preempted: int = 0
    urgent: bool = False
    """Something is waited for: the first text of an answer, or its end."""
    deltas: list[Delta] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)


class Server:
    """The loop over one backend. `run` returns when the parent says stop, or is gone.

    Where the backend is asynchronous, a step's text is made and sent while the next step is computed. News
    of steps shorter than `interval` (seconds) go out together, unless an answer begins or ends in them.
    """

    def __init__(
        self,
        backend: Backend,
        inbox: Inbox,
        scheduler: Scheduler,
        *,
        now: Callable[[], float],
        seeds: random.Random,
        drawing: Drawing | None = None,
        interval: float = 0.0,
    ) -> None:
        self._backend = backend
        self._inbox = inbox
        self._scheduler = scheduler
        self._now = now
        self._seeds = seeds
        self._drawing = drawing or Drawing(1)
        self._interval = interval
        self._told_at = -math.inf
        self._pace = Pace(scheduler.slots)
        self._requests: dict[int, _Request] = {}
        self._ends = frozenset(backend.ends.tolist())
        self._stopping = False
        self._said_at = now()
        self._limit: int | None = None  # rows of the next step, after one that found no KV slot
        self._news = _News()
        self._drawn: list[_Drawn] = []  # by the last step
        self._in_flight = False
        self._ended_in_flight: list[int] = []

    def run(self) -> None:
        """Serve until told to stop."""
        while True:
            busy = self._drawn or self._news.deltas or not self._scheduler.idle
            try:
                self._drain(0.0 if busy else BEAT_SECONDS)
            except EOFError:
                return
            if self._stopping:
                return
            self._step()

    def beat(self) -> None:
        """Say that the process is alive, if nothing was said for a while."""
        if self._now() - self._said_at >= BEAT_SECONDS:
            self._say(_News())

    # Messages

    def _drain(self, wait: float) -> None:
        for message in self._inbox.receive(wait):
            match message:
                case Submit():
                    failure = self._accept(message)
                    if failure is not None:
                        self._add(Delta(message.id, failure=failure))
                case Cancel():
                    self._forget(message.id)
                case Stop():
                    self._stopping = True
                case Start():
                    raise AssertionError("started twice")
        self._expire()

    def _accept(self, submit: Submit) -> Failure | None:
        """Queue a request, or say why not."""
        if (failure := self._refusal(submit)) is not None:
            return failure
        prompt = self._prompt_tokens(submit)
        if isinstance(prompt, Failure):
            return prompt
        seed = submit.sampling.seed
        if seed is None:
            seed = self._seeds.getrandbits(31)
        banned = self._backend.suppressed
        if submit.ignore_eos:
            banned = np.concatenate([banned, self._backend.ends])
        sequence = Sequence.of(
            submit.id,
            prompt,
            submit.max_tokens,
            priority=submit.priority,
            user=submit.user,
            arrived=self._now(),
            borders=self._border_positions(submit, prompt),
        )
        self._requests[submit.id] = _Request(
            sequence=sequence,
            sampler=self._backend.sampler(self._in_vocabulary(submit.sampling), seed, prompt),
            text=TextStream(submit.stop),
            ignore_eos=submit.ignore_eos,
            deadline=submit.deadline,
            banned=banned,
        )
        self._scheduler.add(sequence)
        return None

    def _refusal(self, submit: Submit) -> Failure | None:
        """Why a request cannot even wait."""
        if not self._scheduler.can_queue():
            return Failure(
                "overloaded",
                f"{self._scheduler.running} requests are running and {self._scheduler.waiting} are "
                "waiting, which is as many as this worker takes. Try again shortly.",
                retry_after=max(1.0, self._pace.wait(1)),
            )
        ahead = self._scheduler.ahead_of(submit.priority, submit.user, self._now())
        wait = self._pace.wait(ahead)
        if wait > 0 and submit.deadline is not None and self._now() + wait >= submit.deadline:
            return Failure(
                "overloaded",
                f"{self._scheduler.waiting} requests are waiting, and this one would not begin within "
                f"the time it has: about {wait:.0f} seconds from now. Try again later, or allow it "
                "more time.",
                retry_after=max(1.0, wait),
            )
        return None

    def _border_positions(self, submit: Submit, prompt: list[int]) -> tuple[int, ...]:
        """Where in the tokens the borders of the text are, as far as the tokens agree."""
        if not isinstance(submit.prompt, str):
            return ()
        positions = []
        for offset in submit.borders:
            tokens = self._tokens(submit, submit.prompt[:offset])
            positions.append(common_length(tokens, prompt, 0, len(prompt)))
        return tuple(positions)

    def _prompt_tokens(self, submit: Submit) -> list[int] | Failure:
        """The prompt's tokens, at least one and at most what fits."""
        if isinstance(submit.prompt, str):
            count = self._backend.fewest_tokens(submit.prompt)
            if not self._scheduler.can_fit(count):  # hopeless: don't spend seconds on counting
                return self._too_long(f"at least {count}")
            tokens = self._tokens(submit, submit.prompt)
        else:
            tokens = submit.prompt
            if any(not 0 <= token < self._backend.info.vocabulary for token in tokens):
                return Failure(
                    "invalid_request",
                    f"A token id of the prompt is outside the vocabulary of "
                    f"{self._backend.info.vocabulary} tokens.",
                    param="prompt",
                )
        if not tokens:
            return Failure("invalid_request", "The prompt is empty.", param="prompt")
        if not self._scheduler.can_fit(len(tokens)):
            return self._too_long(str(len(tokens)))
        return tokens

    def _tokens(self, submit: Submit, text: str) -> list[int]:
        """The tokens of `text`, a part of the prompt; the parent knows whose it is, should that crash."""
        self._inbox.send(Reading(submit.id))
        tokens = self._backend.tokenize(
            text, add_special=submit.add_special, parse_special=submit.parse_special
        )
        self._inbox.send(Reading(None))
        return tokens

    def _too_long(self, count: str) -> Failure:
        context = self._scheduler.context
        return Failure(
            "context_length_exceeded",
            f"The prompt has {count} tokens, and this worker holds {context} per request, of which "
            "at least one is for the answer. Shorten the prompt, or raise CTX_SIZE.",
            param="prompt",
        )

    def _in_vocabulary(self, sampling: Sampling) -> Sampling:
        """Biases of unknown tokens mean nothing; they must not reach an index."""
        size = self._backend.info.vocabulary
        if all(0 <= token < size for token, _ in sampling.logit_bias):
            return sampling
        bias = tuple((t, b) for t, b in sampling.logit_bias if 0 <= t < size)
        return msgspec.structs.replace(sampling, logit_bias=bias)

    def _forget(self, id: int) -> None:
        """Drop a request in any phase. Unknown ids have just ended: nothing to do."""
        request = self._requests.pop(id, None)
        if request is None:
            return
        request.sampler.close()
        if request.admitted_at is not None:
            self._pace.note(self._now() - request.admitted_at)
        if self._in_flight:
            self._ended_in_flight.append(id)
        else:
            self._scheduler.remove(id)

    def _expire(self) -> None:
        now = self._now()
        late = [
            id
            for id, request in self._requests.items()
            if request.deadline is not None and request.deadline <= now
        ]
        for id in late:
            sequence = self._requests[id].sequence
            message = (
                f"The time for this request was over after {sequence.generated} tokens of answer. "
                "Ask for fewer tokens, or allow it more time."
            )
            self._end(id, failure=Failure("deadline_exceeded", message))

    # Steps

    def _step(self) -> None:
        plan = self._scheduler.plan(self._now(), self._limit)
        self._news.preempted += plan.preempted
        self._backend.arrange(plan.operations)
        if not plan.chunks:
            self._speak()
            if self._news.deltas:
                self._tell(now=True)
            else:
                self.beat()
            return
        if plan.begun:
            # Said before the step runs: if it kills the process, the parent knows who was in it.
            self._say(_News(), plan.begun)
        if self._news.deltas and any(chunk.count > 1 for chunk in plan.chunks):
            self._tell(
                now=True
            )  # a step with prompts is long: what was collected does not wait for it
        began = self._now()
        self._admitted(plan, began)
        code, outputs = self._backend.decode(plan.chunks)
        if code == 0:
            self._limit = None
            self._while_computing()
            self._scheduler.commit(plan)
            self._land()
            self._draw(plan, outputs)
            self._news.rows += plan.rows
            self._news.steps += 1
        elif code == 1:
            self._put_off(plan)
        else:
            raise ContextLost(f"llama_decode returned {code} for a step of {plan.rows} rows")
        self._news.seconds += self._now() - began
        if not self._backend.asynchronous:
            self._speak()
            self._tell()

    def _while_computing(self) -> None:
        """Make the text of the step before and send it, while an asynchronous backend computes this one."""
        if not self._backend.asynchronous:
            return
        self._in_flight = True
        if self._drawn or self._news.deltas:
            self._speak()
            self._tell()
        self._backend.wait()
        self._in_flight = False

    def _land(self) -> None:
        """Who ended while the step was computed lets go of the cells now."""
        for id in self._ended_in_flight:
            self._scheduler.remove(id)
        self._ended_in_flight.clear()

    def _put_off(self, plan: Plan) -> None:
        """The step found no KV slot: make room, or make the next one smaller."""
        running = self._scheduler.running
        if self._scheduler.retreat():
            self._news.preempted += running - self._scheduler.running
            return
        self._limit = plan.rows // 2
        if self._limit == 0:
            message = "The KV cache has no room for this request. Raise KV_SIZE."
            failure = Failure("generation_failed", message)
            self._end(plan.chunks[0].sequence.id, failure=failure)

    def _admitted(self, plan: Plan, now: float) -> None:
        for chunk in plan.chunks:
            if not chunk.sequence.begun and (request := self._requests.get(chunk.sequence.id)):
                request.admitted_at = now

    def _draw(self, plan: Plan, outputs: list[int]) -> None:
        """Draw a token for each output row whose request still runs."""
        if not outputs:
            return
        logits = self._backend.logits(len(outputs))
        sequences = (chunk.sequence for chunk in plan.chunks if chunk.output)
        requests, rows = [], []
        for sequence, row, values in zip(sequences, outputs, logits, strict=True):
            request = self._requests.get(sequence.id)
            if request is not None:
                requests.append(request)
                rows.append(Row(request.sampler, row, values, request.banned))
        now = self._now()
        for request, token in zip(requests, self._drawing.draw(rows), strict=True):
            self._take(request, token, now)

    def _take(self, request: _Request, token: int, now: float) -> None:
        """`token` was drawn: the request goes on with it, or ends."""
        id = request.sequence.id
        if token < 0:
            message = "The model computed no valid probabilities for the next token."
            return self._end(id, failure=Failure("generation_failed", message))
        if request.last_token_at is not None:
            self._news.intervals.append(now - request.last_token_at)
        request.last_token_at = now
        request.unsent += 1
        full = self._scheduler.advance(request.sequence, token)
        if token in self._ends and not request.ignore_eos:
            finish: str | None = "stop"
        else:
            finish = "length" if full else None
        self._drawn.append(_Drawn(request, token, finish))
        if finish is not None:  # the place is free for the next step, the text is still to be made
            self._leave(request, now)
        return None

    def _leave(self, request: _Request, now: float) -> None:
        id = request.sequence.id
        if request.admitted_at is not None:
            self._pace.note(now - request.admitted_at)
        del self._requests[id]
        request.sampler.close()
        self._scheduler.remove(id)

    def _speak(self) -> None:
        """Make text of what was drawn; a stop string in it ends its request."""
        drawn, self._drawn = self._drawn, []
        for each in drawn:
            request, id = each.request, each.request.sequence.id
            if each.finish is None and self._requests.get(id) is not request:
                continue  # cancelled meanwhile
            ended = each.finish == "stop"
            text = "" if ended else request.text.feed(self._backend.pieces[each.token])
            if request.text.stopped and not ended:
                self._conclude(request, text, "stop")
                self._forget(id)
            elif each.finish is not None:
                self._conclude(request, text + request.text.flush(), each.finish)
            elif text:
                self._add(Delta(id, text, request.unsent), first=not request.spoke)
                request.unsent, request.spoke = 0, True

    def _conclude(
        self,
        request: _Request,
        text: str = "",
        finish: str | None = None,
        failure: Failure | None = None,
    ) -> None:
        """The last delta of a request."""
        sequence = request.sequence
        usage = Usage(sequence.prompt_length, sequence.generated, sequence.cached)
        self._add(Delta(sequence.id, text, request.unsent, finish, failure, usage))

    def _end(self, id: int, failure: Failure) -> None:
        """A request fails: its last delta, and all it holds is free."""
        self._conclude(self._requests[id], failure=failure)
        self._forget(id)

    def _add(self, delta: Delta, *, first: bool = False) -> None:
        self._news.deltas.append(delta)
        self._news.urgent = self._news.urgent or first or delta.last

    def _tell(self, *, now: bool = False) -> None:
        """Send the news, or leave them for a later step if nothing in them is urgent."""
        if now or self._news.urgent or self._now() - self._told_at >= self._interval:
            self._told_at = self._now()
            news, self._news = self._news, _News()
            self._say(news)

    def _say(self, news: _News, begun: tuple[int, ...] = ()) -> None:
        kv = self._scheduler.kv
        self._said_at = self._now()
        self._inbox.send(
            Step(
                rows=news.rows,
                running=self._scheduler.running,
                waiting=self._scheduler.waiting,
                kv_used=kv.pinned,
                kv_cached=kv.used - kv.pinned,
                kv_total=kv.total,
                preempted=news.preempted,
                seconds=news.seconds,
                begun=begun,
                deltas=tuple(news.deltas),
                intervals=tuple(news.intervals),
                steps=news.steps,
            )
        )
