"""Divides the rows of a step: between decoding and prompts, and among the prompts.

Pure: counts of rows in, counts of rows out.
"""

from __future__ import annotations

from gguf_worker.engine.loop.sequence import Sequence

_LARGEST = 4
"""Most rows of a step while others decode, in chunks."""
WIDE = 64
"""Rows of one sequence from which llama.cpp's flash attention on a CPU works in tiles."""


class Mixed:
    """Prompt rows share steps with decode rows.

    While others decode, a step has up to `chunk` rows in all, and more while many short prompts are
    read beside few that decode. A quarter of the chunk, and one row at least, is left for prompts,
    however many decode.
    """

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk

    def split(
        self, decoding: int, prompts: list[int], budget: int, *, streaming: bool = True
    ) -> tuple[bool, int]:
        """Return whether this step decodes, and how many prompt rows it may have.

        `decoding` sequences could get a token; `prompts` are the rows still to be read of each
        prompt; `budget` is the most rows of a step. `streaming`: one of the answers has a second
        token, so that a steady flow has to be kept.
        """
        if not decoding:
            return False, budget
        chunk = _chunk_for(self._chunk, decoding, prompts, streaming)
        return True, min(max(chunk - decoding, chunk // 4, 1), budget - decoding)


class Alternate:
    """Steps of decode rows alone take turns with steps of prompt rows alone.

    The graph of a decoding step then keeps its shape, which CUDA can replay. The short prompts of a
    burst are read first, while no answer has a second token, so that their answers go on together.
    That takes IN_A_ROW steps and BURST chunks at most, since new requests in every step could
    otherwise make the others wait for ever.
    """

    IN_A_ROW = 6
    BURST = 3

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._prompt_steps = self._prompt_rows = 0  # in a row, since the last step of decode rows

    def split(
        self, decoding: int, prompts: list[int], budget: int, *, streaming: bool = True
    ) -> tuple[bool, int]:
        """Return whether this step decodes, and its prompt rows; arguments as in Mixed.split."""
        if not (decoding and prompts):
            return decoding > 0, budget
        if _is_burst(self._chunk, prompts, streaming):
            most = self.BURST * self._chunk
            rows = min(budget, sum(prompts), most)
            decode = self._prompt_steps >= self.IN_A_ROW or self._prompt_rows + rows > most
        else:
            rows = min(budget, _chunk_for(self._chunk, decoding, prompts, streaming))
            decode = self._prompt_steps > 0
        if decode:
            self._prompt_steps = self._prompt_rows = 0
            return True, 0
        self._prompt_steps += 1
        self._prompt_rows += rows
        return False, rows


Mixing = Mixed | Alternate


def _is_burst(chunk: int, prompts: list[int], streaming: bool) -> bool:
    """Tell whether all prompts are short, while no answer has more than its first token."""
    return not streaming and max(prompts) <= chunk


def _chunk_for(chunk: int, decoding: int, prompts: list[int], streaming: bool) -> int:
    """Return the rows of a step while `decoding` answers go on.

    Larger steps read many short prompts faster, but not long ones. That pays while many requests
    wait for their first token and few for the next one.
    """
    if prompts and _is_burst(chunk, prompts, streaming):
        return max(chunk, sum(prompts))
    short = sum(rows <= chunk for rows in prompts)
    return chunk * max(1, min(-(-4 * short // decoding), short, _LARGEST))


def prompt_shares(prompts: list[Sequence], rows: int, spare: int) -> list[tuple[Sequence, int]]:
    """Divide a step's prompt rows among `prompts`, which are in order of admission.

    Short prompts are read whole beside the oldest one, which gets half of the rows at least, and no
    fewer than WIDE. A pass of llama.cpp takes equally many rows of each sequence, so narrow chunks
    are avoided: beside others, a prompt is read whole or by at least WIDE rows, and any but the
    oldest then has at least WIDE rows left. `spare` more rows may be used if they complete the
    reading of a short prompt that begins with this step.
    """
    if not prompts:
        return []
    oldest, others = prompts[0], sorted(prompts[1:], key=lambda each: each.pending)
    left = rows - min(oldest.pending, max(rows // 2, WIDE))
    shares: list[tuple[Sequence, int]] = []
    while others and others[0].pending <= left:
        left -= others[0].pending
        rows -= others[0].pending
        shares.append((others[0], others.pop(0).pending))
    for each in (oldest, *others):
        count = min(each.pending, rows)
        if shares and rows > 0 and not each.begun and each.pending <= spare:
            count = each.pending
        elif each is not oldest and count < each.pending:
            count = min(count, each.pending - WIDE)
        if count > 0 and (not shares or count == each.pending or count >= WIDE):
            shares.append((each, count))
            rows -= count
    return shares
