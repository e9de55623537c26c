"""Who has sent a request that came through proxies, as far as those are trusted. Pure.

A proxy adds the address that it saw to ``X-Forwarded-For``, at the end. Whatever stands before what
the first trusted proxy has added may be made up. So the list is read from its end for as long as
the addresses are those of trusted proxies; the first that is not one is the client.
``X-Forwarded-Proto`` and ``X-Forwarded-Host`` are what the nearest proxy says (their last value).
From anybody else all three are ignored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from, and what it asked for there."""

    address: str
    scheme: str
    """``http`` or ``https``."""
    host: str | None
    """``Host``, as the client sent it; ``None`` if there was none."""
    proxied: bool = False
    """It came through a trusted proxy."""


class Proxies:
    """The networks of the proxies that are trusted."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self._networks = tuple(networks)

    def trusts(self, address: str | None) -> bool:
        """Whether a trusted proxy has this address."""
        ip = _address(address or "")
        return ip is not None and any(ip in network for network in self._networks)

    def client(
        self,
        peer: str | None,
        scheme: str,
        hosts: Sequence[str],
        headers: Mapping[str, Sequence[str]],
    ) -> Client:
        """Who has sent a request that came from ``peer``.

        ``hosts`` are its ``Host`` headers. ``headers`` has the values of each of the three headers,
        in order.
        """
        if not self.trusts(peer):
            return Client(peer or "", scheme, hosts[-1] if hosts else None)
        address = peer or ""
        seen = _values(headers, "X-Forwarded-For")
        while seen and self.trusts(address):
            ip = _address(_without_port(seen.pop()))
            if ip is None:
                break
            address = str(ip)
        said = _values(headers, "X-Forwarded-Proto")
        if said and said[-1].lower() in ("http", "https"):
            scheme = said[-1].lower()
        host = [*hosts, *_values(headers, "X-Forwarded-Host")]
        return Client(address, scheme, host[-1] if host else None, True)


def parse_proxy(text: str) -> IPv4Network | IPv6Network:
    """A network, or one address. Raises ``ValueError``."""
    try:
        return ip_network(text.strip())
    except ValueError:
        raise ValueError(f"'{text}' is no network, as 10.0.0.0/8 is, and no IP address") from None


def _values(headers: Mapping[str, Sequence[str]], name: str) -> list[str]:
    lists = [line.split(",") for line in headers.get(name, ())]
    return [one.strip() for line in lists for one in line if one.strip()]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def _without_port(text: str) -> str:
    """Some proxies add the port: ``1.2.3.4:5``, ``[::1]:5``."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
