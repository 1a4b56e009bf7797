"""A guard that keeps redirects of one trusted server from leading into the private network.

The server's own host may be anywhere: a mirror is often a private one. Every other host has to be
on the public internet or, if the server itself is in a private network, in such a one; it is
resolved here, and the connection goes to the address that was checked, even if the name resolves
differently by then. A public server never leads into the private network. The meaning of requests
is not known here. This module is imported when first used, as its HTTP client is.
"""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Callable
from contextlib import suppress

import httpx2

from gguf_worker.errors import ConfigError
from gguf_worker.models.source.addresses import (
    NotPublic,
    addresses_of,
    is_inside,
    is_private,
    is_public,
    public_addresses,
)

_NO_REUSE = httpx2.Limits(max_keepalive_connections=0)
"""Limits without reuse of connections: the pool tells them apart by IP address, not by name."""


class RedirectGuard(httpx2.BaseTransport):
    """A transport for an HTTP client that may follow redirects.

    Raises NotPublic where a redirect leads to an address that is not `allowed`, nor `private` as
    all those of the server itself are. `trusted`: the server's own URL; if it is https, only https
    is followed. Proxies of the environment are used; they resolve names themselves, so a request by
    proxy is only checked for localhost and for addresses, in every notation. Raises ConfigError
    where such a proxy cannot be used.
    """

    def __init__(
        self,
        trusted: str,
        *,
        resolve: Callable[[str, int], list[str]] = addresses_of,
        allowed: Callable[[str], bool] = is_public,
        private: Callable[[str], bool] = is_private,
    ) -> None:
        self._trusted = httpx2.URL(trusted)
        self._addresses_of = resolve
        self._allowed = allowed
        self._private = private
        self._own = httpx2.HTTPTransport()
        self._pinned = httpx2.HTTPTransport(limits=_NO_REUSE)
        self._proxied: dict[str, httpx2.HTTPTransport] = {}
        self._trust: ssl.SSLContext | None = None

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self._check_scheme(request.url)
        if (proxy := _proxy_for(request.url)) is not None:
            if not self._is_own(request.url) and is_inside(request.url.host, self._may_lead_to):
                raise NotPublic(f"{request.url.host} is not on the public internet")
            return self._by_proxy(proxy).handle_request(request)
        return self._by_address(request)

    def addresses(self, url: str) -> list[str] | None:
        """Return the addresses that a request may go to, in turn; None where it goes by a proxy.

        Raises NotPublic, and ConnectError where the host has no address.
        """
        parsed = httpx2.URL(url)
        self._check_scheme(parsed)
        return None if _proxy_for(parsed) is not None else self._addresses(parsed)

    @property
    def trust(self) -> ssl.SSLContext:
        """The certificates that requests are checked against."""
        if self._trust is None:
            self._trust = httpx2.create_ssl_context()
        return self._trust

    def close(self) -> None:
        for transport in (self._own, self._pinned, *self._proxied.values()):
            transport.close()

    def _check_scheme(self, url: httpx2.URL) -> None:
        if url.scheme != "https" and self._trusted.scheme == "https":
            raise NotPublic(f"{url.host} is to be asked without https")

    def _is_own(self, url: httpx2.URL) -> bool:
        return url.host == self._trusted.host

    def _addresses(self, url: httpx2.URL) -> list[str]:
        allowed = (lambda address: True) if self._is_own(url) else self._may_lead_to
        try:
            return public_addresses(url.host, _port_of(url), self._addresses_of, allowed)
        except OSError as exc:
            raise httpx2.ConnectError(f"{url.host} has no address") from exc

    def _by_address(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response of the first of the host's addresses that can be reached."""
        found = self._addresses(request.url)
        transport = self._own if self._is_own(request.url) else self._pinned
        for address in found[:-1]:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return transport.handle_request(_sent_to(address, request))
        return transport.handle_request(_sent_to(found[-1], request))

    def _may_lead_to(self, address: str) -> bool:
        return self._allowed(address) or (self._private(address) and self._is_in_private())

    def _is_in_private(self) -> bool:
        """Return whether all addresses of the server itself are private."""
        try:
            found = self._addresses_of(self._trusted.host, _port_of(self._trusted))
        except (OSError, UnicodeError):
            return False
        return bool(found) and all(self._private(address) for address in found)

    def _by_proxy(self, proxy: str) -> httpx2.HTTPTransport:
        if proxy not in self._proxied:
            try:
                self._proxied[proxy] = httpx2.HTTPTransport(proxy=proxy)
            except (ImportError, ValueError) as exc:
                raise ConfigError(
                    f"The proxy that the environment names is of {proxy.partition('://')[0]}, "
                    "which is not supported. Set http_proxy, https_proxy or all_proxy to a proxy "
                    "of http or https, or except the host in no_proxy."
                ) from exc
        return self._proxied[proxy]


def _port_of(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _sent_to(address: str, request: httpx2.Request) -> httpx2.Request:
    """Return the request to one of its host's addresses; `Host` and TLS keep the name."""
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )


def _proxy_for(url: httpx2.URL) -> str | None:
    """Return the proxy that the environment names for a URL; None for a direct connection."""
    if urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
