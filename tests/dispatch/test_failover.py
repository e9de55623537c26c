"""A request that failed at one upstream before it said anything goes to another one."""

import asyncio

import pytest

from hub.dispatch.dispatcher import MAX_ATTEMPTS
from hub.dispatch.terms import Class
from hub.errors import TABLE, Fault
from tests.dispatch.bench import HANG, Act, Bench, Site, Work, rank
from tests.virtual import virtual

ERROR = Act(tokens=0, end="upstream_error")
RETRIED = [code for code, row in TABLE.items() if row.fault is Fault.UPSTREAM]


@pytest.mark.parametrize("code", [*RETRIED, "model_not_found"])
@virtual
async def test_a_failure_before_the_first_token_is_nobodys_loss(code: str) -> None:
    """Whatever the upstream did wrong, and if it does not know the model: another one answers. The
    request has started once, and the failure is counted."""
    bench = Bench(Site(), Site())
    work = bench.submit("", Act(tokens=0, end=code), Act(tokens=2))
    await work.over.wait()
    assert (work.outcome, len(work.said)) == ("completed", 2)
    assert work.places == ["engine-0", "engine-1"]
    assert work.started_at == 0.0
    statistics = bench.dispatcher.statistics()
    assert statistics.retried == {code: 1}
    assert [one.ended for one in statistics.upstreams.values()] == [{code: 1}, {"ok": 1}]
    assert statistics.classes["chat"].dispatched == 1
    await bench.close()


@pytest.mark.parametrize(
    "code", ["context_length_exceeded", "upstream_rejected_request", "worker_lost", "server_error"]
)
@virtual
async def test_what_another_upstream_would_not_do_better_is_not_tried_there(code: str) -> None:
    """The client's mistakes, and hub's own."""
    bench = Bench(Site(), Site())
    work = bench.submit("", Act(tokens=0, end=code))
    await work.over.wait()
    assert (work.code, work.places) == (code, ["engine-0"])
    await bench.close()


@virtual
async def test_a_failure_after_the_first_token_is_final() -> None:
    """What was said cannot be said again."""
    bench = Bench(Site(), Site())
    work = bench.submit("", Act(tokens=1, end="upstream_error"))
    await work.over.wait()
    assert (work.code, work.places, len(work.said)) == ("upstream_error", ["engine-0"], 1)
    assert bench.dispatcher.statistics().retried == {}
    await bench.close()


@virtual
async def test_a_request_that_breaks_upstreams_is_not_given_to_all_of_them() -> None:
    """It fails with the last one's error after so many attempts, each elsewhere."""
    bench = Bench(*[Site()] * (MAX_ATTEMPTS + 2))
    work = bench.submit("", ERROR, ERROR, Act(tokens=0, end="upstream_timeout"))
    await work.over.wait()
    assert work.code == "upstream_timeout"
    assert len({*work.places}) == len(work.places) == MAX_ATTEMPTS
    await bench.close()


@virtual
async def test_with_nobody_else_it_fails_with_the_error() -> None:
    """There is no other upstream, or none that serves the model, or none that is well."""
    bench = Bench(Site(models={"": True, "m": True}), Site(models={"": True}))
    for model in ("m", ""):
        if model == "":
            bench.upstreams[1].breaker.failure(0.0, unreachable=True)
        work = bench.submit(model, ERROR)
        await work.over.wait()
        assert (work.code, work.places) == ("upstream_error", ["engine-0"])
    await bench.close()


@virtual
async def test_it_goes_before_the_others_of_its_lane() -> None:
    """They wait until it has a place elsewhere; others take the place that it left."""
    lane = rank(Class.CHAT, lane="l")
    bench = Bench(Site(1), Site(1))
    failing = bench.submit("", Act(tokens=0, wait=1, end="upstream_error"), Act(), terms=lane)
    bench.submit("", Act(tokens=0, delay=3))
    behind, stranger = bench.submit("", terms=lane), bench.submit("", HANG)
    await asyncio.sleep(10)
    assert failing.places == ["engine-0", "engine-1"]
    assert [attempt.began for attempt in failing.attempts] == [0.0, 3.0]
    assert stranger.attempts[0].began == 1.0
    assert behind.started_at == failing.ended_at == 5.0
    await bench.close()


@virtual
async def test_its_deadline_stays_the_same_and_its_error_the_first() -> None:
    """Whoever finds no place elsewhere in time fails with what really happened."""
    bench = Bench(Site(1), Site(1))
    blocker = bench.submit("", HANG)
    terms = rank(Class.CHAT, patience=5.0)
    work = bench.submit("", Act(tokens=0, end="upstream_timeout"), terms=terms)
    await asyncio.sleep(4)
    assert bench.waits(work)
    await work.over.wait()
    assert (work.code, work.ended_at) == ("upstream_timeout", 5.0)
    assert bench.shed() == {"deadline": 1}
    assert blocker.outcome is None
    await bench.close()


@virtual
async def test_it_does_not_wait_for_an_upstream_that_breaks_meanwhile() -> None:
    """Where it has failed is well, where it would go is not: nothing is left to hope for."""
    bench = Bench(Site(1), Site(1))
    first = bench.submit("", Act(tokens=0, delay=0.5))
    moving = bench.submit("", Act(tokens=0, wait=3, end="upstream_unavailable"), Act())
    await first.over.wait()
    promised = rank(Class.BACKGROUND, patience=float("inf"))
    work = bench.submit("", Act(tokens=0, end="upstream_timeout"), terms=promised)
    await asyncio.sleep(1)
    assert work.places == ["engine-0"]
    assert bench.waits(work)
    await work.over.wait()
    assert (work.code, work.ended_at) == ("upstream_timeout", 3.0)
    assert bench.shed() == {"upstream_unavailable": 1}
    await moving.over.wait()
    assert moving.places == ["engine-1", "engine-0"]
    await bench.close()


@virtual
async def test_one_of_three_upstreams_dies_under_load_and_nobody_is_lost() -> None:
    """Whoever had no token yet gets all of them elsewhere; whoever had one is told of the failure;
    nothing goes to the dead one until it is back, and then it has its share again."""
    bench = Bench(Site(4), Site(4), Site(4))
    dying = bench.engines[0]
    works: list[Work] = []
    for second in range(40):
        dying.down = 10 <= second < 20
        works += [bench.submit("", Act(tokens=3, delay=0.5)) for _ in range(4)]
        await asyncio.sleep(1)
    await asyncio.sleep(60)
    assert {work.outcome for work in works} == {"completed"}
    moved = [work for work in works if len(work.attempts) > 1]
    assert moved
    assert {work.places[0] for work in moved} == {"engine-0"}
    there = [
        attempt.began for work in works for attempt in work.attempts if attempt.engine == "engine-0"
    ]
    assert len([at for at in there if 10 < at < 20]) <= 4
    assert [at for at in there if at > 25]
    await bench.close()
