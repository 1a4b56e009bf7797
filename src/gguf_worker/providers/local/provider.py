"""Answers from the model in this worker.

Its chat template renders the prompt, its engine continues it, and its family's notation tells
thoughts and calls from text. The module depends on no wire format and no policy.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from gguf_worker.chat import ChatTemplate, Family, Rendered, Thinking, family_for, plain_messages
from gguf_worker.engine import AnswerStream, Delta, EngineClient, EngineRequest
from gguf_worker.errors import ContextLengthExceeded, InvalidRequest, WorkerError
from gguf_worker.generation import Grammar, Sampling, Usage
from gguf_worker.providers.answer import Embeddings, Ended, Finish, Part, Ranking, TextDelta
from gguf_worker.providers.capabilities import Capabilities
from gguf_worker.providers.local.answer_parts import AnswerParts
from gguf_worker.providers.local.merged_streams import merged
from gguf_worker.providers.local.oldest_turns import fewest_left_out, oldest_turns, without
from gguf_worker.providers.request import SEEDS, EmbeddingRequest, GenerationRequest, RankingRequest

_TEXT_ONLY = Capabilities()

_ANSWERS_SHARE = 4
"""The part of the context, as a fraction, that a chat leaves free when it has to be shortened."""


class LocalProvider:
    """One model in memory as a Provider. The engine's owner closes the engine.

    `special`: the ids of the vocabulary's control tokens by their texts. `infill`: the texts of the
    tokens before a prefix, a suffix and the middle; none if `capabilities` have no infill.
    `reuse_points`: find a chat's reuse points for the engine; needed for a model whose memory can
    be reused only where it was saved. `new_id` makes ids for tool calls.
    """

    def __init__(
        self,
        engine: EngineClient,
        template: ChatTemplate,
        *,
        family: Family | None = None,
        special: Mapping[str, int] | None = None,
        infill: Sequence[str] = (),
        reuse_points: bool = False,
        capabilities: Capabilities = _TEXT_ONLY,
        new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}",
    ) -> None:
        self._engine = engine
        self._template = template
        self._family = family or family_for(None)
        self._special = special or {}
        self._infill = infill
        self._reuse_points = reuse_points
        self._capabilities = capabilities
        self._new_id = new_id

    def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of the answers; raises InvalidRequest if the model cannot serve it.

        A delta holds all text since the previous one, so a slow reader gets fewer and larger ones.
        """
        self._capabilities.check(request)
        if request.max_tokens == 0 and not request.echo and request.logprobs is None:
            return self._computed(request)
        return self._shortened(request) if request.drop_oldest else self._answered(request)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return the vectors of texts; texts of several requests are computed together."""
        self._capabilities.check(request)
        texts = [each if isinstance(each, str) else list(each) for each in request.inputs]
        vectors, tokens = await self._engine.embed(
            texts, dimensions=request.dimensions, deadline=request.deadline
        )
        return Embeddings(tuple(vectors), tokens)

    async def rank(self, request: RankingRequest) -> Ranking:
        """Return the scores of documents."""
        self._capabilities.check(request)
        scores, tokens = await self._engine.rank(
            request.query, request.documents, deadline=request.deadline
        )
        return Ranking(tuple(scores), tokens)

    async def tokens(self, source: str | GenerationRequest, *, add_special: bool) -> list[int]:
        """Return the tokens of a text, or of the prompt rendered from a chat."""
        if isinstance(source, str):
            return await self._engine.tokenize(source, add_special=add_special)
        with _naming_fields_of(source):
            return await self._engine.tokenize(self._chat(source).text, add_special=add_special)

    async def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens are written out."""
        return await self._engine.detokenize(list(tokens))

    def _answered(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        return self._one(request) if request.answers == 1 else self._several(request)

    async def _computed(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        """Yield empty answers when the prompt is computed: the next one finds it in the cache."""
        async with aclosing(self.answer(replace(request, max_tokens=1))) as parts:
            async for part in parts:
                match part:
                    case Ended():
                        yield replace(part, reason="length", stop=None)
                    case Finish():
                        usage = msgspec.structs.replace(part.usage, completion_tokens=0)
                        yield replace(part, reason="length", stop=None, usage=usage)

    async def _shortened(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        """Yield the answers to a chat, without its oldest turns if it is too long."""
        warning = ""
        try:
            async with aclosing(self._answered(request)) as parts:
                async for part in parts:
                    yield part
            return
        except ContextLengthExceeded:
            shorter = await self._without_oldest(request)
            if shorter is None:
                raise
            count = len(request.messages or ()) - len(shorter.messages or ())
            warning = f"the conversation was too long: its oldest {count} messages were left out"
        async with aclosing(self._answered(shorter)) as parts:
            async for part in parts:
                if isinstance(part, Finish):
                    part = replace(part, warnings=(*part.warnings, warning))
                yield part

    async def _without_oldest(self, request: GenerationRequest) -> GenerationRequest | None:
        """Return the request without as many of its oldest turns as it takes; None: too few."""
        messages, info = request.messages or (), self._engine.info
        turns = oldest_turns(messages)
        if info is None:
            return None

        def shorter(count: int) -> GenerationRequest:
            return replace(request, messages=without(messages, turns[:count]))

        room = min(request.max_tokens or info.context, info.context // _ANSWERS_SHARE)
        for free in (room, 1):

            async def fits(count: int, most: int = info.context - free) -> bool:
                return len(await self.tokens(shorter(count), add_special=True)) <= most

            count = await fewest_left_out(len(turns), fits)
            if count is not None:
                return shorter(count)
        return None

    async def _one(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        plan = self._plan(request)
        with (
            _naming_fields_of(request),
            closing(next(self._submit_all(request, plan))) as stream,
        ):
            for echo in await self._echo(request):
                yield echo
            parts = plan.parts(0)
            async for delta in stream:
                for part in parts.of(delta):
                    yield part
                if delta.finish is not None:
                    yield Finish(parts.reason(delta.finish), _usage(delta), stop=delta.stop)

    async def _several(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of several answers; the engine computes their prompt once."""
        usages: dict[int, Usage] = {}
        plan = self._plan(request)
        with _naming_fields_of(request), ExitStack() as opened:
            streams = [
                opened.enter_context(closing(stream)) for stream in self._submit_all(request, plan)
            ]
            for echo in await self._echo(request):
                yield echo
            parts = [plan.parts(index) for index in range(request.answers)]
            async with aclosing(merged(streams)) as deltas:
                async for index, delta in deltas:
                    for part in parts[index].of(delta):
                        yield part
                    if delta.finish is None:
                        continue
                    usages[index] = _usage(delta)
                    reason = parts[index].reason(delta.finish)
                    if len(usages) < request.answers:
                        yield Ended(reason, index, delta.stop)
                    else:
                        yield Finish(reason, _total(usages, request.n), index, delta.stop)

    async def _echo(self, request: GenerationRequest) -> list[TextDelta]:
        """Return each answer's prompt as a delta, if the request asks for `echo`."""
        if not request.echo:
            return []
        texts = [
            prompt if isinstance(prompt, str) else await self.text(prompt)
            for prompt in request.prompts
        ]
        return [TextDelta(texts[index // request.n], 0, index) for index in range(request.answers)]

    def _submit_all(self, request: GenerationRequest, plan: _Plan) -> Iterator[AnswerStream]:
        """Yield a stream for each answer, in order."""
        for prompt in plan.prompts:
            for number in range(request.n):
                yield self._submit(request, plan, prompt, number)

    def _submit(
        self, request: GenerationRequest, plan: _Plan, prompt: str | list[int], number: int
    ) -> AnswerStream:
        engine_request = EngineRequest(
            prompt,
            _seeded(request.sampling, number),
            max_tokens=request.max_tokens,
            stop=request.stop,
            ignore_eos=request.ignore_eos,
            deadline=request.deadline,
            priority=request.priority.value,
            user=request.user,
            reuse_points=plan.reuse_points,
            grammar=plan.grammar,
            logprobs=-1 if request.logprobs is None else request.logprobs,
            show_special=plan.show_special,
        )
        return self._engine.submit(
            engine_request, min_interval=request.min_interval, whole=request.whole
        )

    def _plan(self, request: GenerationRequest) -> _Plan:
        if request.messages is None:
            prompts = [self._prompt(each, request.suffix) for each in request.prompts]
            return _Plan(prompts, grammar=request.grammar)
        chat = self._chat(request)
        grammar = self._grammar(request, chat)
        if grammar is not None and grammar == request.grammar:  # no thought or call, all is content
            return _Plan([chat.text], chat.reuse_points, grammar)
        family, tools = self._family, _callable(request)
        formatted = grammar is not None and grammar.inner is not None
        return _Plan(
            [chat.text],
            chat.reuse_points,
            grammar=grammar,
            show_special=family.shows_special(self._special),
            parts=lambda index: AnswerParts(
                index,
                family.parser(tools, thinking=chat.thinking, formatted=formatted),
                self._new_id,
            ),
        )

    def _prompt(self, prompt: str | tuple[int, ...], suffix: str) -> str | list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if not suffix:
            return prompt
        before_prefix, before_suffix, before_middle = self._infill
        return f"{before_prefix}{prompt}{before_suffix}{suffix}{before_middle}"

    def _chat(self, request: GenerationRequest) -> Rendered:
        """Return the prompt rendered from the request's messages."""
        assert request.messages is not None
        tools, messages = _callable(request), request.messages
        instruct = self._family.needs_instructions or not self._template.uses_tools
        if instruct or not self._template.writes_calls:
            instructed, tools = (tools, ()) if instruct else ((), tools)
            system = self._template.takes_system
            messages = tuple(plain_messages(messages, instructed, system=system))
        return self._template.render(
            messages, request.template_options, tools=tools, reuse_points=self._reuse_points
        )

    def _grammar(self, request: GenerationRequest, chat: Rendered) -> Grammar | None:
        """Return the grammar of the answer: its format, demanded calls, or either."""
        demanded = request.tool_choice.mode == "required"
        format = None if demanded else request.grammar
        if format is None and not demanded:
            return None
        name, tools = request.tool_choice.name, _callable(request)
        thinking = self._family.thinking(chat.text, begun=chat.thinking)
        if not tools and thinking is Thinking.OVER:
            return format
        lark = self._family.answer_grammar(
            [tool for tool in tools if name in (None, tool["function"]["name"])],
            parallel=request.parallel_calls,
            thinking=thinking,
            formatted=format is not None,
            special=self._special,
        )
        if len(lark) + (format.size if format else 0) > Grammar.MOST_CHARACTERS and tools:
            raise InvalidRequest(
                "`tools` are too large to hold an answer to them: their names and parameters, and "
                f"the format beside them, are more than {Grammar.MOST_CHARACTERS} characters. Send "
                "fewer, or name one in `tool_choice`.",
                param="tools",
            )
        return Grammar("lark", lark, format)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The prompts of a request, and the way in which its answers are read.

    Plain prompts have no reuse points.
    """

    prompts: Sequence[str | list[int]]
    reuse_points: tuple[int, ...] = ()
    grammar: Grammar | None = None
    show_special: bool = False
    parts: Callable[[int], AnswerParts] = AnswerParts


def _callable(request: GenerationRequest) -> tuple[Mapping[str, Any], ...]:
    """Return the tools that the answer may call."""
    return () if request.tool_choice.mode == "none" else request.tools


@contextmanager
def _naming_fields_of(request: GenerationRequest) -> Iterator[None]:
    """Give errors the names of the fields that the caller sent.

    The engine knows a prompt and a grammar; these may be made of messages, tools and a format.
    """
    try:
        yield
    except WorkerError as error:
        if error.param == "prompt" and request.messages is not None:
            error.param = "messages"
        elif error.param == "grammar.inner":
            error.param = "grammar"
        elif error.param == "grammar" and _callable(request):
            error.param = "tools"
        raise


def _seeded(sampling: Sampling, number: int) -> Sampling:
    """Return the settings of a prompt's answer `number`; without a seed each draws its own."""
    if sampling.seed is None or number == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + number) % SEEDS)


def _usage(delta: Delta) -> Usage:
    """Return the cost of an answer, which its last delta has."""
    assert delta.usage is not None
    return delta.usage


def _total(usages: Mapping[int, Usage], n: int) -> Usage:
    """Return the cost of all answers, `n` to each prompt, from the first text to the last end.

    A prompt counts once. Its cached tokens are those that its first answer found: what the other
    answers found has been computed for this same request.
    """
    firsts = [usages[index] for index in range(0, len(usages), n)]
    return msgspec.structs.replace(
        min(usages.values(), key=lambda usage: usage.ttft_seconds),
        prompt_tokens=sum(usage.prompt_tokens for usage in firsts),
        completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
        cached_tokens=sum(usage.cached_tokens for usage in firsts),
        seconds=max(usage.seconds for usage in usages.values()),
    )
