"""Runs a tokeniser on a stack that is deep enough for its text.

Before it looks for tokens, llama.cpp splits a text by regular expressions. The C++ library matches
most of these by recursion, at some hundred bytes of stack for each character of a match: 30,000
letters in a row overflow the usual 8 MB, which kills the process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from gguf_worker.engine.stacks import start_with_stack
from gguf_worker.errors import InvalidRequest, Overloaded

T = TypeVar("T")

STACK_PER_CHARACTER = 512
"""Bytes of stack for a character of a match; every recursive pre-tokeniser takes 321 on x86-64."""
MOST_CHARACTERS = 512 * 1024
"""Most characters that one match may have: 256 MB of stack."""
_SHALLOW = 4096
"""Most characters of a text that the caller's own stack can take."""
_MEGABYTE = 1 << 20


def with_deep_stack(text: str, read: Callable[[], T]) -> T:
    """Return the result of `read`, which tokenises `text`; a long one on a thread with a stack for
    it.

    The stack is mapped for this text and given back after it; only its used part takes memory.
    Raises InvalidRequest if it would be too deep, and Overloaded if there is no memory for it.
    """
    if len(text) <= _SHALLOW:
        return read()
    deepest = longest_match(text)
    if deepest > MOST_CHARACTERS:
        raise InvalidRequest(
            f"The text has a line that, with the white space after it, is {deepest} characters "
            f"long. This worker reads lines of up to {MOST_CHARACTERS}. Break it into several."
        )
    megabytes = 2 + deepest * STACK_PER_CHARACTER // _MEGABYTE
    return _on_thread(read, megabytes * _MEGABYTE)


def longest_match(text: str) -> int:
    """Return an upper bound of the characters that one match of a pre-tokeniser can have.

    No pre-tokeniser's expression goes on behind the end of a line, except for white space.
    """
    if len(text) <= MOST_CHARACTERS:
        return len(text)
    line = max(map(len, text.split("\n")))
    return min(len(text), line + max(map(len, re.findall(r"\s+", text)), default=0))


def _on_thread(read: Callable[[], T], stack: int) -> T:
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(read())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=work, name="tokenizer", daemon=True)
    try:
        start_with_stack(thread, stack)
    except RuntimeError as error:
        message = "There is no memory now to read a text of this length. Try again shortly."
        raise Overloaded(message, retry_after=1.0) from error
    thread.join()
    return result.result()
