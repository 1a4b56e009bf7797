"""Eight honest readers of streams, as a process of their own, so that nothing delays their clock.

    python -m tests.soak.honest PORT STREAMS TOKENS SEED

Prints a line for each thing that happens: seconds on the monotonic clock, the stream's number, and
TEXT, END, or an error's code. LAG lines, of no stream, say for how long this process did not run.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from tests.http_worker import KEY

TEXT, END, LAG = "text", "end", "lag"
RETRY_SECONDS = 0.2
_TICK = 0.02
_LEAST_LAG = 0.05
_WORDS = (
    "the sea wind harbour letter morning stone river garden window answer paper quiet early bridge"
)


def prose(chance: random.Random, words: int) -> str:
    """Return some words as an honest user might write them."""
    return " ".join(chance.choices(_WORDS.split(), k=words))


def _say(number: int, what: str) -> None:
    print(f"{time.monotonic():.4f} {number} {what}", flush=True)


async def _stream(port: int, number: int, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        while line := await reader.readline():
            if b'"error"' in line:
                error = json.loads(line.removeprefix(b"data: "))["error"]
                return _say(number, error["code"])
            if line.startswith(b"data: [DONE]"):
                return _say(number, END)
            if line.startswith(b"data: "):
                _say(number, TEXT)
        return _say(number, "cut_off")
    finally:
        writer.close()


async def _ask_on(port: int, number: int, tokens: int, seed: int) -> None:
    """Ask for one answer after another."""
    chance = random.Random(f"{seed} {number}")
    while True:
        body = {
            "prompt": prose(chance, 30),
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "user": f"honest {number}",
        }
        try:
            await _stream(port, number, json.dumps(body).encode())
        except OSError as error:
            _say(number, f"cut_off_{type(error).__name__}")
        await asyncio.sleep(RETRY_SECONDS)


async def _watch_itself() -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(_TICK)
        late = time.monotonic() - began - _TICK
        if late > _LEAST_LAG:
            _say(-1, f"{LAG} {late:.4f}")


async def _main(port: int, streams: int, tokens: int, seed: int) -> None:
    readers = (_ask_on(port, number, tokens, seed) for number in range(streams))
    await asyncio.gather(_watch_itself(), *readers)


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:5])))
