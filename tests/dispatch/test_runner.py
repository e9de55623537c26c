"""Batches that leave as one request, and batches that are gathered at their upstream."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from hub.api.requests import ContextFile
from hub.dispatch.terms import Class
from tests.dispatch.bench import HANG, Act, Bench, Site, Work, rank
from tests.virtual import virtual

BACKGROUND = rank(Class.BACKGROUND)


class Arrays(Bench):
    """Where background requests wait for one that hangs, and then leave together."""

    def __init__(self, *sites: Site, batch_size: int = 8) -> None:
        sites = sites or (Site(9, arrays=True),)
        super().__init__(*sites, ceiling=1.0, flush_interval=1.0, batch_size=batch_size)
        self.first = self.submit("", HANG, terms=BACKGROUND)

    def raw(self, *acts: Act, **options: Any) -> Work:
        return self.submit("", *acts, **{"terms": BACKGROUND, "raw": True, **options})


# Arrays.


@virtual
async def test_only_equal_raw_completions_of_the_background_class_share_an_array() -> None:
    """Those that differ in more than their prompt, chats, and other classes go alone; whoever has
    no equal goes alone, too."""
    bench = Arrays(batch_size=16)
    short = [bench.raw(HANG, max_tokens=5) for _ in range(2)]
    long = [bench.raw(HANG, max_tokens=7) for _ in range(2)]
    bench.raw(HANG)
    bench.submit("", HANG, terms=BACKGROUND)
    chats = [bench.submit("", HANG, raw=True, max_tokens=5) for _ in range(2)]
    await asyncio.sleep(2)
    assert all(work.started_at == 1.0 for work in (*short, *long, *chats))
    assert bench.engines[0].sent == [short, long]
    assert bench.dispatcher.statistics().arrays == 2
    await bench.close()


@virtual
async def test_what_fills_a_gap_goes_alone() -> None:
    """Also beside its equals, and counts with all that is around the gap."""
    bench = Arrays()
    gaps = [Work("", HANG, terms=BACKGROUND, raw=True, max_tokens=5) for _ in range(3)]
    for gap in gaps:
        files = (ContextFile("a", "x" * 40),)
        gap.generation = replace(gap.generation, suffix="y" * 40, files=files)
        gap.submitted_at = asyncio.get_running_loop().time()
        bench.dispatcher.submit(gap)
    before = bench.upstreams[0].window.tokens
    await asyncio.sleep(2)
    assert all(gap.started_at == 1.0 for gap in gaps)
    assert bench.engines[0].sent == []
    prompt = 1 + (len(gaps[0].key) + 80) // 4
    assert bench.upstreams[0].window.tokens - before == 3 * (prompt + 5)
    await bench.close()


@virtual
async def test_raw_completions_that_come_together_need_no_interval_to_be_an_array() -> None:
    """Those of one turn of the loop leave as one, in no time, although there is room for each."""
    bench = Bench(Site(9, arrays=True))
    works = [bench.submit("", terms=BACKGROUND, raw=True) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert {work.started_at for work in works} == {0.0}
    statistics = bench.dispatcher.statistics()
    assert (statistics.arrays, statistics.batches) == (1, {"3": 1})
    await bench.dispatcher.close()


@virtual
async def test_an_upstream_that_is_not_told_to_gets_no_arrays() -> None:
    bench = Arrays(Site(9))
    works = [bench.raw() for _ in range(3)]
    await asyncio.sleep(5)
    assert {work.outcome for work in works} == {"completed"}
    assert bench.dispatcher.statistics().arrays == 0
    await bench.close()


@virtual
async def test_classes_that_are_gathered_together_share_no_array() -> None:
    """Where batches are gathered at the upstream they are of all classes: an equal raw completion
    of a better class can be cancelled alone, and so it is sent alone."""
    bench = Bench(Site(4, gather=1.0, arrays=True))
    chat = bench.submit("", raw=True)
    works = [bench.submit("", raw=True, terms=BACKGROUND) for _ in range(2)]
    await asyncio.sleep(9)
    assert bench.engines[0].sent == [works]
    assert {work.outcome for work in (chat, *works)} == {"completed"}
    await bench.close()


@virtual
async def test_a_member_that_fails_goes_elsewhere_and_its_siblings_go_on() -> None:
    """If it had said nothing; if it had, it fails."""
    bench = Arrays(Site(9, arrays=True), Site(1, {"": None}), batch_size=3)
    moving = bench.raw(Act(tokens=0, wait=2, end="upstream_error"), Act())
    failing = bench.raw(Act(tokens=1, end="upstream_error"))
    whole = bench.raw(Act(tokens=3))
    await asyncio.sleep(1)
    bench.engines[1].answers[""] = True
    await asyncio.sleep(20)
    assert bench.engines[0].sent == [[moving, failing, whole]]
    assert (moving.outcome, moving.places) == ("completed", ["engine-0", "engine-1"])
    assert (failing.code, whole.outcome) == ("upstream_error", "completed")
    await bench.close()


@virtual
async def test_a_cancelled_member_is_told_at_once_but_its_place_is_free_later() -> None:
    """When the array drops it. Nothing is said to it any more."""
    bench = Arrays()
    stopped, going = bench.raw(Act(tokens=3, delay=2)), bench.raw(Act(tokens=4, delay=2))
    await asyncio.sleep(4)
    bench.dispatcher.cancel(stopped)
    bench.dispatcher.cancel(stopped)
    assert (stopped.outcome, stopped.ended_at, len(stopped.said)) == ("cancelled", 4.0, 1)
    assert bench.dispatcher.reserved == 3
    assert bench.dispatcher.statistics().in_flight == 2
    await asyncio.sleep(1.5)
    assert bench.dispatcher.reserved == 2
    await going.over.wait()
    assert going.outcome == "completed"
    statistics = bench.dispatcher.statistics()
    assert statistics.cancelled == {"running": 1}
    assert statistics.upstreams["engine-0"].ended == {"cancelled": 1, "ok": 1}
    await bench.close()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@virtual
async def test_an_array_that_nobody_wants_any_more_is_stopped(order: list[int]) -> None:
    """When its last member is cancelled, or has ended while the others, which hang, were
    cancelled: their places do not stay taken."""
    bench = Arrays()
    hanging, ending = bench.raw(HANG), bench.raw(Act(tokens=1, delay=3))
    await asyncio.sleep(2)
    works = [hanging, ending]
    if order == [0, 1]:
        bench.dispatcher.cancel(hanging)
        assert bench.dispatcher.reserved == 3
        await ending.over.wait()
        assert ending.outcome == "completed"
    else:
        for number in order:
            bench.dispatcher.cancel(works[number])
    await asyncio.sleep(0.1)
    assert bench.engines[0].running == 1
    assert bench.dispatcher.reserved == 1
    assert hanging.outcome == "cancelled"
    await bench.close()


@virtual
async def test_an_array_is_cancelled_before_its_first_step_like_any_other() -> None:
    """Its places are free, and the engine never hears of it."""
    bench = Arrays(batch_size=2)
    works = [bench.raw() for _ in range(2)]
    # It is made at the end of this turn of the loop, and its task runs in a later one.
    asyncio.get_running_loop().call_soon(lambda: [*map(bench.dispatcher.cancel, works)])
    await asyncio.sleep(1)
    assert {work.outcome for work in works} == {"cancelled"}
    assert bench.engines[0].sent == []
    assert bench.dispatcher.reserved == 1
    await bench.close()


# Gathering for an upstream that cannot batch by itself.


@virtual
async def test_a_gathered_batch_leaves_when_it_is_full_or_its_first_has_waited() -> None:
    """Even if nothing runs; and the next begins only when the last has ended, all of it."""
    bench = Bench(Site(3, gather=2.0))
    full = bench.submit_all(3, Act(tokens=0, delay=1), Act())
    slow = bench.submit("", Act(tokens=0, delay=5))
    assert [work.started_at for work in full] == [0.0] * 3
    assert slow.started_at is None
    await asyncio.sleep(2)
    # It was gathered when the first batch was done, at 1.0, and waited for company until 3.0.
    late = bench.submit("", Act(tokens=0, delay=1))
    await asyncio.sleep(2)
    assert slow.started_at == late.started_at == 3.0
    next_one = bench.submit("", Act(tokens=0, delay=1))
    await asyncio.sleep(2)
    assert late.ended_at == 4.0
    assert bench.waits(next_one)
    await next_one.over.wait()
    assert next_one.started_at == 10.0
    statistics = bench.dispatcher.statistics()
    assert statistics.dispatched == {"full": 1, "timer": 2}
    assert statistics.batches == {"1": 1, "2": 1, "3": 1}
    await bench.close()


@virtual
async def test_the_others_do_not_wait_for_one_that_gathers() -> None:
    """Whoever has a place elsewhere starts at once."""
    bench = Bench(Site(8, gather=4.0), Site(1))
    gathered, alone = bench.submit_all(2)
    assert (gathered.started_at, alone.started_at) == (None, 0.0)
    await gathered.over.wait()
    assert gathered.started_at == 4.0
    await bench.close()


@virtual
async def test_an_engine_that_ends_without_a_word_has_ended() -> None:
    """What becomes of it is its job's business; its place is free."""
    bench = Bench()
    bench.engines[0].mute = True
    work = bench.submit()
    await work.over.wait()
    assert (work.outcome, work.said) == ("completed", [])
    await bench.close()
