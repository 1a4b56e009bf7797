from __future__ import annotations

import httpx2
import pytest

from gguf_worker.models.source.rate_limit import asked_wait

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
LATER = "Wed, 21 Oct 2015 07:28:42 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17),
        ({"Retry-After": LATER, "Date": DATE}, 42),
        ({"Retry-After": DATE, "Date": LATER}, 0),
        ({"RateLimit": '"api";r=0;t=243'}, 244),
        ({"ratelimit": '"api"; r=0; t=0'}, 1),
        ({"RateLimit": '"api";t=9;r=0;pk=:cHsdsRa894==:'}, 10),
        ({"RateLimit": '"pages";r=7;t=299, "api";r=0;t=55,"resolvers";r=0;t=40'}, 56),
        ({"RateLimit": '"a,b;r=0;t=9\\"";r=0;t=3'}, 4),
        ({"RateLimit": "api;r=0;t=3"}, 4),
        ({"Retry-After": "90", "RateLimit": '"api";r=0;t=30'}, 90),
        ({"Retry-After": "5", "RateLimit": '"api";r=0;t=30'}, 31),
    ],
    ids=str,
)
def test_the_longest_time_that_is_named_counts(headers: dict[str, str], seconds: float) -> None:
    assert asked_wait(httpx2.Headers(headers)) == seconds


def test_limits_in_several_headers_are_one_list() -> None:
    headers = httpx2.Headers([("RateLimit", '"a";r=0;t=3'), ("RateLimit", '"b";r=0;t=8')])
    assert asked_wait(headers) == 9


@pytest.mark.parametrize(
    "value",
    [
        *("", '"api"', '"api";r=3;t=100', '"api";t=100', '"api";r=0', '"api";r=;t=', "r=0;t=9"),
        *('"api";r=0;t=-5', '"api";r=0;t=1e9', '"api";r=0;t=1.5', '"api";r=no;t=5', ";;,,==", '"'),
        *('"api";r=0;t=٣', '"api;r=0;t=5', "limit=100, remaining=0, reset=54"),
    ],
)
def test_a_limit_that_is_not_well_formed_or_not_used_up_names_no_time(value: str) -> None:
    assert asked_wait({"RateLimit": value}) == 0


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "1e9", "٣", LATER])
def test_a_time_to_retry_that_cannot_be_read_names_none(value: str) -> None:
    assert asked_wait({"Retry-After": value}) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "999999999999999"},
        {"RateLimit": '"api";r=0;t=999999999999999'},
        {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": DATE},
    ],
    ids=str,
)
def test_no_more_than_a_day_is_believed(headers: dict[str, str]) -> None:
    assert asked_wait(headers) == 86_400


def test_a_number_of_any_length_is_no_trouble() -> None:
    assert asked_wait({"Retry-After": "9" * 5000, "RateLimit": f'"a";r=0;t={"9" * 5000}'}) == 0
