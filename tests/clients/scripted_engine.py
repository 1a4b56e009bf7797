"""The engine's process with a script in place of weights.

It is started as `python -m tests.clients.scripted_engine FD PARENT`.
Everything is the engine's own, its tokeniser, schedule, grammars and stop strings, but for what is
computed: the n-th generation gets the n-th text. SCRIPT names a JSON file with `texts`, `asides`
(answers by a part of the prompt, which use up no text), `end` (the text once all are used) and
`pace` (seconds for each token). Each generation adds a line to the file SCRIPT_LOG.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from gguf_worker.engine import __main__ as engine
from gguf_worker.engine import llama
from gguf_worker.engine.cells import Operation
from gguf_worker.engine.drawing import Banned
from gguf_worker.engine.llama.context import Logits
from gguf_worker.engine.loop import Chunk
from gguf_worker.generation import Sampling


class ScriptedSampler:
    """Draws the tokens of one text, then one that ends the answer.

    White space that may not be drawn, as by a grammar, is left out. Any other token makes place for
    the first that may, and comes after it; if the text may not end where it does, none is drawn,
    which fails the request. `spaces` are the tokens of white space.
    """

    passes = 0
    ready = True

    def __init__(self, tokens: Sequence[int], spaces: Set[int]) -> None:
        self._tokens = tokens
        self._spaces = spaces
        self._at = 0

    def sample(self, row: int, logits: Logits, banned: Banned) -> int:
        if len(banned):
            logits[banned] = -np.inf
        while (wanted := self._tokens[self._at]) in self._spaces and not _allowed(logits, wanted):
            self._at += 1
        if _allowed(logits, wanted):
            self._at = min(self._at + 1, len(self._tokens) - 1)
            return wanted
        token = int(logits.argmax()) if self._at + 1 < len(self._tokens) else -1
        return token if token >= 0 and _allowed(logits, token) else -1

    def close(self) -> None:
        """Nothing is held."""


def _allowed(logits: Logits, token: int) -> bool:
    return bool(logits[token] > -np.inf)


class ScriptedLlama(llama.Llama):
    """A loaded model that computes nothing."""

    def __init__(self, *given: Any, **more: Any) -> None:
        script = json.loads(Path(os.environ["SCRIPT"]).read_text(encoding="utf-8"))
        self._texts: Sequence[str] = script["texts"]
        self._asides: dict[str, str] = script["asides"]
        self._end: str = script["end"]
        self._pace: float = script["pace"]
        self._used = 0
        super().__init__(*given, **more)
        pieces = self.vocabulary.pieces
        self._spaces = {token for token, piece in enumerate(pieces) if piece.isspace()}

    def _warm_up(self) -> None:
        """Nothing is cold."""

    def decode(self, chunks: Sequence[Chunk]) -> tuple[int, list[int]]:
        at, outputs = 0, []
        for chunk in chunks:
            at += chunk.rows
            if chunk.output:
                outputs.append(at - 1)
        if outputs and self._pace:
            time.sleep(self._pace)
        return 0, outputs

    def wait(self) -> None:
        """Nothing is computed elsewhere."""

    def logits(self, outputs: int) -> Logits:
        # All alike would be taken for the numbers of a broken computation.
        row = np.linspace(1, 0, len(self.vocabulary), dtype=np.float32)
        return np.tile(row, (outputs, 1))

    def arrange(self, operations: Iterable[Operation]) -> None:
        """Nothing is held."""

    def sampler(  # type: ignore[override]
        self, sampling: Sampling, seed: int, prompt: Sequence[int]
    ) -> ScriptedSampler:
        asked = self.vocabulary.detokenize(list(prompt))
        text = self._answer(asked)
        with Path(os.environ["SCRIPT_LOG"]).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"prompt": asked, "answer": text}) + "\n")
        tokens = self.vocabulary.tokenize(text, add_special=False, parse_special=True)
        return ScriptedSampler([*tokens, int(self.vocabulary.ends[0])], self._spaces)

    def _answer(self, prompt: str) -> str:
        for part, text in self._asides.items():
            if part in prompt:
                return text
        self._used += 1
        return self._texts[self._used - 1] if self._used <= len(self._texts) else self._end


if __name__ == "__main__":
    vars(llama)["Llama"] = ScriptedLlama
    sys.exit(engine.main(int(sys.argv[1]), int(sys.argv[2])))
