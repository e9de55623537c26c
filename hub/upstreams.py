"""The upstreams that the settings name: opening them, and changing them while hub runs.

Where hub connects to is in the settings and nowhere else: nothing that a client sends is an address
to it. What clients see of an upstream is its name.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address
from socket import gethostname
from urllib.parse import urlsplit

from hub.config import DEFAULT_PROFILE, Settings
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.engines.discover import LOCAL_SERVERS, find_local
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.upstream import UpstreamEngine
from hub.errors import HubError
from hub.specs import UpstreamSpec

logger = logging.getLogger("hub.upstreams")

RELOADED = (
    "upstream",
    "window",
    "batch_size",
    "flush_interval",
    "queue_size",
    "tenant_queue",
    "rule",
    "tls_cert",
    "tls_key",
)
"""The settings that a reload changes."""


class Upstreams:
    """The upstreams of a running hub, by what the settings say of them."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        """``say`` tells the operator what was found."""
        self._settings = settings
        self._say = say
        self._count = 0
        """Of those that were opened so far: the names that hub gives are never used twice."""
        self._open: dict[UpstreamSpec, Upstream] = {}

    async def open(self) -> list[Upstream]:
        """Those that the settings name, or what is there."""
        settings = self._settings
        if settings.sim:
            return [self._simulated(settings.sim)]
        specs = self._wanted
        if not specs:
            found = await find_local()
            if found is None:
                ports = ", ".join(f"{name} at {url}" for name, url in LOCAL_SERVERS)
                self._say(
                    f"No model server found on this machine ({ports}): the answers are simulated. "
                    "--upstream URL names one."
                )
                return [self._simulated(DEFAULT_PROFILE)]
            self._say(
                f"Found {found.name} at {found.url}. --upstream URL takes another, --sim simulates "
                "one."
            )
            specs = [UpstreamSpec(found.url, settings.window)]
        upstreams = await asyncio.gather(*map(self._connect, specs))
        self._open = dict(zip(specs, upstreams, strict=True))
        return [*self._open.values()]

    async def reload(self, settings: Settings, dispatcher: Dispatcher) -> None:
        """Go by other settings: give requests to new upstreams, drain those that are gone.

        Those that hub has found or made up itself stay unless others are named, and what it
        simulates stays in any case.
        """
        before, self._settings = self._settings, settings
        dispatcher.configure(settings.rules)
        wanted = self._wanted
        if not wanted or not self._open:
            if (before.upstream, before.window) != (settings.upstream, settings.window):
                self._say("The upstreams stay as they are until a restart.")
            return
        for spec in wanted:
            if spec not in self._open:
                self._open[spec] = await self._connect(spec)
                dispatcher.add(self._open[spec])
        for spec in [*self._open]:
            if spec not in wanted:
                self._say(f"Draining {self._open[spec].name}.")
                dispatcher.drain(self._open.pop(spec))

    @property
    def _wanted(self) -> list[UpstreamSpec]:
        """Those that the settings name, each once, with the window that holds for it."""
        window = self._settings.window
        specs = (replace(one, window=one.window or window) for one in self._settings.upstreams)
        return [*dict.fromkeys(specs)]

    async def _connect(self, spec: UpstreamSpec) -> Upstream:
        settings = self._settings
        self._count += 1
        engine = UpstreamEngine(
            spec.url,
            name=spec.name or f"upstream-{self._count}",
            api_key=settings.upstream_key,
            models=settings.models,
            ways=settings.ways,
            idle_timeout=settings.idle_timeout,
            continues=settings.upstream_continues or spec.continues,
            arrays=spec.arrays,
        )
        slots = await engine.probe_slots()
        says = f", which has {slots} slots" if slots else ""
        self._say(f"Engine: {engine.name} at {engine.address}{says}.")
        upstream = Upstream(
            engine,
            spec.window,
            tokens=spec.tokens,
            gather=spec.gather,
            arrays=spec.arrays,
            server=known_as(engine.address),
        )
        try:
            await engine.models()
        except HubError as error:
            logger.warning(
                "%s at %s does not answer yet: %s", engine.name, engine.address, error.message
            )
            upstream.unreachable(error, asyncio.get_running_loop().time())
        return upstream

    def _simulated(self, profile: str) -> Upstream:
        settings = self._settings
        self._say(f"Engine: simulated, {profile} at {settings.sim_speed:g} times its speed.")
        engine = SimEngine(
            PROFILES[profile],
            speed=settings.sim_speed,
            seed=settings.sim_seed,
            faults=settings.sim_faults,
        )
        return Upstream(engine, settings.window)


def known_as(address: str) -> str:
    """What all nodes know the model server at this address by: it tells nothing of the address.

    The same name is the same server, whatever it stands for on each machine; but what is local to a
    machine is so only there.
    """
    parts = urlsplit(address)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    where = f"on {gethostname()}" if _is_local(host) else host
    return sha256(f"{where}:{port}{parts.path.rstrip('/')}".encode()).hexdigest()[:16]


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def not_reloaded(old: Settings, new: Settings) -> list[str]:
    """The settings that differ and that only a restart changes."""
    return [
        name
        for name in vars(old)
        if name not in RELOADED and getattr(old, name) != getattr(new, name)
    ]
