"""Answers from the model in this worker: its dialect writes the prompt, its engine continues it, and its
family's notation tells thoughts and calls from text. Embeddings and scores, where that is what it is for.

Knows neither wire format nor policy.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from gguf_worker.engine import Delta, EngineClient, Grammar, Sampling, Stream
from gguf_worker.errors import InvalidRequest, WorkerError
from gguf_worker.models import Dialect, Rendered
from gguf_worker.providers.abilities import Abilities
from gguf_worker.providers.channels import Family, Thinking, family_for, plain_messages
from gguf_worker.providers.merge import merged
from gguf_worker.providers.parts import AnswerParts
from gguf_worker.providers.request import (
    SEEDS,
    Embeddings,
    EmbeddingWish,
    Ended,
    Finish,
    Part,
    Piece,
    Ranking,
    RankingWish,
    Usage,
    Wish,
)

_ABLE = Abilities()


class Local:
    """One resident model as a Provider. It closes neither of what it is given.

    `borders`: the model's memory can be reused only where it was saved, so the engine is told at which
    places of a chat that is worth while. `special`: the ids of the vocabulary's control tokens by their
    texts. `infill`: the tokens before a prefix, a suffix and the middle, as they are spelled; or none.
    `abilities`: what it can be asked for. `new_id` names tool calls.
    """

    def __init__(
        self,
        engine: EngineClient,
        dialect: Dialect,
        *,
        family: Family | None = None,
        special: Mapping[str, int] | None = None,
        infill: Sequence[str] = (),
        borders: bool = False,
        abilities: Abilities = _ABLE,
        new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}",
    ) -> None:
        self._engine = engine
        self._dialect = dialect
        self._family = family or family_for(None)
        self._special = special or {}
        self._infill = infill
        self._borders = borders
        self._abilities = abilities
        self._new_id = new_id

    def answer(self, wish: Wish) -> AsyncGenerator[Part, None]:
        """A Piece holds all that has come since the one before, so a slow reader gets fewer."""
        self._abilities.check(wish)
        return self._one(wish) if wish.answers == 1 else self._several(wish)

    async def embed(self, wish: EmbeddingWish) -> Embeddings:
        """The vectors of texts; texts of several wishes are computed together."""
        texts = [each if isinstance(each, str) else list(each) for each in wish.inputs]
        vectors, tokens = await self._engine.embed(
            texts, dimensions=wish.dimensions, deadline=wish.deadline
        )
        return Embeddings(tuple(vectors), tokens)

    async def rank(self, wish: RankingWish) -> Ranking:
        """The scores of documents."""
        scores, tokens = await self._engine.rank(wish.query, wish.documents, deadline=wish.deadline)
        return Ranking(tuple(scores), tokens)

    async def tokens(self, source: str | Wish, *, add_special: bool) -> list[int]:
        """The tokens of a text, or of the prompt that a chat becomes."""
        if isinstance(source, str):
            return await self._engine.tokenize(source, add_special=add_special)
        with _in_the_callers_words(source):
            return await self._engine.tokenize(self._chat(source).text, add_special=add_special)

    async def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones as they are spelled."""
        return await self._engine.detokenize(list(tokens))

    async def _one(self, wish: Wish) -> AsyncGenerator[Part, None]:
        plan = self._plan(wish)
        with (
            _in_the_callers_words(wish),
            closing(next(self._submit_all(wish, plan))) as stream,
        ):
            for piece in await self._echo(wish):
                yield piece
            parts = plan.parts(0)
            async for delta in stream:
                for part in parts.of(delta):
                    yield part
                if delta.finish is not None:
                    yield Finish(parts.reason(delta.finish), _usage(delta), stop=delta.stop)

    async def _several(self, wish: Wish) -> AsyncGenerator[Part, None]:
        """The engine computes the prompt once for requests that come together."""
        usages: dict[int, Usage] = {}
        plan = self._plan(wish)
        with _in_the_callers_words(wish), ExitStack() as opened:
            streams = [
                opened.enter_context(closing(stream)) for stream in self._submit_all(wish, plan)
            ]
            for piece in await self._echo(wish):
                yield piece
            parts = [plan.parts(index) for index in range(wish.answers)]
            async with aclosing(merged(streams)) as news:
                async for index, delta in news:
                    for part in parts[index].of(delta):
                        yield part
                    if delta.finish is None:
                        continue
                    usages[index] = _usage(delta)
                    reason = parts[index].reason(delta.finish)
                    if len(usages) < wish.answers:
                        yield Ended(reason, index, delta.stop)
                    else:
                        yield Finish(reason, _total(usages, wish.n), index, delta.stop)

    async def _echo(self, wish: Wish) -> list[Piece]:
        """The prompts, for answers that begin with theirs."""
        if not wish.echo:
            return []
        texts = [
            prompt if isinstance(prompt, str) else await self.text(prompt)
            for prompt in wish.prompts
        ]
        return [Piece(texts[index // wish.n], 0, index) for index in range(wish.answers)]

    def _submit_all(self, wish: Wish, plan: _Plan) -> Iterator[Stream]:
        """A stream for each answer, in order."""
        for prompt in plan.prompts:
            for number in range(wish.n):
                yield self._submit(wish, plan, prompt, number)

    def _submit(self, wish: Wish, plan: _Plan, prompt: str | list[int], number: int) -> Stream:
        return self._engine.submit(
            prompt,
            _seeded(wish.sampling, number),
            max_tokens=wish.max_tokens,
            stop=wish.stop,
            ignore_eos=wish.ignore_eos,
            deadline=wish.deadline,
            priority=wish.priority.value,
            user=wish.user,
            borders=plan.borders,
            pace=wish.pace,
            grammar=plan.grammar,
            logprobs=-1 if wish.logprobs is None else wish.logprobs,
            show_special=plan.show_special,
        )

    def _plan(self, wish: Wish) -> _Plan:
        if wish.messages is None:
            prompts = [self._prompt(each, wish.suffix) for each in wish.prompts]
            return _Plan(prompts, grammar=wish.grammar)
        chat = self._chat(wish)
        grammar = self._grammar(wish, chat)
        if grammar is not None and grammar == wish.grammar:  # then the answer is its content
            return _Plan([chat.text], chat.borders, grammar)
        family, tools = self._family, _callable(wish)
        formatted = grammar is not None and grammar.inner is not None
        return _Plan(
            [chat.text],
            chat.borders,
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
        if not self._infill:
            raise InvalidRequest(
                "This model cannot fill in the middle: its vocabulary has no tokens for that. "
                "Leave out `suffix`.",
                param="suffix",
            )
        before, behind, between = self._infill
        return f"{before}{prompt}{behind}{suffix}{between}"

    def _chat(self, wish: Wish) -> Rendered:
        """The prompt that the wish's messages become."""
        assert wish.messages is not None
        tools, messages = _callable(wish), wish.messages
        teach = self._family.teaches or not self._dialect.uses_tools
        if teach or not self._dialect.writes_calls:
            taught, tools = (tools, ()) if teach else ((), tools)
            system = self._dialect.takes_system
            messages = tuple(plain_messages(messages, taught, system=system))
        return self._dialect.render(
            messages, wish.template_options, tools=tools, borders=self._borders
        )

    def _grammar(self, wish: Wish, chat: Rendered) -> Grammar | None:
        """What the answer has to match: its format, calls where they are demanded, or either."""
        demanded = wish.tool_choice.mode == "required"
        format = None if demanded else wish.grammar
        if format is None and not demanded:
            return None
        name, tools = wish.tool_choice.name, _callable(wish)
        thinking = self._family.thinking(chat.text, begun=chat.thinking)
        if not tools and thinking is Thinking.OVER:
            return format
        lark = self._family.answer_grammar(
            [tool for tool in tools if name in (None, tool["function"]["name"])],
            parallel=wish.parallel_calls,
            thinking=thinking,
            formatted=format is not None,
            special=self._special,
        )
        if len(lark) + (format.size if format else 0) > Grammar.MOST_CHARACTERS and tools:
            raise InvalidRequest(
                f"`tools` are too large to hold an answer to them: their names and parameters, and the "
                f"format beside them, are more than {Grammar.MOST_CHARACTERS} characters. Send fewer, "
                "or name one in `tool_choice`.",
                param="tools",
            )
        return Grammar("lark", lark, format)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to go on from, and how the answers are read. Borders of a plain prompt nobody knows."""

    prompts: Sequence[str | list[int]]
    borders: tuple[int, ...] = ()
    grammar: Grammar | None = None
    show_special: bool = False
    parts: Callable[[int], AnswerParts] = AnswerParts


def _callable(wish: Wish) -> tuple[Mapping[str, Any], ...]:
    """The tools that the answer may call."""
    return () if wish.tool_choice.mode == "none" else wish.tools


@contextmanager
def _in_the_callers_words(wish: Wish) -> Iterator[None]:
    """An error of the engine's prompt is one of the messages that the caller sent; likewise its grammar."""
    try:
        yield
    except WorkerError as error:
        if error.param == "prompt" and wish.messages is not None:
            error.param = "messages"
        elif error.param == "grammar.inner":
            error.param = "grammar"
        elif error.param == "grammar" and _callable(wish):
            error.param = "tools"
        raise


def _seeded(sampling: Sampling, number: int) -> Sampling:
    """The settings of a prompt's answer `number`: without a seed each draws its own."""
    if sampling.seed is None or number == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + number) % SEEDS)


def _usage(delta: Delta) -> Usage:
    assert delta.usage is not None
    return Usage(
        prompt_tokens=delta.usage.prompt_tokens,
        completion_tokens=delta.usage.completion_tokens,
        cached_tokens=delta.usage.cached_tokens,
        queue_seconds=delta.usage.queue_seconds,
        prefill_seconds=delta.usage.prefill_seconds,
        ttft_seconds=delta.usage.ttft_seconds,
        seconds=delta.usage.seconds,
    )


def _total(usages: Mapping[int, Usage], n: int) -> Usage:
    """What all answers cost together, `n` to each prompt, from the first text of any to the end of all.

    A prompt counts once, and as cached only what was known before: its first answer computed the
    rest, and that the others found it is no news to the caller.
    """
    firsts = [usages[index] for index in range(0, len(usages), n)]
    return dataclasses.replace(
        min(usages.values(), key=lambda usage: usage.ttft_seconds),
        prompt_tokens=sum(usage.prompt_tokens for usage in firsts),
        completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
        cached_tokens=sum(usage.cached_tokens for usage in firsts),
        seconds=max(usage.seconds for usage in usages.values()),
    )
