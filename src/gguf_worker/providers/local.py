"""Answers from the model in this worker: its dialect writes the prompt, its engine continues it.

Knows neither wire format nor policy.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from gguf_worker.engine import Delta, EngineClient
from gguf_worker.errors import WorkerError
from gguf_worker.models import Dialect
from gguf_worker.providers.request import Finish, Piece, Usage, Wish


class Local:
    """One resident model as a Provider. It closes neither of what it is given."""

    def __init__(self, engine: EngineClient, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect

    async def answer(self, wish: Wish) -> AsyncGenerator[Piece | Finish, None]:
        """A Piece holds all that has come since the one before, so a slow reader gets fewer."""
        stream = self._engine.submit(
            self._prompt(wish),
            wish.sampling,
            max_tokens=wish.max_tokens,
            stop=wish.stop,
            ignore_eos=wish.ignore_eos,
            deadline=wish.deadline,
        )
        try:
            async for delta in stream:
                if delta.text or delta.tokens:
                    yield Piece(delta.text, delta.tokens)
                if delta.finish is not None:
                    yield Finish(delta.finish, _usage(delta))
        except WorkerError as error:
            if error.param == "prompt" and wish.messages is not None:
                error.param = "messages"
            raise
        finally:
            stream.close()

    def _prompt(self, wish: Wish) -> str:
        if wish.messages is None:
            assert wish.prompt is not None
            return wish.prompt
        return self._dialect.render(wish.messages, wish.template_options)


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
