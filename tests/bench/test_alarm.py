"""An alarm rings once for each time that it is set to, and not before."""

import asyncio
import time

from hub.bench.alarm import Alarm


async def test_an_alarm_rings_when_it_is_due() -> None:
    rung: asyncio.Queue[float] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(time.monotonic()))
    for ahead in (-5.0, 0.0, 0.0003, 0.01, 0.002):
        due = time.monotonic() + ahead
        alarm.set(due)
        assert await rung.get() >= due
    alarm.close()


async def test_the_last_time_counts() -> None:
    rung: asyncio.Queue[float] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(time.monotonic()))
    alarm.set(time.monotonic() + 3600)
    alarm.set(due := time.monotonic() + 0.01)
    assert await rung.get() >= due
    alarm.set(time.monotonic() + 0.001)
    alarm.close()
    await asyncio.sleep(0.005)
    assert rung.empty()
