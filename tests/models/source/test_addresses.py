from __future__ import annotations

import pytest

from gguf_worker.models.source.addresses import (
    addresses_of,
    in_turn,
    is_inside,
    is_private,
    is_public,
)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_an_address_of_the_public_internet_is_one(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::1",
        "2002:7f00:1::",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a9fe:a9fe",
        "192.88.99.1",
        "fec0::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "models.example",
        "",
    ],
)
def test_private_local_and_metadata_addresses_are_not_however_they_are_written(
    address: str,
) -> None:
    assert not is_public(address)


def test_numbers_that_mean_an_address_are_resolved_before_they_are_looked_at() -> None:
    for name in ("127.1", "2130706433", "0x7f000001", "localhost"):
        assert not any(is_public(address) for address in addresses_of(name, 443))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "169.254.169.254.", "2852039166", "0xa9.254.169.254", "0251.0376.169.254"),
        *("127.1", "0x7f.1", "::1", "localhost", "LocalHost.", "a.localhost", "a.localhost."),
    ],
)
def test_what_can_only_be_inside_needs_no_resolver(host: str) -> None:
    assert is_inside(host, is_public)


@pytest.mark.parametrize("host", ["cdn.test", "8.8.8.8", "134744072", "localhost.test", "7f"])
def test_any_other_name_may_be_outside(host: str) -> None:
    assert not is_inside(host, is_public)


@pytest.mark.parametrize(
    ("found", "tried"),
    [
        (["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"], ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]),
        (["1.1.1.1", "::1", "::2"], ["1.1.1.1", "::1", "::2"]),
        (["1.1.1.3", "1.1.1.1"], ["1.1.1.3", "1.1.1.1"]),
        ([], []),
    ],
    ids=str,
)
def test_the_families_of_addresses_take_turns(found: list[str], tried: list[str]) -> None:
    assert in_turn(found) == tried


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "172.16.0.1", "192.168.7.7", "100.64.0.1", "fd12::1"]
)
def test_an_address_of_a_network_of_ones_own_is_private(address: str) -> None:
    assert is_private(address)
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254", "100.100.100.200", "224.0.0.1"),
        *("168.63.129.16", "::1", "fe80::1", "fd00:ec2::254", "fd20:ce::254", "::ffff:10.0.0.1"),
        *("", "mirror.test"),
    ],
)
def test_what_is_public_or_of_this_machine_or_of_the_cloud_is_not_private(address: str) -> None:
    assert not is_private(address)
