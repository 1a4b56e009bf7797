"""Answers from the model in this worker: its dialect writes the prompt, its engine continues it.

Knows neither wire format nor policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager

import msgspec

from gguf_worker.engine import Delta, EngineClient, Sampling, Stream
from gguf_worker.errors import WorkerError
from gguf_worker.models import Dialect
from gguf_worker.providers.merge import merged
from gguf_worker.providers.request import SEEDS, Ended, Finish, Part, Piece, Usage, Wish


class Local:
    """One resident model as a Provider. It closes neither of what it is given.

    `borders`: the model's memory can be reused only where it was saved, so the engine is told at which
    places of a chat that is worth while.
    """

    def __init__(self, engine: EngineClient, dialect: Dialect, *, borders: bool = False) -> None:
        self._engine = engine
        self._dialect = dialect
        self._borders = borders

    def answer(self, wish: Wish) -> AsyncGenerator[Part, None]:
        """A Piece holds all that has come since the one before, so a slow reader gets fewer."""
        return self._one(wish) if wish.n == 1 else self._several(wish)

    async def _one(self, wish: Wish) -> AsyncGenerator[Part, None]:
        with (
            _in_the_callers_words(wish),
            closing(self._submit(wish, *self._prompt(wish))) as stream,
        ):
            async for delta in stream:
                if delta.text or delta.tokens:
                    yield Piece(delta.text, delta.tokens)
                if delta.finish is not None:
                    yield Finish(delta.finish, _usage(delta))

    async def _several(self, wish: Wish) -> AsyncGenerator[Part, None]:
        """The engine computes the prompt once for requests that come together."""
        usages: dict[int, Usage] = {}
        with _in_the_callers_words(wish), ExitStack() as opened:
            streams = [
                opened.enter_context(closing(stream)) for stream in self._submit_several(wish)
            ]
            async with aclosing(merged(streams)) as news:
                async for index, delta in news:
                    if delta.text or delta.tokens:
                        yield Piece(delta.text, delta.tokens, index)
                    if delta.finish is None:
                        continue
                    usages[index] = _usage(delta)
                    if len(usages) < wish.n:
                        yield Ended(delta.finish, index)
                    else:
                        yield Finish(
                            delta.finish, _total([usages[i] for i in range(wish.n)]), index
                        )

    def _submit_several(self, wish: Wish) -> Iterator[Stream]:
        prompt, borders = self._prompt(wish)
        for index in range(wish.n):
            yield self._submit(wish, prompt, borders, index)

    def _submit(self, wish: Wish, prompt: str, borders: tuple[int, ...], index: int = 0) -> Stream:
        return self._engine.submit(
            prompt,
            _seeded(wish.sampling, index),
            max_tokens=wish.max_tokens,
            stop=wish.stop,
            ignore_eos=wish.ignore_eos,
            deadline=wish.deadline,
            priority=wish.priority.value,
            user=wish.user,
            borders=borders,
            pace=wish.pace,
        )

    def _prompt(self, wish: Wish) -> tuple[str, tuple[int, ...]]:
        """The text to go on from, and its borders; those of a plain prompt nobody knows."""
        if wish.messages is None:
            assert wish.prompt is not None
            return wish.prompt, ()
        chat = self._dialect.render(wish.messages, wish.template_options, borders=self._borders)
        return chat.text, chat.borders


@contextmanager
def _in_the_callers_words(wish: Wish) -> Iterator[None]:
    """An error of the engine's prompt is one of the messages that the caller sent."""
    try:
        yield
    except WorkerError as error:
        if error.param == "prompt" and wish.messages is not None:
            error.param = "messages"
        raise


def _seeded(sampling: Sampling, index: int) -> Sampling:
    """The settings of answer `index`: without a seed each draws its own."""
    if sampling.seed is None or index == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + index) % SEEDS)


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


def _total(usages: Sequence[Usage]) -> Usage:
    """What several answers to one prompt cost together, from the first text of any to the end of all.

    The prompt counts once, and as cached only what was known before: the first answer computed the
    rest, and that the others found it is no news to the caller.
    """
    return dataclasses.replace(
        min(usages, key=lambda usage: usage.ttft_seconds),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=usages[0].cached_tokens,
        seconds=max(usage.seconds for usage in usages),
    )
