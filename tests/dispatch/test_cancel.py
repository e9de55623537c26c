"""Cancelling in every phase, and closing in every state: each place is given back exactly once."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.terms import Class
from hub.errors import HubError
from tests.dispatch.bench import HANG, Act, Bench, Site, Work, rank
from tests.virtual import virtual


@virtual
async def test_cancelling_a_queued_request_takes_it_out_at_once() -> None:
    """It is cancelled without having started, and whoever is behind it moves up."""
    bench = Bench()
    first, second, third = bench.submit_all(3)
    bench.dispatcher.cancel(second)
    assert second.outcome == "cancelled"
    assert bench.dispatcher.statistics().queued == 1
    bench.dispatcher.cancel(second)
    await third.over.wait()
    assert third.started_at == first.ended_at == 2.0
    assert second.started_at is None
    assert bench.dispatcher.statistics().cancelled == {"queued": 1}
    await bench.close()


@virtual
async def test_whoever_stood_behind_a_cancelled_one_leaves_at_once_if_there_is_room() -> None:
    """In its lane; or behind one that needs more tokens than are left."""
    lane = rank(Class.CHAT, lane="l")
    bench = Bench(Site(1, {"full": True}), Site(2, {"": True}, tokens=60))
    bench.submit("full", HANG)
    stuck, behind = bench.submit("full", terms=lane), bench.submit("", terms=lane, max_tokens=20)
    assert behind.started_at is None
    bench.dispatcher.cancel(stuck)
    assert behind.started_at == 0.0
    large, small = bench.submit("", HANG, max_tokens=50), bench.submit("", HANG, max_tokens=5)
    assert small.started_at is None
    bench.dispatcher.cancel(large)
    assert small.started_at == 0.0
    await bench.close()


@virtual
async def test_cancelling_a_gathered_request_takes_it_out_at_once() -> None:
    """Its place is free, and its batch leaves without it."""
    bench = Bench(Site(2, gather=3.0))
    first = bench.submit()
    assert (first.started_at, bench.dispatcher.reserved) == (None, 1)
    bench.dispatcher.cancel(first)
    bench.dispatcher.cancel(first)
    assert (first.outcome, bench.dispatcher.reserved) == ("cancelled", 0)
    await asyncio.sleep(1)
    third = bench.submit()
    await third.over.wait()
    assert third.started_at == 4.0
    assert bench.engines[0].asked == [third]
    assert bench.dispatcher.statistics().cancelled == {"queued": 1}
    await bench.close()


@virtual
async def test_cancelling_before_the_first_step_of_its_task_gives_its_place_back_once() -> None:
    """A request that was started but has not run a step never reaches its engine; its place is
    free for the next one."""
    bench = Bench()
    first, second = bench.submit_all(2)
    assert first.started_at == 0.0
    bench.dispatcher.cancel(first)
    bench.dispatcher.cancel(first)
    await first.over.wait()
    assert first.outcome == "cancelled"
    assert second.started_at == 0.0
    await second.over.wait()
    assert bench.engines[0].asked == [second]
    assert bench.dispatcher.statistics().cancelled == {"running": 1}
    await bench.close()


@pytest.mark.parametrize("letting_go", [0.0, 3.0])
@pytest.mark.parametrize("tokens", [0, 5])
@virtual
async def test_cancelling_a_running_request_gives_its_place_back_when_its_engine_let_go(
    letting_go: float, tokens: int
) -> None:
    """Before its first token or after. The engine closes what it holds open first; only then is
    the request cancelled and its place free, once."""
    bench = Bench()
    first = bench.submit("", Act(tokens=tokens, delay=1.0 if tokens else 9, letting_go=letting_go))
    second = bench.submit()
    await asyncio.sleep(1.5)
    bench.dispatcher.cancel(first)
    bench.dispatcher.cancel(first)
    assert first.outcome is None
    await first.over.wait()
    assert len(first.said) == min(1, tokens)
    assert second.started_at == first.ended_at == 1.5 + letting_go
    await second.over.wait()
    assert bench.engines[0].most == 1
    statistics = bench.dispatcher.statistics()
    assert statistics.cancelled == {"running": 1}
    assert statistics.upstreams["engine-0"].ended == {"cancelled": 1, "ok": 1}
    await bench.close()


@virtual
async def test_cancelling_what_has_ended_has_no_effect() -> None:
    """A cancellation that comes after the end changes nothing, and one for a stranger neither."""
    bench = Bench()
    work = bench.submit()
    await work.over.wait()
    bench.dispatcher.cancel(work)
    bench.dispatcher.cancel(Work())
    assert work.outcome == "completed"
    assert bench.dispatcher.statistics().cancelled == {}
    await bench.close()


@virtual
async def test_a_cancellation_that_comes_too_late_is_not_counted() -> None:
    """The engine was done already: the request has completed."""
    bench = Bench()
    work = bench.submit("", Act(tokens=0, delay=1))
    loop = asyncio.get_running_loop()
    # After the engine's last step, before the dispatcher knows of it.
    loop.call_at(1.0, lambda: loop.call_soon(lambda: loop.call_soon(bench.dispatcher.cancel, work)))
    await work.over.wait()
    assert work.outcome == "completed"
    assert bench.dispatcher.statistics().cancelled == {}
    await bench.close()


@virtual
async def test_one_that_waits_to_run_again_is_cancelled_like_any_that_waits() -> None:
    """After a failure it is in the queue; while it runs again it is cancelled there."""
    bench = Bench(Site(1), Site(1))
    waiting = bench.submit("", Act(tokens=0, wait=1, end="upstream_error"))
    bench.submit("", Act(tokens=0, delay=5))
    again = bench.submit("", Act(tokens=0, wait=1, end="upstream_error"), HANG)
    await asyncio.sleep(3)
    assert bench.waits(waiting)
    bench.dispatcher.cancel(waiting)
    assert waiting.outcome == "cancelled"
    await asyncio.sleep(3)
    assert again.places == ["engine-0", "engine-1"]
    bench.dispatcher.cancel(again)
    await again.over.wait()
    assert again.outcome == "cancelled"
    await bench.close()


PHASES = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])


@given(
    st.lists(st.tuples(st.lists(PHASES, max_size=3), st.booleans()), min_size=1, max_size=8),
    st.sampled_from([Site(1), Site(3), Site(4, arrays=True), Site(3, gather=1.5, arrays=True)]),
    st.sampled_from(["finish", "upstream_error", "hang"]),
)
@virtual
async def test_however_often_and_whenever_a_request_is_cancelled_it_ends_once(
    requests: list[tuple[list[float], bool]], site: Site, end: str
) -> None:
    """``Work`` asserts that it ends once, ``Bench`` that no place stays taken; its siblings have
    what they would have had."""
    bench = Bench(site)
    loop = asyncio.get_running_loop()
    works: list[Work] = []
    for times, raw in requests:
        works.append(bench.submit("", Act(2, 1.0, end), terms=rank(Class.BACKGROUND), raw=raw))
        for time in times:
            loop.call_at(time, bench.dispatcher.cancel, works[-1])
    await asyncio.sleep(200)
    for work, (times, _) in zip(works, requests, strict=True):
        if work.outcome == "cancelled":
            assert times
        elif end == "finish":
            assert len(work.said) == 2
    counted = sum(bench.dispatcher.statistics().cancelled.values())
    assert counted == sum(work.outcome == "cancelled" for work in works)
    await bench.close()


# Closing.


@virtual
async def test_close_ends_everything_and_returns_when_it_has_ended() -> None:
    """Who waits is cancelled at once, who runs as soon as its engine let go; then close returns."""
    bench = Bench(Site(2), batch_size=2)
    hang = Act(tokens=0, end="hang", letting_go=2.0)
    running = bench.submit_all(2, hang)
    queued = bench.submit_all(5, hang)
    await asyncio.sleep(1)
    await bench.close()
    assert {work.outcome for work in (*running, *queued)} == {"cancelled"}
    assert {work.ended_at for work in queued} == {1.0}
    assert {work.ended_at for work in running} == {3.0}
    assert all(work.started_at is None for work in queued)
    await bench.close()


@virtual
async def test_close_starts_nobody() -> None:
    """Not even those who stood behind one that was cancelled, or gathered."""
    lane = rank(Class.CHAT, lane="l")
    bench = Bench(Site(1, {"full": True}), Site(4, {"": True}), Site(2, {"g": True}, gather=9.0))
    bench.submit("full", HANG)
    bench.submit("full", terms=lane)
    waiting = [bench.submit("", terms=lane) for _ in range(2)] + [bench.submit("g")]
    await bench.close()
    assert {work.outcome for work in waiting} == {"cancelled"}
    assert {work.started_at for work in waiting} == {None}


@virtual
async def test_after_close_nothing_is_accepted() -> None:
    """Nor while it is being closed; and nothing was promised."""
    bench = Bench()
    running = bench.submit("", HANG)
    refusals: list[HubError] = []

    def submit() -> None:
        with pytest.raises(HubError) as caught:
            bench.submit()
        refusals.append(caught.value)

    running.hooks["cancelled"] = submit
    await bench.close()
    submit()
    assert [refusal.code for refusal in refusals] == ["shutting_down"] * 2


@virtual
async def test_close_waits_for_engines_that_are_being_closed() -> None:
    """And for one that is still leaving."""
    bench = Bench(Site(1), Site(1))
    bench.submit("", Act(tokens=0, end="hang", letting_go=4.0))
    await asyncio.sleep(1)
    bench.dispatcher.drain(bench.upstreams[0])
    await bench.close()
    assert bench.engines[0].closed == 5.0
    assert bench.engines[1].closed is None
