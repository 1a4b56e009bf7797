"""The messages between the worker and its engine process, and their framing.

Each message is a frozen, tagged msgspec struct, encoded as a MessagePack array and preceded by its
length in four bytes (little-endian). Nothing here knows of JSON, chat, OpenAI or RunPod: a request
is a text (or tokens), sampling settings and limits.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Generic, Literal, TypeVar

import msgspec

from gguf_worker.generation import Grammar, Sampling, TokenLogprob, Usage

T = TypeVar("T")


class EngineSpec(msgspec.Struct, frozen=True, array_like=True):
    """Everything an engine process needs to open one model."""

    path: str
    context: int
    """Tokens that one request may hold, prompt and answer together; 0: the trained context."""
    sequences: int
    """Requests that are computed at the same time."""
    kv_cells: int = 0
    """Size of the KV cache that all sequences share, in tokens; 0: `context * sequences`."""
    gpu_layers: int = -1
    """Layers on the GPU; -1: all of them."""
    kv_type: str = "f16"
    flash_attention: str = "auto"
    threads: int = 1
    batch_size: int = 512
    """Most rows of one step: a token of each running sequence, then chunks of prompts."""
    ubatch_size: int = 512
    max_queue: int = 64
    """Requests that may wait for a sequence; further ones are refused as overloaded."""
    idle_sequences: int = 16
    """Number of ended requests whose cells may be kept for reuse, beside the running ones."""
    unified: bool = True
    """One pool of cells for all sequences; False: a pool for each, where the model allows it."""
    prefill_chunk: int = 0
    """Usual limit of a step's rows, prompts included, while sequences decode; 0: `batch_size`."""
    stream_interval: float = 0.0
    """Seconds for which the text of short steps may be collected before it is sent; 0: none."""
    mixing: str = "mixed"
    """"mixed": prompt rows share steps with decode rows; "alternate": they have own steps."""
    pooling: str = "none"
    """"mean", "cls" or "last": how embeddings are pooled; "rank": texts get scores; "none":
    neither."""
    generates: bool = True
    """False: only embeddings or scores are made, so there is no KV cache for answers."""
    causal: bool = True
    """Causal attention: a token sees only those before it; False: it sees the whole text."""
    adapters: tuple[tuple[str, float], ...] = ()
    """The path and the scale of each LoRA adapter; all are applied to everything computed."""


class EngineRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request for an answer: the text that continues `prompt`."""

    prompt: str | list[int]
    """A text, or token ids."""
    sampling: Sampling
    max_tokens: int | None = None
    """Most tokens of the answer; None: until the context is full."""
    stop: tuple[str, ...] = ()
    """Stop strings: each ends the answer and is not part of it."""
    ignore_eos: bool = False
    """Never draw the tokens that end an answer."""
    add_special: bool = True
    """Add BOS and EOS where the model wants them (never twice)."""
    parse_special: bool = True
    """Read `<|im_start|>` and the like as the token; False: as plain text."""
    deadline: float | None = None
    """Time at which the request fails, in seconds on this machine's monotonic clock."""
    priority: int = 1
    """0 low, 1 normal, 2 high."""
    user: str = ""
    """The user whose share of the slots the request takes; "": it counts towards no user's."""
    reuse_points: tuple[int, ...] = ()
    """Character offsets into a text prompt up to which other prompts are likely the same."""
    grammar: Grammar | None = None
    logprobs: int = -1
    """Number of likeliest tokens to report beside each drawn one; 0: only the drawn; -1: none."""
    show_special: bool = False
    """Show special tokens in the text as they are spelled, except those that end an answer."""


class Start(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Open the model; the first message."""

    spec: EngineSpec


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Answer `request`; the answer comes in Deltas of the same id."""

    id: int
    request: EngineRequest


class Embed(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Compute a vector for each of `texts` (a text or token ids), or, given a `query`, its score.

    The results come in Deltas of the same id, in order. `deadline` is as in EngineRequest.
    """

    id: int
    texts: tuple[str | list[int], ...]
    query: str | None = None
    dimensions: int | None = None
    """Length to which each vector is cut; None: all dimensions of the model."""
    deadline: float | None = None


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Drop a request or a question, since its answer is no longer read."""

    id: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """End the process now, without finishing the open requests."""


class TokenizeText(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Reply with the tokens of a text; the flags are as in EngineRequest."""

    id: int
    text: str
    add_special: bool = True
    parse_special: bool = True


class DetokenizeTokens(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Reply with the text of tokens, special ones as they are spelled."""

    id: int
    tokens: list[int]


class Loading(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Weights are being read, `fraction` of them so far. Counts as a sign of life."""

    fraction: float


class EngineInfo(msgspec.Struct, frozen=True, array_like=True):
    """The opened model, with the values that llama.cpp settled on; names are as in EngineSpec."""

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
    """The spelling and the id of each token that has no text of its own."""
    infill: tuple[str, ...] = ()
    """Spellings of the fill-in-the-middle tokens (prefix, suffix, middle); empty: it has none."""
    generates: bool = True
    pooling: str = "none"
    dimensions: int = 0
    """Length of an embedding; 0 where there are none."""


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The model is open, and requests are answered from now on."""

    info: EngineInfo


class GpuSupport(msgspec.Struct, frozen=True, array_like=True):
    """What llama.cpp can do with the GPUs here.

    `state`: "ready": it can use at least one; "no_device": CUDA is loaded, and shows none;
    "not_loaded": CUDA or the driver cannot be loaded; "not_built": llama.cpp has no code for GPUs.
    `reason`: a clause for people, for the two in between.
    """

    state: Literal["ready", "no_device", "not_loaded", "not_built"]
    reason: str = ""

    @property
    def faulty(self) -> bool:
        """Tells whether llama.cpp was built for GPUs and can use none."""
        return self.state in ("no_device", "not_loaded")


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The model cannot be opened, and the process ends.

    `permanent`: no try of any host can help. `lacking`: there was too little memory. `gpu`: the
    fault, where the model was to be on a GPU.
    """

    code: str
    message: str
    permanent: bool
    lacking: bool = False
    gpu: GpuSupport | None = None


class Tokenizing(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Texts of exactly these requests are being tokenised now, which can crash the process."""

    ids: tuple[int, ...]


class Compiling(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The grammars of exactly these requests are being compiled now, on threads of their own."""

    ids: tuple[int, ...]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """The reason why a request ended without an answer; `code` is a leaf of the error tree."""

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """A part of an answer. The last has `finish` ("stop" | "length") or `failure`, and `usage`.

    The first has `usage` too, so far: what is known when the prompt is computed.
    """

    id: int
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `tokens`, if the request wants them."""
    vectors: tuple[bytes, ...] = ()
    """Vectors of length 1, or scores, of the next texts of an Embed, in little-endian float32."""
    stop: str | None = None
    """The stop string that ended the answer."""

    @property
    def last(self) -> bool:
        return self.finish is not None or self.failure is not None


class Step(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """A report on one step, or several short ones; without rows, an idle engine's sign of life.

    `rows`, `preempted` and `seconds` are sums over all `steps`.
    """

    rows: int
    running: int
    waiting: int
    kv_used: int
    """KV cells that running requests hold."""
    kv_total: int
    preempted: int
    seconds: float
    begun: tuple[int, ...] = ()
    """Requests whose computation begins with the next step, reported before it runs."""
    deltas: tuple[Delta, ...] = ()
    intervals: tuple[float, ...] = ()
    """Seconds since the token before, for each sequence that got a further token."""
    kv_cached: int = 0
    """KV cells kept for reuse, which are evicted when others need them."""
    steps: int = 0


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """A part of the reply to a TokenizeText (`tokens`) or a DetokenizeTokens (`text`), or its
    failure."""

    id: int
    tokens: list[int] = []
    text: str = ""
    failure: Failure | None = None
    last: bool = True


ToEngine = Start | Submit | Embed | Cancel | Stop | TokenizeText | DetokenizeTokens
FromEngine = Loading | Ready | Refused | Tokenizing | Compiling | Step | Reply


class Framed(Generic[T]):
    """Cuts a byte stream into messages: `feed` takes bytes and returns the complete messages."""

    HEADER: ClassVar[struct.Struct] = struct.Struct("<I")

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """Return the messages that `data` completes; raises msgspec.DecodeError if one is
        invalid."""
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
