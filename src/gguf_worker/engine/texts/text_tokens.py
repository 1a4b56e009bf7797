"""Turns the texts of an Embed into tokens; a Failure says in the caller's terms what is wrong."""

from __future__ import annotations

from gguf_worker.engine.messages import Embed, Failure
from gguf_worker.engine.texts.spans import Pooler
from gguf_worker.errors import WorkerError, wrong_model


def refusal(pooler: Pooler, embed: Embed) -> Failure | None:
    """Return the failure of an Embed that the model cannot serve; None if it can."""
    if (pooler.pooling == "rank") != (embed.query is not None):
        return unable(pooler.pooling, embed)
    if embed.dimensions is not None and not 1 <= embed.dimensions <= pooler.dimensions:
        return Failure(
            "invalid_request",
            f"The model's embeddings have {pooler.dimensions} dimensions; as many can be had, or "
            "fewer.",
            param="dimensions",
        )
    if not embed.texts:
        return Failure("invalid_request", "There is nothing to read.", param=_param(embed))
    return None


def tokens_of(pooler: Pooler, vocabulary: int, embed: Embed, index: int) -> list[int] | Failure:
    """Return the tokens of text `index`, with the query where there is one.

    `vocabulary` bounds the token ids that a caller may send.
    """
    text, longest = embed.texts[index], pooler.longest
    if not text and not (embed.query and isinstance(text, str)):  # a pair is not empty
        return _wrong(embed, index, "is empty")
    if isinstance(text, list):
        if len(text) > longest:  # checked before each token is: there may be millions
            return _too_long(embed, index, str(len(text)), longest)
        if not all(0 <= token < vocabulary for token in text):
            outside = f"has a token id outside the vocabulary of {vocabulary} tokens"
            return _wrong(embed, index, outside)
        tokens = text
    else:
        count = pooler.fewest_tokens((embed.query or "") + text)
        if count > longest:  # don't spend seconds tokenising a text that is too long
            return _too_long(embed, index, f"at least {count}", longest)
        try:
            tokens = (
                pooler.tokenize(text) if embed.query is None else pooler.pair(embed.query, text)
            )
        except WorkerError as error:
            return _unreadable(embed, index, error)
    if not tokens:
        return _wrong(embed, index, "has no tokens")
    if len(tokens) > longest:
        return _too_long(embed, index, str(len(tokens)), longest)
    return tokens


def unable(pooling: str, embed: Embed) -> Failure:
    """Return the failure of an Embed that a model of this pooling cannot serve."""
    error = wrong_model("embeddings" if embed.query is None else "scores", pooling)
    return Failure(error.code, error.message, param=error.param)


def _wrong(embed: Embed, index: int, what: str) -> Failure:
    return Failure("invalid_request", f"{_name(embed, index)} {what}.", param=_param(embed))


def _unreadable(embed: Embed, index: int, error: WorkerError) -> Failure:
    message = f"{_name(embed, index)}: {error.message}"
    return Failure(error.code, message, param=_param(embed), retry_after=error.retry_after)


def _too_long(embed: Embed, index: int, count: str, longest: int) -> Failure:
    what = "with its query " if embed.query is not None else ""
    return Failure(
        "context_length_exceeded",
        f"{_name(embed, index)} {what}has {count} tokens, and this model's maximum context length "
        f"is {longest} tokens. Shorten or split it, or raise CTX_SIZE where it can read more.",
        param=_param(embed),
    )


def _param(embed: Embed) -> str:
    return "input" if embed.query is None else "documents"


def _name(embed: Embed, index: int) -> str:
    """Return a text's name for messages: the API parameter and the text's index in it."""
    return f"{_param(embed)}[{index}]"
