"""A call as a front door hands it to the gateway: not read yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gguf_worker.api.routes import find_route


class Dialect(StrEnum):
    """The dialect of a call and its answer: a job's own plain one, or an API's."""

    NATIVE = "native"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One request from any front door. `deadline` is on the machine's monotonic clock.

    `min_interval`: seconds between two parts of its stream, below which the front door gains
    nothing. `max_bytes`: the largest whole answer that the front door can deliver.
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
        """The route's name in reports, from a closed set: `unknown` for a path without a route."""
        route = find_route(self.route)
        return "unknown" if route is None else route.path

    @property
    def stream(self) -> bool:
        """True if the caller wants the answer as a stream."""
        route = find_route(self.route)
        return route is not None and route.streams(self.body)
