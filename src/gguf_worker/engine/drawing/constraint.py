"""Holds answers to a grammar: which tokens may come next, and whether anything may.

The only file that touches llguidance, which is imported when the first thread begins: in the engine's process,
never in the worker's. Grammars come from strangers: they are compiled on threads of their own, which leave
Python's lock to the loop meanwhile. Knows no request, no logits and no sampler.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from decimal import Decimal
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.generation import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

Forbidden = npt.NDArray[np.bool_]
"""For each token of the vocabulary: may it not come?"""

_THREADS = 2
"""So that one slow grammar does not stop all others."""
_STACK_BYTES = 256 << 20
"""llguidance follows chains of rules by recursion: 3,000 overflow a usual stack, and the process is gone. A
text of Grammar.MOST_CHARACTERS holds no chain for which this is too little. Only its used part is memory."""
_LEXER_STATES = 50_000
"""At 1 to 2 kB each; llguidance's own limit is five times that."""
_MOST_MULTIPLE = 100_000
"""`multipleOf` becomes an automaton of as many states: a million takes 7 seconds and 400 MB."""
_EMBEDDED = re.compile(r"%json\s*")
_REASON_CHARACTERS = 300
_SPECIAL = b"\xff"
"""Before a special token, which then matches no text: only a grammar that names it lets it come."""

_JSON_STYLE: Any = {
    # JSON allows blanks without end between its parts, and small models, held to JSON, go on with them for
    # ever. One optional space after a comma or a colon covers compact JSON and the usual spacing.
    "whitespace_flexible": False,
    "item_separator": ",\\x20?",
    "key_separator": ":\\x20?",
}
_STRICT: Any = {
    "lenient": False
}  # a keyword that is not supported is an error, whatever the schema says
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}


class GrammarRefused(Exception):
    """A grammar that cannot be used; the message is for who sent it. `inner`: its inner one is at fault."""

    inner = False


class ConstraintFailed(Exception):
    """An answer cannot be held to its grammar any longer."""


class Vocabulary(Protocol):
    """What is needed of a model's vocabulary; see `llama.Llama`."""

    pieces: list[bytes]
    ends: npt.NDArray[np.int32]
    suppressed: npt.NDArray[np.int32]

    @property
    def spelled(self) -> list[bytes]: ...
    @property
    def tokenizer_addresses(self) -> tuple[int, int]: ...


class Constraint:
    """One answer's way through its grammar.

    `forbidden` and `accept` take turns, one token at a time; tokens that end an answer are not accepted.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int, words: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = np.zeros(-(-words // 32), np.int32)
        self._forbidden: Forbidden | None = None

    @property
    def complete(self) -> bool:
        """The answer matches, and nothing can follow but its end."""
        return self._matcher.is_stopped()

    def forbidden(self) -> Forbidden:
        """What may not come next; the ends may where the answer matches. ConstraintFailed when nothing can."""
        if self._forbidden is None:
            with _as_failure():
                self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._check(self._matcher.is_error() or not self._bits.any())
            bits = np.unpackbits(
                self._bits.view(np.uint8), count=self._vocabulary, bitorder="little"
            )
            self._forbidden = bits == 0
        return self._forbidden

    def accept(self, token: int) -> None:
        """`token` has come, which was not forbidden."""
        self._forbidden = None
        with _as_failure():
            self._check(not self._matcher.consume_token(token))

    def _check(self, failed: bool) -> None:
        if failed:
            raise ConstraintFailed(_short(self._matcher.get_error() or "no token can follow"))


class Compiler:
    """Compiles grammars for one model's vocabulary. Nothing is done before `begin`, or the first grammar."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._jobs: SimpleQueue[tuple[Grammar, Future[Constraint]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._building = threading.Lock()
        self._built: _Tokenizer | GrammarRefused | None = None

    def begin(self) -> None:
        """Read the vocabulary now: that holds Python's lock for 0.1 to 0.3 seconds."""
        if self._threads:
            return
        usual = threading.stack_size(_STACK_BYTES)
        # Where there is no memory for such stacks, grammars are refused, and all else goes on.
        with contextlib.suppress(RuntimeError), contextlib.ExitStack() as after:
            after.callback(threading.stack_size, usual)
            for number in range(_THREADS):
                thread = threading.Thread(target=self._work, name=f"grammar-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def compile(self, grammar: Grammar) -> Future[Constraint]:
        """Its constraint, with the first mask computed; GrammarRefused if it cannot be used.

        The future may be cancelled; a compilation that has begun goes on all the same.
        """
        future: Future[Constraint] = Future()
        if grammar.size > Grammar.MOST_CHARACTERS:
            future.set_exception(
                _refused(grammar, f"it has more than {Grammar.MOST_CHARACTERS} characters")
            )
            return future
        self.begin()
        if self._threads:
            self._jobs.put((grammar, future))
        else:
            future.set_exception(_refused(grammar, "there is no memory to compile it"))
        return future

    def close(self) -> None:
        """End the threads, when they have done what they are at."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with contextlib.suppress(GrammarRefused):  # whoever needs it will be told
            self._tokenizer()
        while (job := self._jobs.get()) is not None:
            grammar, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._compiled(grammar))
            except GrammarRefused as error:
                future.set_exception(error)
            except BaseException as error:  # a panic of Rust's is no Exception
                future.set_exception(_refused(grammar, repr(error)))

    def _compiled(self, grammar: Grammar) -> Constraint:
        try:
            return self._compiled_whole(grammar)
        except GrammarRefused:
            if grammar.inner is not None:
                self._refuse_inner(grammar.inner)
            raise

    def _refuse_inner(self, grammar: Grammar) -> None:
        """Say so if this one cannot be used even alone: then it is at fault, and not what is around it."""
        try:
            self._compiled_whole(grammar)
        except GrammarRefused as error:
            error.inner = True
            raise

    def _compiled_whole(self, grammar: Grammar) -> Constraint:
        from llguidance import LLMatcher

        tokenizer = self._tokenizer()
        text = _as_llguidance(grammar)
        matcher = LLMatcher(tokenizer.opened, text, log_level=0, limits=tokenizer.limits)
        if matcher.is_error():
            raise _refused(grammar, matcher.get_error())
        constraint = Constraint(matcher, len(self._vocabulary.pieces), tokenizer.words)
        try:
            constraint.forbidden()  # the costliest one, and it is asked for anyway
        except ConstraintFailed as error:
            raise _refused(grammar, str(error)) from error
        return constraint

    def _tokenizer(self) -> _Tokenizer:
        """The vocabulary, read once; GrammarRefused where llguidance cannot."""
        with self._building:
            if self._built is None:
                try:
                    self._built = _Tokenizer(self._vocabulary)
                except BaseException as error:  # a panic of Rust's is no Exception
                    reason = f"This model cannot be held to a grammar: {_short(repr(error))}."
                    self._built = GrammarRefused(reason)
        if isinstance(self._built, GrammarRefused):
            raise self._built
        return self._built


class _Tokenizer:
    """The vocabulary as llguidance reads it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
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
            max_lexer_states=_LEXER_STATES, verbose_errors=False
        )


def _words(vocabulary: Vocabulary) -> list[bytes]:
    """The bytes of each token; what gives no text, and what ends an answer, is special."""
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


def _as_llguidance(grammar: Grammar) -> str:
    named = {} if grammar.inner is None else {"inner": grammar.inner}
    grammars = [_entry(grammar), *({"name": name} | _entry(each) for name, each in named.items())]
    return msgspec.json.encode({"grammars": grammars}).decode()


def _entry(grammar: Grammar) -> dict[str, Any]:
    """A grammar as llguidance's own format has it in its list."""
    from llguidance import regex_to_lark

    match grammar.kind:
        case "json_schema":
            return {"json_schema": _schema(grammar)}
        case "regex":
            # \\d is what JSON and most people call a digit, not every digit of Unicode.
            lark = f"start: /{regex_to_lark(grammar.text, 'd')}/"
        case "lark":
            lark = _lark(grammar)
        case other:
            raise _refused(grammar, f"{other!r} is no kind of grammar")
    return {"lark_grammar": lark}


def _lark(grammar: Grammar) -> str:
    """llama.cpp's GBNF is taken too: its rules have `::=`, which means nothing in lark."""
    from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

    if "::=" not in grammar.text:
        for schema in _embedded(grammar.text):
            _check_multiples(grammar, schema)
        return grammar.text
    try:
        return str(any_to_lark(grammar.text))
    except (GbnfToLarkError, ValueError, RecursionError) as error:
        raise _refused(grammar, str(error)) from error


def _embedded(lark: str) -> Iterator[Any]:
    """The JSON schemas in a grammar. What is none there is left to llguidance."""
    decode = json.JSONDecoder(parse_int=float).raw_decode  # int() refuses thousands of digits
    at = 0
    while (found := _EMBEDDED.search(lark, at)) is not None:
        at = found.end()
        with contextlib.suppress(ValueError, RecursionError):
            schema, at = decode(lark, at)
            yield schema


def _schema(grammar: Grammar) -> msgspec.Raw:
    from llguidance import LLMatcher

    anything = grammar.text.strip() == "true"  # a schema too, but for llguidance
    if not anything and not grammar.text.lstrip().startswith("{"):
        raise _refused(grammar, "it is no JSON object")
    try:
        text = LLMatcher.grammar_from_json_schema(
            "{}" if anything else grammar.text, defaults=_JSON_STYLE, overrides=_STRICT
        )
    except ValueError as error:
        raise _refused(grammar, str(error)) from error
    # Parsed after llguidance, which bounds the depth.
    _check_multiples(grammar, msgspec.json.decode(grammar.text))
    whole = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    (entry,) = msgspec.json.decode(whole["grammars"], type=list[dict[str, msgspec.Raw]])
    return entry["json_schema"]


def _check_multiples(grammar: Grammar, schema: Any) -> None:
    for multiple in _values_of("multipleOf", schema):
        if _digits(multiple) >= _MOST_MULTIPLE:
            raise _refused(grammar, f"multipleOf {multiple} has too many digits")


def _values_of(key: str, document: Any) -> Iterator[Any]:
    """Each value that stands under `key`, at any depth."""
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if key in value:
                yield value[key]
            left += value.values()
        elif isinstance(value, list):
            left += value


def _digits(number: Any) -> int:
    """The digits of a number, without the zeros around them, as a whole number; 0 for what is none."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return 0
    digits = Decimal(str(number)).normalize().as_tuple().digits
    return int("".join(map(str, digits)))


@contextlib.contextmanager
def _as_failure() -> Iterator[None]:
    """A panic of Rust's, which is no Exception, costs one answer, not the process."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ConstraintFailed):
        raise
    except BaseException as error:
        raise ConstraintFailed(_short(repr(error))) from error


def _refused(grammar: Grammar, reason: str) -> GrammarRefused:
    name = _NAMES.get(grammar.kind, "grammar")
    return GrammarRefused(f"The {name} cannot be used: {_short(reason)}.")


def _short(text: str) -> str:
    """In one line, and not all of a long grammar."""
    text = " ".join(text.split()).removesuffix(".")
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…"
