"""The ids of the calls in a replayed conversation, and the call that a result belongs to."""

from __future__ import annotations


class CallIds:
    """Pairs results with calls, by id where there is one, else in the order of the calls."""

    def __init__(self) -> None:
        self._made: set[str] = set()
        self._aliases: dict[str, str] = {}
        self._waiting: dict[str, None] = {}

    def call(self, id: str, alias: str = "") -> str:
        """Note a call, and return its id, which is made up if it has neither id nor alias."""
        id = id or alias or f"call_{len(self._made)}"
        self._made.add(id)
        self._waiting[id] = None
        if alias:
            self._aliases[alias] = id
        return id

    def result(self, id: str, alias: str = "") -> str | None:
        """Return the id of the call that a result belongs to; None: no call is known for it."""
        id = id or self._aliases.get(alias, "") or next(iter(self._waiting), "")
        self._waiting.pop(id, None)
        return id if id in self._made else None

    def __contains__(self, alias: str) -> bool:
        return alias in self._aliases
