"""The one client of all peers, which streams chat completions and keeps the time of each read.

It shares its cores with the servers that it measures. So while an answer streams it only keeps the
bytes and the time of each read; the events are parsed when the answer has ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

PATH = "/v1/chat/completions"
_DATA, _DONE = b"data:", b"[DONE]"

Message = Mapping[str, str]


class Refused(Exception):
    """An error in place of an answer, or an answer that was broken off."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered request. Times are seconds on this process's monotonic clock."""

    began: float
    ended: float
    texts: tuple[float, ...]
    """The times at which text arrived, one for each event that had some."""
    tokens: int
    """Generated tokens, as the server counts them.

    Where it doesn't: the limit if the answer ran to it, else the number of events with text.
    """
    prompt_tokens: int | None
    cached_tokens: int | None
    text: str

    @property
    def ttft(self) -> float:
        return (self.texts[0] if self.texts else self.ended) - self.began

    @property
    def gaps(self) -> tuple[float, ...]:
        """Return the seconds between each arrival of text and the next."""
        return tuple(b - a for a, b in zip(self.texts, self.texts[1:], strict=False))


class Client:
    """A client of one server; `extras` are fields that this server needs in every body."""

    def __init__(self, base: str, extras: Mapping[str, Any]) -> None:
        self._url = base + PATH
        self._extras = extras
        self._session = aiohttp.ClientSession(
            # A new connection for each request: servers differ in when they close an idle one.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def ask(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        *,
        n: int = 1,
        on_text: Callable[[int], None] | None = None,
    ) -> Answer:
        """Stream one greedy answer, or `n` of them, and return it when it has ended.

        `on_text` is called after each read with the number of reads so far. Raises Refused.
        """
        body: dict[str, Any] = {
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._extras,
        }
        if n > 1:
            body["n"] = n
        reads: list[tuple[float, bytes]] = []
        began = time.monotonic()
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status != 200:
                    raise Refused(f"status {response.status}: {(await response.text())[:500]}")
                async for data in response.content.iter_any():
                    reads.append((time.monotonic(), data))
                    if on_text is not None:
                        on_text(len(reads))
        except aiohttp.ClientError as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        return read_answer(began, time.monotonic(), reads, max_tokens * n)


def read_answer(
    began: float, ended: float, reads: Iterable[tuple[float, bytes]], limit: int
) -> Answer:
    """Parse the reads of a stream; raises Refused when it was an error, or was broken off."""
    texts: list[float] = []
    parts: list[str] = []
    usages: list[Mapping[str, Any]] = []
    finishes: list[str] = []
    done = False
    for at, data in _events(reads):
        if data == _DONE:
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            raise Refused(json.dumps(event["error"])[:500])
        if event.get("usage"):
            usages.append(event["usage"])
        for choice in event.get("choices", ()):
            if text := choice.get("delta", {}).get("content"):
                texts.append(at)
                parts.append(text)
            if choice.get("finish_reason"):
                finishes.append(choice["finish_reason"])
    if not done:
        raise Refused("the stream ended before it was done")
    counted = sum(usage["completion_tokens"] for usage in usages)
    ran_out = bool(finishes) and set(finishes) == {"length"}
    usage = usages[-1] if usages else {}
    return Answer(
        began=began,
        ended=ended,
        texts=tuple(texts),
        tokens=counted or (limit if ran_out else len(texts)),
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        text="".join(parts),
    )


def _events(reads: Iterable[tuple[float, bytes]]) -> Iterable[tuple[float, bytes]]:
    """Yield the data of each server-sent event, with the time of the read that completed it."""
    rest = b""
    for at, data in reads:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                yield at, line[len(_DATA) :].strip()
