"""A thousand lanes over fifty connections: every text exact, nothing left open."""

import asyncio
import gc
import json
import os
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.running import Start

CONNECTIONS = 50
LANES = 20


def said(prompt: str) -> str:
    return full_text(Generation(model="", messages=[{"role": "user", "content": prompt}]))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def talk(url: str, connection: int) -> dict[str, str]:
    """One response on each of a connection's lanes; their texts by prompt."""
    prompts = {f"lane-{n}": f"Question {n} of connection {connection}" for n in range(LANES)}
    texts = {lane: "" for lane in prompts}
    async with connect(url) as ws:
        for lane, prompt in prompts.items():
            create = {"type": "response.create", "stream_id": lane, "input": prompt}
            await ws.send(json.dumps(create))
        left = set(prompts)
        while left:
            event = json.loads(await ws.recv())
            lane = event["stream_id"]
            if event["type"] == "response.output_text.delta":
                texts[lane] += event["delta"]
            elif event["type"] == "response.completed":
                left.remove(lane)
            else:
                assert event["type"] not in ("error", "response.failed"), event
    return {prompts[lane]: text for lane, text in texts.items()}


@pytest.fixture
def files() -> Iterator[None]:
    """Nothing that a test opened is open at its end."""
    gc.collect()
    before = open_files()
    yield
    gc.collect()
    assert open_files() <= before


@pytest.mark.timeout(300)
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
async def test_a_thousand_lanes_over_fifty_connections(files: None, start: Start) -> None:
    hub = await start(window=64, speed=10_000.0)
    answers = await asyncio.gather(*(talk(hub.ws, number) for number in range(CONNECTIONS)))
    texts = {prompt: text for answer in answers for prompt, text in answer.items()}
    assert len(texts) == CONNECTIONS * LANES
    for prompt, text in texts.items():
        assert text == said(prompt)
    assert hub.hub.statistics().by_status == {"completed": 1000}
    assert hub.hub.dispatcher.reserved == 0
    state = hub.engine.statistics()
    assert (state.running, state.waiting, state.kv_used) == (0, 0, 0)
    # The ``start`` fixture checks for connections and tasks, ``files`` for sockets.
