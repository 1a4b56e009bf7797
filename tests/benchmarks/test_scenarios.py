from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import scenarios
from benchmarks.client import Answer
from benchmarks.scenarios import QUICK, SCENARIOS, Alone, Bench, Served, reused_share


def answer(**facts: Any) -> Answer:
    given: dict[str, Any] = {
        "began": 0.0,
        "ended": 1.0,
        "texts": (0.5, 0.75, 1.0),
        "tokens": 3,
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "text": "a b c",
    }
    return Answer(**(given | facts))


def words(text: str) -> int:
    return len(text.split())


def test_a_turn_could_reuse_the_prompt_before_it_and_its_answer_but_for_the_last_token() -> None:
    assert reused_share([[answer(), answer(prompt_tokens=20, cached_tokens=12)]], words) == 1.0
    assert reused_share([[answer(), answer(prompt_tokens=20, cached_tokens=6)]], words) == 0.5


def test_tokens_reused_beyond_that_do_not_count() -> None:
    chat = [answer(), answer(cached_tokens=18), answer(cached_tokens=0)]
    assert reused_share([chat], words) == 0.5


def test_an_answer_that_reads_differently_as_text_could_not_be_reused() -> None:
    chat = [answer(text="a bc"), answer(cached_tokens=10)]
    assert reused_share([chat], words) == 1.0


class FakeClient:
    """A client that answers in so many reads, and whose request number `fails` raises."""

    def __init__(self, fails: int | None = None, reads: int = 40) -> None:
        self.asked: list[tuple[Any, int]] = []
        self._fails = fails
        self._reads = reads

    async def ask(
        self,
        messages: Any,
        max_tokens: int,
        *,
        n: int = 1,
        on_text: Callable[[int], None] | None = None,
    ) -> Answer:
        self.asked.append(([dict(message) for message in messages], max_tokens))
        if len(self.asked) == self._fails:
            raise RuntimeError("broken")
        for reads in range(1, self._reads):
            await asyncio.sleep(0)
            if on_text is not None:
                on_text(reads)
        return answer(prompt_tokens=len(str(messages)), tokens=max_tokens * n)


class FakePrompts:
    def __init__(self) -> None:
        self.asked_for: list[int] = []

    def text(self, tokens: int) -> str:
        self.asked_for.append(tokens)
        return f"text {len(self.asked_for)}"


class FakeVocabulary:
    ends = (2,)
    count = staticmethod(words)


def drive(name: str, client: FakeClient) -> dict[str, float]:
    bench: Any = Bench(None, 1, FakeVocabulary(), QUICK)  # type: ignore[arg-type]
    scenario = SCENARIOS[name]
    assert isinstance(scenario, Served)
    fakes: Any = (client, FakePrompts())
    return dict(asyncio.run(scenario.drive(bench, *fakes)))  # type: ignore[arg-type]


def test_own_prompts_are_all_different_at_every_level() -> None:
    client = FakeClient()
    measures = drive("own", client)
    assert len(client.asked) == sum(max(level, QUICK.level_requests) for level in QUICK.levels)
    assert len({str(messages) for messages, _ in client.asked}) == len(client.asked)
    assert {f"tokens_per_second@{level}" for level in QUICK.levels} <= set(measures)


def test_a_shared_prefix_is_one_new_system_prompt_under_different_questions() -> None:
    client = FakeClient()
    drive("prefix", client)
    assert len({messages[0]["content"] for messages, _ in client.asked}) == 1
    assert len({messages[1]["content"] for messages, _ in client.asked}) == QUICK.burst


def test_a_chat_sends_its_whole_history_with_every_turn() -> None:
    client = FakeClient()
    measures = drive("chats", client)
    lengths = sorted(len(messages) for messages, _ in client.asked)
    assert lengths == [2] * QUICK.chats + [4] * QUICK.chats
    assert measures["reused"] == 0.0


def test_long_prompts_arrive_when_every_stream_is_running() -> None:
    client = FakeClient()
    measures = drive("long", client)
    limits = [limit for _, limit in client.asked]
    assert (
        limits == [QUICK.stream_answer] * QUICK.streams + [QUICK.long_answer] * QUICK.long_prompts
    )
    assert measures["gap_p99"] == 0.25


def test_long_prompts_arrive_too_when_a_stream_had_little_to_show() -> None:
    client = FakeClient(reads=2)
    drive("long", client)
    assert len(client.asked) == QUICK.streams + QUICK.long_prompts


@pytest.mark.parametrize("name", ["own", "prefix", "chats", "long"])
def test_a_request_that_fails_ends_the_scenario_with_its_error(name: str) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        drive(name, FakeClient(fails=2))


def test_every_scenario_has_a_title_and_contestants() -> None:
    for scenario in SCENARIOS.values():
        assert scenario.title
        assert scenario.contestants
        if not isinstance(scenario, Alone):
            assert scenario.slots(QUICK) <= scenario.slots(scenarios.FULL)
