"""The engine process's loop: take messages, plan a step, compute it, sample, and tell the parent.

Single-threaded. One message goes out for a whole step. A request's own mistakes fail that request; anything
that makes the context doubtful ends the process, and the parent starts another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

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
from gguf_worker.engine.scheduler import Chunk, Plan, Scheduler
from gguf_worker.engine.sequence import Sequence
from gguf_worker.engine.text import TextStream

BEAT_SECONDS = 0.5
"""How often the process says that it is alive, at least, unless it hangs."""


class Draws(Protocol):
    """Draws the tokens of one request."""

    def sample(
        self, row: int, logits: npt.NDArray[np.float32], banned: npt.NDArray[np.int32]
    ) -> int: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """What the loop needs of the library under it; see `llama.Llama`."""

    info: EngineInfo
    pieces: list[bytes]
    ends: npt.NDArray[np.int32]
    suppressed: npt.NDArray[np.int32]

    def fewest_tokens(self, text: str) -> int: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def decode(self, chunks: tuple[Chunk, ...]) -> tuple[int, list[int]]: ...
    def logits(self, outputs: int) -> npt.NDArray[np.float32]: ...
    def clear(self, slot: int) -> None: ...
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
    last_token_at: float | None = None
    unsent: int = 0
    """Tokens whose text is held back."""


@dataclass(slots=True)
class _News:
    """What one step has to tell."""

    deltas: list[Delta] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)


class Server:
    """The loop over one backend. `run` returns when the parent says stop, or is gone."""

    def __init__(
        self,
        backend: Backend,
        inbox: Inbox,
        scheduler: Scheduler,
        *,
        now: Callable[[], float],
        seeds: random.Random,
    ) -> None:
        self._backend = backend
        self._inbox = inbox
        self._scheduler = scheduler
        self._now = now
        self._seeds = seeds
        self._requests: dict[int, _Request] = {}
        self._ends = frozenset(backend.ends.tolist())
        self._stopping = False
        self._said_at = now()
        self._limit: int | None = None  # rows of the next step, after one that found no KV slot

    def run(self) -> None:
        """Serve until told to stop."""
        while True:
            wait = BEAT_SECONDS if self._scheduler.idle else 0.0
            try:
                news = self._drain(wait)
            except EOFError:
                return
            if self._stopping:
                return
            self._step(news)

    def beat(self) -> None:
        """Say that the process is alive, if nothing was said for a while."""
        if self._now() - self._said_at >= BEAT_SECONDS:
            self._say(0, 0.0, 0, _News())

    # Messages

    def _drain(self, wait: float) -> _News:
        news = _News()
        for message in self._inbox.receive(wait):
            match message:
                case Submit():
                    failure = self._accept(message)
                    if failure is not None:
                        news.deltas.append(Delta(message.id, failure=failure))
                case Cancel():
                    self._forget(message.id)
                case Stop():
                    self._stopping = True
                case Start():
                    raise AssertionError("started twice")
        self._expire(news)
        return news

    def _accept(self, submit: Submit) -> Failure | None:
        """Queue a request, or say why not."""
        if not self._scheduler.can_queue():
            return Failure(
                "overloaded",
                f"{self._scheduler.running} requests are running and {self._scheduler.waiting} are "
                "waiting, which is as many as this worker takes. Try again shortly.",
                retry_after=1.0,
            )
        prompt = self._prompt_tokens(submit)
        if isinstance(prompt, Failure):
            return prompt
        seed = submit.sampling.seed
        if seed is None:
            seed = self._seeds.getrandbits(31)
        banned = self._backend.suppressed
        if submit.ignore_eos:
            banned = np.concatenate([banned, self._backend.ends])
        sequence = Sequence.of(submit.id, prompt, submit.max_tokens)
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

    def _prompt_tokens(self, submit: Submit) -> list[int] | Failure:
        """The prompt's tokens, at least one and at most what fits."""
        if isinstance(submit.prompt, str):
            count = self._backend.fewest_tokens(submit.prompt)
            if not self._scheduler.can_fit(count):  # hopeless: don't spend seconds on counting
                return self._too_long(f"at least {count}")
            self._inbox.send(Reading(submit.id))
            tokens = self._backend.tokenize(
                submit.prompt, add_special=submit.add_special, parse_special=submit.parse_special
            )
            self._inbox.send(Reading(None))
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
        if request is not None:
            request.sampler.close()
            self._scheduler.remove(id)

    def _expire(self, news: _News) -> None:
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
            self._end(id, news, failure=Failure("deadline_exceeded", message))

    # Steps

    def _step(self, news: _News) -> None:
        plan = self._scheduler.plan(self._limit)
        for slot in plan.cleared:
            self._backend.clear(slot)
        if not plan.chunks:
            if news.deltas:
                self._say(0, 0.0, plan.preempted, news)
            else:
                self.beat()
            return
        if plan.begun:
            # Said before the step runs: if it kills the process, the parent knows who was in it.
            self._say(0, 0.0, 0, _News(), plan.begun)
        began = self._now()
        rows, preempted = plan.rows, plan.preempted
        code, outputs = self._backend.decode(plan.chunks)
        if code == 0:
            self._limit = None
            self._scheduler.commit(plan)
            if outputs:
                self._sample(plan, outputs, news)
        elif code == 1:
            rows, preempted = 0, preempted + self._put_off(plan, news)
        else:
            raise ContextLost(f"llama_decode returned {code} for a step of {plan.rows} rows")
        self._say(rows, self._now() - began, preempted, news)

    def _put_off(self, plan: Plan, news: _News) -> int:
        """The step found no KV slot: make the next one smaller; how many were preempted for that."""
        if self._scheduler.retreat():
            return 1
        self._limit = plan.rows // 2
        if self._limit == 0:
            message = "The KV cache has no room for this request. Raise KV_SIZE."
            failure = Failure("generation_failed", message)
            self._end(plan.chunks[0].sequence.id, news, failure=failure)
        return 0

    def _sample(self, plan: Plan, outputs: list[int], news: _News) -> None:
        logits = self._backend.logits(len(outputs))
        sequences = (chunk.sequence for chunk in plan.chunks if chunk.output)
        for sequence, row, values in zip(sequences, outputs, logits, strict=True):
            request = self._requests[sequence.id]
            token = request.sampler.sample(row, values, request.banned)
            self._take(sequence.id, request, token, news)

    def _take(self, id: int, request: _Request, token: int, news: _News) -> None:
        """`token` was drawn: make text of it, and see whether the request ends with it."""
        if token < 0:
            message = "The model computed no valid probabilities for the next token."
            return self._end(id, news, failure=Failure("generation_failed", message))
        now = self._now()
        if request.last_token_at is not None:
            news.intervals.append(now - request.last_token_at)
        request.last_token_at = now
        request.unsent += 1
        full = self._scheduler.advance(request.sequence, token)
        if token in self._ends and not request.ignore_eos:
            return self._end(id, news, request.text.flush(), finish="stop")
        text = request.text.feed(self._backend.pieces[token])
        if request.text.stopped:
            return self._end(id, news, text, finish="stop")
        if full:
            return self._end(id, news, text + request.text.flush(), finish="length")
        if text:
            news.deltas.append(Delta(id, text, request.unsent))
            request.unsent = 0
        return None

    def _end(
        self,
        id: int,
        news: _News,
        text: str = "",
        *,
        finish: str | None = None,
        failure: Failure | None = None,
    ) -> None:
        """The one place where a request ends: its last delta, and all it holds is freed."""
        request = self._requests[id]
        sequence = request.sequence
        usage = Usage(sequence.prompt_length, sequence.generated)
        news.deltas.append(Delta(id, text, request.unsent, finish, failure, usage))
        self._forget(id)

    def _say(
        self,
        rows: int,
        seconds: float,
        preempted: int,
        news: _News,
        begun: tuple[int, ...] = (),
    ) -> None:
        kv = self._scheduler.kv
        self._said_at = self._now()
        self._inbox.send(
            Step(
                rows=rows,
                running=self._scheduler.running,
                waiting=self._scheduler.waiting,
                kv_used=kv.used,
                kv_total=kv.total,
                preempted=preempted,
                seconds=seconds,
                begun=begun,
                deltas=tuple(news.deltas),
                intervals=tuple(news.intervals),
            )
        )
