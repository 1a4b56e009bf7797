"""Which addresses of the network a stranger's name may lead to: those of the public internet."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Where clouds tell a machine its own secrets, as far as that is a public address."""
_RESERVED = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48")))
"""What not every release of Python calls anything but global."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Inside(Exception):
    """Somebody's name leads to where a stranger's name must not; a sentence without its stop."""


def public_address(
    host: str,
    port: int,
    resolve: Callable[[str, int], list[str]],
    allowed: Callable[[str], bool],
) -> str:
    """The address to connect to for a name: its first, if `allowed` says yes to all that `resolve` finds.

    Raises Inside, and OSError where it has none.
    """
    try:
        addresses = resolve(host, port)
    except UnicodeError as exc:
        raise OSError(f"{host} is no name") from exc
    refused = [address for address in addresses if not allowed(address)]
    if refused or not addresses:
        raise Inside(
            f"{host} is at {', '.join(refused) or 'no address'}, which is not on the public internet"
        )
    return addresses[0]


def is_address(host: str) -> bool:
    """Is it an address, and no name?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def addresses_of(host: str, port: int) -> list[str]:
    """All addresses of a name, the resolver's first choice first. Raises OSError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_public(text: str) -> bool:
    """Is it an address of the public internet: not private, loopback, link-local or a cloud's metadata?"""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # an address with a zone is of a link
        return False
    return all(
        each.is_global
        and not each.is_multicast
        and each not in _METADATA
        and not any(each in network for network in _RESERVED)
        for each in (address, *_inside(address))
    )


def _inside(address: _Address) -> list[_Address]:
    """The IPv4 addresses that an IPv6 one is another way to write, or leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    teredo = address.teredo or ()
    nat64 = [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in _NAT64 else []
    each = (address.ipv4_mapped, address.sixtofour, *teredo, *nat64)
    return [inner for inner in each if inner is not None]
