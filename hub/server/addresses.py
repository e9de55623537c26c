"""Which addresses are of the public internet, and which hosts are addresses in disguise.

hub sends webhooks from inside somebody's network. A URL that leads to an address of that network,
or of the machine itself, would make hub a tool against it (server-side request forgery); so unless
the configuration says otherwise, hub connects to public addresses and to no others.

Sources: the IANA registries of special-purpose addresses (RFC 6890) as of 2026, and RFC 4291 for
what of IPv6 is in use at all. Tables of our own, since ``ipaddress`` takes NAT64 and 6to4 for
global, although they wrap an IPv4 address of anybody's choice, and changes from one Python to the
next.

Pure: no name is resolved here. A name says nothing; what it resolves to does, at the time of the
connection.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

SPECIAL_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network"; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # behind a carrier's NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the clouds' metadata servers
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, given up
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, with the broadcast address
    )
)
"""All of IPv4 that is not public."""

UNICAST_V6 = IPv6Network("2000::/3")
"""The only part of IPv6 that is given out to the public. Outside of it, and so not public: loopback
and unspecified (``::/128``, ``::1/128``), v4-mapped (``::ffff:0:0/96``) and v4-compatible
(``::/96``), NAT64 (``64:ff9b::/96``, ``64:ff9b:1::/48``), discard (``100::/64``), unique local
(``fc00::/7``), link-local (``fe80::/10``), site-local (``fec0::/10``), multicast (``ff00::/8``)."""

SPECIAL_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo (2001::/32), benchmarks, ORCHID, anycast
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address, wrapped
        "3fff::/20",  # documentation
    )
)
"""What of ``UNICAST_V6`` is not public all the same."""

_DECIMAL = re.compile(r"[0-9]+")
_HEX = re.compile(r"0[xX][0-9a-fA-F]*")
_NAME = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}")


def is_public(address: str | Address) -> bool:
    """Whether anybody on the internet may be at an address. What is no address is not public.

    An IPv6 address that wraps an IPv4 address (mapped, NAT64, 6to4, Teredo) never is, whatever it
    wraps: networks that reach their IPv4 receivers through NAT64 have to allow private addresses.
    """
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            # Also for the forms that only ``parse_host`` reads: who asks here is about to connect.
            return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in SPECIAL_V4)
    return address in UNICAST_V6 and not any(address in network for network in SPECIAL_V6)


def parse_host(host: str) -> Address | None:
    """The address that a URL's host is, in any form that a resolver takes for one; None for a name.

    ``host`` is without the brackets of IPv6, and in ASCII: with its international letters encoded,
    which turns full-width digits into plain ones. Raises ``ValueError`` if it is neither.

    Resolvers read IPv4 addresses as inet_aton(3) does: one to four numbers, decimal, octal
    (``0177``) or hexadecimal (``0x7f``), of which the last fills all bytes that are left. So
    ``127.1``, ``2130706433`` and ``017700000001`` are the loopback address. A host whose last label
    is a number is an address or nothing, as the URL standard of the browsers has it.
    """
    if ":" in host:
        return IPv6Address(host)
    labels = host.removesuffix(".").split(".")
    if _DECIMAL.fullmatch(labels[-1]) or _HEX.fullmatch(labels[-1]):
        return _ipv4(labels)
    if not _NAME.fullmatch(".".join(labels)) or len(host) > 253:
        raise ValueError("neither a name nor an address")
    return None


def _ipv4(labels: list[str]) -> IPv4Address:
    """An IPv4 address in the forms of inet_aton(3)."""
    if len(labels) > 4:
        raise ValueError("an IPv4 address has at most 4 parts")
    *parts, last = (_number(label) for label in labels)
    if any(part > 255 for part in parts) or last >= 256 ** (4 - len(parts)):
        raise ValueError("a part of an IPv4 address is too large")
    return IPv4Address(int.from_bytes(bytes(parts), "big") * 256 ** (4 - len(parts)) + last)


def _number(label: str) -> int:
    # 12 characters hold 32 bits in octal; int() of very long text is slow, then refused.
    if len(label) > 12:
        raise ValueError("a part of an IPv4 address is too long")
    if _HEX.fullmatch(label):
        return int(label[2:] or "0", 16)
    if _DECIMAL.fullmatch(label):
        return int(label, 8) if label.startswith("0") else int(label)
    raise ValueError("a part of an IPv4 address is not a number")
