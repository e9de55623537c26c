"""Upstreams that come and go while requests run."""

import asyncio

import pytest

from hub.dispatch.terms import Class
from hub.errors import HubError
from tests.dispatch.bench import HANG, Act, Bench, Site, Work, rank
from tests.virtual import virtual


@virtual
async def test_a_drained_upstream_loses_no_request() -> None:
    """What runs there ends there, what waits goes elsewhere, nothing new goes there; its engine is
    closed once, after the last."""
    bench = Bench(Site(2), Site(1))
    running = bench.submit_all(3, Act(tokens=2, delay=5))
    queued = bench.submit_all(4, Act(tokens=1))
    await asyncio.sleep(1)
    leaving, engine = bench.upstreams[0], bench.engines[0]
    bench.dispatcher.drain(leaving)
    assert bench.dispatcher.upstreams == [bench.upstreams[1]]
    assert bench.dispatcher.statistics().upstreams["engine-0"].state == "leaving"
    assert bench.dispatcher.reserved == 3
    bench.dispatcher.drain(leaving)
    late = bench.submit()
    await late.over.wait()
    assert {work.outcome for work in (*running, *queued, late)} == {"completed"}
    assert [work.places for work in running] == [["engine-0"], ["engine-1"], ["engine-0"]]
    assert {place for work in (*queued, late) for place in work.places} == {"engine-1"}
    assert engine.closed == 15.0
    assert bench.engines[1].closed is None
    assert [*bench.dispatcher.statistics().upstreams] == ["engine-1"]
    await bench.close()
    assert engine.closed == 15.0


@virtual
async def test_one_that_holds_nothing_is_closed_at_once() -> None:
    """Also if it is broken and about to be asked: nobody asks it any more."""
    bench = Bench(Site(), Site())
    bench.engines[0].down = True
    await bench.submit("", Act()).over.wait()
    bench.dispatcher.drain(bench.upstreams[0])
    await asyncio.sleep(0)
    assert bench.engines[0].closed == 2.0
    await asyncio.sleep(20)
    assert bench.engines[0].probes == [1.0]
    await bench.close()


@virtual
async def test_one_that_is_being_asked_is_left_alone() -> None:
    """The question is dropped, and no other follows."""
    bench = Bench(Site(), Site())
    bench.engines[0].down = True
    bench.engines[0].probing = 5.0
    await bench.submit("", Act()).over.wait()
    assert bench.engines[0].probes == [1.0]
    bench.dispatcher.drain(bench.upstreams[0])
    await asyncio.sleep(20)
    assert bench.engines[0].probes == [1.0]
    await bench.close()


@virtual
async def test_what_is_being_gathered_goes_elsewhere_in_its_order() -> None:
    """It has not been sent: it was never there, and goes before those who came later."""
    bench = Bench(Site(8, gather=5.0), Site(1))
    lane = rank(Class.CHAT, lane="l")
    # The first of equals gathers; the other one takes one.
    works = [bench.submit("", Act(tokens=0), terms=lane) for _ in range(4)]
    assert [work.started_at for work in works] == [None, 0.0, None, None]
    bench.dispatcher.drain(bench.upstreams[0])
    assert [bench.waits(work) for work in works] == [True, False, True, True]
    later = bench.submit("", Act(tokens=0), terms=lane)
    await later.over.wait()
    assert [work.started_at for work in (*works, later)] == [1.0, 0.0, 2.0, 3.0, 4.0]
    assert bench.engines[0].asked == []
    assert bench.engines[0].closed == 0.0
    assert {work.outcome for work in works} == {"completed"}
    assert bench.dispatcher.statistics().retried == {}
    await bench.close()


@virtual
async def test_whoever_waits_for_what_is_served_nowhere_any_more_fails() -> None:
    """At once and with a reason; those for other models do not. New ones are refused."""
    bench = Bench(Site(1, {"m": True}), Site(1, {"": True}))
    running, waiting = bench.submit("m", Act(tokens=0, delay=9)), bench.submit("m")
    bench.submit("", Act())
    other = bench.submit()
    bench.dispatcher.drain(bench.upstreams[0])
    assert (waiting.code, waiting.started_at) == ("upstream_unavailable", None)
    assert bench.shed() == {"upstream_unavailable": 1}
    with pytest.raises(HubError) as caught:
        bench.submit("m")
    assert caught.value.code == "model_not_found"
    await running.over.wait()
    assert running.outcome == other.outcome == "completed"
    await bench.close()


@virtual
async def test_whoever_has_failed_on_all_that_are_left_fails_with_that_error() -> None:
    """It waited for the one that is drained."""
    bench = Bench(Site(1), Site(1))
    first = bench.submit("", Act(tokens=0, wait=1, end="upstream_timeout"))
    blocker = bench.submit("", Act(tokens=0, delay=9))
    await asyncio.sleep(2)
    assert bench.waits(first)
    bench.dispatcher.drain(bench.upstreams[1])
    assert (first.code, first.ended_at) == ("upstream_timeout", 2.0)
    await blocker.over.wait()
    await bench.close()


@virtual
async def test_what_fails_on_a_leaving_upstream_may_go_elsewhere() -> None:
    """As if it stayed."""
    bench = Bench(Site(1), Site(1))
    work = bench.submit("", Act(tokens=0, wait=1, end="upstream_error"), Act())
    bench.dispatcher.drain(bench.upstreams[0])
    await work.over.wait()
    assert (work.outcome, work.places) == ("completed", ["engine-0", "engine-1"])
    assert bench.engines[0].closed == 1.0
    await bench.close()


@virtual
async def test_an_array_holds_its_upstream_until_all_of_it_is_done() -> None:
    """Also for a member that was cancelled, whose end is known already."""
    bench = Bench(Site(2, arrays=True))
    terms = rank(Class.BACKGROUND)
    long, short = (
        bench.submit("", Act(tokens=0, delay=delay), terms=terms, raw=True) for delay in (9, 3)
    )
    await asyncio.sleep(2)
    assert bench.engines[0].sent == [[long, short]]
    bench.dispatcher.cancel(short)
    bench.dispatcher.drain(bench.upstreams[0])
    await asyncio.sleep(0)
    assert (short.outcome, bench.engines[0].closed) == ("cancelled", None)
    await long.over.wait()
    await asyncio.sleep(0)
    assert bench.engines[0].closed == 9.0
    await bench.close()


@virtual
async def test_another_upstream_is_used_at_once() -> None:
    """Those who wait go there; of the same engine twice each has a name of its own."""
    bench = Bench(Site(1))
    works = bench.submit_all(3, HANG)
    engine = bench.engines[0]
    added = bench.make(Site(1))
    bench.engines[1].name = added.name = engine.name
    bench.upstreams.append(added)
    bench.dispatcher.add(added)
    assert [work.started_at for work in works] == [0.0, 0.0, None]
    assert [*bench.dispatcher.statistics().upstreams] == ["engine-0", "engine-0 (2)"]
    bench.add(Site(5, {"other": True}))
    assert works[2].started_at is None
    bench.submit("other", HANG)
    await bench.close()


@virtual
async def test_the_last_one_may_be_replaced() -> None:
    """Adding before draining, as a reload does: whoever waits goes to the new one."""
    bench = Bench(Site(1))
    running, waiting = bench.submit_all(2, Act(tokens=1, delay=4))
    bench.engines[0].name = "old"
    bench.add(Site(1))
    bench.dispatcher.drain(bench.upstreams[0])
    await running.over.wait()
    await waiting.over.wait()
    assert {running.outcome, waiting.outcome} == {"completed"}
    assert waiting.places == ["engine-1"]
    await bench.close()


@virtual
async def test_one_that_leaves_while_models_are_listed_is_not_asked() -> None:
    """Its engine is closed by then."""
    bench = Bench(Site(1, {"a": True}), Site(1, {"b": True}), Site(1, {"c": True}))
    listing = asyncio.create_task(bench.dispatcher.models())
    await asyncio.sleep(0)
    bench.dispatcher.drain(bench.upstreams[1])
    assert [*await listing] == ["a", "c"]
    await bench.close()


@pytest.mark.parametrize("when", ["started", "text", "completed"])
@virtual
async def test_draining_from_within_a_job_is_as_good_as_any(when: str) -> None:
    """Whatever the dispatcher is doing when it is told to."""
    bench = Bench(Site(2), Site(2), batch_size=4)
    blockers = bench.submit_all(4, Act(tokens=0, delay=1))
    works = [Work("", Act(tokens=2)) for _ in range(4)]
    works[0].hooks[when] = lambda: bench.dispatcher.drain(bench.upstreams[0])
    for work in works:
        bench.dispatcher.submit(work)
    for work in works:
        await work.over.wait()
    await asyncio.sleep(0)
    assert {work.outcome for work in (*blockers, *works)} == {"completed"}
    assert bench.engines[0].closed is not None
    assert [*bench.dispatcher.statistics().upstreams] == ["engine-1"]
    await bench.close()
