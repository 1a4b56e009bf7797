"""The oldest turns of a chat, which are left out where it is too long.

Pure: how long a chat is, and how long it may be, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]


def oldest_turns(messages: Messages) -> list[list[int]]:
    """Return the turns that may be left out, the oldest first, as the places of their messages.

    A turn is the user's with all that answers it, calls with their results included; after the
    user's last turn, each message of the assistant with the results of its calls. Never among them
    are system messages, the user's last turn, and the last step that follows it.
    """
    begin, end = _last_asked(messages)
    before: list[list[int]] = []
    after: list[list[int]] = []
    for at, message in enumerate(messages):
        if message["role"] in ("system", "developer") or begin <= at < end:
            continue
        turns, opener = (before, "user") if at < begin else (after, "assistant")
        if message["role"] == opener or not turns:
            turns.append([])
        turns[-1].append(at)
    return before + after[:-1]


def without(messages: Messages, turns: Sequence[Sequence[int]]) -> tuple[Mapping[str, Any], ...]:
    """Return the messages that are not of these turns."""
    dropped = {at for turn in turns for at in turn}
    return tuple(message for at, message in enumerate(messages) if at not in dropped)


async def fewest_left_out(most: int, fits: Callable[[int], Awaitable[bool]]) -> int | None:
    """Return the fewest turns, of `most`, that have to be left out; None if even all are too few.

    `fits` is told how many are left out. It is asked about the shortest chats first, so that no
    chat much longer than what fits has to be read.
    """
    if most == 0 or not await fits(most):
        return None
    good, bad, step = most, 0, 1  # with none left out, it is too long
    while good - bad > 1:
        tried = max(bad + 1, good - step) if bad == 0 else (good + bad) // 2
        if await fits(tried):
            good, step = tried, step * 2
        else:
            bad = tried
    return good


def _last_asked(messages: Messages) -> tuple[int, int]:
    """Return where the user's last messages in a row begin and end."""
    end = len(messages)
    while end and messages[end - 1]["role"] != "user":
        end -= 1
    begin = end
    while begin and messages[begin - 1]["role"] == "user":
        begin -= 1
    return begin, end
