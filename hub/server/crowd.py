"""How many sockets are open, in all and for each address. Pure.

An address stands for whoever may have it. A provider gives every customer at least a /64 of IPv6
(RFC 6177), so that is one address here; an IPv4 address in IPv6's clothes is the IPv4 address.
"""

from collections import Counter
from ipaddress import IPv6Address, ip_address

TOTAL = "total"
ADDRESS = "address"


class Crowd:
    """Who is inside. Holds nothing of an address that has nothing open."""

    def __init__(self, total: int = 0, per_address: int = 0) -> None:
        """The most in all, and of one address; 0: any number."""
        self._total = total
        self._per_address = per_address
        self._of: Counter[str] = Counter()
        self.inside = 0

    def enter(self, address: str | None) -> str | None:
        """Let one more in, and call ``leave`` with the same address when it goes; or say which
        limit is reached. Without an ``address`` only the total counts."""
        if self._total and self.inside >= self._total:
            return TOTAL
        if (refused := self.claim(address)) is None:
            self.inside += 1
        return refused

    def leave(self, address: str | None) -> None:
        """One that was let in is gone."""
        self.inside -= 1
        self.release(address)

    def claim(self, address: str | None) -> str | None:
        """Count what is inside already as this address's, and ``release`` it; or say that it has
        too many."""
        if address is None:
            return None
        key = place_of(address)
        if self._per_address and self._of[key] >= self._per_address:
            return ADDRESS
        self._of[key] += 1
        return None

    def release(self, address: str | None) -> None:
        """Undo a ``claim``."""
        if address is None:
            return
        key = place_of(address)
        self._of[key] -= 1
        if not self._of[key]:
            del self._of[key]

    @property
    def addresses(self) -> int:
        """How many addresses have something open."""
        return len(self._of)


def place_of(address: str) -> str:
    """What counts as the same address. Whatever is no IP address stands for itself."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(IPv6Address(int(ip) >> 64 << 64))
