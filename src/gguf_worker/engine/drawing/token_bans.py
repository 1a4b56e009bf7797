"""The tokens that one request may not draw now, where that depends on what it has drawn.

Pure: token ids in, ids or flags out. Most requests have no such rules, and no TokenBans.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing.sampler_pool import Banned
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import TokenRules

Ids = npt.NDArray[np.int32]


class TokenBans:
    """The rules of one request over a vocabulary of `size` tokens.

    `always` are never drawn, `ends` not before the answer has as many tokens as the rules want.
    `words` are the tokens of the bad words, each at least one. Raises InvalidRequest, with the
    name of a rule, if no first token is left.
    """

    def __init__(
        self,
        rules: TokenRules,
        *,
        always: Ids,
        ends: Ids,
        words: Sequence[Sequence[int]],
        size: int,
    ) -> None:
        self._least = rules.least
        stops = [token for token in rules.stops if token < size]
        early = np.concatenate([always, ends, np.array(stops, np.int32)])
        self._late = _all_but(rules.allowed, always, size) if rules.allowed else always
        self._early = _all_but(rules.allowed, early, size) if rules.allowed else early
        self._words = [(list(word[:-1]), word[-1]) for word in words]
        self._size = size
        self._require_some()

    def add(self, tokens: Ids) -> None:
        """Ban these tokens too, from now on."""
        self._early, self._late = (_joined(each, tokens) for each in (self._early, self._late))

    def after(self, tokens: Sequence[int], drawn: int) -> Banned:
        """Return what is banned after these tokens, the last `drawn` of which are the answer.

        Bad words are given up where nothing else is left, and then the least length.
        """
        banned = self._early if drawn < self._least else self._late
        last = self._last_of_words(tokens, drawn)
        if last and not self._is_all(joined := _joined(banned, last)):
            return joined
        return self._late if self._is_all(banned) else banned

    def beside(self, forbidden: npt.NDArray[np.bool_], tokens: Sequence[int], drawn: int) -> Banned:
        """Return what a grammar forbids and the rules ban; only the former if nothing is left."""
        flags = forbidden.copy()
        flags[self.after(tokens, drawn)] = True
        return forbidden if flags.all() else flags

    def _require_some(self) -> None:
        words = [last for before, last in self._words if not before]
        for param, banned in (
            ("allowed_token_ids", self._late),
            ("min_tokens", self._early if self._least else self._late),
            ("bad_words", _joined(self._early if self._least else self._late, words)),
        ):
            if self._is_all(banned):
                raise InvalidRequest(
                    "`allowed_token_ids`, `min_tokens` and `bad_words` together leave no token to "
                    "draw: allow more tokens, or take one of them out.",
                    param=param,
                )

    def _is_all(self, banned: Banned) -> bool:
        if banned.dtype == np.bool_:
            return bool(banned.all())
        return len(banned) >= self._size and len(np.unique(banned)) == self._size

    def _last_of_words(self, tokens: Sequence[int], drawn: int) -> list[int]:
        return [
            last
            for before, last in self._words
            if len(before) <= drawn and list(tokens[len(tokens) - len(before) :]) == before
        ]


def _all_but(allowed: Sequence[int], banned: Ids, size: int) -> npt.NDArray[np.bool_]:
    flags = np.ones(size, np.bool_)
    flags[np.array(allowed, np.int64)] = False
    flags[banned] = True
    return flags


def _joined(banned: Banned, more: Sequence[int] | Ids) -> Banned:
    ids = np.array(more, np.int32)
    if banned.dtype == np.bool_:
        flags = banned.copy()
        flags[ids] = True
        return flags
    return np.concatenate([banned, ids])
