"""A call as a front door hands it to the gateway: not read yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gguf_worker.api.routes import find_route


class Dialect(StrEnum):
    """The words that a call and its answer are in: a plain job's own, or those of an API."""

    NATIVE = "native"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One request, from whichever door. `deadline` is on the machine's monotonic clock.

    `min_interval`: seconds between two parts of its stream below which its door cannot make use of
    them. `max_bytes`: the most that a whole answer may have there.
    """

    request_id: str
    job_id: str
    route: str
    body: Mapping[str, Any]
    dialect: Dialect
    deadline: float | None = None
    min_interval: float = 0.0
    max_bytes: int | None = None

    @property
    def label(self) -> str:
        """The route for reports: from a closed set, whatever the caller wrote."""
        route = find_route(self.route)
        return "unknown" if route is None else route.path

    @property
    def stream(self) -> bool:
        """True where the answer is wanted as a stream."""
        route = find_route(self.route)
        return route is not None and route.generates and self.body.get("stream") is True
