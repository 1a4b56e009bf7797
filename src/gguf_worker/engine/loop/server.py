"""The engine process's loop: take messages, plan a step, compute it, sample, and tell the parent.

Single-threaded. One message goes out for a whole step. A request's own mistakes fail that request; anything
that makes the context doubtful ends the process, and the parent starts another.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.cells import Operation
from gguf_worker.engine.drawing import (
    Banned,
    Compiles,
    Constraint,
    ConstraintFailed,
    Draws,
    PendingGrammars,
    Row,
    SamplerPool,
    token_logprob,
)
from gguf_worker.engine.loop.scheduler import Chunk, Plan, Scheduler
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.text_stream import TextStream
from gguf_worker.engine.loop.tokenizing import Reader
from gguf_worker.engine.loop.wait_estimator import WaitEstimator
from gguf_worker.engine.messages import (
    Cancel,
    Delta,
    Detokenize,
    Embed,
    EngineInfo,
    Failure,
    FromEngine,
    Start,
    Step,
    Stop,
    Submit,
    ToEngine,
    Tokenize,
)
from gguf_worker.engine.texts import Embedder, unable
from gguf_worker.errors import wrong_model
from gguf_worker.generation import Sampling, TokenLogprob, Usage

BEAT_SECONDS = 0.5
"""How often the process says that it is alive, at least, unless it hangs."""
COMPILING_SECONDS = 0.005
"""How often it looks for grammars that have been compiled, when it has nothing else to do."""


class Backend(Protocol):
    """What the loop needs of the library under it; see `llama.Llama`."""

    info: EngineInfo
    pieces: list[bytes]
    ends: npt.NDArray[np.int32]
    suppressed: npt.NDArray[np.int32]

    asynchronous: bool
    """Does `decode` come back before the step is computed?"""

    @property
    def spelled(self) -> list[bytes]: ...
    def fewest_tokens(self, text: str) -> int: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, tokens: list[int]) -> str: ...
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
    pieces: list[bytes]
    """The text of every token, in the spelling that the request wants."""
    logprobs: int
    """How many likely tokens to tell beside each; -1: not even that one."""
    constraint: Constraint | None = None
    admitted_at: float | None = None
    last_token_at: float | None = None
    unsent: int = 0
    """Tokens whose text is held back."""
    untold: list[TokenLogprob] = field(default_factory=list)
    """Of those tokens."""
    spoke: bool = False


class _Drawn(NamedTuple):
    """A token that was drawn but not spoken yet. `finish`: the request ends with it, for this reason;
    `mute`: it is the sign for the end, and no text."""

    request: _Request
    token: int
    finish: str | None = None
    mute: bool = False


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
    Between two steps one batch of the `embedder` (None: there is none) is computed, of up to `chunk` rows
    while answers are generated.
    """

    def __init__(
        self,
        backend: Backend,
        inbox: Inbox,
        scheduler: Scheduler,
        *,
        compiler: Compiles,
        now: Callable[[], float],
        seeds: random.Random,
        drawing: SamplerPool | None = None,
        interval: float = 0.0,
        embedder: Embedder | None = None,
        chunk: int | None = None,
    ) -> None:
        self._backend = backend
        self._inbox = inbox
        self._scheduler = scheduler
        self._now = now
        self._seeds = seeds
        self._drawing = drawing or SamplerPool(1)
        self._interval = interval
        self._told_at = -math.inf
        self._soonest = math.inf  # no request's deadline comes before
        self._wait_estimator = WaitEstimator(scheduler.slots)
        self._embedder = embedder
        self._chunk = chunk
        self._texts_at = -math.inf  # the next batch of texts comes no earlier, beside answers
        self._reader = Reader(backend, scheduler.context, inbox.send)
        self._grammars = PendingGrammars(compiler, inbox.send)
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
            embeds = bool(self._embedder)
            busy = self._drawn or self._news.deltas or embeds or not self._scheduler.idle
            idle = not busy and not len(self._grammars)
            try:
                heard = self._drain(0.0 if busy else BEAT_SECONDS if idle else COMPILING_SECONDS)
            except EOFError:
                return
            if self._stopping:
                return
            if idle and not heard and self._backend.info.generates:
                self._grammars.prepare()
            self._step()
            if self._embedder:
                self._embed(self._embedder)

    def beat(self) -> None:
        """Say that the process is alive, if nothing was said for a while."""
        if self._now() - self._said_at >= BEAT_SECONDS:
            self._say(_News())

    # Messages

    def _drain(self, wait: float) -> bool:
        """Take what has come; was there anything?"""
        messages = list(self._inbox.receive(wait))
        for message in messages:
            match message:
                case Submit():
                    failure = self._accept(message)
                    if failure is not None:
                        self._add(Delta(message.id, failure=failure))
                case Embed():
                    failure = self._accept_texts(message)
                    if failure is not None:
                        self._add(Delta(message.id, failure=failure))
                case Cancel():
                    self._forget(message.id)
                    self._news.urgent = True  # the place is free, and whoever watches may know it
                case Tokenize() | Detokenize():
                    self._inbox.send(self._reader.reply(message))
                case Stop():
                    self._stopping = True
                case Start():
                    raise AssertionError("started twice")
        self._expire()
        if len(self._grammars):
            self._admit_compiled()
        return bool(messages)

    def _accept(self, submit: Submit) -> Failure | None:
        """Queue a request, or have its grammar compiled first, or say why not."""
        if (failure := self._refusal(submit)) is not None:
            return failure
        prompt = self._reader.prompt(submit)
        if isinstance(prompt, Failure):
            return prompt
        now = self._now()
        sequence = Sequence.of(
            submit.id,
            prompt,
            submit.max_tokens,
            priority=submit.priority,
            user=submit.user,
            arrived=now,
            reuse_points=self._reader.reuse_points(submit, prompt),
        )
        self._requests[submit.id] = self._request(submit, sequence, prompt)
        if submit.deadline is not None:
            self._soonest = min(self._soonest, submit.deadline)
        if submit.grammar is not None:
            self._grammars.add(submit.id, submit.grammar, now)
        else:
            self._scheduler.add(sequence)
        return None

    def _accept_texts(self, embed: Embed) -> Failure | None:
        """Queue texts for the embedder, or say why not."""
        if self._embedder is None:
            return unable("none", embed)
        failure = self._embedder.add(embed)
        if failure is None and embed.deadline is not None:
            self._soonest = min(self._soonest, embed.deadline)
        return failure

    def _request(self, submit: Submit, sequence: Sequence, prompt: list[int]) -> _Request:
        seed = submit.sampling.seed
        if seed is None:
            seed = self._seeds.getrandbits(31)
        banned = self._backend.suppressed
        if submit.ignore_eos:
            banned = np.concatenate([banned, self._backend.ends])
        return _Request(
            sequence=sequence,
            sampler=self._backend.sampler(self._in_vocabulary(submit.sampling), seed, prompt),
            text=TextStream(submit.stop),
            ignore_eos=submit.ignore_eos,
            deadline=submit.deadline,
            banned=banned,
            pieces=self._backend.spelled if submit.show_special else self._backend.pieces,
            logprobs=submit.logprobs,
        )

    def _admit_compiled(self) -> None:
        """Queue those whose grammars are compiled, and refuse those whose cannot be."""
        for id, outcome in self._grammars.settled(self._now()):
            if isinstance(outcome, Failure):
                self._end(id, outcome)
            else:
                self._grammars.drop(id)
                request = self._requests[id]
                request.constraint = outcome
                self._scheduler.add(request.sequence)

    def _refusal(self, submit: Submit) -> Failure | None:
        """Why a request cannot even wait."""
        if not self._backend.info.generates:
            error = wrong_model("text", self._backend.info.pooling)
            return Failure(error.code, error.message, param=error.param)
        if submit.grammar is not None and submit.ignore_eos:
            return Failure(
                "invalid_request",
                "An answer ends where its grammar does: ignore_eos cannot be had with a grammar.",
                param="ignore_eos",
            )
        if not self._scheduler.can_queue(len(self._grammars)):
            return Failure(
                "overloaded",
                f"{self._scheduler.running} requests are running and {self._scheduler.waiting} are "
                "waiting, which is as many as this worker takes. Try again shortly.",
                retry_after=max(1.0, self._wait_estimator.wait(1)),
            )
        ahead = self._scheduler.ahead_of(submit.priority, submit.user, self._now())
        wait = self._wait_estimator.wait(ahead)
        if wait > 0 and submit.deadline is not None and self._now() + wait >= submit.deadline:
            return Failure(
                "overloaded",
                f"{self._scheduler.waiting} requests are waiting, and this one would not begin within "
                f"the time it has: about {wait:.0f} seconds from now. Try again later, or allow it "
                "more time.",
                retry_after=max(1.0, wait),
            )
        return None

    def _in_vocabulary(self, sampling: Sampling) -> Sampling:
        """Biases of unknown tokens mean nothing; they must not reach an index."""
        size = self._backend.info.vocabulary
        if all(0 <= token < size for token, _ in sampling.logit_bias):
            return sampling
        bias = tuple((t, b) for t, b in sampling.logit_bias if 0 <= t < size)
        return msgspec.structs.replace(sampling, logit_bias=bias)

    def _forget(self, id: int) -> None:
        """Drop a request in any phase. Unknown ids have just ended: nothing to do."""
        if self._embedder is not None and id in self._embedder:
            self._embedder.drop(id)
            return
        request = self._requests.pop(id, None)
        if request is None:
            return
        request.sampler.close()
        if request.admitted_at is not None:
            self._wait_estimator.note(self._now() - request.admitted_at)
        if id in self._grammars:
            self._grammars.drop(id)
        elif self._in_flight:
            self._ended_in_flight.append(id)
        else:
            self._scheduler.remove(id)

    def _expire(self) -> None:
        now = self._now()
        if now < self._soonest:
            return
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
        deadlines = [request.deadline for request in self._requests.values()]
        if self._embedder is not None:
            for id in self._embedder.late(now):
                message = "The time for this request was over before all of its texts were read."
                self._embedder.drop(id)
                self._add(Delta(id, failure=Failure("deadline_exceeded", message)))
            deadlines += self._embedder.deadlines
        self._soonest = min((each for each in deadlines if each is not None), default=math.inf)

    # Steps

    def _step(self) -> None:
        plan = self._scheduler.plan(self._now(), self._limit)
        self._news.preempted += plan.preempted
        self._backend.arrange(plan.operations)
        if not plan.chunks:
            self._speak()
            if self._news.deltas or self._news.urgent:
                self._tell(now=True)
            else:
                self.beat()
            return
        if plan.begun:
            # Said before the step runs: if it kills the process, the parent knows who was in it.
            self._say(_News(), plan.begun)
        if self._news.deltas and any(chunk.rows > 1 for chunk in plan.chunks):
            self._tell(
                now=True
            )  # a step with prompts is long: what was collected does not wait for it
        began = self._now()
        self._admitted(plan, began)
        code, outputs = self._backend.decode(plan.chunks)
        if code == 0:
            self._limit = None
            self._while_computing(plan)
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

    def _embed(self, embedder: Embedder) -> None:
        """Compute one batch of texts: while somebody waits for the next token, a small one, and only when the
        steps since the last one have had as much time."""
        if self._scheduler.running and self._now() < self._texts_at:
            return
        self._speak()
        if self._news.deltas:
            self._tell(now=True)  # what was collected does not wait for the batch
        began = self._now()
        chunk = self._chunk if self._scheduler.running else None
        rows, news = embedder.step(chunk, lambda ids: self._say(_News(), ids))
        self._texts_at = 2 * self._now() - began
        for delta in news:
            self._add(delta)
        if rows:
            self._news.rows += rows
            self._news.steps += 1
            self._news.seconds += self._now() - began
        if news:
            self._tell(now=True)

    def _while_computing(self, plan: Plan) -> None:
        """Make the text of the step before and send it, while an asynchronous backend computes this one.

        The masks for its tokens too: they depend on the tokens before.
        """
        if not self._backend.asynchronous:
            return
        self._in_flight = True
        if self._drawn or self._news.deltas:
            self._speak()
            self._tell()
        for chunk in plan.chunks:
            request = self._requests.get(chunk.sequence.id) if chunk.output else None
            if request is not None and request.constraint is not None:
                with contextlib.suppress(ConstraintFailed):  # it fails again when it is needed
                    request.constraint.forbidden()
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
        requests, rows, originals = [], [], []
        for sequence, row, values in zip(sequences, outputs, logits, strict=True):
            request = self._requests.get(sequence.id)
            if request is None:
                continue
            banned = request.banned if request.constraint is None else self._mask(request)
            if banned is None:
                continue
            requests.append(request)
            # Biases and masks are written into the row; a log probability is the model's own.
            originals.append(None if request.logprobs < 0 else values.copy())
            rows.append(Row(request.sampler, row, values, banned))
        now = self._now()
        tokens = self._drawing.draw(rows)
        for request, token, original in zip(requests, tokens, originals, strict=True):
            if original is not None and token >= 0:
                spelled = self._backend.spelled
                told = token_logprob(original, token, request.logprobs, spelled)
                request.untold.append(told)
            self._take(request, token, now)

    def _mask(self, request: _Request) -> Banned | None:
        """What the grammar of the request forbids now; None: the request has just failed."""
        assert request.constraint is not None
        try:
            return request.constraint.forbidden()
        except ConstraintFailed as error:
            self._lose(request, error)
            return None

    def _lose(self, request: _Request, error: ConstraintFailed) -> None:
        message = f"The answer could not be held to its grammar any longer: {error}."
        self._end(request.sequence.id, failure=Failure("generation_failed", message))

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
        mute = token in self._ends and not request.ignore_eos
        try:
            complete = mute or (request.constraint is not None and _completes(request, token))
        except ConstraintFailed as error:
            return self._lose(request, error)
        finish = "stop" if complete else "length" if full else None
        self._drawn.append(_Drawn(request, token, finish, mute))
        if finish is not None:  # the place is free for the next step, the text is still to be made
            self._leave(request, now)
        return None

    def _leave(self, request: _Request, now: float) -> None:
        id = request.sequence.id
        if request.admitted_at is not None:
            self._wait_estimator.note(now - request.admitted_at)
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
            text = "" if each.mute else request.text.feed(request.pieces[each.token])
            if request.text.stopped_by is not None and not each.mute:
                self._conclude(request, text, "stop")
                self._forget(id)
            elif each.finish is not None:
                self._conclude(request, text + request.text.flush(), each.finish)
            elif text:
                delta = Delta(id, text, request.unsent, logprobs=tuple(request.untold))
                self._add(delta, first=not request.spoke)
                request.unsent, request.spoke = 0, True
                request.untold.clear()

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
        logprobs, stop = tuple(request.untold), request.text.stopped_by
        self._add(
            Delta(sequence.id, text, request.unsent, finish, failure, usage, logprobs, stop=stop)
        )

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
        running, waiting = self._scheduler.running, self._scheduler.waiting
        if self._embedder is not None:
            running += self._embedder.running
            waiting += self._embedder.waiting
        self._said_at = self._now()
        self._inbox.send(
            Step(
                rows=news.rows,
                running=running,
                waiting=waiting,
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


def _completes(request: _Request, token: int) -> bool:
    """Is the grammar of the request at its end with this token?"""
    assert request.constraint is not None
    request.constraint.accept(token)
    return request.constraint.complete
