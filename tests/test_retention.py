"""Retention is enforced while hub runs: by age and by size, in the store and in memory."""

import asyncio

import pytest

from hub.api.responses import parse_create
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.errors import HubError
from hub.hub import Hub
from hub.policy import Policy
from hub.store.memory import MemoryStore
from tests.virtual import virtual


async def ended(hub: Hub, prompt: str) -> str:
    """The id of a stored response that has ended."""
    live = hub.submit(parse_create({"input": prompt}))
    await live.until_ended()
    return live.id


def start(policy: Policy) -> Hub:
    dispatcher = Dispatcher([Upstream(SimEngine(), 4)])
    return Hub(dispatcher, MemoryStore(), policy, now=asyncio.get_running_loop().time)


@virtual
async def test_a_response_is_forgotten_when_it_has_expired() -> None:
    """Within a minute of its time it is gone, from the store and from memory."""
    hub = start(Policy(retention=1000.0))
    await hub.store.start(hub.now())
    hub.start()
    id = await ended(hub, "Hello")
    await asyncio.sleep(900)
    assert (await hub.open(id)).id == id
    await asyncio.sleep(200)
    with pytest.raises(HubError, match="not found"):
        await hub.open(id)
    assert hub.store.statistics().records == 0
    await hub.close(0)


@virtual
async def test_the_oldest_go_when_the_store_is_full() -> None:
    """Beyond its size the store keeps the newest."""
    hub = start(Policy(store_bytes=20_000, remembered=1))
    await hub.store.start(hub.now())
    hub.start()
    ids = []
    for number in range(20):
        ids.append(await ended(hub, f"Question {number}"))
        await asyncio.sleep(10)
    await asyncio.sleep(60)
    assert hub.store.statistics().bytes <= 20_000
    assert (await hub.open(ids[-1])).id == ids[-1]
    with pytest.raises(HubError, match="not found"):
        await hub.open(ids[0])
    await hub.close(0)
