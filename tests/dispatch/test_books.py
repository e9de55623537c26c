"""What the dispatcher has counted adds up, and nothing is left, whenever it is closed."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.terms import Class
from tests.dispatch.bench import HANG, Act, Bench, Site, rank
from tests.dispatch.traffic import TICK, Setup, World, setups
from tests.virtual import virtual


@given(setups)
@virtual
async def test_every_request_is_accounted_for(setup: Setup) -> None:
    """Each that came for a model that is served was shed, cancelled while it waited, or has ended
    at an upstream once more often than it was sent again."""
    world = World(setup)
    await world.play()
    statistics = world.bench.dispatcher.statistics()
    ended: Counter[str] = Counter()
    for upstream in world.bench.upstreams:
        ended.update(upstream.statistics().ended)
    known = [why for why in world.refusals if why != "model_not_found"]
    retried, shed = sum(statistics.retried.values()), sum(statistics.shed.values())
    cancelled = Counter(statistics.cancelled)
    assert len(world.accepted) + len(known) == (
        ended.total() - retried + shed + cancelled["queued"]
    )
    outcomes = Counter(work.outcome for work in world.accepted)
    assert ended["ok"] == outcomes["completed"]
    assert ended["cancelled"] == cancelled["running"]
    assert cancelled.total() == outcomes["cancelled"]
    # Batches.
    sizes = {int(size): count for size, count in statistics.batches.items()}
    assert sum(size * count for size, count in sizes.items()) == ended.total()
    assert sum(sizes.values()) == sum(statistics.dispatched.values())
    started = [work for work in world.accepted if work.started_at is not None]
    assert len(started) <= sum(one.dispatched for one in statistics.classes.values())
    arrays = [array for engine in world.bench.engines for array in engine.sent]
    assert len(arrays) <= statistics.arrays


@given(setups, st.integers(0, 60))
@virtual
async def test_it_can_be_closed_at_any_time(setup: Setup, tick: int) -> None:
    """In the middle of anything: all end at once or when their engines let go, none starts any
    more, no engine is closed but those that were leaving, and no timer is left."""
    world = World(setup)
    await world.play(end=tick * TICK)
    for work in world.accepted:
        assert work.outcome is not None
        assert work.started_at is None or work.started_at <= tick * TICK
    for upstream, engine in zip(world.bench.upstreams, world.bench.engines, strict=True):
        assert (engine.closed is not None) is upstream.leaving


@virtual
async def test_closing_twice_at_a_time_is_closing_once() -> None:
    """Both calls return when everything has ended."""
    bench = Bench(Site(2))
    works = bench.submit_all(4, Act(tokens=0, end="hang", letting_go=3))
    await asyncio.sleep(1)
    await asyncio.gather(bench.close(), bench.close())
    assert {work.outcome for work in works} == {"cancelled"}
    assert asyncio.get_running_loop().time() == 4.0


@virtual
async def test_a_cancelled_member_of_an_array_costs_its_tenant_what_it_has_said() -> None:
    """As much as if it had run alone."""

    async def cost(arrays: bool) -> float:
        bench = Bench(Site(3, arrays=arrays), ceiling=1.0, flush_interval=1.0, batch_size=2)
        bench.submit("", HANG, terms=rank(Class.BACKGROUND, tenant="z"))
        terms = rank(Class.BACKGROUND, tenant="a")
        works = [bench.submit("", Act(tokens=9), terms=terms, raw=True) for _ in range(2)]
        await asyncio.sleep(5.5)
        for work in works:
            bench.dispatcher.cancel(work)
        await asyncio.sleep(0.1)
        assert bench.dispatcher.statistics().arrays == arrays
        await bench.close()
        return bench.dispatcher._queue.classes[Class.BACKGROUND].fair._served["a"]

    alone, together = await cost(False), await cost(True)
    # Two prompts, and five words of each, which count twice.
    assert alone == together > 20


@virtual
async def test_a_request_counts_while_it_runs() -> None:
    """Who has a long answer running pays for what it has said so far: the other one, of the same
    class, goes first until he has had as much."""
    bench = Bench(Site(2))
    first, second = (rank(Class.CHAT, tenant=tenant) for tenant in "ab")
    bench.submit("", Act(tokens=1000, delay=0.25), terms=first)
    works = {
        tenant: [bench.submit("", Act(tokens=0), terms=terms) for _ in range(40)]
        for tenant, terms in (("a", first), ("b", second))
    }
    await asyncio.sleep(40.5)
    started = {
        tenant: sum(work.started_at is not None for work in those)
        for tenant, those in works.items()
    }
    # 160 words that count twice, against some 7 for each prompt.
    assert started["b"] >= 40
    assert started["a"] <= 1
    await bench.close()
