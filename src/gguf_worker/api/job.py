"""RunPod's jobs: from a job's input to a call, and from replies to what the SDK can post.

The SDK is not imported here, but its rules hold: each yielded item is posted by itself, an error
must be a string and come last, and every item must be plain JSON, below 1 MB in a stream and below
10 MB as a whole answer.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeGuard

import msgspec

from gguf_worker.api.call import ApiCall, Dialect
from gguf_worker.api.gateway import Gateway
from gguf_worker.api.native import failure_item
from gguf_worker.api.reading import MAX_TIMEOUT
from gguf_worker.api.routes import GENERATE, HEALTH, METRICS, find_route, plain_path
from gguf_worker.api.writing import ApiReply, EventText, Failed, cut_text
from gguf_worker.errors import InvalidRequest, WorkerError

MIN_INTERVAL = 0.2
"""Seconds between two items of a stream: each is a request to RunPod's API, which clients poll
about once a second."""

LARGEST_ANSWER = 9_900_000
"""Bytes of a whole answer: RunPod takes up to 10 MB, and the client never hears of a larger one."""
LARGEST_ITEM = 900_000
"""Bytes of one item as the SDK posts it: RunPod takes up to 1 MB."""

_TASKS = (HEALTH, METRICS)

_OPENAI_FIELDS = (("openai_route", "openai_input"), ("route", "body"))
"""The fields in which a job has a route and its body: RunPod's own names, and plain ones."""


async def answer_job(
    gateway: Gateway,
    job: Mapping[str, Any],
    *,
    default_timeout: float,
    now: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Any, None]:
    """Yield one job's items: objects, texts of server-sent events, and errors as strings.

    Closing the generator, or cancelling its task, cancels the request.
    """
    try:
        call = parse_job(job, now=now, default_timeout=default_timeout)
    except WorkerError as error:
        unread = ApiCall(uuid.uuid4().hex, _job_id(job), GENERATE, {}, Dialect.NATIVE)
        yield _error_item(gateway.refuse(unread, error))
        return
    tells_failure = call.stream and call.dialect is Dialect.NATIVE
    items_of = job_items(gateway.handle(call), tells_failure=tells_failure)
    async with aclosing(items_of) as items:
        async for item in items:
            yield item


def parse_job(
    job: Mapping[str, Any], *, now: Callable[[], float], default_timeout: float
) -> ApiCall:
    """Return the call that a job asks for. Raises InvalidRequest if there is none."""
    given = job.get("input")
    if not isinstance(given, Mapping):
        raise InvalidRequest("The job's `input` should be an object.", param="input")
    if not given:
        raise InvalidRequest(
            "The job's `input` is empty. Give `prompt` or `messages`, or `openai_route` and "
            "`openai_input`.",
            param="input",
        )
    dialect, route, body = _asked(given)
    return ApiCall(
        request_id=uuid.uuid4().hex,
        job_id=_job_id(job),
        route=route,
        body=body,
        dialect=dialect,
        deadline=now() + _seconds(job, body, dialect, default_timeout),
        min_interval=MIN_INTERVAL,
        max_bytes=LARGEST_ANSWER,
    )


async def job_items(
    replies: AsyncGenerator[ApiReply, None], *, tells_failure: bool = False
) -> AsyncGenerator[Any, None]:
    """Yield replies as the SDK wants them; an error comes last, once the request has ended.

    The SDK adds it to the job, and not to the stream. With `tells_failure` an item before it tells
    those who read the stream.
    """
    failed: Failed | None = None
    async with aclosing(replies):
        async for reply in replies:
            if isinstance(reply, Failed):
                failed = reply
            elif isinstance(reply, EventText):
                for text in _fitting(reply.text):
                    yield text
            else:
                yield _plain(reply.data)
    if failed is None:
        return
    for text in _fitting(failed.event or ""):
        yield text
    if tells_failure:
        yield failure_item(failed.error)
    yield _error_item(failed)


def _asked(given: Mapping[str, Any]) -> tuple[Dialect, str, Mapping[str, Any]]:
    for names in _OPENAI_FIELDS:
        if given.get(names[0]) is not None:
            return Dialect.OPENAI, *_openai(given, *names)
    task = given.get("task")
    if task is None:
        return Dialect.NATIVE, GENERATE, given
    if task not in _TASKS:
        raise InvalidRequest(f"`task` should be one of: {', '.join(_TASKS)}.", param="task")
    return Dialect.NATIVE, task, given


def _openai(given: Mapping[str, Any], where: str, what: str) -> tuple[str, Mapping[str, Any]]:
    """Return the route in the field `where` and the body in the field `what`."""
    route = given[where]
    if not isinstance(route, str) or not route:
        raise InvalidRequest(f"`{where}` should be text.", param=where)
    route = plain_path(route.partition("?")[0])
    if not route.startswith("/"):  # names such as "generate" are ours, in the plain dialect
        raise InvalidRequest(
            f"`{where}` should be a path, such as /v1/chat/completions.", param=where
        )
    body = given.get(what)
    if body is None and (found := find_route(route)) is not None and not found.takes_body:
        body = {}
    if not isinstance(body, Mapping):
        raise InvalidRequest(f"`{what}` should be an object.", param=what)
    return route, body


def _job_id(job: Mapping[str, Any]) -> str:
    return str(job.get("id") or "unknown")


def _seconds(
    job: Mapping[str, Any], body: Mapping[str, Any], dialect: Dialect, default: float
) -> float:
    """Return the seconds that the platform grants the job; its own `timeout` may shorten them."""
    policy = job.get("policy")
    milliseconds = policy.get("executionTimeout") if isinstance(policy, Mapping) else None
    granted = milliseconds / 1000 if _is_positive(milliseconds, MAX_TIMEOUT * 1000) else default
    own = body.get("timeout") if dialect is Dialect.NATIVE else None
    return min(granted, own) if _is_positive(own, MAX_TIMEOUT) else granted


def _is_positive(value: Any, most: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most


def _fitting(text: str) -> Iterable[str]:
    """Return the text as items that can be posted.

    Items are parts of one stream of bytes, so that a cut within an event does no harm. Only an
    event that repeats a long answer as a whole is too large for one item.
    """
    if 4 * len(text) <= LARGEST_ITEM or len(_posted(text)) <= LARGEST_ITEM:
        return (text,) if text else ()
    return cut_text(text)


def _posted(text: str) -> bytes:
    """Return the text as the SDK writes it."""
    return json.dumps(text, ensure_ascii=False).encode()


def _error_item(failed: Failed) -> dict[str, str]:
    # The SDK turns any error into a string; as JSON it is one that clients can read.
    return {"error": json.dumps(failed.error.public(), ensure_ascii=False)}


def _plain(data: dict[str, Any]) -> Any:
    """Return the data with null for what JSON lacks, such as NaN, which the SDK cannot post."""
    return msgspec.json.decode(msgspec.json.encode(data))
