"""What the worker and its engine process say to each other, and how it is framed.

Frozen msgspec structs, tagged, as arrays in MessagePack, each behind a four-byte length. Nothing here
knows of JSON, chat, OpenAI or RunPod: a request is a text (or tokens), sampling settings and limits.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Generic, TypeVar

import msgspec

from gguf_worker.generation import Grammar, Sampling, TokenLogprob, Usage

T = TypeVar("T")

UNLIMITED = 2**31 - 1
"""`max_tokens` of a request that may go on until its context is full."""


class EngineSpec(msgspec.Struct, frozen=True, array_like=True):
    """Everything an engine process needs to open one model."""

    path: str
    context: int
    """Tokens that one request may hold, prompt and answer together; 0: as the model was trained."""
    sequences: int
    """Requests computed at the same time."""
    kv_cells: int = 0
    """Tokens of KV cache shared by all sequences; 0: `context * sequences`."""
    gpu_layers: int = -1
    """Layers on the GPU; -1: all."""
    kv_type: str = "f16"
    flash_attention: str = "auto"
    threads: int = 1
    batch_size: int = 512
    """Rows of one step: a token of each running sequence, then prompt chunks."""
    ubatch_size: int = 512
    max_queue: int = 64
    """Requests waiting for a sequence; more are refused as overloaded."""
    idle_sequences: int = 16
    """Finished requests, beside the running ones, whose cells may be kept for reuse."""
    unified: bool = True
    """One pool of cells for all sequences; False: each has its own, where the model allows that."""
    prefill_chunk: int = 0
    """Prompt rows in one step while others decode; 0: as many as the step has room for."""
    stream_interval: float = 0.0
    """Seconds for which the texts of short steps may be collected; 0: each step's go out with it."""
    mixing: str = "mixed"
    """"mixed": prompt rows go into the same steps as decode rows; "alternate": into steps of their own."""
    pooling: str = "none"
    """"mean", "cls" or "last": embeddings of texts are wanted, so made; "rank": scores; "none": neither."""
    generates: bool = True
    """False: nothing but embeddings or scores, so there is no KV cache for requests that generate."""
    causal: bool = True
    """A token sees those before it only; False: texts are read whole."""
    adapters: tuple[tuple[str, float], ...] = ()
    """LoRA adapters that are applied to everything: the path of each file, and its scale."""


class Start(msgspec.Struct, frozen=True, array_like=True, tag=1):
    spec: EngineSpec


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Generate from `prompt`, a text or token ids. `deadline` is on this machine's monotonic clock."""

    id: int
    prompt: str | list[int]
    sampling: Sampling
    max_tokens: int = UNLIMITED
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    add_special: bool = True
    """Add BOS/EOS where the model wants them (never twice)."""
    parse_special: bool = True
    """Read `<|im_start|>` and the like as the token; False: as plain text."""
    deadline: float | None = None
    priority: int = 1
    """0 low, 1 normal, 2 high."""
    user: str = ""
    """Whose it is, for a fair share among users; "": nobody's, it stands for itself."""
    reuse_points: tuple[int, ...] = ()
    """Offsets into a text prompt (characters) up to which other prompts are likely to be the same."""
    grammar: Grammar | None = None
    logprobs: int = -1
    """Likely tokens to be told beside each that was drawn; 0: only that one; -1: none."""
    show_special: bool = False
    """Special tokens appear in the text as they are spelled, but for those that end an answer."""


class Embed(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """The vectors of `texts` (each a text or token ids) are wanted; or, where there is a `query`, the score
    of each of them for it.

    They come in Deltas of the same id, in order. `deadline` is as for Submit.
    """

    id: int
    texts: tuple[str | list[int], ...]
    query: str | None = None
    dimensions: int | None = None
    """Numbers of each vector, from its beginning; None: all."""
    deadline: float | None = None


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    id: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """End the process now; the parent has drained what it wanted drained."""


class Tokenize(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The tokens of a text are wanted; the flags are those of Submit, and so are the ids."""

    id: int
    text: str
    add_special: bool = True
    parse_special: bool = True


class Detokenize(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The text of tokens is wanted, special ones as they are spelled."""

    id: int
    tokens: list[int]


class Loading(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Weights are being read: `fraction` of them so far. Counts as a sign of life."""

    fraction: float


class EngineInfo(msgspec.Struct, frozen=True, array_like=True):
    """What was opened, with the values that llama.cpp settled on."""

    description: str
    context: int
    sequences: int
    kv_cells: int
    batch_size: int
    ubatch_size: int
    vocabulary: int
    model_bytes: int
    parameters: int
    gpu_offload: bool
    threads: int
    load_seconds: float
    warmup_seconds: float
    idle_sequences: int = 0
    unified: bool = True
    rollback: bool = True
    """A cached prefix can be reused up to any token; False: only where a snapshot was left."""
    special: tuple[tuple[str, int], ...] = ()
    """The tokens that text shows only where it is told to, as they are spelled, with their ids."""
    infill: tuple[str, ...] = ()
    """The tokens before a prefix, a suffix and what comes between them, as they are spelled; or none."""
    generates: bool = True
    pooling: str = "none"
    """As in EngineSpec."""
    dimensions: int = 0
    """Of an embedding; 0 where there are none."""


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=12):
    info: EngineInfo


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The model cannot be opened; the process ends. `permanent`: nor will it be next time."""

    code: str
    message: str
    permanent: bool


class Tokenizing(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The prompt of this request is being tokenised; None: that is done. Tokenisers can crash too."""

    id: int | None


class Compiling(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The requests whose grammars are being compiled from now on, beside everything else."""

    ids: tuple[int, ...]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a request ended without an answer; `code` is a leaf of the error tree."""

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """News of one request. The last one carries `finish` ("stop" | "length") or `failure`, and `usage`."""

    id: int
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """Where they are wanted: one for each of `tokens`."""
    vectors: tuple[bytes, ...] = ()
    """Of the next texts of an Embed: little-endian float32, of length 1; or one score each."""
    stop: str | None = None
    """The stop string that ended it."""

    @property
    def last(self) -> bool:
        return self.finish is not None or self.failure is not None


class Step(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """News of one step, or of several short ones, in one message; idle, a sign of life with no rows.

    `rows`, `preempted` and `seconds` are those of all `steps` together.
    """

    rows: int
    running: int
    waiting: int
    kv_used: int
    """Cells that running requests hold."""
    kv_total: int
    preempted: int
    seconds: float
    begun: tuple[int, ...] = ()
    """Requests whose computation begins with the next step, named before it runs."""
    deltas: tuple[Delta, ...] = ()
    intervals: tuple[float, ...] = ()
    kv_cached: int = 0
    """Cells kept for reuse, which make room when others need them."""
    steps: int = 0


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """What a Tokenize (`tokens`) or a Detokenize (`text`) asked for, or why not."""

    id: int
    tokens: list[int] = []
    text: str = ""
    failure: Failure | None = None


ToEngine = Start | Submit | Embed | Cancel | Stop | Tokenize | Detokenize
FromEngine = Loading | Ready | Refused | Tokenizing | Compiling | Step | Reply


class Framed(Generic[T]):
    """Cuts a byte stream into messages: `feed` bytes, get what is complete."""

    HEADER: ClassVar[struct.Struct] = struct.Struct("<I")

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """The messages that `data` completes."""
        self._buffer += data
        messages, start, size = [], 0, self.HEADER.size
        while len(self._buffer) - start >= size:
            (length,) = self.HEADER.unpack_from(self._buffer, start)
            end = start + size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decoder.decode(bytes(self._buffer[start + size : end])))
            start = end
        del self._buffer[:start]
        return messages
