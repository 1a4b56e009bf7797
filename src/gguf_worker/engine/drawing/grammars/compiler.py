"""Compiles grammars to constraints, on threads of its own.

llguidance is imported when the first thread begins: in the engine's process, never in the worker's.
Grammars come from strangers: the threads that compile them release Python's lock meanwhile, so that
the loop goes on, and are bounded in stack and states.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing.grammars.constraint import Constraint, ConstraintFailed, in_short
from gguf_worker.engine.drawing.grammars.translation import (
    GrammarRefused,
    as_llguidance,
    embedded_schemas,
    refused,
)
from gguf_worker.engine.stacks import start_with_stack
from gguf_worker.generation import Grammar

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer

_THREADS = 2
"""Number of threads: more than one, so that a slow grammar does not hold up all others."""
_STACK_BYTES = 256 << 20
"""Stack of each thread. llguidance follows chains of rules by recursion: 3,000 rules overflow a
usual stack, which kills the process. No chain in a text of Grammar.MOST_CHARACTERS needs more than
this. Only the used part takes memory."""
_LEXER_STATES = 50_000
"""Limit of states, at 1 to 2 kB each; llguidance's own is five times that."""
_MASK_ITEMS = 13_000
"""Limit of the parser's items for one mask, some milliseconds; llguidance's own is five times that.
An object of 400 optional fields needs 10,000. An ambiguous grammar as short as `x: x x | "a"` soon
has more, and would take ever longer for each token."""
_SPECIAL = b"\xff"
"""Prefix of special tokens' bytes, so that they match no text: a grammar allows one only by naming
it."""


class GrammarVocabulary(Protocol):
    """The part of a model's vocabulary that a compiler needs; see `llama.vocabulary.Vocabulary`."""

    pieces: list[bytes]
    ends: npt.NDArray[np.int32]
    suppressed: npt.NDArray[np.int32]

    @property
    def spelled(self) -> list[bytes]: ...
    @property
    def tokenizer_addresses(self) -> tuple[int, int]: ...


class Compiler:
    """Compiles grammars for one model's vocabulary; starts its threads at `begin` or the first
    grammar."""

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        self._vocabulary = vocabulary
        self._jobs: SimpleQueue[tuple[Grammar, Future[Constraint]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._tokenizer_lock = threading.Lock()
        self._tokenizer: _GrammarTokenizer | GrammarRefused | None = None

    def begin(self) -> None:
        """Start the threads, which first read the vocabulary, holding Python's lock for 0.1 to 0.3
        seconds."""
        if self._threads:
            return
        # Without memory for such stacks, grammars are refused, and everything else goes on.
        with contextlib.suppress(RuntimeError):
            for number in range(_THREADS):
                thread = threading.Thread(target=self._work, name=f"grammar-{number}", daemon=True)
                start_with_stack(thread, _STACK_BYTES)
                self._threads.append(thread)

    def compile(self, grammar: Grammar) -> Future[Constraint]:
        """Return a future for the constraint, whose first mask is already computed.

        The future fails with GrammarRefused if the grammar cannot be used. It may be cancelled, but
        a compilation that has begun goes on.
        """
        future: Future[Constraint] = Future()
        if grammar.size > Grammar.MOST_CHARACTERS:
            future.set_exception(
                refused(grammar, f"it has more than {Grammar.MOST_CHARACTERS} characters")
            )
            return future
        self.begin()
        if self._threads:
            self._jobs.put((grammar, future))
        else:
            future.set_exception(refused(grammar, "there is no memory to compile it"))
        return future

    def close(self) -> None:
        """End the threads after they have compiled the grammars that they were given."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with contextlib.suppress(GrammarRefused):  # raised again for each grammar
            self._opened_tokenizer()
        while (job := self._jobs.get()) is not None:
            grammar, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._compiled(grammar))
            except GrammarRefused as error:
                future.set_exception(error)
            except BaseException as error:  # a panic in Rust is no Exception
                future.set_exception(refused(grammar, repr(error)))

    def _compiled(self, grammar: Grammar) -> Constraint:
        try:
            return self._constraint(grammar)
        except GrammarRefused:
            if grammar.inner is not None:
                self._refuse_alone(grammar.inner, inner=True)
            for schema in embedded_schemas(grammar):
                self._refuse_alone(schema, inner=False)
            raise

    def _refuse_alone(self, part: Grammar, *, inner: bool) -> None:
        """Raise GrammarRefused if a part of a grammar cannot be used even alone, so that it is at
        fault: the caller may know the part, and not what is around it."""
        try:
            self._constraint(part)
        except GrammarRefused as error:
            raise GrammarRefused(str(error), inner=inner) from error

    def _constraint(self, grammar: Grammar) -> Constraint:
        from llguidance import LLMatcher

        tokenizer = self._opened_tokenizer()
        text = as_llguidance(grammar)
        matcher = LLMatcher(tokenizer.opened, text, log_level=0, limits=tokenizer.limits)
        if matcher.is_error():
            raise refused(grammar, matcher.get_error())
        constraint = Constraint(matcher, len(self._vocabulary.pieces), tokenizer.words)
        try:
            constraint.forbidden()  # the first mask is the costliest, and is needed anyway
        except ConstraintFailed as error:
            raise refused(grammar, str(error)) from error
        return constraint

    def _opened_tokenizer(self) -> _GrammarTokenizer:
        """Return the vocabulary for llguidance, made once; raises GrammarRefused where llguidance
        cannot read it."""
        with self._tokenizer_lock:
            if self._tokenizer is None:
                try:
                    self._tokenizer = _GrammarTokenizer(self._vocabulary)
                except BaseException as error:  # a panic in Rust is no Exception
                    reason = f"This model cannot be held to a grammar: {in_short(repr(error))}."
                    self._tokenizer = GrammarRefused(reason)
        if isinstance(self._tokenizer, GrammarRefused):
            raise self._tokenizer
        return self._tokenizer


class _GrammarTokenizer:
    """A vocabulary as llguidance needs it, and the limits of its parsers."""

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        from llguidance import LLParserLimits, LLTokenizer

        words = _words(vocabulary)
        never = set(vocabulary.suppressed.tolist())
        ends = [end for end in vocabulary.ends.tolist() if end not in never]
        if not ends:  # llguidance wants one: a token that the model does not have
            ends = [len(words)]
            words.append(b"")
        vocab, tokenize = vocabulary.tokenizer_addresses
        from_llamacpp: Any = LLTokenizer.from_llamacpp  # type: ignore[attr-defined]
        plain: LLTokenizer = from_llamacpp(
            tokens=words, vocab_ptr=vocab, tokenize_fptr=tokenize, eos_token=ends, slices=[]
        )
        # In two parts, since each holds Python's lock and the loop can run between them.
        self.opened = plain.with_slices(LLTokenizer.general_slices())
        self.words = len(words)
        self.limits: LLParserLimits = LLParserLimits(
            step_max_items=_MASK_ITEMS,
            max_lexer_states=_LEXER_STATES,
            verbose_errors=False,
        )


def _words(vocabulary: GrammarVocabulary) -> list[bytes]:
    """Return the bytes of each token; those without text, and those that end an answer, are marked
    as special."""
    ends = set(vocabulary.ends.tolist())
    words = [
        piece if piece and token not in ends else _SPECIAL + spelled if spelled else b""
        for token, (piece, spelled) in enumerate(
            zip(vocabulary.pieces, vocabulary.spelled, strict=True)
        )
    ]
    for token in vocabulary.suppressed.tolist():
        words[token] = b""
    return words
