"""A hub that runs in a thread of its own, to be attacked from another one.

It notes every line that it logs as an error, and tells what it holds, so that whoever has attacked
it can see that nothing is left of the attack.
"""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.hub import Hub
from hub.policy import Policy
from hub.server.app import Server
from hub.server.protocol import Protocol
from hub.server.session import Session
from hub.server.websocket import Connection
from hub.store.base import Store
from hub.store.memory import MemoryStore

T = TypeVar("T")

MAX_MESSAGE = 1 << 16
"""Bytes of the largest message: small, so that what is larger is cheap."""
SPEED = 2000.0
"""How much faster the simulated engine is than what it simulates."""
PATIENCE = 10.0
"""Seconds within which a hub that is left alone comes to rest."""


@dataclass(frozen=True)
class Holds:
    """What a hub holds at a time."""

    tasks: int
    """Tasks of the event loop, the hub's own included."""
    connections: int
    """WebSockets that are open."""
    objects: int
    """Connections of either protocol and sessions that exist, collected or not."""
    live: int
    queued: int
    in_flight: int


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, as hub itself does."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Target:
    """See the top of this file. A context: the hub runs inside of it."""

    def __init__(self, store: Callable[[], Store] = MemoryStore) -> None:
        self._store = store
        self._errors = _Errors()
        self._thread = threading.Thread(target=self._run, name="target")
        self._started = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hub: Hub | None = None
        self._server: Server | None = None
        self.port = 0

    def __enter__(self) -> "Target":
        logging.getLogger().addHandler(self._errors)
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()
        logging.getLogger().removeHandler(self._errors)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> list[str]:
        """What was logged as an error since this was asked the last time."""
        lines, self._errors.lines = self._errors.lines, []
        return lines

    def holds(self) -> Holds:
        """What the hub holds now."""
        return self._do(self._count())

    def at_rest(self, before: Holds) -> Holds:
        """What it holds when it has come to rest: as ``before``, if nothing has leaked."""
        end = time.monotonic() + PATIENCE
        while (now := self.holds()) != before and time.monotonic() < end:
            time.sleep(0.05)
        return now

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _count(self) -> Holds:
        assert self._hub is not None
        assert self._server is not None
        gc.collect()
        kinds = (Connection, Session, Protocol)
        dispatcher = self._hub.dispatcher.statistics()
        return Holds(
            tasks=len(asyncio.all_tasks()) - 1,
            connections=self._server.connections,
            objects=sum(isinstance(one, kinds) for one in gc.get_objects()),
            live=self._hub.statistics().live,
            queued=dispatcher.queued,
            in_flight=dispatcher.in_flight,
        )

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        engine = SimEngine(PROFILES["h100-8b"], speed=SPEED)
        store = self._store()
        await store.start(time.time())
        dispatcher = Dispatcher([Upstream(engine, 64)], rules_with())
        self._hub = Hub(dispatcher, store, Policy(default_model="sim", grace=1.0))
        self._hub.start()
        self._server = Server(self._hub, max_message=MAX_MESSAGE, lab=True)
        self.port = await self._server.start()
        self._loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self._stop = stop.set
        self._started.set()
        await stop.wait()
        await self._server.stop(drain=0)
        await store.close()
        await engine.close()
