from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.providers.local.oldest_turns import fewest_left_out, oldest_turns, without


def chat(roles: str) -> list[dict[str, Any]]:
    """Return messages: s system, u user, a assistant, t tool; the content is the place."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[role], "content": str(at)} for at, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "turns"),
    [
        ("", []),
        ("u", []),
        ("su", []),
        ("suau", [[1, 2]]),
        ("suatatau", [[1, 2, 3, 4, 5, 6]]),
        ("uauau", [[0, 1], [2, 3]]),
        ("uasuau", [[0, 1], [3, 4]]),
        ("uauu", [[0, 1]]),
        ("suatat", [[2, 3]]),
        ("suatta", [[2, 3, 4]]),
        ("uauatatat", [[0, 1], [3, 4], [5, 6]]),
        ("au", [[0]]),
        ("aua", [[0]]),
        ("sa", []),
    ],
)
def test_turns_are_whole_and_the_last_of_the_user_is_none(
    roles: str, turns: list[list[int]]
) -> None:
    assert oldest_turns(chat(roles)) == turns


def test_the_others_stay_in_their_order() -> None:
    messages = chat("suatuau")
    left = without(messages, oldest_turns(messages)[:1])
    assert [each["content"] for each in left] == ["0", "4", "5", "6"]


@pytest.mark.parametrize("most", range(1, 40))
async def test_the_fewest_are_left_out(most: int) -> None:
    for wanted in range(1, most + 1):
        asked: list[int] = []

        async def fits(count: int, wanted: int = wanted, asked: list[int] = asked) -> bool:
            asked.append(count)
            return count >= wanted

        assert await fewest_left_out(most, fits) == wanted
        assert len(asked) <= 2 * most.bit_length() + 2
        assert len(set(asked)) == len(asked)


async def test_nothing_helps_where_even_all_are_too_few() -> None:
    async def fits(count: int) -> bool:
        return False

    assert await fewest_left_out(0, fits) is None
    assert await fewest_left_out(5, fits) is None
