"""Answers from the model in this worker.

Its chat template renders the prompt, its engine continues it, and its family's notation tells
thoughts and calls from text. The module depends on no wire format and no policy.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import msgspec

from gguf_worker.chat import (
    AnswerParser,
    ChatTemplate,
    Family,
    Rendered,
    Thinking,
    family_for,
    plain_messages,
    thinking_options,
)
from gguf_worker.engine import AnswerStream, Delta, EngineClient, EngineRequest
from gguf_worker.errors import ContextLengthExceeded, InvalidRequest, WorkerError
from gguf_worker.generation import Grammar, Outline, Sampling, Usage
from gguf_worker.providers.answer import Embeddings, Ended, Finish, Part, Ranking, TextDelta
from gguf_worker.providers.capabilities import Capabilities
from gguf_worker.providers.local.answer_parts import AnswerParts, CallRules
from gguf_worker.providers.local.merged_streams import merged
from gguf_worker.providers.local.offered_tools import OfferedTools
from gguf_worker.providers.local.oldest_turns import fewest_left_out, oldest_turns, without
from gguf_worker.providers.request import SEEDS, EmbeddingRequest, GenerationRequest, RankingRequest
from gguf_worker.schemas import translated_arguments

_TEXT_ONLY = Capabilities()
_MOST_SCORES = 1 << 18
"""Most log probabilities of the tokens of all prompts, with the likeliest ones beside each."""
_THOUGHTLESS = "the answer has no thought, since the model's chat template knows none"

_ANSWERS_SHARE = 4
"""The part of the context, as a fraction, that a chat leaves free when it has to be shortened."""


class LocalProvider:
    """One model in memory as a Provider. The engine's owner closes the engine.

    `tool_template`: the model's template for chats with tools, if it has one of its own for them.
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
        tool_template: ChatTemplate | None = None,
        family: Family | None = None,
        special: Mapping[str, int] | None = None,
        infill: Sequence[str] = (),
        reuse_points: bool = False,
        capabilities: Capabilities = _TEXT_ONLY,
        new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}",
    ) -> None:
        self._engine = engine
        self._template = template
        self._tool_template = tool_template or template
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
            text = self._chat(source, self._offered(source)).text
            return await self._engine.tokenize(text, add_special=add_special)

    async def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens are written out."""
        return await self._engine.detokenize(list(tokens))

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token; special tokens are written out."""
        return await self._engine.pieces(list(tokens))

    def _answered(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        return self._one(request) if request.answers == 1 else self._several(request)

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
                    reason, usage = parts.reason(delta.finish), _usage(delta)
                    warnings = (*plan.warnings, *parts.warnings)
                    yield Finish(reason, usage, stop=delta.stop, warnings=warnings)

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
            scored = 0
            async with aclosing(merged(streams)) as deltas:
                async for index, delta in deltas:
                    scored += len(delta.prompt_logprobs)
                    _require_few(scored, request)
                    for part in parts[index].of(delta):
                        yield part
                    if delta.finish is None:
                        continue
                    usages[index] = _usage(delta)
                    reason = parts[index].reason(delta.finish)
                    if len(usages) < request.answers:
                        yield Ended(reason, index, delta.stop)
                    else:
                        usage = _total(usages, request.n)
                        found = chain.from_iterable(each.warnings for each in parts)
                        warnings = (*plan.warnings, *found)
                        yield Finish(reason, usage, index, delta.stop, warnings)

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
            show_special=plan.show_special or request.show_special,
            rules=request.rules,
            show_stop=request.show_stop,
            truncate=request.truncate,
            prompt_logprobs=-1 if request.prompt_logprobs is None else request.prompt_logprobs,
            outline=plan.outline,
            thought_budget=0 if request.thinking is False else request.thinking_budget,
        )
        return self._engine.submit(
            engine_request, min_interval=request.min_interval, whole=request.whole
        )

    def _plan(self, request: GenerationRequest) -> _Plan:
        if request.messages is None:
            prompts = [self._prompt(each, request.suffix) for each in request.prompts]
            return _Plan(prompts, grammar=request.grammar)
        offered = self._offered(request)
        chat = self._chat(request, offered)
        grammar = self._grammar(request, offered, chat)
        family = self._family
        thinks = family.thinks or chat.thinking
        unthought = (_THOUGHTLESS,) if request.thinking and not thinks else ()
        warnings = (*unthought, *chat.warnings)
        if grammar is not None and grammar == request.grammar:  # no thought or call, all is content
            return _Plan([chat.text], chat.reuse_points, grammar, warnings=warnings)
        formatted = grammar is not None and grammar.inner is not None
        read = () if _is_text(request, family) else offered.functions
        rules = CallRules(offered.original, self._new_id, _most_calls(request))
        return _Plan(
            [chat.text],
            chat.reuse_points,
            grammar=grammar,
            show_special=family.shows_special(self._special),
            parts=lambda index: AnswerParts(index, _parser(family, read, chat, formatted), rules),
            outline=family.outline(read, thinking=chat.thinking, formatted=formatted),
            warnings=warnings,
        )

    def _offered(self, request: GenerationRequest) -> OfferedTools:
        return OfferedTools(request.tools, python_names=self._family.python_names)

    def _prompt(self, prompt: str | tuple[int, ...], suffix: str) -> str | list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if not suffix:
            return prompt
        before_prefix, before_suffix, before_middle = self._infill
        return f"{before_prefix}{prompt}{before_suffix}{suffix}{before_middle}"

    def _chat(self, request: GenerationRequest, offered: OfferedTools) -> Rendered:
        """Return the prompt rendered from the request's messages."""
        assert request.messages is not None
        messages = offered.in_history(request.messages)
        tools = () if request.tool_choice.mode == "none" else offered.functions
        template = self._template
        if tools or (
            not template.writes_calls and any(each.get("tool_calls") for each in messages)
        ):
            template = self._tool_template
        instruct = self._family.needs_instructions or not template.uses_tools
        if instruct or not template.writes_calls:
            instructed, tools = (tools, ()) if instruct else ((), tools)
            messages = tuple(plain_messages(messages, instructed))
        chat = template.render(
            messages,
            self._options(request),
            tools=tools,
            ending=request.ending,
            reuse_points=self._reuse_points,
        )
        # An answer that goes on from the assistant's text has no thought before it.
        opens = request.ending == "turn" and request.thinking is False
        return self._without_thought(chat, template) if opens else chat

    def _options(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the variables of the template; those that the caller named go first."""
        options = thinking_options(request.thinking, request.thinking_budget)
        options |= request.template_options
        least = self._family.least_effort
        if request.thinking is False and options.get("reasoning_effort") in (None, "none"):
            options |= {} if least is None else {"reasoning_effort": least}
        return options

    def _without_thought(self, chat: Rendered, template: ChatTemplate) -> Rendered:
        """Return the prompt with what keeps the model from thinking, unless `template`, which wrote
        it, does."""
        if template.switches_thoughts and not chat.thinking:
            return chat
        end = self._family.without_thought(chat.text, begun=chat.thinking)
        return replace(chat, text=chat.text + end)

    def _grammar(
        self, request: GenerationRequest, offered: OfferedTools, chat: Rendered
    ) -> Grammar | None:
        """Return the grammar of the answer: its format, calls that are demanded or held to, or
        either; None if it may be anything."""
        demanded = request.tool_choice.mode == "required"
        format = None if demanded else request.grammar
        tools = offered.callable(request.tool_choice)
        free = format is None and not demanded
        if free and not _are_held(request, tools):
            return None
        thinking = self._family.thinking(chat.text, begun=chat.thinking)
        if request.thinking is False:
            thinking = Thinking.OVER
        header = "".join(map(str, self._family.call_format.content))
        bare = chat.within == "content" or chat.text.endswith(header)
        if not tools and thinking is Thinking.OVER and bare:
            return format
        lark = self._family.answer_grammar(
            _held(tools),
            parallel=_most_calls(request) is None,
            thinking=thinking,
            formatted=format is not None,
            free=free,
            within=chat.within == "content",
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
    outline: Outline | None = None
    warnings: tuple[str, ...] = ()


def _parser(
    family: Family, tools: Sequence[Mapping[str, Any]], chat: Rendered, formatted: bool
) -> AnswerParser:
    parser = family.parser(tools, thinking=chat.thinking, formatted=formatted)
    if chat.within == "content":  # the model has written what comes before content
        parser.feed("".join(map(str, family.call_format.content)))
    return parser


def _most_calls(request: GenerationRequest) -> int | None:
    """Return how many calls an answer may have; None: any number. A tool is named to be called
    once."""
    if request.tool_choice.mode == "none":
        return 0
    return None if request.parallel_calls and request.tool_choice.name is None else 1


def _are_held(request: GenerationRequest, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Tell if calls of `tools` are held to a grammar although none is demanded."""
    strict = any(tool["function"].get("strict") for tool in tools)
    return bool(tools) and (
        strict or not request.parallel_calls or bool(request.tool_choice.allowed)
    )


def _is_text(request: GenerationRequest, family: Family) -> bool:
    """Tell if what looks like a call is text, as where nobody knows of a tool.

    An answer that may not call, but knows of tools, may have calls all the same: they are read, and
    left out. If no mark tells them from JSON, they are taken for what was asked for.
    """
    if not request.tools:
        return True
    none = request.tool_choice.mode == "none"
    return none and (request.grammar is not None or family.unmarked is not None)


def _held(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return tools with the schemas that their arguments are held to."""
    results = translated_arguments(tool["function"].get("parameters") for tool in tools)
    return [
        {**tool, "function": {**tool["function"], "parameters": result.schema}}
        for tool, result in zip(tools, results, strict=True)
    ]


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
        elif error.param == "grammar" and request.tools and request.tool_choice.mode != "none":
            error.param = "tools"
        raise


def _require_few(scored: int, request: GenerationRequest) -> None:
    """Raise InvalidRequest if so many scored tokens are too much for one answer."""
    if scored and scored * (1 + (request.prompt_logprobs or 0)) > _MOST_SCORES:
        raise InvalidRequest(
            f"The log probabilities of all prompts would be more than {_MOST_SCORES} numbers. Send "
            "fewer prompts at once, or ask for fewer likely tokens beside each.",
            param="prompt",
        )


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
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages.values()),
        cached_tokens=sum(usage.cached_tokens for usage in firsts),
        seconds=max(usage.seconds for usage in usages.values()),
    )
