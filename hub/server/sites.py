"""Which pages may use hub, and under which names it is served. Pure.

A browser lets any page open a WebSocket or post to hub, with the user's network in reach, and says
in ``Origin`` whose page it was. hub's own page, and the origins that were listed, may; ``null`` (a
file, a sandboxed frame: anybody) never. What is no browser sends no ``Origin``.

*DNS rebinding*: a page's name is made to resolve to hub's address, after which the page is of hub's
own origin. What gives it away is its name, in ``Host``: hub serves only names that are its own. An
IP address cannot be rebound.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

EVERY = "*"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
METHODS = "GET, POST, DELETE"
ALLOWED_HEADERS = frozenset(
    {"accept", "accept-language", "authorization", "content-language", "content-type",
     "idempotency-key", "last-event-id", "openai-beta", "openai-organization", "openai-project",
     "user-agent"}
)  # fmt: skip
_FAMILIES = ("x-hub-", "x-stainless-")
"""Beginnings of further ones: hub's own, and those that OpenAI's SDK adds."""
EXPOSED_HEADERS = "Retry-After, Server-Timing, X-Request-Id, X-Should-Retry"
PREFLIGHT_AGE = 600
"""Seconds for which a browser need not ask again."""
_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(
    r"(?:\[(?P<ip>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_-][a-z0-9._-]*?)\.?)(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


class Sites:
    """See the top of this file."""

    def __init__(
        self,
        origins: Iterable[str] = (),
        hosts: Iterable[str] | None = None,
        *,
        any_ip: bool = False,
    ) -> None:
        """``origins`` are those of ``parse_origin``. ``hosts`` are the names of ``parse_host`` that
        hub is served under, ``None`` for any; with ``any_ip`` also under any IP address."""
        self._origins = frozenset(origins)
        self._hosts = None if hosts is None else frozenset(hosts)
        self._any_ip = any_ip

    @property
    def shared(self) -> bool:
        """Whether pages of other origins may use hub: answers differ by ``Origin`` then."""
        return bool(self._origins)

    def lists(self, origin: str) -> bool:
        """Whether an ``Origin`` is among those that may. Never ``null``."""
        try:
            spelled = parse_origin(origin)
        except ValueError:
            return False
        return spelled != EVERY and not self._origins.isdisjoint((spelled, EVERY))

    def serves(self, host: str | None) -> bool:
        """Whether hub has the name that a ``Host`` says. No ``Host`` comes from no browser."""
        if self._hosts is None or host is None:
            return True
        try:
            name, _ = _split(host)
        except ValueError:
            return False
        return name in self._hosts or (self._any_ip and _is_ip(name))


def same_site(origin: str, scheme: str, host: str | None) -> bool:
    """Whether a page is hub's own: its ``Origin`` has the request's host and port.

    The scheme is not compared, but for a page that came by http and asks by https: hub does not
    know what a proxy in front of it speaks unless that is trusted.
    """
    try:
        parts = urlsplit(parse_origin(origin))
        name, port = _split(host or "")
    except ValueError:
        return False
    own = _PORTS.get(parts.scheme)
    if own is None or (scheme == "https" and parts.scheme != "https"):
        return False
    return (parts.hostname, parts.port or own) == (name, port or own)


def allowed_headers(asked: str) -> str:
    """Those of ``Access-Control-Request-Headers`` that a page may send."""
    names = [one.strip().lower() for one in asked.split(",")]
    return ", ".join(
        name
        for name in names
        if name in ALLOWED_HEADERS or (name.startswith(_FAMILIES) and name.isascii())
    )


def parse_origin(text: str) -> str:
    """An origin in its one spelling: ``scheme://host[:port]``, the port if it is not the scheme's
    own; or ``*``. Raises ``ValueError``."""
    if text == EVERY:
        return text
    wrong = ValueError(f"'{text}' is no origin, as https://app.example is")
    scheme, found, rest = text.partition("://")
    scheme = scheme.lower()
    if not found or _SCHEME.fullmatch(scheme) is None:
        raise wrong
    try:
        name, port = _split(rest)
    except ValueError:
        raise wrong from None
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme}://{shown}" + ("" if port in (None, _PORTS.get(scheme)) else f":{port}")


def parse_host(text: str) -> str:
    """A host's name without a port, in its one spelling. Raises ``ValueError``."""
    bare = text.count(":") > 1 and not text.startswith("[")
    name, port = _split(f"[{text}]" if bare else text)
    if port is not None:
        raise ValueError(f"'{text}' has a port: a name is enough")
    return name


def _split(text: str) -> tuple[str, int | None]:
    """The name, in lower case, and the port of a ``Host``. Raises ``ValueError``."""
    found = _HOST.fullmatch(text)
    ip = None if found is None else found["ip"]
    if found is None or int(found["port"] or 0) > 65535 or (ip is not None and not _is_ip(ip)):
        raise ValueError(f"'{text}' is no host")
    name = found["name"].lower() if ip is None else str(ip_address(ip))
    return name, None if found["port"] is None else int(found["port"])


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
