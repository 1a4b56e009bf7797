"""A model at an https address: its reference, its length and its bytes.

The address may come from a stranger, so each host name on the way, redirects included, is resolved
here and all of its addresses are checked; the connection then goes to a checked address, even if
the name resolves differently by then. No token is ever sent, and no message has the query string,
which is often a signature. Proxies of the environment are not used, since they resolve names
themselves. Hashes and disks are not known here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote, urljoin, urlsplit

from gguf_worker.errors import DownloadFailed, ModelUnavailable
from gguf_worker.models.gguf import parts_of
from gguf_worker.models.source.addresses import (
    NotPublic,
    addresses_of,
    is_public,
    public_addresses,
)
from gguf_worker.models.source.protocol import FixedPlace, SourceKind
from gguf_worker.models.source.reference import NotAReference, Reference, is_plain_path
from gguf_worker.models.source.remote import (
    Answer,
    Patience,
    RemoteFile,
    Transient,
    answer_of,
    direct_timeouts,
    reason,
    timeouts,
    trouble,
    whole_length,
)
from gguf_worker.models.source.transfer import Transfer, read_range

if TYPE_CHECKING:
    import ssl

    import httpx2

    from gguf_worker.models.source.direct import Route

log = logging.getLogger("gguf_worker.models")

WEB_FOLDER = "+url/sha256"
"""The store's folder for such models; no repository of the Hub can have its name."""

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True)
class WebFile(Reference):
    """A file at an https address; `name` is the file's name.

    The query string may be a secret.
    """

    source: ClassVar[str] = "web"
    needs_sha256: ClassVar[bool] = True
    hides_secrets: ClassVar[bool] = True

    url: str
    name: str

    def __str__(self) -> str:
        return self.url.partition("?")[0]

    @property
    def folder(self) -> str:
        return WEB_FOLDER

    def version(self, revision: str, sha256: str | None) -> str:
        return sha256 or "any hash"

    def among(self, files: Sequence[str], commit: str) -> Sequence[str]:
        return (self.name,) if self.name in files else ()


def read_web_reference(given: str) -> WebFile:
    """Read an https address that ends in a file's name. Raises NotAReference."""
    shown = given.partition("?")[0]
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not given.isascii() or not given.isprintable() or " " in given:
        raise NotAReference(shown, "is no web address")
    if parts.username is not None or parts.fragment:
        raise NotAReference(host, "has a password or a fragment in its address")
    if host in _HUB_HOSTS:
        raise NotAReference(
            shown,
            "is a URL of the Hub; leave out the server's part, and write org/repo/file.gguf",
        )
    name = unquote(parts.path).rpartition("/")[2]
    if not name.lower().endswith(".gguf") or not is_plain_path(name):
        raise NotAReference(shown, "does not end in the name of a .gguf file")
    if len(parts_of(name)) > 1:
        raise NotAReference(
            shown, "is a part of a split model, which is fetched from the Hub or read from a disk"
        )
    return WebFile(given, name)


class Web:
    """Servers of the public internet. Holds no connection between calls.

    `resolve` returns all addresses of a name, `allowed` whether one of them may be connected to.
    `timeout`: seconds without a byte until a connection counts as lost.
    """

    title = "its server"

    def __init__(
        self,
        *,
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        resolve: Callable[[str, int], list[str]] = addresses_of,
        allowed: Callable[[str], bool] = is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout
        self._patience = Patience(
            "check the address in MODEL and the network", sleep=sleep, jitter=jitter
        )
        self._addresses_of = resolve
        self._allowed = allowed
        self._trust = trust

    def close(self) -> None:
        """Do nothing: no connection is left open."""

    def place(self, reference: WebFile, revision: str, sha256: str | None) -> FixedPlace | None:
        """Return the place by the given hash, since an address does not determine the content."""
        return FixedPlace(sha256, reference.name) if sha256 else None

    def cacheable(self, reference: WebFile) -> None:
        """Return None: caches hold files of the Hub."""

    def resolve(
        self,
        reference: WebFile,
        revision: str,
        *,
        sha256: str | None = None,
        brief: bool = False,
    ) -> tuple[RemoteFile]:
        """Ask the server for the file's length. Raises ModelUnavailable or DownloadFailed.

        `brief` changes nothing: the file's place is fixed, so the store asks only without a copy.
        """
        commit = sha256 or ""

        def ask() -> tuple[RemoteFile]:
            # Not HEAD: a signed address is valid for one method only.
            with self.ask(reference.url, {"Range": "bytes=0-0"}) as answer:
                _check(answer, str(reference))
                size = whole_length(answer)
                if not size:
                    raise DownloadFailed(
                        f"the server of {reference} does not say how long the file is, so that it "
                        "cannot be fetched safely. Use another server, or put the file on the "
                        "volume."
                    )
                version = _version(answer)
                file = RemoteFile(
                    WEB_FOLDER, reference.name, commit, size, commit, reference.url, version
                )
                return (file,)

        return self._patience.persevere(f"asking for {reference}", ask)

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
        """Yield the answer at the end of all redirects, each to a checked address."""
        with self._get(url, headers) as (where, response):
            yield replace(answer_of(response), url=where)

    def check(self, answer: Answer, remote: RemoteFile) -> None:
        """Raise ModelUnavailable, DownloadFailed or Transient unless it brings the bytes."""
        _check(answer, remote.file)

    def version(self, answer: Answer) -> str | None:
        """Return the server's identifier of the content; a weak ETag does not identify bytes."""
        return _version(answer)

    def route(self, url: str) -> Route:
        """Return the checked way to an address."""
        import httpx2

        from gguf_worker.models.source.direct import Route

        found = self._checked_addresses(url)
        if self._trust is None:
            self._trust = httpx2.create_ssl_context(trust_env=False)
        return Route(url, tuple(found), self._trust, {}, direct_timeouts(self._timeout))

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[str, httpx2.Response]]:
        """Yield the address at the end of all redirects, and its response, not yet read."""
        import httpx2

        verify = self._trust if self._trust is not None else True
        with httpx2.Client(
            timeout=timeouts(self._timeout), trust_env=False, verify=verify
        ) as client:
            for _ in range(_MOST_REDIRECTS + 1):
                hop = self._checked_hop(url)
                try:
                    with closing(_asked(client, hop, headers)) as response:
                        if response.status_code not in _REDIRECTS:
                            yield url, response
                            return
                        url = _joined(url, response.headers.get("Location", ""))
                except httpx2.RequestError as exc:
                    raise Transient(f"{hop.host}: {reason(exc)}") from exc
        raise DownloadFailed(f"the server redirects more than {_MOST_REDIRECTS} times.")

    def _checked_hop(self, url: str) -> _Hop:
        """Return the request for `url`, to addresses that were checked.

        Raises DownloadFailed or Transient.
        """
        found = self._checked_addresses(url)
        parts = urlsplit(url)
        hosts = [f"[{address}]" if ":" in address else address for address in found]
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        urls = tuple(f"https://{host}:{parts.port or 443}{path}" for host in hosts)
        return _Hop(urls, parts.netloc, parts.hostname or "")

    def _checked_addresses(self, url: str) -> list[str]:
        """Return the addresses of an address's host, which are all public.

        Raises DownloadFailed or Transient.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 443
        except ValueError:
            parts, port = urlsplit(""), 0
        plain = url.isascii() and url.isprintable() and parts.username is None
        if parts.scheme != "https" or not parts.hostname or not plain:
            raise DownloadFailed(
                "the server redirects to what is no https address without a password, and only "
                "such ones are followed. Put the file on the volume, or use another server."
            )
        try:
            return public_addresses(parts.hostname, port, self._addresses_of, self._allowed)
        except OSError as exc:
            raise Transient(f"{parts.hostname} has no address ({type(exc).__name__})") from exc
        except NotPublic as exc:
            raise DownloadFailed(
                f"{exc}. Models are fetched from public servers only; put the file on the volume."
            ) from exc


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request of a chain of redirects: its URLs by address, its host and the host's name."""

    urls: tuple[str, ...]
    host: str
    name: str


def _asked(client: httpx2.Client, hop: _Hop, headers: Mapping[str, str]) -> httpx2.Response:
    """Return the response of the first address that can be reached, its body not yet read."""
    import httpx2

    requests = [
        client.build_request(
            "GET",
            url,
            headers={**headers, "Host": hop.host, "Accept-Encoding": "identity"},
            extensions={"sni_hostname": hop.name},
        )
        for url in hop.urls
    ]
    for request in requests[:-1]:
        with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
            return client.send(request, stream=True)
    return client.send(requests[-1], stream=True)


def _joined(url: str, location: str) -> str:
    """Return the address that a redirect leads to; empty where it cannot be read."""
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def _version(answer: Answer) -> str | None:
    """Return the server's identifier of this content; a weak ETag does not identify the bytes."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified") or None


def _check(answer: Answer, what: str) -> None:
    status = answer.status
    if status in (200, 206):
        return
    if status in (401, 403):
        raise ModelUnavailable(
            f"the server of {what} refuses it (status {status}). A signed address may have "
            "expired; tokens are not sent. Use a new address, or put the file on the volume."
        )
    if status in (404, 410):
        raise ModelUnavailable(f"{what} is not there (status {status}). Check MODEL.")
    raise trouble(status, answer.headers, f"fetching {what}")


KIND = SourceKind(
    name="web",
    scheme="https",
    forms=("an address (https://example.com/my-model.gguf) with MODEL_SHA256",),
    read=read_web_reference,
    open=lambda access: Web(),
)
