"""A worker over HTTP whose model says what a script has, so that clients can be taken through whole
sessions.

All of the worker is real, its engine's process too, but for what llama.cpp would compute.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gguf

from tests.clients.notations import NOTATIONS, Notation
from tests.http_worker import KEY, Served, http_worker
from tests.tiny_gguf import write_tiny

MODEL = "scripted"
CONTEXT = 262_144
"""Tokens: what agents send first has tens of thousands of characters, and a token is about one."""
OVER = "The script is at its end."
"""The answer to whoever asks for more than the script has."""

_CONTROL = 3
_START = """
import runpy, sys
from gguf_worker.engine import EngineClient
command = (sys.executable, "-m", "tests.clients.scripted_engine")
EngineClient.__init__.__kwdefaults__["command"] = command
runpy.run_path("handler.py", run_name="__main__")
"""


@dataclass(frozen=True)
class Generation:
    """One generation: the prompt as the engine got it, special tokens spelled, and its text."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class ScriptedWorker:
    """The worker at `base`, without a slash at its end; `model` is the name it serves."""

    base: str
    key: str
    model: str
    served: Served
    notation: Notation
    _log: Path

    @property
    def generations(self) -> list[Generation]:
        """All generations so far, in order."""
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [Generation(**json.loads(line)) for line in lines]

    @property
    def prompts(self) -> list[str]:
        """The prompts of all generations so far."""
        return [each.prompt for each in self.generations]


@contextmanager
def scripted_worker(
    tmp_path: Path,
    texts: Sequence[str],
    family: str,
    *,
    asides: Mapping[str, str] | None = None,
    pace: float = 0.0,
    **settings: str,
) -> Iterator[ScriptedWorker]:
    """Start a worker whose n-th generation is the n-th of `texts`, in the notation of `family`.

    `family`: a key of NOTATIONS. `asides`: answers to prompts that have a certain part, such as one
    for a title, which use up none of the texts. `pace`: seconds for each token (one of the tiny
    model's, which is a character or two). `settings`: the worker's own.
    """
    notation = NOTATIONS[family]
    folder = tmp_path / f"scripted{len(list(tmp_path.glob('scripted*')))}"
    folder.mkdir()
    model = _written_model(folder / f"{family}.gguf", notation)
    script, log = folder / "script.json", folder / "generations.jsonl"
    over = notation.says(OVER)
    script.write_text(
        json.dumps({"texts": list(texts), "asides": dict(asides or {}), "end": over, "pace": pace}),
        encoding="utf-8",
    )
    usual = {
        "SERVED_MODEL_NAME": MODEL,
        "CTX_SIZE": str(CONTEXT),
        "MAX_CONCURRENCY": "4",
        "GPU_LAYERS": "0",
        "THREADS": "1",
        "BATCH_SIZE": "4096",  # nothing is computed, so only what a pass would take costs memory
        "UBATCH_SIZE": "32",
        "SCRIPT": str(script),
        "SCRIPT_LOG": str(log),
    }
    with http_worker(
        model, folder / "worker.log", command=("-c", _START), **{**usual, **settings}
    ) as served:
        yield ScriptedWorker(served.base, KEY, MODEL, served, notation, log)


def _written_model(path: Path, notation: Notation) -> Path:
    """Write a tiny model that has the family's template and control tokens."""
    plain = gguf.GGUFReader(write_tiny(path.with_suffix(".plain"), layers=1))
    tokens, kinds = (
        list(plain.fields[f"tokenizer.ggml.{name}"].contents()) for name in ("tokens", "token_type")
    )
    unused = tokens.index("[unused0]")
    for at, mark in enumerate(notation.marks, unused):
        tokens[at], kinds[at] = mark, _CONTROL
    os.unlink(path.with_suffix(".plain"))
    return write_tiny(
        path,
        layers=1,
        context_length=CONTEXT,
        chat_template=notation.template,
        metadata={"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds},
    )
