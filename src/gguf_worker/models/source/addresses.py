"""Network addresses: those that an untrusted name may lead to, and the order to try them in."""

from __future__ import annotations

import ipaddress
import itertools
import socket
from collections.abc import Callable, Sequence

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    ipaddress.ip_address(each)
    for each in ("168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254")
)
"""Addresses that look public, or like a network's own, but at which a cloud gives a machine its
metadata and secrets."""
_PRIVATE = tuple(
    ipaddress.ip_network(each)
    for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
"""The networks that organisations number themselves."""
_RESERVED = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "fec0::/10"),
        *("::/96", "::ffff:0:0:0/96"),  # old ways to write an IPv4 address
    )
)
"""Networks that some releases of Python wrongly count as global."""
_MOST_TRIED = 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotPublic(Exception):
    """An untrusted name leads out of the public internet; the message has no full stop."""


def public_addresses(
    host: str,
    port: int,
    resolve: Callable[[str, int], list[str]],
    allowed: Callable[[str], bool],
) -> list[str]:
    """Return the addresses to connect to for a host name, to be tried in order.

    They are those that `resolve` finds, as `in_turn` has them. Raises NotPublic unless `allowed`
    accepts all that it finds, and OSError where the name cannot be resolved.
    """
    try:
        addresses = resolve(host, port)
    except UnicodeError as exc:
        raise OSError(f"{host} is no name") from exc
    refused = [address for address in addresses if not allowed(address)]
    if refused or not addresses:
        raise NotPublic(
            f"{host} is at {', '.join(refused) or 'no address'}, which is not on the public "
            "internet"
        )
    return in_turn(addresses)


def in_turn(addresses: Sequence[str]) -> list[str]:
    """Return a host's addresses with the families alternating, the resolver's first choice first.

    One family is often out of reach as a whole. Very many addresses are cut off.
    """
    families: list[list[str]] = [[], []]
    for address in addresses:
        families[(":" in address) is not (":" in addresses[0])].append(address)
    turns = itertools.zip_longest(*families)
    return [each for turn in turns for each in turn if each is not None][:_MOST_TRIED]


def is_inside(host: str, allowed: Callable[[str], bool]) -> bool:
    """Return whether a host is localhost, or an address that is not `allowed`.

    An address is recognised in every notation; no resolver is asked.
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address_in(name)
    return address is not None and not allowed(address)


def _address_in(name: str) -> str | None:
    """Return the address that a name spells, in any notation that resolvers read; None if none."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(name))
    except (OSError, ValueError):
        return None


def addresses_of(host: str, port: int) -> list[str]:
    """Return all addresses of a name, the resolver's first choice first.

    Raises OSError where it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_public(text: str) -> bool:
    """Return whether a text is an address of the public internet.

    Private, loopback and link-local ones are not, nor those of a cloud's metadata.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # an address with a zone is link-local
        return False
    return all(
        each.is_global
        and not each.is_multicast
        and each not in _METADATA
        and not any(each in network for network in _RESERVED)
        for each in (address, *_embedded(address))
    )


def is_private(text: str) -> bool:
    """Return whether a text is an address of a network that its owner numbers.

    Those of this machine alone, of its link and of a cloud's metadata are not.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address not in _METADATA and any(address in network for network in _PRIVATE)


def _embedded(address: _Address) -> list[_Address]:
    """Return the IPv4 addresses inside an IPv6 one: mapped, or of 6to4, Teredo or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    teredo = address.teredo or ()
    nat64 = [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in _NAT64 else []
    each = (address.ipv4_mapped, address.sixtofour, *teredo, *nat64)
    return [inner for inner in each if inner is not None]
