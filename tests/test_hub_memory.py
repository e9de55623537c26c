"""What has ended is free at once: no response is a circle that only the collector would find."""

import asyncio
import gc
import weakref

import pytest

from hub.api.responses import parse_create
from hub.bench.source import TokenSource
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.upstream import UpstreamEngine
from hub.hub import Hub
from hub.policy import Policy
from hub.store.memory import MemoryStore
from tests.virtual import virtual


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("cancelled", [True, False])
@virtual
async def test_an_ended_response_is_freed_without_the_collector(
    store: bool, cancelled: bool
) -> None:
    """When nobody reads it and nobody remembers it, it is gone, and its log with it."""
    kept = MemoryStore()
    await kept.start(0.0)
    dispatcher = Dispatcher([Upstream(SimEngine(PROFILES["h100-8b"]), 4)])
    hub = Hub(dispatcher, kept, Policy())
    live = hub.submit(parse_create({"input": "Hi", "max_output_tokens": 5, "store": store}))
    hub.join(live)
    if cancelled:
        await live.until_news(10)
        hub.cancel(live)
    await live.until_ended()
    hub.leave(live)
    await asyncio.sleep(1)
    if store:
        await hub.delete(live.id)
    freed = weakref.ref(live)
    gc.disable()
    try:
        del live
        await asyncio.sleep(1)
        assert freed() is None
    finally:
        gc.enable()
    await dispatcher.close()


@pytest.mark.parametrize("cancelled", [True, False])
@virtual
async def test_so_is_a_background_response(cancelled: bool) -> None:
    """It has a journal, which writes for it and tells it of its end."""
    kept = MemoryStore()
    await kept.start(0.0)
    dispatcher = Dispatcher([Upstream(SimEngine(PROFILES["h100-8b"]), 4)])
    hub = Hub(dispatcher, kept, Policy())
    hub.start()
    live = await hub.accept(parse_create({"input": "Hi", "background": True}))
    if cancelled:
        await live.until_news(10)
        hub.cancel(live)
    await live.until_ended()
    await asyncio.sleep(1)
    await hub.delete(live.id)
    freed = weakref.ref(live)
    gc.disable()
    try:
        del live
        await asyncio.sleep(1)
        assert freed() is None
    finally:
        gc.enable()
    await hub.close(0)
    await dispatcher.close()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_model_servers_answer_is_freed_without_the_collector(cancelled: bool) -> None:
    """Neither its connection nor what read it holds on to a response that has ended."""
    source = TokenSource(rate=200.0)
    engine = UpstreamEngine(f"http://127.0.0.1:{await source.start()}")
    kept = MemoryStore()
    await kept.start(0.0)
    dispatcher = Dispatcher([Upstream(engine, 4)])
    hub = Hub(dispatcher, kept)
    request = {"input": "seed=1", "model": "bench", "max_output_tokens": 9, "store": False}
    live = hub.submit(parse_create(request))
    hub.join(live)
    if cancelled:
        await live.until_news(10)
        hub.cancel(live)
    await live.until_ended()
    hub.leave(live)
    freed = asyncio.Event()
    weakref.finalize(live, freed.set)
    gc.disable()
    try:
        del live
        # Its connection closes in one of the next turns.
        await freed.wait()
    finally:
        gc.enable()
    await dispatcher.close()
    await engine.close()
    await source.stop()
