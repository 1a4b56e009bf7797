"""A program that speaks the engine's protocol and does what each prompt says.

It is started as `fake_engine.py FD PARENT`. A prompt is a program of words; one word of each
running request is done in a round, and after the last one the answer ends with "stop":

    say:TEXT       gives TEXT as one token
    likely:TEXT    gives TEXT with a log probability
    prompts        gives the prompts that came, in order
    cancels        gives the ids that were cancelled
    asked          gives what was asked for beside the prompt
    wait:PATH      goes on when PATH exists
    mark:PATH      makes PATH, in the round when it is done
    fail:CODE      ends with that failure
    die:SIGNAL     kills the process
    exit:TEXT      writes TEXT to stderr and ends the process with 3
    choke          kills the process when it is read, before anything is done
    hang           gives no sign of life any more
    garbage        sends what is no message

Each text of a request for embeddings is such a word; `vector:TEXT` gives the bytes of TEXT, and
`wanted` gives what else was asked for as a vector.

A request whose grammar is `choke` kills the process while that is compiled. The tokens of a text
are its bytes; the text `choke` kills the process, `hush` gets no answer, `long` is refused.

`@2/WORD` is done by the second process only. FAKE_STARTS says what each process does at its start,
separated by `;`, the last one for all further ones: `ready`, `exit:TEXT`, `refuse:CODE:MESSAGE`
(`refuse!` for good, `lack` for want of memory), `silent`, `load:PATH` (reports that it loads, until
PATH exists), `broken` (dies of whatever it computes). FAKE_LIVES is a file with a byte for each
process there has been; a process makes one with `.stopped` added to its name when it is told to
stop.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from gguf_worker.engine.messages import (
    Cancel,
    Compiling,
    Delta,
    DetokenizeTokens,
    Embed,
    EngineInfo,
    EngineRequest,
    EngineSpec,
    Failure,
    Framed,
    FromEngine,
    GpuSupport,
    Loading,
    Ready,
    Refused,
    Reply,
    Start,
    Step,
    Stop,
    Submit,
    ToEngine,
    TokenizeText,
    Tokenizing,
)
from gguf_worker.generation import TokenLogprob, Usage

_ROUND_SECONDS = 0.005
_BEAT_SECONDS = 0.05
_STOP_SECONDS = 0.01
"""Long enough that one who is killed at once never gets to the end of it."""


class Channel:
    """Whole messages over a socket.

    The engine's own channel would bring numpy with it, which takes longer to load than most of what
    the tests do with a process.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._ready = select.poll()
        self._ready.register(connection, select.POLLIN)
        self._framed: Framed[ToEngine] = Framed(msgspec.msgpack.Decoder(ToEngine))

    def receive(self, timeout: float) -> list[ToEngine]:
        """Return what has come within `timeout` seconds; EOFError once the parent has closed."""
        if not self._ready.poll(timeout * 1000):
            return []
        if not (data := self._socket.recv(1 << 20)):
            raise EOFError
        return self._framed.feed(data)

    def send(self, message: FromEngine) -> None:
        data = msgspec.msgpack.encode(message)
        self._socket.sendall(Framed.HEADER.pack(len(data)) + data)


class FakeEngine:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._channel = Channel(connection)
        lives = Path(os.environ["FAKE_LIVES"])
        with lives.open("ab") as file:
            file.write(b".")
        self._life = lives.stat().st_size
        self._sequences = 1
        self._waiting: list[tuple[int, list[str]]] = []
        self._running: dict[int, list[str]] = {}
        self._asked: dict[int, str] = {}
        self._prompts: list[str] = []
        self._cancels: list[int] = []
        self._said: dict[int, int] = {}
        self._spoke_at = 0.0
        self._broken = False

    def main(self) -> int:
        try:
            spec = self._first()
            self._sequences = spec.sequences
            if (status := self._start(spec)) is not None:
                return status
            while True:
                for message in self._channel.receive(_ROUND_SECONDS):
                    if isinstance(message, Stop):
                        time.sleep(_STOP_SECONDS)
                        Path(os.environ["FAKE_LIVES"] + ".stopped").touch()
                        return 0
                    self._take(message)
                self._round()
        except EOFError:
            return 0

    def _first(self) -> EngineSpec:
        while True:
            for message in self._channel.receive(1.0):
                assert isinstance(message, Start)
                return message.spec

    def _start(self, spec: EngineSpec) -> int | None:
        starts = os.environ.get("FAKE_STARTS", "ready").split(";")
        how, _, rest = starts[min(self._life, len(starts)) - 1].partition(":")
        match how:
            case "exit":
                print(rest, file=sys.stderr, flush=True)
                return 3
            case "refuse" | "refuse!" | "lack":
                code, _, message = rest.partition(":")
                self._channel.send(Refused(code, message, how == "refuse!", how == "lack"))
                return 1
            case "no_gpu":
                gpu = GpuSupport("no_device", rest)
                self._channel.send(Refused("engine_start_failed", rest, False, True, gpu))
                return 1
            case "silent":
                time.sleep(60)
            case "broken":
                self._broken = True
            case "load":
                while not os.path.exists(rest):
                    self._channel.send(Loading(0.5))
                    time.sleep(_BEAT_SECONDS)
        sizes = (spec.context, spec.sequences, 4096, 512, 512, 300, 1, 1)
        self._channel.send(Ready(EngineInfo("fake", *sizes, False, spec.threads, 0.5, 0.25)))
        return None

    def _take(self, message: object) -> None:
        match message:
            case Submit():
                self._submit(message.id, message.request)
            case Embed():
                self._asked[message.id] = f"{message.query} {message.dimensions}"
                self._waiting.append((message.id, [str(text) for text in message.texts]))
            case TokenizeText():
                self._tokenize(message)
            case DetokenizeTokens():
                text = bytes(message.tokens).decode()
                self._channel.send(Reply(message.id, text=text))
            case Cancel():
                self._cancels.append(message.id)
                self._waiting = [each for each in self._waiting if each[0] != message.id]
                self._running.pop(message.id, None)

    def _submit(self, id: int, request: EngineRequest) -> None:
        if not isinstance(request.prompt, str):  # the parent's own, to see if anything works
            self._waiting.append((id, ["tried"]))
            return
        self._channel.send(Tokenizing((id,)))
        if request.prompt == "choke":
            os.kill(os.getpid(), signal.SIGSEGV)
        self._channel.send(Tokenizing(()))
        if request.grammar is not None:
            self._channel.send(Compiling((id,)))
            if request.grammar.text == "choke":
                os.kill(os.getpid(), signal.SIGSEGV)
            self._channel.send(Compiling(()))
        grammar = request.grammar.text if request.grammar else ""
        self._asked[id] = f"{grammar} {request.logprobs} {request.show_special}"
        self._prompts.append(request.prompt)
        self._waiting.append((id, request.prompt.split(" ")))

    def _tokenize(self, message: TokenizeText) -> None:
        match message.text:
            case "choke":
                self._channel.send(Tokenizing((message.id,)))
                os.kill(os.getpid(), signal.SIGSEGV)
            case "long":
                failure = Failure("invalid_request", "too long", "prompt")
                self._channel.send(Reply(message.id, failure=failure))
            case "hush":
                pass
            case text:
                self._channel.send(Reply(message.id, tokens=list(text.encode())))

    def _round(self) -> None:
        admitted = self._waiting[: self._sequences - len(self._running)]
        del self._waiting[: len(admitted)]
        for id, words in admitted:
            self._running[id] = words
            self._said[id] = 0
        if admitted:
            self._say((), tuple(id for id, _ in admitted))
            if self._broken:
                os.kill(os.getpid(), signal.SIGSEGV)
        deltas: list[Delta] = []
        for id, words in list(self._running.items()):
            delta = self._word(id, words)
            if delta is not None:
                deltas.append(delta)
                if delta.last:
                    del self._running[id]
        if deltas or time.monotonic() - self._spoke_at > _BEAT_SECONDS:
            self._say(tuple(deltas))

    def _word(self, id: int, words: list[str]) -> Delta | None:
        if not words:
            return Delta(id, finish="stop", usage=Usage(7, self._said[id]))
        word, _, rest = words[0].partition(":")
        if word.startswith("@"):
            life, _, word = word[1:].partition("/")
            if int(life) != self._life:
                del words[0]
                return None
        if word == "wait" and not os.path.exists(rest):
            return None
        del words[0]
        return self._do(id, word, rest)

    def _do(self, id: int, word: str, rest: str) -> Delta | None:
        match word:
            case "say":
                self._said[id] += 1
                return Delta(id, rest, 1)
            case "vector":
                return Delta(id, vectors=(rest.encode(),))
            case "wanted":
                return Delta(id, vectors=(self._asked[id].encode(),))
            case "likely":
                logprob = TokenLogprob(5, rest.encode(), -0.5, ((5, rest.encode(), -0.5),))
                return Delta(id, rest, 1, logprobs=(logprob,))
            case "asked":
                return Delta(id, self._asked[id], 1)
            case "prompts":
                return Delta(id, "|".join(self._prompts), 1)
            case "cancels":
                return Delta(id, ",".join(map(str, self._cancels)), 1)
            case "fail":
                return Delta(id, failure=Failure(rest, "as it was told"))
            case "mark":
                Path(rest).touch()
            case "die":
                os.kill(os.getpid(), signal.Signals[rest])
            case "exit":
                print(rest, file=sys.stderr, flush=True)
                os._exit(3)
            case "hang":
                time.sleep(60)
            case "garbage":
                self._socket.sendall(b"\x03\x00\x00\x00\xc1\xc1\xc1")
        return None

    def _say(self, deltas: tuple[Delta, ...], begun: tuple[int, ...] = ()) -> None:
        self._spoke_at = time.monotonic()
        self._channel.send(
            Step(
                rows=len(deltas),
                running=len(self._running),
                waiting=len(self._waiting),
                kv_used=0,
                kv_total=4096,
                preempted=0,
                seconds=0.0,
                begun=begun,
                deltas=deltas,
            )
        )


if __name__ == "__main__":
    sys.exit(FakeEngine(socket.socket(fileno=int(sys.argv[1]))).main())
