"""The purpose of a model in this worker: text, embeddings, or scores of a reranker.

The file's header gives it, and the setting POOLING may override it. The memory that it takes is not
known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.errors import ConfigError, ModelUnsupported
from gguf_worker.models.gguf.header import Header


@dataclass(frozen=True, slots=True)
class Purpose:
    """The purpose of a model.

    `pooling`: "none" (no embeddings), "mean", "cls", "last", or "rank" (scores instead); `reason`
    is "set", or the reason for that value. `causal`: a text may be read in parts, since no token
    sees those after it.
    """

    generates: bool
    pooling: str
    reason: str
    causal: bool

    @property
    def embeds(self) -> bool:
        """Tells whether the model is to compute vectors or scores of texts."""
        return self.pooling != "none"


def purpose_of(header: Header, setting: str | None) -> Purpose:
    """Return the purpose of the model of `header`, where POOLING is `setting` (None: auto).

    Raises ConfigError for a setting that the model cannot follow, ModelUnsupported for a reranker
    whose file has no head.
    """
    pooling, reason = _pooling(header, setting)
    if pooling == "none" and header.embeds_only:
        raise ConfigError(
            f"POOLING=none leaves {header.path} without a use: a model of the architecture "
            f"{header.architecture!r} writes no text. Leave POOLING at auto.",
            param="POOLING",
        )
    if pooling == "rank" and not header.ranks:
        _refuse_ranking(header, setting)
    made_for_text = not header.embeds_only and header.pooling in (None, "none")
    generates = pooling == "none" or (made_for_text and pooling != "rank")
    return Purpose(generates, pooling, reason, header.causal)


def _pooling(header: Header, setting: str | None) -> tuple[str, str]:
    if setting is not None:
        return setting, "set"
    if header.pooling is not None and not (header.embeds_only and header.pooling == "none"):
        return header.pooling, "as the model says"
    if header.embeds_only:
        return "mean", "the model says nothing else"
    return "none", "the model is made for text"


def _refuse_ranking(header: Header, setting: str | None) -> None:
    if setting is not None:
        raise ConfigError(
            f"POOLING=rank needs a reranker, and {header.path} has no head that makes scores. Set "
            "MODEL to a reranker, or leave POOLING at auto.",
            param="POOLING",
        )
    raise ModelUnsupported(
        f"{header.path} says that it is a reranker, but has no head that makes scores. It needs "
        "another conversion; or set POOLING to mean, cls or last to use it for embeddings."
    )
