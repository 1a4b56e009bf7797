"""The page at `/` in a real Chromium, as a person sees and uses it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from gguf_worker.errors import GenerationFailed
from gguf_worker.generation import Channel
from gguf_worker.providers import ModelCard, TextDelta
from tests.api_doors import Bench
from tests.fakes import ScriptedProvider, Step, stop, text_deltas
from tests.http_door import application, served
from tests.http_worker import http_worker
from tests.waiting import until

pytestmark = pytest.mark.e2e

WIDE = {"width": 1200, "height": 760}
NARROW = {"width": 390, "height": 780}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        # Skipped on a developer's machine, never in CI.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no Chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the page.

    At the end the page must have logged no error, and asked no other server for anything.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    strangers: list[str] = []

    def open_one(base: str, **more: Any) -> Page:
        context = browser.new_context(**{"viewport": WIDE, **more})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            # The browser itself logs each answer with an error status.
            lambda said: (
                complaints.append(said.text)
                if said.type == "error" and "Failed to load resource" not in said.text
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                strangers.append(request.url)
                if not request.url.startswith((base, "data:"))
                else None
            ),
        )
        page.goto(base)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []
    assert strangers == []


def asked(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def done(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=60_000)


def last_answer(page: Page) -> Any:
    return page.locator(".turn.assistant").last


class Endless:
    """A provider that says a word every 20 ms without end, and counts closed answers."""

    def __init__(self) -> None:
        self.closed = 0

    async def answer(self, request: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield TextDelta("word ", 1)
                await asyncio.sleep(0.02)  # the pace of a model
        finally:
            self.closed += 1


def closed(provider: Endless, page: Page) -> bool:
    """Let the page run for a moment, and return whether the provider's answer was closed."""
    page.wait_for_timeout(20)
    return provider.closed > 0


@pytest.fixture(scope="module")
def guarded(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a worker that asks for a key, and give its address."""
    log = tmp_path_factory.mktemp("page") / "log"
    with http_worker(demo_model, log, API_KEY="one,two") as served:
        yield served.base


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_demo_model_is_asked_and_answers(
    guarded: str, open_page: Callable[..., Page], viewport: dict[str, int]
) -> None:
    page = open_page(guarded, viewport=viewport)

    # Without the key the page asks for it, and its field has the focus.
    expect(page.get_by_role("heading", level=1)).to_contain_text("API key")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("two")
    page.keyboard.press("Tab")
    expect(page.get_by_role("heading", level=1)).to_contain_text("SmolLM2-135M")
    expect(page.locator("#card")).to_contain_text("Q4_1")

    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill("20")
    asked(page, "How many days are in a week?")
    done(page)
    expect(last_answer(page).locator(".body")).to_contain_text("7 days")
    facts = last_answer(page).locator(".facts").inner_text()
    assert re.search(r"(?<!≈ )\b\d+ tokens\s+[\d.]+ tokens/s\s+first after [\d.]+ s", facts), facts
    assert re.search(r"prompt \d+ tokens", facts)

    # The next turn finds the one before in the cache.
    asked(page, "And in two weeks?")
    done(page)
    assert re.search(r"\d+ cached", last_answer(page).locator(".facts").inner_text())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    # The key is kept by this tab and nowhere else.
    assert page.evaluate("sessionStorage.getItem('key')") == "two"
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_thoughts_are_folded_away_from_the_answer(open_page: Callable[..., Page]) -> None:
    thoughts: list[Step] = [
        TextDelta("Seven ", 1, channel=Channel.REASONING),
        TextDelta("days.", 1, channel=Channel.REASONING),
    ]
    with served(application(Bench(ScriptedProvider(thoughts, text_deltas("It has 7."))))) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        asked(page, "week?")
        done(page)
        thinking = last_answer(page).locator("details.thinking")
        expect(last_answer(page).locator(".body > .prose")).to_have_text("It has 7.")
        expect(thinking.locator("summary")).to_contain_text("Thought for")
        expect(thinking.locator(".prose")).to_be_hidden()
        thinking.locator("summary").click()
        expect(thinking.locator(".prose")).to_have_text("Seven days.")


def test_a_models_words_are_shown_as_text_even_if_they_look_like_markup(
    open_page: Callable[..., Page],
) -> None:
    evil = "<img src=x onerror=\"document.title='stolen'\"><script>document.title='stolen'</script>"
    text = f"{evil}\n```html\n{evil}\n```\n[a](javascript:alert(1))"
    with served(application(Bench(ScriptedProvider(text_deltas(*text))))) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        asked(page, evil)
        done(page)
        expect(page.locator(".turn.user .body")).to_have_text(evil)
        expect(last_answer(page).locator("pre")).to_have_text(evil)
        assert evil in last_answer(page).inner_text()
        assert page.locator("#turns img, #turns script, #turns a").count() == 0
        assert page.title() == "demo"


CODE = "Before\n\n```python\nif a:\n    b()\n```\n\nAfter ``` and ~~~\n~~~\nx\n```\n~~~~\nend"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_code_between_fences_stands_by_itself_however_the_text_is_cut(
    open_page: Callable[..., Page], size: int
) -> None:
    parts = [CODE[at : at + size] for at in range(0, len(CODE), size)]
    with served(application(Bench(ScriptedProvider(text_deltas(*parts))))) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        asked(page, "code")
        done(page)
        blocks = last_answer(page).locator(".body > *").all()
        assert [block.evaluate("node => node.tagName") for block in blocks] == [
            "DIV", "FIGURE", "DIV", "FIGURE", "DIV",
        ]  # fmt: skip
        codes = last_answer(page).locator("pre").all()
        assert [code.evaluate("node => node.textContent") for code in codes] == [
            "if a:\n    b()",
            "x\n```",
        ]
        assert blocks[2].evaluate("node => node.textContent") == "After ``` and ~~~"
        assert blocks[4].inner_text() == "end"
        expect(last_answer(page).locator("figcaption").first).to_contain_text("python")


@pytest.mark.parametrize("by", ["button", "escape", "leaving"])
def test_an_answer_that_is_stopped_is_stopped_in_the_worker_too(
    open_page: Callable[..., Page], by: str
) -> None:
    bench, endless = Bench(ScriptedProvider()), Endless()
    bench.provider = endless  # type: ignore[assignment]
    with served(application(bench)) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        asked(page, "go on")
        expect(last_answer(page)).to_contain_text("word word")
        expect(last_answer(page).locator(".facts")).to_contain_text("≈")
        if by == "button":
            page.get_by_role("button", name="Stop").click()
        elif by == "escape":
            page.keyboard.press("Escape")
        else:
            page.goto("about:blank")
        until(lambda: closed(endless, page), pause=0)
        if by != "leaving":
            done(page)
            expect(last_answer(page).locator(".facts")).to_contain_text("stopped")
            expect(page.locator(".error")).to_have_count(0)


def test_a_failure_is_shown_with_its_code_and_what_to_do_and_may_be_tried_again(
    open_page: Callable[..., Page],
) -> None:
    provider = ScriptedProvider(GenerationFailed("The template is broken."))
    bench = Bench(provider)
    with served(application(bench)) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        asked(page, "first")
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("generation_failed")
        expect(alert).to_contain_text("The template is broken.")
        provider.script = [TextDelta("half", 1), GenerationFailed("Broken again.")]
        page.get_by_role("button", name="Try again").click()
        expect(alert).to_contain_text("Broken again.")
        expect(last_answer(page)).to_contain_text("half")
        provider.script = text_deltas("good")
        page.get_by_role("button", name="Try again").click()
        done(page)
        expect(alert).to_have_count(0)
        expect(last_answer(page).locator(".body")).to_have_text("good")
        said = [
            [turn["content"] for turn in request.messages or ()] for request in provider.requests
        ]
        assert said == [["first"]] * 3
    asked(page, "anyone there?")
    expect(page.get_by_role("alert")).to_contain_text("unreachable")


def test_settings_go_with_the_question_and_wrong_ones_do_not(
    open_page: Callable[..., Page],
) -> None:
    provider = ScriptedProvider(text_deltas("a"))
    bench = Bench(provider)
    with served(application(bench)) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        given = {
            "System prompt": "Be brief.", "Temperature": "0.5", "Top p": "0.9", "Top k": "7",
            "Min p": "0.1", "Most tokens": "33", "Seed": "42",
        }  # fmt: skip
        for name, value in given.items():
            page.get_by_label(name).fill(value)
        asked(page, "hi")
        done(page)
        page.get_by_label("Top p").fill("3")
        asked(page, "not sent")
        page.wait_for_timeout(200)
        (request,) = provider.requests
    assert [turn["content"] for turn in request.messages or ()] == ["Be brief.", "hi"]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.seed, request.max_tokens) == (0.1, 42, 33)


def test_a_page_can_be_used_without_a_mouse_and_tells_a_screen_reader(
    open_page: Callable[..., Page],
) -> None:
    with served(application(Bench(ScriptedProvider(text_deltas("Merhaba"))))) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        expect(page.get_by_label("Message", exact=True)).to_be_focused()
        asked(page, "selam")
        expect(page.get_by_role("status")).to_have_text("The answer is complete: Merhaba")
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input, textarea')].filter(each =>"
            " !each.textContent.trim() && !(each.labels && each.labels.length)).length"
        )
        assert unnamed == 0
        page.get_by_role("button", name="New chat").press("Enter")
        expect(page.locator(".turn")).to_have_count(0)
        expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_pieces_wait_for_no_end_and_time_is_counted_meanwhile(
    open_page: Callable[..., Page],
) -> None:
    held = asyncio.Event()
    provider = ScriptedProvider(held, TextDelta("late", 1), stop())
    with served(application(Bench(provider), keep_alive=0.1)) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        asked(page, "wait")
        expect(last_answer(page).locator(".facts")).to_contain_text("waiting for 1 s")
        page.get_by_role("button", name="Stop").click()
        done(page)


def test_the_page_allows_nothing_from_elsewhere(open_page: Callable[..., Page]) -> None:
    with served(application(Bench(ScriptedProvider()))) as port:
        response = httpx.get(f"http://127.0.0.1:{port}/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=\"(https?:)?//", response.text)
    assert "innerHTML" not in response.text


def test_of_several_models_one_is_chosen_and_asked(open_page: Callable[..., Page]) -> None:
    cards = (ModelCard("small", context=512), ModelCard("large", parameters=7_000_000_000))
    bench = Bench(ScriptedProvider(text_deltas("Hello")), cards=cards)
    with served(application(bench)) as port:
        page = open_page(f"http://127.0.0.1:{port}")
        expect(page.locator("#card")).to_have_text("Context512 tokens")
        page.get_by_label("Model", exact=True).select_option("large")
        expect(page.locator("#card")).to_have_text("Parameters7.0B")
        asked(page, "Hi")
        done(page)
        expect(last_answer(page)).to_contain_text("large")
        assert bench.reached == ["large"]
        expect(page.get_by_label("Model", exact=True)).to_have_value("large")


def test_where_there_is_one_model_there_is_nothing_to_choose(
    open_page: Callable[..., Page],
) -> None:
    with served(application(Bench(ScriptedProvider(text_deltas("Hello"))))) as port:
        page = open_page(f"http://127.0.0.1:{port}")
        expect(page.get_by_role("heading", name="demo")).to_be_visible()
        expect(page.locator("#model")).to_be_hidden()
