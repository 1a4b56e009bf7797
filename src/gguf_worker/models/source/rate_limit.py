"""The time that a server asks its callers to wait, by two headers.

    Retry-After: 120                        seconds, or a date
    RateLimit: "api";r=0;t=243, "pages";r=7;t=12

The second is that of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-09), which the Hub
sends: a list of limits, each with the requests that remain (`r`) and the seconds until its window
ends (`t`). What is not so formed counts as not sent.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping

_LONGEST = 86_400.0
"""Seconds: the longest wait that is believed."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)')
_NUMBER = re.compile(r"[0-9]{1,15}")


def asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds to wait after an answer that refuses; 0 where none are named.

    If both headers name some, the longer time counts. `headers` finds names in any case.
    """
    longest = max(
        _retry_after(headers.get("Retry-After", ""), headers.get("Date", "")),
        _until_reset(headers.get("RateLimit", "")),
    )
    return min(longest, _LONGEST)


def _retry_after(value: str, date: str) -> float:
    if _NUMBER.fullmatch(value):
        return float(value)
    try:
        # The server's own clock: this machine's may be wrong.
        until, now = (email.utils.parsedate_to_datetime(each) for each in (value, date))
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def _until_reset(value: str) -> float:
    """Return the seconds until the last of the used-up limits begins anew; 0 if none is."""
    return max((_reset_of(item) for item in _QUOTED.sub("", value).split(",")), default=0.0)


def _reset_of(item: str) -> float:
    """Return the seconds until one limit begins anew, one more for those cut off; 0 if unused."""
    pairs = (each.partition("=") for each in item.split(";")[1:])
    parameters = {name.strip(): number.strip() for name, _, number in pairs}
    remaining, reset = parameters.get("r", ""), parameters.get("t", "")
    if not _NUMBER.fullmatch(remaining) or int(remaining) or not _NUMBER.fullmatch(reset):
        return 0.0
    return float(reset) + 1
