"""How late the loop is, and how long the collector pauses, as numbers."""

import asyncio
import gc

import aiohttp
import pytest

from hub.server import pulse
from hub.server.pulse import Pulse
from tests.running import Start
from tests.virtual import virtual


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("late", "bucket"),
    [(-0.001, "1"), (0.0, "1"), (0.001, "1"), (0.0011, "3"), (0.3, "300"), (0.4, "more")],
)
async def test_a_ring_is_counted_once_in_the_bucket_of_its_lateness(
    late: float, bucket: str
) -> None:
    one = Pulse()
    one.rung(late)
    statistics = one.statistics()
    assert statistics.rings == 1
    assert statistics.late == {**dict.fromkeys(statistics.late, 0), bucket: 1}
    assert statistics.late_max == pytest.approx(max(0.0, late * 1000))


async def test_the_latest_ring_is_kept() -> None:
    one = Pulse()
    for late in (0.002, 0.05, 0.004):
        one.rung(late)
    assert one.statistics().late_max == 50.0
    assert one.statistics().rings == 3


async def test_pauses_are_summed_up() -> None:
    clock = Clock()
    one = Pulse(clock)
    for pause in (0.002, 0.010):
        one.collected("start", {"generation": 2})
        clock.now += pause
        one.collected("stop", {"generation": 2})
        clock.now += 1.0
    statistics = one.statistics()
    assert (statistics.collections, statistics.collecting, statistics.collection_max) == (2, 12, 10)


@virtual
async def test_it_rings_and_hears_the_collector_until_it_is_stopped() -> None:
    """It rings ten times a second, and neither rings nor listens when it was stopped."""
    before = [*gc.callbacks]
    one = Pulse(asyncio.get_running_loop().time)
    one.start()
    gc.collect()
    await asyncio.sleep(10.5 * pulse.INTERVAL)
    assert one.statistics().rings == 10
    assert one.statistics().collections >= 1
    one.stop()
    one.stop()
    assert gc.callbacks == before
    await asyncio.sleep(10 * pulse.INTERVAL)
    assert one.statistics().rings == 10


async def test_health_tells_and_the_server_leaves_nothing(start: Start) -> None:
    before = [*gc.callbacks]
    hub = await start()
    async with aiohttp.ClientSession() as session, session.get(f"{hub.url}/health") as answer:
        loop = (await answer.json())["loop"]
    assert set(loop["late"]) == {"1", "3", "10", "30", "100", "300", "more"}
    assert {"rings", "late_max", "collections", "collecting", "collection_max"} < set(loop)
    await hub.server.stop(drain=0)
    assert gc.callbacks == before
