"""Who can reach hub, as the settings say, and what that asks for.

hub is safe as it starts: it listens on this machine only, serves no other site's pages, and no name
but its own. Whoever lets others reach it says who they are: ``serve`` refuses to listen elsewhere
while there are no keys, unless it is told in so many words that everybody may come.
"""

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import click

from hub.config import Settings
from hub.server.door import Door, Limits, tls_context
from hub.server.proxies import Proxies, parse_proxy
from hub.server.sites import EVERY, LOOPBACK_NAMES, Sites, parse_host, parse_origin

logger = logging.getLogger("hub.exposure")

PER_ADDRESS = 512
"""Open sockets of one address, where hub is not told otherwise."""
MOST_FILES = 1 << 16
"""Files that hub asks the system for, if it may have more."""

T = TypeVar("T")


async def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on this address, or on all that this name
    resolves to. What cannot be resolved cannot be listened on, either."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        return False
    return all(ip_address(str(place[0]).partition("%")[0]).is_loopback for *_, place in found)


def check(settings: Settings, *, local: bool, keyed: bool) -> None:
    """Refuse what would let in whom nobody has asked. Raises ``click.ClickException``.

    ``local``: only this machine can reach hub; ``keyed``: it asks for keys.
    """
    if not (local or keyed or settings.open_to_everyone):
        raise click.ClickException(
            f"On {settings.host or 'every address'} others can reach hub, and there are no keys: "
            "whoever finds it could use your model servers and read what is stored.\n"
            "  hub keys create --tenant NAME   makes a key, which clients then need;\n"
            "  --host 127.0.0.1                listens on this machine only;\n"
            "  --open-to-everyone              if that is what you want."
        )
    if not keyed and EVERY in settings.origin:
        raise click.ClickException(
            "With --origin '*' every page that somebody here opens could use hub: it needs keys "
            "(hub keys create --tenant NAME)."
        )


def sites(settings: Settings, *, local: bool, keyed: bool) -> Sites:
    """The pages and the names that hub serves. Raises ``click.BadParameter``.

    A page whose name is made to resolve here has no key, so that with keys any name will do, unless
    some are listed.
    """
    origins = _read("--origin", parse_origin, settings.origin)
    names = _read("--host-name", parse_host, settings.host_name)
    if keyed and not (local or names):
        return Sites(origins)
    own = [] if settings.host in ("", "0.0.0.0", "::") else [_host_name(settings.host)]
    return Sites(origins, (*LOOPBACK_NAMES, *own, *names), any_ip=not local)


def door(settings: Settings, *, local: bool, listeners: Sequence[socket.socket] = ()) -> Door:
    """The door, where there are ``listeners`` before them. Raises ``click.BadParameter``.

    What listens on this machine only has everybody at the same address: no limit for one then.
    """
    per_address = settings.sockets_per_address
    if per_address is None:
        per_address = 0 if local else PER_ADDRESS
    return Door(
        Limits(
            sockets=_sockets() if settings.sockets is None else settings.sockets,
            per_address=per_address,
            head_time=settings.head_timeout,
            body_time=settings.body_timeout,
        ),
        proxies=Proxies(_read("--trusted-proxy", parse_proxy, settings.trusted_proxy)),
        tls=_tls(settings),
        listeners=listeners,
    )


def renew(entrance: Door, settings: Settings) -> None:
    """Read the certificate again, for connections that come from now on. Raises
    ``click.BadParameter``, and goes on with the one that it had."""
    if (entrance.tls is None) != (settings.tls_cert is None):
        logger.warning("a restart is needed for: tls_cert, tls_key")
    elif entrance.tls is not None:
        entrance.tls = _tls(settings)


def more_files() -> None:
    """Let this process open as many files as it may: each connection is one."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _sockets() -> int:
    """Three quarters of the files that may be open: model servers and the store need some, too."""
    if sys.platform == "win32":
        return 0
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft * 3 // 4


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_cert is not settings.tls_key:
            raise click.UsageError("'--tls-cert' and '--tls-key' need each other.")
        return None
    try:
        return tls_context(Path(settings.tls_cert), Path(settings.tls_key))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--tls-cert'") from None


def _host_name(host: str) -> str:
    try:
        return parse_host(host)
    except ValueError:
        return host.lower()


def _read(option: str, parse: Callable[[str], T], texts: Iterable[str]) -> list[T]:
    try:
        return [parse(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=f"'{option}'") from None
