"""Which addresses are public, and which hosts are addresses, whatever they look like."""

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.server.addresses import (
    SPECIAL_V4,
    SPECIAL_V6,
    UNICAST_V6,
    Address,
    is_public,
    parse_host,
)

v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(IPv6Address) | st.integers(
    int(UNICAST_V6.network_address), int(UNICAST_V6.broadcast_address)
).map(IPv6Address)


def within(network: IPv4Network | IPv6Network) -> st.SearchStrategy[Address]:
    return st.integers(0, network.num_addresses - 1).map(lambda n: network[n])


special = st.sampled_from(SPECIAL_V4).flatmap(within) | st.sampled_from(SPECIAL_V6).flatmap(within)

EMBEDDINGS = {
    "v4-mapped": lambda n: int(IPv6Address("::ffff:0:0")) | n,
    "v4-compatible": lambda n: n,
    "NAT64": lambda n: int(IPv6Address("64:ff9b::")) | n,
    "local NAT64": lambda n: int(IPv6Address("64:ff9b:1::")) | n,
    "6to4": lambda n: int(IPv6Address("2002::")) | n << 80,
    "Teredo server": lambda n: int(IPv6Address("2001::")) | n << 64,
    "Teredo client": lambda n: int(IPv6Address("2001::")) | n ^ 0xFFFFFFFF,
}


@pytest.mark.parametrize(
    "text",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
        *("126.255.255.255", "128.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255"),
        *("192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
        *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00::1", "2001:200::", "2003::"),
    ],
)
def test_public(text: str) -> None:
    assert is_public(text)


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254"),
        *("172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1"),
        *("64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1"),
        *("5f00::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
        # No addresses as ``ipaddress`` reads them: nobody connects to what may be one.
        *("2130706433", "0x8.8.8.8", "8.8.8", "08.8.8.8", "8.8.8.8.", "", "example.com"),
    ],
)
def test_not_public(text: str) -> None:
    assert not is_public(text)


@given(special)
def test_no_address_of_a_special_network_is_public(address: Address) -> None:
    assert not is_public(address)
    assert not is_public(str(address))


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@given(address=v4)
def test_no_address_that_wraps_another_is_public(embedding: str, address: IPv4Address) -> None:
    """Not even if that one is."""
    assert not is_public(IPv6Address(EMBEDDINGS[embedding](int(address))))


@given(v4 | v6)
def test_what_is_public_is_so_for_the_standard_library(address: Address) -> None:
    """It knows fewer special networks, but must not know one that is missing here."""
    if is_public(address):
        assert address.is_global
        for kind in ("multicast", "reserved", "unspecified", "loopback", "link_local", "private"):
            assert not getattr(address, f"is_{kind}"), kind


# Hosts.


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("10.66051", "10.1.2.3"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"),
        ("8.8.8.8", "8.8.8.8"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:7f00:1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_host_that_is_an_address(host: str, address: str) -> None:
    assert str(parse_host(host)) == address


@pytest.mark.parametrize(
    "host",
    [
        *("example.com", "localhost", "example.com.", "a_b.c-d", "1.example", "0x7f.example"),
        *("xn--bcher-kva.example", "127.0.0.1.nip.io", "1e3", "dead.beef", "x" * 63),
    ],
)
def test_a_host_that_is_a_name(host: str) -> None:
    assert parse_host(host) is None


@pytest.mark.parametrize(
    "host",
    [
        *("", ".", "..", "a..b", ".a", "a b", "%31.com", "a/b", "bücher.example", "x" * 64),
        *("1.2.3.4.5", "256.1.1.1", "1.16777216", "1.2.3.256", "4294967296", "08", "0x1g.1", "a.1"),
        *("1..1", "1.2.3.4..", "1:2", ":::", "0" * 13, "9" * 5000, "a." * 127 + "a"),
    ],
)
def test_a_host_that_is_neither(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_host(host)


@given(v4, st.integers(1, 4), st.lists(st.sampled_from(["{}", "{:#x}", "0{:o}"]), min_size=4))
def test_every_spelling_of_an_address(address: IPv4Address, parts: int, forms: list[str]) -> None:
    """A number of parts, each decimal, hexadecimal or octal; the last has the rest of the bytes."""
    packed = address.packed
    numbers = [*packed[: parts - 1], int.from_bytes(packed[parts - 1 :], "big")]
    host = ".".join(form.format(number) for form, number in zip(forms, numbers, strict=False))
    assert parse_host(host) == address
    assert socket.inet_aton(host) == packed


@given(st.text("01789afxX. ", max_size=14))
def test_nothing_that_a_resolver_reads_as_an_address_passes_as_a_name(host: str) -> None:
    try:
        packed = socket.inet_aton(host)
    except OSError:
        return
    # Or it is refused, and then it does not matter what the resolver makes of it.
    with suppress(ValueError):
        assert parse_host(host) == IPv4Address(packed)


@given(v6)
def test_every_ipv6_address(address: IPv6Address) -> None:
    assert parse_host(str(address)) == parse_host(address.exploded) == address
