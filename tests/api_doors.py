"""A gateway over a scripted provider, and ways to ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gguf_worker.api import Gateway
from gguf_worker.api.call import ApiCall, Dialect
from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import ApiReply, EventText
from gguf_worker.errors import WorkerError
from gguf_worker.events import Event as Fact
from gguf_worker.events import RequestDone
from gguf_worker.generation import Sampling
from gguf_worker.providers import GenerationRequest, ModelCard
from tests.fakes import FakeClock, ScriptedProvider

CARD = ModelCard(
    "demo", aliases=("gpt-4o",), created=1_700_000_000, context=2048, quantisation="Q4_1"
)
MESSAGES = [{"role": "user", "content": "Hi"}]


class Bench:
    """A gateway whose provider, clock and events are in the test's hands."""

    def __init__(
        self,
        provider: ScriptedProvider | WorkerError,
        *,
        cold: bool = False,
        cards: Sequence[ModelCard] = (CARD,),
    ) -> None:
        self.provider = ScriptedProvider() if isinstance(provider, WorkerError) else provider
        self.refusal = provider if isinstance(provider, WorkerError) else None
        """The reason why there is no provider."""
        self.reached: list[str] = []
        """The models whose provider was asked for."""
        self.facts: list[Fact] = []
        self.clock = FakeClock()
        self.asked_if_cold = 0
        self._cold = cold
        self.gateway = Gateway(
            self._open,
            lambda: cards,
            health=lambda: {"state": "ready", "load": float("nan")},
            metrics=lambda: "up 1\n",
            observe=self.facts.append,
            cold=self._is_cold,
            now=self.clock,
            clock=lambda: 1_800_000_000.7,
        )

    def _open(self, name: str) -> ScriptedProvider:
        self.reached.append(name)
        if self.refusal is not None:
            raise self.refusal
        return self.provider

    def _is_cold(self, name: str) -> dict[str, float] | None:
        self.asked_if_cold += 1
        return {"load": 1.23456} if self._cold else None

    @property
    def done(self) -> RequestDone:
        """The one report there is."""
        (fact,) = self.facts
        assert isinstance(fact, RequestDone)
        return fact

    @property
    def reports(self) -> list[RequestDone]:
        """The reports of all requests."""
        return [fact for fact in self.facts if isinstance(fact, RequestDone)]

    async def ask(self, call: ApiCall) -> list[ApiReply]:
        return [reply async for reply in self.gateway.handle(call)]


def call(route: str, body: Mapping[str, Any] | None = None, **more: Any) -> ApiCall:
    dialect = Dialect.OPENAI if route.startswith("/") else Dialect.NATIVE
    return ApiCall("r1", "j1", route, body or {}, dialect, **more)


def chat(**body: Any) -> ApiCall:
    return call("/v1/chat/completions", {"messages": MESSAGES, **body})


def completion(**body: Any) -> ApiCall:
    return call("/v1/completions", {"prompt": "Hi", **body})


def native(**body: Any) -> ApiCall:
    return call("generate", {"prompt": "Hi", **body})


def generation_call(
    *, stream: bool = False, include_usage: bool = False, answers: int = 1, logprobs: bool = False
) -> GenerationCall:
    """A call that was read, whose answer is wanted in this form."""
    request = GenerationRequest("r1", Sampling(), n=answers, logprobs=0 if logprobs else None)
    return GenerationCall(request, stream, include_usage, model=None)


def sse(replies: list[ApiReply]) -> str:
    """The whole event stream of an answer."""
    return "".join(reply.text for reply in replies if isinstance(reply, EventText))
