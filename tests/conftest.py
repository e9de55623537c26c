"""What the tests of the running server share."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.base import Engine
from hub.hub import Hub
from hub.policy import Policy
from hub.server.app import Server
from hub.store.base import Store
from hub.store.memory import MemoryStore
from tests.running import Running, Start, WatchedEngine

# A slow example says more about the machine than about hub.
settings.register_profile("hub", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# What lands was run with all examples before; CI has other things to do, too.
settings.register_profile("ci", settings.get_profile("hub"), max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "hub")


@pytest.fixture
def no_blocking() -> Iterator[BlockBuster]:
    """Blocking the event loop from hub's code is an error."""
    with blockbuster_ctx("hub") as blockbuster:
        yield blockbuster


@pytest.fixture
async def start(no_blocking: BlockBuster) -> AsyncIterator[Start]:
    """Start servers; at the end stop them and check that nothing of them is left."""
    running: list[Running] = []

    async def start(
        engine: Engine | None = None,
        *,
        store: Store | None = None,
        window: int = 16,
        speed: float = 100.0,
        hub_options: dict[str, Any] | None = None,
        dispatcher_options: dict[str, Any] | None = None,
        **server_options: Any,
    ) -> Running:
        if engine is None:
            engine = WatchedEngine(speed=speed)
        rules = rules_with(**(dispatcher_options or {}))
        dispatcher = Dispatcher([Upstream(engine, window)], rules)
        store = store or MemoryStore()
        await store.start(time.time())
        policy = Policy(**{"default_model": "sim", **(hub_options or {})})
        hub = Hub(dispatcher, store, policy)
        hub.start()
        server = Server(hub, **server_options)
        one = Running(hub, server, engine, await server.start())
        running.append(one)
        return one

    before = asyncio.all_tasks()
    yield start
    for one in running:
        await one.server.stop(drain=0)
        await one.hub.store.close()
        await one.engine.close()
        assert one.server.connections == 0
        assert one.hub.statistics().live == 0
        statistics = one.hub.dispatcher.statistics()
        assert statistics.queued == 0
        assert statistics.in_flight == 0
        assert one.hub.dispatcher.reserved == 0
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=5)
    assert not {task for task in left if not task.done()}, "tasks are left"
    # What was not closed warns when it is collected, and warnings are errors.
    gc.collect()
