"""The tree of errors that callers get to see, each with a stable code.

    WorkerError                     code, HTTP status, OpenAI type, retryable
    ├── RequestError                the caller has to change something
    │   ├── InvalidRequest          invalid_request             400
    │   ├── ContextLengthExceeded   context_length_exceeded     400
    │   ├── Unauthorized            invalid_api_key             401
    │   ├── ModelNotFound           model_not_found             404
    │   ├── UnknownRoute            unknown_route               404
    │   └── PayloadTooLarge         payload_too_large           413
    ├── Overloaded                  overloaded                  503, retry
    ├── DeadlineExceeded            deadline_exceeded           504
    ├── RequestCancelled            cancelled                   499
    ├── EngineError                 the engine process failed
    │   ├── EngineInterrupted       engine_interrupted          503, retry
    │   ├── EngineUnavailable       engine_unavailable          503, retry
    │   ├── GenerationFailed        generation_failed           500
    │   └── RequestQuarantined      request_quarantined         500
    ├── StartError                  the worker cannot start; `permanent`: nor on any other host
    │   ├── ConfigError             invalid_configuration
    │   ├── ModelUnavailable        model_unavailable, transient where a disk fails
    │   ├── ModelCorrupt            model_corrupt
    │   ├── ModelUnsupported        model_unsupported
    │   ├── DownloadFailed          download_failed, transient
    │   ├── DiskFull                disk_full, transient
    │   └── EngineStartFailed       engine_start_failed, transient unless said otherwise
    ├── ModelInUse                  model_in_use                409
    └── InternalError               internal_error              500

This module knows no wire format beyond OpenAI's four error fields. It alone says which of the
system's own errors may pass.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, Self


class WorkerError(Exception):
    """A failure with a stable `code`; `str(error)` is fit to show to the caller."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def replaced(
        self,
        *,
        message: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> Self:
        """Return a copy of this error in which the given values replace its own."""
        other = copy.copy(self)
        if message is not None:
            other.message, other.args = message, (message,)
        if param is not None:
            other.param = param
        if retry_after is not None:
            other.retry_after = retry_after
        return other

    def public(self) -> dict[str, str | None]:
        """Return OpenAI's error object: message, type, param, code."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }


class RequestError(WorkerError):
    """The caller has to change something."""

    code = "invalid_request"
    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    pass


class ContextLengthExceeded(RequestError):
    code = "context_length_exceeded"


class Unauthorized(RequestError):
    code = "invalid_api_key"
    status = 401
    type = "authentication_error"


class ModelNotFound(RequestError):
    code = "model_not_found"
    status = 404


class UnknownRoute(RequestError):
    code = "unknown_route"
    status = 404


class PayloadTooLarge(RequestError):
    code = "payload_too_large"
    status = 413


class Overloaded(WorkerError):
    code = "overloaded"
    status = 503
    type = "overloaded_error"
    retryable = True


class DeadlineExceeded(WorkerError):
    code = "deadline_exceeded"
    status = 504
    type = "timeout_error"


class RequestCancelled(WorkerError):
    code = "cancelled"
    status = 499
    type = "cancelled_error"


class EngineError(WorkerError):
    """The engine process failed."""


class EngineInterrupted(EngineError):
    code = "engine_interrupted"
    status = 503
    retryable = True


class EngineUnavailable(EngineError):
    code = "engine_unavailable"
    status = 503
    retryable = True


class GenerationFailed(EngineError):
    code = "generation_failed"


class RequestQuarantined(EngineError):
    code = "request_quarantined"


class StartError(WorkerError):
    """The worker has no model to serve.

    `permanent`: no try of any host can help, because the settings or the model are to blame. What a
    machine, a disk or a network is to blame for is not permanent.
    """

    status = 503
    permanent: bool = True

    def __init__(
        self,
        message: str,
        *,
        permanent: bool | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Take `permanent` from the class unless it is given."""
        super().__init__(message, param=param, retry_after=retry_after)
        if permanent is not None:
            self.permanent = permanent


class ConfigError(StartError):
    code = "invalid_configuration"


class ModelUnavailable(StartError):
    code = "model_unavailable"


class ModelCorrupt(StartError):
    code = "model_corrupt"


class ModelUnsupported(StartError):
    code = "model_unsupported"


class DownloadFailed(StartError):
    code = "download_failed"
    permanent = False


class DiskFull(StartError):
    code = "disk_full"
    permanent = False


class EngineStartFailed(StartError):
    code = "engine_start_failed"
    permanent = False

    def __init__(
        self, message: str, *, permanent: bool | None = None, lacking: bool = False
    ) -> None:
        """Make the error; `lacking`: this machine had too little of something, such as memory.

        Such an error says nothing about the model's file.
        """
        super().__init__(message, permanent=permanent)
        self.lacking = lacking


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The system's errors of a disk that takes no more."""
_LASTING = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM),
    }
)
"""The system's errors that are the same on every host: a path is wrong, or not allowed."""


def is_lasting(error: OSError) -> bool:
    """Tell whether an error of the system is the same on every host.

    All others may pass. So may a file system that is read-only: the kernel makes it so when its
    disk fails.
    """
    return error.errno in _LASTING


def raise_passing(error: OSError) -> None:
    """Raise the error unless it is lasting; a handler for `os.walk`."""
    if not is_lasting(error):
        raise error


def start_error(error: OSError, what: str) -> StartError:
    """Return the error of a start that the system's error ended; `what` failed: "reading x".

    A file that is not there may have been there: who is sure that it never was raises an error of
    its own.
    """
    named = f" ({error.filename})" if error.filename else ""
    reason = f"{what} failed: {error.strerror or error}{named}."
    if error.errno in NO_ROOM:
        return DiskFull(f"{reason} Make room there, or use a larger disk or volume.")
    if is_lasting(error) and error.errno != errno.ENOENT:
        return ModelUnavailable(f"{reason} Check the path, and that this process may use it.")
    return ModelUnavailable(f"{reason} It may work later, or on another machine.", permanent=False)


@contextmanager
def as_start_errors(what: str) -> Iterator[None]:
    """Raise errors of the system as StartError; `what` is done in the block: "reading x"."""
    try:
        yield
    except OSError as exc:
        raise start_error(exc, what) from exc


class ModelInUse(WorkerError):
    """A stored model cannot be removed, because a worker uses it."""

    code = "model_in_use"
    status = 409


class InternalError(WorkerError):
    pass


def wrong_model(wanted: Literal["text", "embeddings", "scores"], pooling: str) -> InvalidRequest:
    """Return the refusal of a request that a model of this `pooling` never serves.

    `pooling`: "rank" (scores), "none" (text only), or how embeddings are made. The engine's two
    ends both refuse such requests, and callers read the same text from either.
    """
    if wanted == "text":
        purpose = "scores of documents" if pooling == "rank" else "embeddings"
        message = (
            f"This model writes no text: it is served for {purpose}. Set MODEL to a language "
            "model, or POOLING=none where this is one."
        )
    elif wanted == "scores":
        message = (
            "This model gives no scores of documents: it is no reranker. Set MODEL to one, with "
            "POOLING=rank where its file does not say so."
        )
    elif pooling == "rank":
        message = "This model is a reranker: it gives scores of documents, and no embeddings."
    else:
        message = (
            "This model is served for text generation, and gives no embeddings. Set MODEL to an "
            "embedding model, or POOLING to mean, cls or last to have embeddings of this one too."
        )
    return InvalidRequest(message, param="model")


def _all_codes() -> dict[str, type[WorkerError]]:
    found: dict[str, type[WorkerError]] = {}
    pending: list[type[WorkerError]] = [WorkerError]
    while pending:
        error = pending.pop()
        pending.extend(error.__subclasses__())
        if not error.__subclasses__():
            found[error.code] = error
    return found


ERRORS_BY_CODE: dict[str, type[WorkerError]] = _all_codes()
"""Every leaf of the tree by its stable code."""
