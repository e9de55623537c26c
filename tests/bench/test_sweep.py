"""What a sweep runs, and how settings are changed."""

from contextlib import AbstractContextManager

import pytest
from aiohttp import web

from hub.bench import sweep
from hub.bench.clients import Target
from hub.bench.plan import Load
from hub.bench.running import Progress, live_line
from hub.bench.sweep import Point, SettingsError
from hub.dispatch.terms import Class
from tests.running import Start

LOAD = Load(mode="lanes", seconds=0.1, warmup=0.0, max_tokens=8, model="", any_text=True)


def test_a_sweep_is_every_combination_and_the_last_setting_varies_fastest() -> None:
    found = sweep.points(rate=[2.0, 4.0], flush_interval=[0.0, 300.0])
    assert [one.settings() for one in found] == [
        {"rate": "2/s", "flush interval": "0 ms"},
        {"rate": "2/s", "flush interval": "300 ms"},
        {"rate": "4/s", "flush interval": "0 ms"},
        {"rate": "4/s", "flush interval": "300 ms"},
    ]


def test_a_point_is_a_load_and_the_servers_settings() -> None:
    point = Point(concurrency=32, batch_size=4, flush_interval=2.5)
    assert point.load(LOAD).streams == 32
    assert (point.load(LOAD).connections, point.load(LOAD).rate) == (2, None)
    assert point.flags() == ["--batch-size", "4", "--flush-interval", "2.5"]
    assert point.changes() == {"batch_size": 4, "flush_interval_ms": 2.5}
    over_http = Load(mode="sse", seconds=1.0)
    assert point.load(over_http).streams == 32
    often = Point(rate=4.0)
    assert often.load(LOAD).rate == 4.0
    assert often.flags() == []
    assert often.changes() == {}


async def test_a_servers_settings_are_changed_and_put_back(start: Start) -> None:
    hub = await start(lab=True)
    dispatcher = hub.hub.dispatcher
    before = dict(dispatcher.rules)
    seen: list[float] = []

    def line(title: str) -> AbstractContextManager[Progress | None]:
        seen.append(dispatcher.rules[Class.CHAT].flush_interval)
        return live_line(title)

    outcomes = await sweep.measure(
        sweep.points(concurrency=[2], flush_interval=[20.0, 10.0]),
        LOAD,
        (),
        line,
        target=Target.parse(hub.url),
    )
    assert [one.settings["flush interval"] for one in outcomes] == ["20 ms", "10 ms"]
    assert seen == [0.0, 0.02]
    assert all(one.result.flawless for one in outcomes)
    assert dispatcher.rules == before


async def test_settings_that_cannot_be_changed_are_an_error(start: Start) -> None:
    points = sweep.points(concurrency=[1], batch_size=[1])
    hub = await start()
    with pytest.raises(SettingsError, match="start it with --lab"):
        await sweep.measure(points, LOAD, (), live_line, target=Target.parse(hub.url))
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    target = Target("127.0.0.1", runner.addresses[0][1])
    with pytest.raises(SettingsError, match="has no settings"):
        await sweep.measure(points, LOAD, (), live_line, target=target)
    await runner.cleanup()
    with pytest.raises(SettingsError, match="does not answer"):
        await sweep.measure(points, LOAD, (), live_line, target=target)
