"""The engine process's loop: take messages, plan a step, compute it, draw tokens, and report to the
parent.

Single-threaded. One message goes out for a whole step. A request's own mistakes fail that request
only; an unknown state of llama.cpp's context ends the process, and the parent starts another.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Container

import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing import (
    Banned,
    ConstraintFailed,
    DrawRow,
    GrammarCompiler,
    GrammarTooCostly,
    PendingGrammars,
    SamplerPool,
    lost_rows,
    token_logprob,
)
from gguf_worker.engine.loop.active_request import ActiveRequest, DrawnToken, activate
from gguf_worker.engine.loop.admission import Admission
from gguf_worker.engine.loop.backend import Backend, MessageChannel
from gguf_worker.engine.loop.questions import Questions
from gguf_worker.engine.loop.scheduler import Plan, Scheduler
from gguf_worker.engine.loop.sequence import UNLIMITED, Sequence
from gguf_worker.engine.loop.step_reporter import BEAT_SECONDS, StepReporter
from gguf_worker.engine.loop.tokenizing import Prompt, PromptTokenizer
from gguf_worker.engine.messages import (
    Cancel,
    Delta,
    DetokenizeTokens,
    Embed,
    Failure,
    Start,
    Stop,
    Submit,
    ToEngine,
    TokenizeText,
    Tokenizing,
)
from gguf_worker.engine.texts import Embedder, TokenizerPool, unable
from gguf_worker.errors import InvalidRequest

Logits = npt.NDArray[np.float32]

PREPARING_SECONDS = 0.002
"""Interval at which an otherwise idle loop checks for texts, grammars and samplers that are
ready."""


class ContextLost(Exception):
    """llama_decode left the context in an unknown state: the process has to end."""


class Server:
    """The loop over one backend. `run` returns when the parent says stop, or is gone.

    Where the backend is asynchronous, a step's text is made and sent while the next step is
    computed. Reports of steps shorter than `interval` (seconds) go out together, unless an answer
    begins or ends in them. Between two steps one batch of the `embedder` (None: there is none) is
    computed, of up to `chunk` rows while answers are generated. `seeds` gives seeds to requests
    that have none. Long texts are read on the threads of `tokenizers`; the embedder's are too.
    """

    def __init__(
        self,
        backend: Backend,
        channel: MessageChannel,
        scheduler: Scheduler,
        *,
        compiler: GrammarCompiler,
        now: Callable[[], float],
        seeds: random.Random,
        sampler_pool: SamplerPool | None = None,
        tokenizers: TokenizerPool | None = None,
        interval: float = 0.0,
        embedder: Embedder | None = None,
        chunk: int | None = None,
    ) -> None:
        self._backend = backend
        self._channel = channel
        self._scheduler = scheduler
        self._now = now
        self._seeds = seeds
        self._sampler_pool = sampler_pool or SamplerPool(1)
        self._embedder = embedder
        self._chunk = chunk
        self._texts_at = -math.inf  # earliest time of the next batch of texts, while answers run
        self._earliest_deadline = math.inf  # or earlier, if its request has ended
        self._admission = Admission(backend.info, scheduler, now)
        tokenizers = tokenizers or TokenizerPool(lambda ids: channel.send(Tokenizing(ids)))
        self._prompts = PromptTokenizer(backend.vocabulary, scheduler.context, tokenizers)
        self._questions = Questions(backend.vocabulary, tokenizers, channel.send)
        self._grammars = PendingGrammars(compiler, channel.send)
        self._reporter = StepReporter(channel.send, scheduler, embedder, now, interval)
        self._requests: dict[int, ActiveRequest] = {}
        self._unready: dict[int, ActiveRequest] = {}  # those whose sampler is being made
        self._ends = frozenset(backend.vocabulary.ends.tolist())
        self._stopping = False
        self._limit: int | None = None  # rows of the next step, after one that found no KV cells
        self._drawn: list[DrawnToken] = []  # by the last step
        self._in_flight = False
        self._ended_in_flight: list[int] = []

    def run(self) -> None:
        """Serve until the parent says stop, or is gone."""
        while True:
            embeds = self._embedder is not None and self._embedder.has_work
            has_output = self._drawn or self._reporter.has_deltas
            busy = has_output or embeds or not self._scheduler.idle
            idle = not (busy or self._preparing or self._questions or self._embedder)
            try:
                received = self._receive(
                    0.0 if busy else BEAT_SECONDS if idle else PREPARING_SECONDS
                )
            except EOFError:
                return
            if self._stopping:
                return
            if idle and not received and self._backend.info.generates:
                self._grammars.prepare()
            self._step()
            if self._embedder is not None and self._embedder.has_work:
                self._embed(self._embedder)

    @property
    def _preparing(self) -> int:
        """The number of requests that are not queued yet: their prompts are being read, or a
        grammar or a sampler made."""
        return len(self._prompts) + len(self._grammars) + len(self._unready)

    def beat(self) -> None:
        """Send a sign of life, if nothing was sent for a while."""
        self._reporter.beat()

    # Messages

    def _receive(self, wait: float) -> bool:
        """Handle the messages that come within `wait` seconds; returns whether there were any."""
        messages = list(self._channel.receive(wait))
        for message in messages:
            self._handle(message)
        self._expire()
        if self._prompts:
            self._admit_read()
        if self._questions:
            self._questions.send_some()
        if len(self._grammars):
            self._admit_compiled()
        if self._unready:
            self._admit_ready()
        return bool(messages)

    def _handle(self, message: ToEngine) -> None:
        match message:
            case Submit() | Embed():
                failure = self._accept(message)
                if failure is not None:
                    self._reporter.add_delta(Delta(message.id, failure=failure))
            case Cancel():
                self._forget(message.id)
                self._reporter.urge()  # the parent learns soon that the slot is free
            case TokenizeText() | DetokenizeTokens():
                self._questions.ask(message)
            case Stop():
                self._stopping = True
            case Start():
                raise AssertionError("started twice")

    def _accept(self, message: Submit | Embed) -> Failure | None:
        """Queue a request, or return the failure with which it is refused."""
        if isinstance(message, Submit):
            failure, deadline = self._accept_answer(message), message.request.deadline
        elif self._embedder is None:
            return unable("none", message)
        else:
            failure, deadline = self._embedder.add(message), message.deadline
        if failure is None and deadline is not None:
            self._earliest_deadline = min(self._earliest_deadline, deadline)
        return failure

    def _accept_answer(self, submit: Submit) -> Failure | None:
        """Queue a request, or have its prompt read first; returns a failure if it is refused."""
        failure = self._admission.refusal(submit.request, promised=self._preparing)
        if failure is not None:
            return failure
        now = self._now()
        prompt = self._prompts.prompt(submit, now)
        if isinstance(prompt, Failure):
            return prompt
        return None if prompt is None else self._activate(submit, prompt, now)

    def _admit_read(self) -> None:
        """Queue the requests whose prompts are read by now, in the order of their arrival."""
        for submit, arrived, prompt in self._prompts.settled():
            if isinstance(prompt, Failure):
                failure: Failure | None = prompt
            else:
                failure = self._activate(submit, prompt, arrived)
            if failure is not None:
                self._reporter.add_delta(Delta(submit.id, failure=failure))

    def _activate(self, submit: Submit, prompt: Prompt, arrived: float) -> Failure | None:
        """Queue a request, or have its grammar compiled first; returns a failure if its rules
        contradict each other."""
        request = submit.request
        sequence = Sequence.of(
            submit.id,
            prompt.tokens,
            UNLIMITED if request.max_tokens is None else request.max_tokens,
            priority=request.priority,
            user=request.user,
            arrived=arrived,
            reuse_points=prompt.reuse_points,
        )
        seed = request.sampling.seed
        seed = self._seeds.getrandbits(31) if seed is None else seed
        try:
            active = activate(
                request,
                sequence,
                prompt.tokens,
                self._backend,
                seed,
                ends=self._ends,
                bad_words=prompt.bad_words,
            )
        except InvalidRequest as error:
            return Failure(error.code, error.message, param=error.param)
        self._requests[submit.id] = active
        if request.grammar is not None:
            self._grammars.add(submit.id, request.grammar, self._now())
        else:
            self._queue(active)
        return None

    def _queue(self, request: ActiveRequest) -> None:
        """Queue a request as soon as its sampler is ready."""
        if request.sampler.ready:
            self._scheduler.add(request.sequence)
        else:
            self._unready[request.sequence.id] = request

    def _admit_ready(self) -> None:
        """Queue the requests whose samplers are ready by now."""
        for id in [id for id, request in self._unready.items() if request.sampler.ready]:
            self._scheduler.add(self._unready.pop(id).sequence)

    def _admit_compiled(self) -> None:
        """Queue the requests whose grammars are compiled, and fail those whose cannot be."""
        for id, outcome in self._grammars.settled(self._now()):
            if isinstance(outcome, Failure):
                self._fail(id, outcome)
            else:
                self._grammars.drop(id)
                request = self._requests[id]
                request.constraint = outcome
                self._queue(request)

    def _forget(self, id: int) -> None:
        """Drop a request or a question in any phase; one of an unknown id has just ended."""
        if self._embedder is not None and id in self._embedder:
            self._embedder.drop(id)
            return
        for waiting in (self._prompts, self._questions):
            if id in waiting:
                waiting.drop(id)
                return
        request = self._requests.pop(id, None)
        if request is None:
            return
        self._close(request)
        if id in self._grammars:
            self._grammars.drop(id)
        elif id in self._unready:
            del self._unready[id]
        elif self._in_flight:
            self._ended_in_flight.append(id)
        else:
            self._scheduler.remove(id)

    def _close(self, request: ActiveRequest) -> None:
        """Free the sampler of a request that has ended, and note how long it held its slot."""
        request.sampler.close()
        if request.admitted_at is not None:
            self._admission.note_held(self._now() - request.admitted_at)

    def _expire(self) -> None:
        """Fail the requests whose deadline has passed."""
        now = self._now()
        if now < self._earliest_deadline:
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
            self._fail(id, Failure("deadline_exceeded", message))
        for id in self._prompts.late(now):
            self._prompts.drop(id)
            message = "The time for this request was over before its prompt was read."
            failure = Failure("deadline_exceeded", message)
            self._reporter.add_delta(Delta(id, failure=failure))
        deadlines = [request.deadline for request in self._requests.values()]
        deadlines += self._prompts.deadlines
        if self._embedder is not None:
            for id in self._embedder.late(now):
                message = "The time for this request was over before all of its texts were read."
                self._embedder.drop(id)
                failure = Failure("deadline_exceeded", message)
                self._reporter.add_delta(Delta(id, failure=failure))
            deadlines += self._embedder.deadlines
        known = [each for each in deadlines if each is not None]
        self._earliest_deadline = min(known, default=math.inf)

    # Steps

    def _step(self) -> None:
        plan = self._scheduler.plan(self._now(), self._limit)
        if plan.preempted:
            self._reporter.add_preempted(plan.preempted)
        self._backend.arrange(plan.operations)
        if not plan.chunks:
            self._emit_text()
            self._reporter.send_or_beat()
            return
        if plan.begun:
            self._reporter.announce(plan.begun)
        if self._reporter.has_deltas and any(chunk.rows > 1 for chunk in plan.chunks):
            # A step with prompts is long: collected deltas do not wait for it.
            self._reporter.send()
        began = self._now()
        self._note_admission(plan, began)
        code, outputs = self._backend.decode(plan.chunks)
        if code == 0:
            self._limit = None
            self._overlap(plan)
            self._scheduler.commit(plan)
            self._remove_ended()
            self._draw(plan, outputs)
        elif code == 1:
            self._after_no_cells(plan)
        else:
            raise ContextLost(f"llama_decode returned {code} for a step of {plan.rows} rows")
        self._reporter.add_step(0 if code else plan.rows, self._now() - began)
        if not self._backend.asynchronous:
            self._emit_text()
            self._reporter.send_if_due()

    def _embed(self, embedder: Embedder) -> None:
        """Compute one batch of texts.

        While answers are generated, the batch is small, and begins only after the steps since the
        last batch have had as much time as that batch took.
        """
        if self._scheduler.running and self._now() < self._texts_at:
            return
        self._emit_text()
        if self._reporter.has_deltas:
            self._reporter.send()  # collected deltas do not wait for the batch
        began = self._now()
        chunk = self._chunk if self._scheduler.running else None
        rows, deltas = embedder.step(chunk, self._reporter.announce)
        ended = self._now()
        self._texts_at = ended + (ended - began)
        for delta in deltas:
            self._reporter.add_delta(delta)
        if rows:
            self._reporter.add_step(rows, ended - began)
        if deltas:
            self._reporter.send()

    def _overlap(self, plan: Plan) -> None:
        """Make and send the text of the step before while an asynchronous backend computes this
        one.

        Also compute the masks for this step's tokens, which depend on the tokens before. Returns
        when the step is computed.
        """
        if not self._backend.asynchronous:
            return
        self._in_flight = True
        if self._drawn or self._reporter.has_deltas:
            self._emit_text()
            self._reporter.send_if_due()
        for chunk in plan.chunks:
            request = self._requests.get(chunk.sequence.id) if chunk.output else None
            if request is not None and request.constraint is not None:
                with contextlib.suppress(ConstraintFailed):  # `_draw` will meet and report it
                    request.constraint.forbidden()
                self._reporter.beat()  # the masks of many requests take a while
        self._backend.wait()
        self._in_flight = False

    def _remove_ended(self) -> None:
        """Free the cells of the requests that ended while the step was computed."""
        for id in self._ended_in_flight:
            self._scheduler.remove(id)
        self._ended_in_flight.clear()

    def _after_no_cells(self, plan: Plan) -> None:
        """Free cells after a step found none, or make the next step smaller."""
        running = self._scheduler.running
        if self._scheduler.retreat():
            self._reporter.add_preempted(running - self._scheduler.running)
            return
        self._limit = plan.rows // 2
        if self._limit == 0:
            message = "The KV cache has no room for this request. Raise KV_SIZE."
            self._fail(plan.chunks[0].sequence.id, Failure("generation_failed", message))

    def _note_admission(self, plan: Plan, now: float) -> None:
        for chunk in plan.chunks:
            if not chunk.sequence.begun and (request := self._requests.get(chunk.sequence.id)):
                request.admitted_at = now

    # Tokens

    def _draw(self, plan: Plan, outputs: list[int]) -> None:
        """Draw a token for each sequence whose last row is an output and whose request still runs;
        score the prompts whose rows are outputs."""
        if not outputs:
            return
        logits = self._backend.logits(len(outputs))
        lost = lost_rows(logits)
        without = self._score(plan, logits, lost) if plan.scores else []
        requests, rows, originals = [], [], []
        for sequence, at in plan.draws():
            request, row, values = self._requests.get(sequence.id), outputs[at], logits[at]
            if request is None or sequence.id in without:
                continue
            if at in lost:
                without.append(sequence.id)
                continue
            if sequence.max_tokens == 0:
                self._reporter.add_delta(request.last_delta(finish="length"))
                self._forget(sequence.id)
                continue
            plain = request.constraint is None and request.bans is None
            banned = request.banned if plain else self._banned(request)
            if banned is None:
                continue
            requests.append(request)
            if request.thoughts.forced:
                banned = _all_but_forced(request, banned, len(values))
            # Biases and masks are written into the row; a log probability is the model's own.
            originals.append(None if request.logprobs < 0 else values.copy())
            rows.append(DrawRow(request.sampler, row, values, banned))
        now = self._now()
        tokens = self._sampler_pool.draw(rows)
        for request, token, original in zip(requests, tokens, originals, strict=True):
            if original is not None and token >= 0:
                spelled = self._backend.vocabulary.spelled
                logprob = token_logprob(original, token, request.logprobs, spelled)
                request.unsent_logprobs.append(logprob)
            self._take(request, token, now)
        if without and self._scheduler.has_trial:
            for id in without:
                self._fail(id, _no_numbers())
        elif without:  # by a fault of their own, or by what another one has in its cells
            innocent = [request.sequence.id for request in requests]
            self._reporter.add_preempted(self._scheduler.start_again(innocent, now))

    def _score(self, plan: Plan, logits: Logits, lost: Container[int]) -> list[int]:
        """Report the probabilities of prompts' tokens; return the requests whose numbers are
        lost."""
        without = []
        for sequence, rows in plan.scored():
            request = self._requests.get(sequence.id)
            if request is None:
                continue
            if any(row in lost for row in rows):
                without.append(sequence.id)
                continue
            spelled = self._backend.vocabulary.spelled
            self._reporter.add_delta(request.add_scores(logits[rows.start : rows.stop], spelled))
            self._reporter.beat()  # the scores of many rows take a while
        return without

    def _banned(self, request: ActiveRequest) -> Banned | None:
        """Return the tokens that the request's rules and its grammar forbid now; None: it
        failed."""
        if request.constraint is None:
            return request.banned_now()
        self._reporter.beat()  # the masks of many requests take a while
        try:
            return request.forbidden_now()
        except ConstraintFailed as error:
            self._fail_constrained(request, error)
            return None

    def _fail_constrained(self, request: ActiveRequest, error: ConstraintFailed) -> None:
        self._fail(request.sequence.id, _constraint_failure(error))

    def _take(self, request: ActiveRequest, token: int, now: float) -> None:
        """Append a drawn token to its request, and end the request if the token ends it."""
        id = request.sequence.id
        if token < 0:
            return self._fail(id, _no_numbers())
        if request.last_token_at is not None:
            self._reporter.add_interval(now - request.last_token_at)
        request.last_token_at = now
        request.unsent_tokens += 1
        full = self._scheduler.advance(request.sequence, token)
        is_end = token in request.ends
        if is_end and token in request.stops:
            request.stopped_by = token
        try:
            constrained = request.constraint is not None
            complete = is_end or (constrained and request.completed_by(token))
        except ConstraintFailed as error:
            return self._fail_constrained(request, error)
        finish = "stop" if complete else "length" if full else None
        silent = is_end and not (request.show_stop and request.stopped_by is not None)
        if silent and request.logprobs >= 0:
            request.unsent_logprobs.pop()  # as those of a stop string: it is no part of the answer
        self._drawn.append(DrawnToken(request, token, finish, silent))
        if finish is not None:  # frees the slot for the next step; `_emit_text` makes the text
            del self._requests[id]
            self._close(request)
            self._scheduler.remove(id)
        return None

    def _emit_text(self) -> None:
        """Make the text of the tokens that were drawn; a stop string in it ends its request."""
        drawn, self._drawn = self._drawn, []
        for each in drawn:
            request, id = each.request, each.request.sequence.id
            if each.finish is None and self._requests.get(id) is not request:
                continue  # cancelled meanwhile
            text = "" if each.silent else request.text_of(each.token)
            if request.text.stopped_by is not None and not each.silent:
                request.drop_logprobs_behind(text)
                self._reporter.add_delta(request.last_delta(text, "stop"))
                self._forget(id)
            elif each.finish is not None:
                text += request.text.flush()
                self._reporter.add_delta(request.last_delta(text, each.finish))
            elif text:
                first = not request.text_begun
                self._reporter.add_delta(request.next_delta(text), first=first)

    def _fail(self, id: int, failure: Failure) -> None:
        """End a request with a failure, and free everything that it holds."""
        self._reporter.add_delta(self._requests[id].last_delta(failure=failure))
        self._forget(id)


def _all_but_forced(request: ActiveRequest, banned: Banned, vocabulary: int) -> Banned:
    """Return all tokens but the one that is forced now; `banned` if the grammar forbids that."""
    token = request.thoughts.forced.popleft()
    if request.constraint is not None and banned[token]:
        request.thoughts.forced.clear()
        return banned
    others = np.ones(vocabulary, np.bool_)
    others[token] = False
    return others


def _no_numbers() -> Failure:
    message = "The model computed no valid probabilities for the next token."
    return Failure("generation_failed", message)


def _constraint_failure(error: ConstraintFailed) -> Failure:
    """Return the failure of an answer that cannot be held to its grammar any longer."""
    if isinstance(error, GrammarTooCostly):
        message = f"The answer could not be held to its grammar: {error}."
        return Failure("invalid_request", message, param="grammar")
    message = f"The answer could not be held to its grammar any longer: {error}."
    return Failure("generation_failed", message)
