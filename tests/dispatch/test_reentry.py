"""Jobs that call the dispatcher back while it tells them something."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.terms import Class, rules_with
from hub.errors import HubError
from tests.dispatch.bench import HANG, Act, Bench, Site, Work, rank
from tests.dispatch.traffic import TICK, acts
from tests.virtual import virtual

BACKGROUND = rank(Class.BACKGROUND)


@pytest.mark.parametrize("arrays", [False, True])
@virtual
async def test_whoever_starts_may_cancel_another_of_its_batch(arrays: bool) -> None:
    """At the same upstream, in the same array, or elsewhere: that one ends once, and never starts
    after its end (``Work`` asserts it)."""
    bench = Bench(Site(2, arrays=arrays), Site(2, arrays=arrays), ceiling=1.0, flush_interval=1.0)
    first = bench.submit("", HANG, terms=BACKGROUND)
    works = [Work("", Act(tokens=0), terms=BACKGROUND, raw=True) for _ in range(3)]

    def cancel_others() -> None:
        for other in works[1:]:
            bench.dispatcher.cancel(other)

    works[0].hooks["started"] = cancel_others
    for work in works:
        bench.dispatcher.submit(work)
    await asyncio.sleep(5)
    assert [work.outcome for work in works] == ["completed", "cancelled", "cancelled"]
    bench.dispatcher.cancel(first)
    await bench.close()


@virtual
async def test_whose_time_is_over_may_cancel_another_whose_time_is_over() -> None:
    """Both end once: the one late, the other cancelled."""
    bench = Bench()
    bench.submit("", HANG)
    hasty = rank(Class.CHAT, patience=1.0)
    works = [bench.submit("", terms=hasty) for _ in range(3)]
    works[0].hooks["failed"] = lambda: bench.dispatcher.cancel(works[1])
    await asyncio.sleep(2)
    assert [work.outcome for work in works] == ["failed", "cancelled", "failed"]
    statistics = bench.dispatcher.statistics()
    assert (statistics.shed, statistics.cancelled) == ({"deadline": 2}, {"queued": 1})
    await bench.close()


@virtual
async def test_whoever_fails_for_a_drain_may_cancel_another_who_would() -> None:
    """As above, for those whose model is served nowhere any more."""
    bench = Bench(Site(1, {"m": True}), Site(1))
    bench.submit("m", HANG)
    works = [bench.submit("m") for _ in range(3)]
    works[0].hooks["failed"] = lambda: bench.dispatcher.cancel(works[2])
    bench.dispatcher.drain(bench.upstreams[0])
    assert [work.outcome for work in works] == ["failed", "failed", "cancelled"]
    await bench.close()


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
@virtual
async def test_whoever_ends_may_ask_for_more(outcome: str) -> None:
    """It goes behind those who wait already, into the place that has just got free."""
    bench = Bench()
    end = {"completed": "finish", "failed": "upstream_error", "cancelled": "hang"}[outcome]
    first, second = bench.submit("", Act(tokens=0, delay=1, end=end)), bench.submit("", Act(0))
    more: list[Work] = []
    first.hooks[outcome] = lambda: more.append(bench.submit("", Act(tokens=0)))
    await asyncio.sleep(2)
    bench.dispatcher.cancel(first)
    await asyncio.sleep(10)
    assert first.outcome == outcome
    assert second.started_at == first.ended_at
    assert more[0].started_at == second.ended_at
    assert more[0].outcome == "completed"
    await bench.close()


@virtual
async def test_whoever_says_the_first_word_may_be_cancelled_for_it() -> None:
    """By its own reader, or by another's; in an array nothing is said to it any more."""
    bench = Bench(Site(4, arrays=True), ceiling=1.0, flush_interval=1.0)
    bench.submit("", HANG, terms=BACKGROUND)
    works = [Work("", Act(tokens=3), terms=BACKGROUND, raw=True) for _ in range(3)]
    works[0].hooks["text"] = lambda: bench.dispatcher.cancel(works[0])
    works[1].hooks["text"] = lambda: bench.dispatcher.cancel(works[2])
    for work in works:
        bench.dispatcher.submit(work)
    await asyncio.sleep(10)
    assert bench.engines[0].sent == [works]
    assert [work.outcome for work in works] == ["cancelled", "completed", "cancelled"]
    assert [len(work.said) for work in works] == [1, 3, 0]
    await bench.close()


@dataclass(frozen=True)
class Callback:
    """What the job number ``who`` does ``when`` it is told so."""

    who: int
    when: str
    what: str
    whom: int


callbacks = st.builds(
    Callback,
    st.integers(0, 11),
    st.sampled_from(["started", "text", "completed", "failed", "cancelled"]),
    st.sampled_from(["submit", "submit", "cancel", "cancel", "drain", "add", "configure"]),
    st.integers(0, 11),
)


@given(
    st.lists(
        st.tuples(st.integers(0, 10), acts, st.booleans(), st.none() | st.integers(0, 20)),
        min_size=2,
        max_size=12,
    ),
    st.lists(callbacks, max_size=12, unique_by=lambda one: (one.who, one.when)),
    st.lists(
        st.sampled_from([Site(1), Site(3, arrays=True), Site(2, gather=TICK)]),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0.0, 2 * TICK]),
)
@virtual
async def test_any_call_from_within_any_other_leaves_the_books_in_order(
    requests: list[tuple[int, Act, bool, int | None]],
    callbacks: list[Callback],
    sites: list[Site],
    flush_interval: float,
) -> None:
    """Whatever jobs do when they are told something: all of them end once (``Work`` asserts it),
    no place stays taken, and no timer."""
    bench = Bench(*sites, flush_interval=flush_interval, patience=30 * TICK)
    loop = asyncio.get_running_loop()
    works = [Work("", act, terms=BACKGROUND, raw=raw, max_tokens=4) for _, act, raw, _ in requests]
    more: list[Work] = []

    def submit(work: Work) -> None:
        try:
            bench.dispatcher.submit(work)
        except HubError:
            return
        more.append(work)

    def does(callback: Callback) -> Callable[[], None]:
        def do() -> None:
            match callback.what:
                case "submit":
                    submit(Work("", Act(tokens=1, delay=TICK), terms=BACKGROUND, raw=True))
                case "cancel":
                    bench.dispatcher.cancel(works[callback.whom % len(works)])
                case "drain":
                    bench.dispatcher.drain(bench.upstreams[callback.whom % len(bench.upstreams)])
                case "add":
                    bench.add(Site(2))
                case "configure":
                    bench.dispatcher.configure(rules_with(batch_size=1 + callback.whom % 3))

        return do

    for callback in callbacks:
        works[callback.who % len(works)].hooks[callback.when] = does(callback)
    for work, (arrives, _, _, leaves) in zip(works, requests, strict=True):
        loop.call_at(arrives * TICK, submit, work)
        if leaves is not None:
            loop.call_at((arrives + leaves) * TICK, bench.dispatcher.cancel, work)
    await asyncio.sleep(100)
    await bench.close()
    assert all(work.outcome for work in more)
