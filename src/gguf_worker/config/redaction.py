"""The secrets inside settings' texts: found for the log, and hidden where a value is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"

_QUERIES = {"model": r"(://[^?]*\?)(.+)", "lora_adapters": r"(://[^\s?]*\?)(\S*[^\s,])"}
"""The queries of addresses, by setting: they are often signatures."""


def queries_in(field: str, text: str) -> list[str]:
    """Return the queries of the addresses in a setting's value."""
    return [query for _, query in re.findall(_QUERIES[field], text)]


def without_queries(field: str, text: str) -> str:
    """Return a good value of a setting, with the queries of its addresses hidden."""
    return re.sub(_QUERIES[field], rf"\1{HIDDEN}", text) if field in _QUERIES else text


def redacted(text: str) -> str:
    """Return a value that may be wrong, with all possible secrets of addresses hidden."""
    text = re.sub(r"://[^/?\s]*@", f"://{HIDDEN}@", text)
    return re.sub(r"(://[^?]*\?).+", rf"\1{HIDDEN}", text, flags=re.DOTALL)


def passwords_in(address: str) -> Iterator[str]:
    """Yield an address's password, as it is written and with its percent-escapes decoded."""
    if found := re.match(r"[^:/@]+://[^:/@]*:([^@/]+)@", address):
        yield found[1]
        if unquote(found[1]) != found[1]:
            yield unquote(found[1])
