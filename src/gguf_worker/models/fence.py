"""What keeps the redirects of one trusted server out of the inside of the network.

The server's own host may be anywhere: a mirror is often a private one. Every other host has to be on the public
internet; it is resolved here, and the connection goes to the address that was looked at, whatever the name
means by then. What is asked, and of whom, is not known here. Imported when first used, as its HTTP client is.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import httpx2

from gguf_worker.models.addresses import Inside, addresses_of, is_address, is_public, public_address

_NO_REUSE = httpx2.Limits(max_keepalive_connections=0)
"""Connections that go to an address by number are not told apart by the names that they were made for."""


class Fence(httpx2.BaseTransport):
    """A transport for an HTTP client that may follow redirects. Raises Inside where one leads astray.

    `trusted`: the server's own address; where it is of https, nothing else is followed. Proxies of the
    environment are used; they resolve names themselves, so of what goes by one only addresses are looked at.
    """

    def __init__(
        self,
        trusted: str,
        *,
        resolve: Callable[[str, int], list[str]] = addresses_of,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self._trusted = httpx2.URL(trusted)
        self._resolve = resolve
        self._allowed = allowed
        self._plain = httpx2.HTTPTransport()
        self._pinned = httpx2.HTTPTransport(limits=_NO_REUSE)
        self._proxied: dict[str, httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if url.scheme != "https" and self._trusted.scheme == "https":
            raise Inside(f"{url.host} is to be asked without https")
        own = url.host == self._trusted.host
        if (proxy := _proxy_for(url)) is not None:
            if not own and is_address(url.host) and not self._allowed(url.host):
                raise Inside(f"{url.host} is not on the public internet")
            return self._by_proxy(proxy).handle_request(request)
        if own:
            return self._plain.handle_request(request)
        return self._pinned.handle_request(self._to_an_address(request))

    def close(self) -> None:
        for transport in (self._plain, self._pinned, *self._proxied.values()):
            transport.close()

    def _to_an_address(self, request: httpx2.Request) -> httpx2.Request:
        """The same request, to one of the addresses that its host has; `Host` and TLS keep the name."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            address = public_address(url.host, port, self._resolve, self._allowed)
        except OSError as exc:
            raise httpx2.ConnectError(f"{url.host} has no address", request=request) from exc
        return httpx2.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )

    def _by_proxy(self, proxy: str) -> httpx2.HTTPTransport:
        if proxy not in self._proxied:
            self._proxied[proxy] = httpx2.HTTPTransport(proxy=proxy)
        return self._proxied[proxy]


def _proxy_for(url: httpx2.URL) -> str | None:
    """What the environment says about the way to an address."""
    if urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
