"""Deltas cut into parts that fit one item of a stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gguf_worker.generation import TokenLogprob
from gguf_worker.providers import TextDelta, ToolCallDelta

LARGEST_TEXT = 100_000
"""Characters of one streamed text: below RunPod's 1 MB an item, even with the worst escaping."""

MOST_LOGPROBS = 100
"""Tokens with logprobs in one streamed text: about 200 kB with twenty alternatives each."""


def cut_text(text: str) -> list[str]:
    """Return the text in parts of at most LARGEST_TEXT characters; no part for an empty text."""
    if len(text) <= LARGEST_TEXT:
        return [text] if text else []
    return [text[start : start + LARGEST_TEXT] for start in range(0, len(text), LARGEST_TEXT)]


def cut_delta(delta: TextDelta) -> Iterator[TextDelta]:
    """Yield the delta in parts that fit an item; its tokens count with the first."""
    scores = len(delta.logprobs) + len(delta.prompt_logprobs)
    if len(delta.text) <= LARGEST_TEXT and scores <= MOST_LOGPROBS:
        yield delta
        return
    tokens = delta.tokens
    for logprobs in _cut(delta.prompt_logprobs):
        yield replace(delta, text="", tokens=0, logprobs=(), prompt_logprobs=logprobs)
    rest = replace(delta, prompt_logprobs=())
    texts = cut_text(delta.text) or ([""] if delta.tokens else [])
    for text, logprobs in itertools.zip_longest(texts, _cut(delta.logprobs)):
        yield replace(rest, text=text or "", tokens=tokens, logprobs=logprobs or ())
        tokens = 0


def _cut(logprobs: Sequence[TokenLogprob]) -> list[tuple[TokenLogprob, ...]]:
    starts = range(0, len(logprobs), MOST_LOGPROBS)
    return [tuple(logprobs[start : start + MOST_LOGPROBS]) for start in starts]


def cut_call(delta: ToolCallDelta) -> Iterator[ToolCallDelta]:
    """Yield the delta in parts that fit an item; its tokens and name go with the first."""
    if len(delta.text) <= LARGEST_TEXT:
        yield delta
        return
    first, *others = cut_text(delta.text)
    yield replace(delta, text=first)
    for text in others:
        yield ToolCallDelta(delta.call, text, 0, delta.index, custom=delta.custom)
