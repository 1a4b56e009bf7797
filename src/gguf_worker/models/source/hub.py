"""The Hugging Face Hub: which file a reference means, and that file's bytes.

The only module that talks to the Hub. It retries where that can help, and its errors say what to do
where it cannot. Disks, hashes and the GGUF format are not known here.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from gguf_worker.errors import DownloadFailed, ModelUnavailable
from gguf_worker.models.gguf import parts_of
from gguf_worker.models.source.addresses import NotPublic, addresses_of, is_public
from gguf_worker.models.source.hub_reference import (
    FORMS,
    HubFile,
    HubReference,
    read_hub_reference,
)
from gguf_worker.models.source.protocol import FixedPlace, SourceKind
from gguf_worker.models.source.rate_limit import asked_wait
from gguf_worker.models.source.reference import is_commit
from gguf_worker.models.source.remote import (
    Answer,
    Patience,
    Refused,
    RemoteFile,
    Transient,
    answer_of,
    direct_timeouts,
    reason,
    timeouts,
    trouble,
)
from gguf_worker.models.source.transfer import Transfer, read_range

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import ModelInfo
    from huggingface_hub.hf_api import RepoSibling

    from gguf_worker.models.source.direct import Route
    from gguf_worker.models.source.redirect_guard import RedirectGuard

log = logging.getLogger("gguf_worker.models")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"[0-9a-f]{40}")
_VERDICTS = frozenset({"GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound"})
"""The Hub's own words in X-Error-Code, which a mirror that sends on to the Hub passes back."""


class Hub:
    """A Hub, or a mirror that speaks its protocol. But for its transfers, used by one thread.

    `token` is sent to the endpoint's own host and never to one that it redirects to; those have to
    be on the public internet, as `resolve` and `allowed` decide, or in a private network as it is
    itself (see RedirectGuard). `timeout`: seconds without a byte until a connection counts as lost.
    """

    title = "the Hub"

    def __init__(
        self,
        endpoint: str,
        token: str | None,
        *,
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        resolve: Callable[[str, int], list[str]] = addresses_of,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._addresses_of = resolve
        self._allowed = allowed
        self._patience = Patience(
            "check the network, and HF_ENDPOINT if it is set", sleep=sleep, jitter=jitter
        )
        self._opened: httpx2.Client | None = None
        self._guard: RedirectGuard | None = None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def place(
        self, reference: HubReference, revision: str, sha256: str | None
    ) -> FixedPlace | None:
        """Return the place of one file of a commit, which never changes; None for anything else."""
        if isinstance(reference, HubFile) and is_commit(revision):
            return FixedPlace(revision, parts_of(reference.file)[0])
        return None

    def cacheable(self, reference: HubReference) -> HubReference:
        """Return the reference as it is: caches have the Hub's layout."""
        return reference

    def resolve(
        self,
        reference: HubReference,
        revision: str,
        *,
        sha256: str | None = None,
        brief: bool = False,
    ) -> tuple[RemoteFile, ...]:
        """Ask the Hub for the file that is meant, or all parts of a split model.

        `brief`: take seconds at most. Raises ModelUnavailable when there is no such repository,
        revision or file, or no access to it, ModelUnsupported for a projector, ConfigError when
        several files fit, DownloadFailed when the Hub cannot be reached.
        """
        info = self._patience.persevere(
            f"asking {self._endpoint} for {reference.repo}",
            lambda: self._info(reference.repo, revision, brief),
            brief=brief,
        )
        entries = _entries(info)
        file = reference.choose(list(entries), revision)
        commit = info.sha or ""
        return tuple(self._remote(reference.repo, commit, entries[part]) for part in parts_of(file))

    def _remote(self, repo: str, commit: str, entry: RepoSibling) -> RemoteFile:
        file = entry.rfilename
        sha256 = entry.lfs.sha256 if entry.lfs else None
        size = entry.lfs.size if entry.lfs else entry.size
        if not is_commit(commit) or not size or (sha256 and not _SHA256.fullmatch(sha256)):
            raise DownloadFailed(
                f"{self._endpoint} gave no usable metadata for {repo}/{file}. Check HF_ENDPOINT."
            )
        # For a file that is stored without LFS, only git's own hash is known.
        blob = entry.blob_id if sha256 is None and _BLOB.fullmatch(entry.blob_id or "") else None
        url = self._url(repo, file, commit)
        return RemoteFile(repo, file, commit, size, sha256, url, blob=blob)

    def open_range(
        self, remote: RemoteFile, offset: int, end: int | None = None
    ) -> Iterator[bytes]:
        """Yield the file's bytes from `offset` to its end, or up to `end`.

        Raises as `Ranges.range` does.
        """
        return read_range(self.transfer(remote), offset, remote.size if end is None else end)

    def transfer(self, remote: RemoteFile, connections: int = 1) -> Transfer:
        """Return the ranges of a file, for so many connections at most."""
        return Transfer(remote, self, self._patience, connections)

    # As the server of a transfer

    @contextmanager
    def ask(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Yield the answer at the end of all redirects; the token goes to the endpoint alone."""
        with self._answer(url, headers) as response:
            yield answer_of(response)

    def check(self, answer: Answer, remote: RemoteFile) -> None:
        """Raise ModelUnavailable, DownloadFailed or Transient unless it brings the bytes."""
        if answer.status in (200, 206):
            return
        self._check_verdict(answer)
        name = f"{remote.repo}/{remote.file}"
        if answer.status in (401, 403):
            raise self._no_access(remote.repo, answer.status)
        if answer.status == 404:
            raise ModelUnavailable(f"{name} is no longer on {self._endpoint}. Check MODEL.")
        raise trouble(answer.status, answer.headers, f"fetching {name}")

    def version(self, answer: Answer) -> None:
        """Return None: what a commit holds never changes."""

    def route(self, url: str) -> Route | None:
        """Return the checked way to an address, None where a proxy is between."""
        self._client()
        assert self._guard is not None
        with _in_words(self._endpoint):
            addresses = self._guard.addresses(url)
        if addresses is None:
            return None
        from gguf_worker.models.source.direct import Route

        token = self._headers() if self._is_own(url) else {}
        trust = self._guard.trust if url.startswith("https:") else None
        return Route(url, tuple(addresses), trust, token, direct_timeouts(self._timeout))

    def _info(self, repo: str, revision: str, brief: bool) -> ModelInfo:
        """Request a repository's metadata from the Hub.

        The request of huggingface_hub itself would follow any redirect.
        """
        from huggingface_hub import ModelInfo

        url = f"{self._endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}"
        with self._answer(url, {}, params={"blobs": "true"}, brief=brief) as response:
            if response.status_code != 200:
                self._check_verdict(answer_of(response))
                raise self._no_metadata(response, repo, revision)
            try:
                response.read()
                return ModelInfo(**response.json())  # type: ignore[no-untyped-call]
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                # The login page of a hotel's network or of a proxy comes with status 200.
                raise Transient(f"its answer is not the Hub's ({type(exc).__name__})") from exc

    @contextmanager
    def _answer(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        brief: bool = False,
    ) -> Iterator[httpx2.Response]:
        """Yield the response at the end of all redirects, its body not yet read."""
        token = self._headers() if self._is_own(url) else {}
        timeout = timeouts(self._timeout, brief=brief)
        with (
            _in_words(self._endpoint),
            self._client().stream(
                "GET", url, headers={**headers, **token}, params=params, timeout=timeout
            ) as response,
        ):
            yield response

    def _headers(self) -> dict[str, str]:
        """Return the headers for the endpoint's own host."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _is_own(self, url: str) -> bool:
        return _host_of(url) == _host_of(self._endpoint)

    def _client(self) -> httpx2.Client:
        if self._opened is None:
            import httpx2

            from gguf_worker.models.source.redirect_guard import RedirectGuard

            self._guard = RedirectGuard(
                self._endpoint, resolve=self._addresses_of, allowed=self._allowed
            )
            self._opened = httpx2.Client(
                transport=self._guard, follow_redirects=True, max_redirects=5
            )
        return self._opened

    def _url(self, repo: str, file: str, commit: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repo, file, revision=commit, endpoint=self._endpoint)

    def _check_verdict(self, answer: Answer) -> None:
        """Raise Transient for a refusal that is not the Hub's.

        A host that it redirects to refuses addresses whose signature is too old, or anyone for some
        minutes; the next try gets a new address from the Hub.
        """
        if self._is_own(answer.url) or answer.headers.get("X-Error-Code") in _VERDICTS:
            return
        raise Refused(
            f"{urlsplit(answer.url).hostname}, where {self._endpoint} sends on to, answered with "
            f"status {answer.status}",
            asked_wait(answer.headers),
        )

    def _no_metadata(self, response: httpx2.Response, repo: str, revision: str) -> Exception:
        status = response.status_code
        if response.headers.get("X-Error-Code") == "RevisionNotFound":
            return ModelUnavailable(
                f"the repository {repo} has no revision {revision!r}. Check MODEL_REVISION: it "
                "takes a branch, a tag or a commit."
            )
        if status in (401, 403):
            return self._no_access(repo, status)
        if status == 404:
            return ModelUnavailable(
                f"there is no repository {repo} on {self._endpoint}. Check the spelling of MODEL."
            )
        return trouble(status, response.headers, f"asking for {repo}")

    def _no_access(self, repo: str, status: int) -> ModelUnavailable:
        page = f"{self._endpoint}/{repo}"
        if self._token is None:
            return ModelUnavailable(
                f"{repo} does not exist, or is private or gated, and no HF_TOKEN is set (status "
                f"{status}). Check the spelling of MODEL; else accept the licence on {page} and "
                "set HF_TOKEN."
            )
        return ModelUnavailable(
            f"HF_TOKEN gives no access to {repo} (status {status}). Check that the token is valid "
            "and may read this repository, and that its account has accepted the licence on "
            f"{page}."
        )


@contextmanager
def _in_words(endpoint: str) -> Iterator[None]:
    """Turn the errors of a request into DownloadFailed or Transient."""
    import httpx2

    try:
        yield
    except httpx2.TooManyRedirects as exc:
        raise DownloadFailed(f"{endpoint} redirects too often. Check HF_ENDPOINT.") from exc
    except httpx2.RequestError as exc:
        raise Transient(reason(exc)) from exc
    except NotPublic as exc:
        raise DownloadFailed(
            f"{endpoint} redirects to a place that is not followed: {exc}. Only a mirror in a "
            "private network may send on to one; check HF_ENDPOINT."
        ) from exc


def _host_of(url: str) -> tuple[str | None, int | None]:
    """Return the host that a URL names, and its port, None if it is that of the scheme."""
    parts = urlsplit(url)
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.hostname, None if parts.port == usual else parts.port


def _entries(info: ModelInfo) -> dict[str, RepoSibling]:
    """Return the files of a repository by their names."""
    return {entry.rfilename: entry for entry in info.siblings or ()}


KIND = SourceKind(
    name="hub",
    scheme="",
    forms=FORMS,
    read=read_hub_reference,
    open=lambda access: Hub(access.hub_endpoint, access.hub_token),
)
