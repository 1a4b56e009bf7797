"""The form of the log: one line a record, the right facts in it, and what must never be in it."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator

import pytest

from gguf_worker.monitoring import bind_request
from tests.monitoring.conftest import Log

ours = logging.getLogger("gguf_worker.somewhere")


def test_a_record_is_one_json_line_with_its_facts(log: Log) -> None:
    ours.info("started %s", "well", extra={"seconds": 1.23456789, "ok": True, "none": None})
    (line,) = log.lines
    assert line.pop("ts").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "gguf_worker.somewhere",
        "event": "started well",
        "seconds": 1.234568,
        "ok": True,
        "none": None,
    }


def test_handlers_that_a_library_has_set_are_replaced(log: Log) -> None:
    foreign = io.StringIO()
    logging.basicConfig(stream=foreign, force=True)
    log.configure()
    ours.warning("once")
    assert foreign.getvalue() == ""
    assert len(log.lines) == 1


def test_our_level_is_ours_alone(log: Log) -> None:
    log.configure("debug")
    ours.debug("ours")
    logging.getLogger("httpx").info("GET https://host/file?signature=abc")
    logging.getLogger("httpx").warning("slow")
    assert [line["event"] for line in log.lines] == ["ours", "slow"]


def test_at_error_level_warnings_of_libraries_are_silent(log: Log) -> None:
    log.configure("error")
    logging.getLogger("httpx").warning("slow")
    ours.warning("ours")
    assert log.text == ""


@pytest.mark.parametrize("name", ["prompt", "messages", "text", "content", "input"])
def test_fields_that_hold_prompts_are_dropped_at_any_depth(log: Log, name: str) -> None:
    ours.info("a", extra={name: "hush", "deep": [{"er": {name: "hush", "kept": 1}}]})
    assert "hush" not in log.text
    assert log.last["deep"] == [{"er": {"kept": 1}}]


def test_secrets_are_masked_wherever_they_stand(log: Log) -> None:
    log.configure(secrets=["sekret", "redis://u:sekret@h", "", 'quo"ted'])
    ours.info("got %s", "sekret", extra={"url": "redis://u:sekret@h/0", "list": ["x-sekret"]})
    ours.info('a quo"ted one', extra={"sekret-key": 1})
    try:
        raise ValueError("bad key sekret")
    except ValueError:
        ours.exception("failed")
    assert "sekret" not in log.text
    assert "quo" not in log.text
    assert log.lines[0]["event"] == "got ***"
    assert log.lines[0]["url"] == "***/0"


def test_an_exception_is_a_field(log: Log) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        ours.exception("failed")
    assert log.last["level"] == "error"
    assert log.last["exception"].endswith("ValueError: no")


def test_text_with_line_breaks_cannot_forge_a_record(log: Log) -> None:
    ours.info('x\n{"event": "forged"}', extra={"route": "\u2028\x1b[2J"})
    assert len(log.text.splitlines()) == 1
    assert log.last["route"] == "\u2028\x1b[2J"


def test_a_very_long_value_is_cut_in_the_middle(log: Log) -> None:
    ours.info("a", extra={"detail": "b" + "x" * 100_000 + "e"})
    detail = log.last["detail"]
    assert len(detail) < 9_000
    assert detail[0] == "b"
    assert detail[-1] == "e"


def test_values_that_are_not_json_are_written_as_text(log: Log) -> None:
    ours.info("a", extra={"nan": float("nan"), "odd": {1: {2}}, "error": ValueError("v")})
    assert log.last["nan"] == "nan"
    assert log.last["odd"] == {"1": [2]}
    assert log.last["error"] == "v"


def test_records_within_a_request_carry_its_ids(log: Log) -> None:
    with bind_request(job_id="j1", request_id="r1"):
        ours.info("inside")
    ours.info("outside")
    assert (log.lines[0]["job_id"], log.lines[0]["request_id"]) == ("j1", "r1")
    assert "job_id" not in log.lines[1]


def test_ids_that_are_bound_later_join_those_bound_before(log: Log) -> None:
    with bind_request(job_id="j1"), bind_request(request_id="r1"):
        ours.info("inside")
    assert (log.last["job_id"], log.last["request_id"]) == ("j1", "r1")


async def test_requests_side_by_side_keep_their_own_ids(log: Log) -> None:
    both = asyncio.Barrier(2)

    async def request(name: str) -> None:
        with bind_request(job_id=name, request_id=name):
            await both.wait()
            ours.info(name)

    await asyncio.gather(request("a"), request("b"))
    assert {line["event"]: line["job_id"] for line in log.lines} == {"a": "a", "b": "b"}


async def test_a_bound_generator_may_be_closed_from_another_task(log: Log) -> None:
    async def stream() -> AsyncGenerator[int, None]:
        with bind_request(job_id="j", request_id="r"):
            yield 1
            yield 2

    generator = stream()
    assert await anext(generator) == 1
    await asyncio.create_task(generator.aclose())


def test_the_console_form_is_for_people(log: Log) -> None:
    log.configure(console=True)
    ours.warning("slow step", extra={"seconds": 2.5, "detail": "a\x1b[2Jb"})
    (line,) = log.text.splitlines()
    assert line[8:] == " warning somewhere: slow step  seconds=2.5  detail='a\\x1b[2Jb'"


def test_the_console_form_shows_a_traceback_below(log: Log) -> None:
    log.configure(console=True)
    try:
        raise ValueError("no")
    except ValueError:
        ours.exception("failed")
    assert "failed\nTraceback" in log.text
    assert log.text.endswith("ValueError: no\n")
