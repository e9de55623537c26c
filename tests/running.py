"""A server that runs for a test."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hub.api.requests import Generation
from hub.engines.base import Sink
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.hub import Hub
from hub.server.app import Server


@dataclass(frozen=True)
class Running:
    """A server that listens on a port of its own."""

    hub: Hub
    server: Server
    engine: Any
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/responses"


class WatchedEngine(SimEngine):
    """The simulated engine, with events to wait for."""

    def __init__(self, *, speed: float) -> None:
        super().__init__(PROFILES["h100-8b"], speed=speed, faults=True)
        self.asked = asyncio.Event()
        """It was asked for something."""

    async def generate(self, generation: Generation, sink: Sink) -> None:
        self.asked.set()
        await super().generate(generation, sink)


Start = Callable[..., Awaitable[Running]]
