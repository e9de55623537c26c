"""The dispatcher with small engines, in virtual time: letting in, batching, routing, counting.

What holds under any traffic is in ``test_invariants.py``.
"""

import asyncio
import logging

import pytest

from hub.dispatch.dispatcher import RESERVED_FOR, Dispatcher
from hub.dispatch.observed import WAITS
from hub.dispatch.terms import Class, rules_with
from hub.dispatch.upstream import Upstream
from hub.errors import HubError
from tests.dispatch.bench import HANG, Act, Bench, ScriptedEngine, Site, Work, rank, timers
from tests.virtual import virtual

COMPLETION, CHAT, BACKGROUND, SPECULATIVE = map(rank, Class)
SLOW = Act(tokens=0, delay=100)

# Letting in.


@virtual
async def test_a_full_queue_refuses_and_promises_nothing() -> None:
    """The request beyond the queue's size is refused with ``rate_limit_exceeded`` and a time to
    come back; it is never started, and no end comes."""
    bench = Bench(queue_size=2)
    accepted = bench.submit_all(3)
    refused = Work()
    with pytest.raises(HubError) as caught:
        bench.dispatcher.submit(refused)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.retry_after is not None
    assert bench.shed() == {"queue_full": 1}
    for work in accepted:
        await work.over.wait()
    assert refused.started_at is None
    assert refused.outcome is None
    bench.submit()
    await bench.close()


@virtual
async def test_a_tenant_who_fills_its_share_of_the_queue_leaves_room_for_others() -> None:
    """Its bound is below the class's, and another tenant or another class is let in."""
    bench = Bench(queue_size=4, tenant_queue=2)
    bench.submit_all(3, HANG, terms=rank(Class.CHAT, tenant="a"))
    with pytest.raises(HubError):
        bench.submit("", HANG, terms=rank(Class.CHAT, tenant="a"))
    bench.submit("", HANG, terms=rank(Class.CHAT, tenant="b"))
    bench.submit("", HANG, terms=rank(Class.BACKGROUND, tenant="a"))
    assert bench.shed() == {"tenant_full": 1}
    await bench.close()


@virtual
async def test_a_deadline_that_cannot_be_met_is_refused_at_the_door() -> None:
    """By what requests took lately: who would wait longer than he may is told so now, and when to
    come back; who may wait longer is let in."""
    bench = Bench()
    await bench.submit("", Act(tokens=0, delay=10)).over.wait()
    bench.submit_all(3, HANG)
    with pytest.raises(HubError) as caught:
        bench.submit("", terms=rank(Class.CHAT, patience=20.0))
    assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 10.0)
    bench.submit("", terms=rank(Class.CHAT, patience=40.0))
    # It goes before those who wait.
    bench.submit("", terms=rank(Class.COMPLETION, patience=11.0))
    assert bench.shed() == {"too_late": 1}
    await bench.close()


@virtual
async def test_a_deadline_that_passes_in_the_queue_is_a_typed_error() -> None:
    """At that very moment, without having started; the others go on waiting."""
    bench = Bench()
    running = bench.submit("", HANG)
    patient, hasty = (
        bench.submit("", terms=rank(Class.CHAT, patience=patience)) for patience in (9.0, 2.0)
    )
    await asyncio.sleep(5)
    assert (hasty.code, hasty.ended_at, hasty.started_at) == ("deadline_exceeded", 2.0, None)
    assert bench.waits(patient)
    assert bench.shed() == {"deadline": 1}
    # It is the time until the dispatch that counts.
    bench.dispatcher.cancel(running)
    await patient.over.wait()
    assert patient.outcome == "completed"
    await bench.close()


@virtual
async def test_background_work_without_a_deadline_waits_as_long_as_it_takes() -> None:
    """Others give up by their class's patience; what was promised waits, and needs no timer."""
    bench = Bench(Site(None))
    bench.upstreams[0].window.size = 1
    running = bench.submit("", HANG)
    promised = bench.submit("", terms=rank(Class.BACKGROUND, patience=float("inf")))
    other = bench.submit("", terms=BACKGROUND)
    await asyncio.sleep(10_000)
    assert other.ended_at == 600.0
    assert bench.waits(promised)
    bench.dispatcher.cancel(running)
    await promised.over.wait()
    assert promised.outcome == "completed"
    await bench.close()


# Batches.


@virtual
async def test_batches_are_counted_by_size_and_by_reason() -> None:
    """The first leaves since nothing runs, the next gather until they are a batch or the oldest
    has waited the interval, and who waited for room leaves as soon as there is some."""
    bench = Bench(Site(5), batch_size=3, flush_interval=0.5, ceiling=1.0)
    first = bench.submit("", SLOW)
    gathered = bench.submit_all(3, SLOW)
    await asyncio.sleep(1)
    alone = bench.submit("", SLOW)
    await asyncio.sleep(1)
    late = bench.submit("", SLOW)
    assert first.started_at == 0.0
    assert [work.started_at for work in gathered] == [0.0] * 3
    assert alone.started_at == 1.5
    assert late.started_at is None
    await late.over.wait()
    assert late.started_at == 100.0
    statistics = bench.dispatcher.statistics()
    assert statistics.dispatched == {"idle": 1, "full": 1, "timer": 1, "room": 1}
    assert statistics.batches == {"1": 3, "3": 1}
    await bench.close()


@pytest.mark.parametrize(
    ("batch_size", "flush_interval", "expected"),
    [
        # BATCH_SIZE=1: nobody waits for company, whatever the interval.
        (1, 10.0, {"1": 4}),
        # FLUSH_INTERVAL=0: nobody waits for company, whatever the size.
        (8, 0.0, {"1": 4}),
        (3, 10.0, {"1": 1, "3": 1}),
    ],
)
@virtual
async def test_size_1_and_interval_0_mean_at_once(
    batch_size: int, flush_interval: float, expected: dict[str, int]
) -> None:
    """Requests that arrive together start together; only with both options do any gather."""
    bench = Bench(Site(8), batch_size=batch_size, flush_interval=flush_interval)
    works = bench.submit_all(4)
    assert [work.started_at for work in works] == [0.0] * 4
    assert bench.dispatcher.statistics().batches == expected
    await bench.close()


@virtual
async def test_who_waits_for_company_has_his_own_interval_if_the_oldest_leaves() -> None:
    """The timer of the queue is that of the oldest who is still there."""
    bench = Bench(Site(4), flush_interval=4.0)
    bench.submit("", HANG)
    oldest = bench.submit()
    await asyncio.sleep(1)
    younger = bench.submit()
    assert (oldest.started_at, younger.started_at) == (None, None)
    bench.dispatcher.cancel(oldest)
    await asyncio.sleep(9)
    assert younger.started_at == 5.0
    await bench.close()


@virtual
async def test_other_rules_hold_at_once_and_refuse_nobody_who_waits() -> None:
    """Who gathers leaves if there is nothing to wait for any more; a smaller queue is only full for
    those who come."""
    bench = Bench(Site(2), flush_interval=50.0, ceiling=1.0)
    bench.submit("", HANG)
    gathering = bench.submit("", HANG)
    assert gathering.started_at is None
    bench.dispatcher.configure(rules_with(queue_size=1))
    assert gathering.started_at == 0.0
    assert bench.dispatcher.rules == rules_with(queue_size=1)
    bench.dispatcher.configure(rules_with(queue_size=3))
    waiting = bench.submit_all(3)
    bench.dispatcher.configure(rules_with(queue_size=1))
    with pytest.raises(HubError):
        bench.submit()
    assert all(bench.waits(work) for work in waiting)
    await bench.close()


# Failures of engines.


@virtual
async def test_an_engines_error_ends_its_own_request_only() -> None:
    """A ``HubError`` reaches its request as it is; the others' tokens are the same."""
    bench = Bench(Site(3))
    before, failing, after = (
        bench.submit("", Act(tokens=3, end=end)) for end in ("finish", "upstream_error", "finish")
    )
    for work in (before, failing, after):
        await work.over.wait()
        assert len(work.said) == 3
    assert failing.error is not None
    assert failing.error.message == "as the script says"
    assert (before.outcome, failing.outcome, after.outcome) == ("completed", "failed", "completed")
    await bench.close()


@virtual
async def test_a_defect_of_an_engine_is_logged_and_ends_its_own_request_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Any other exception fails its request with ``server_error``, tells the operator where it
    came from and the client nothing."""
    bench = Bench(Site(2))
    broken, whole = bench.submit("", Act(end="break")), bench.submit()
    await whole.over.wait()
    assert broken.error is not None
    assert broken.error.code == "server_error"
    assert "ZeroDivision" not in broken.error.message
    assert whole.outcome == "completed"
    await bench.close()
    (record,) = [one for one in caplog.records if one.name == "hub.dispatch"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert "engine-0" in record.getMessage()


# Routing.


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([True, True], [0, 1]),
        ([True, None], [0]),
        ([None, True], [1]),
        ([None, None], [0, 1]),
        ([False, None], [1]),
        ([False, True], [1]),
    ],
)
def test_those_that_list_a_model_come_before_those_that_might_serve_it(
    answers: list[bool | None], expected: list[int]
) -> None:
    """A model goes to the upstreams that list it; if none does, to those that might have it."""
    bench = Bench(*(Site(models={"m": answer}) for answer in answers))
    assert bench.dispatcher.candidates("m") == [bench.upstreams[number] for number in expected]


@virtual
async def test_a_model_that_nobody_serves_is_refused() -> None:
    """If all say no, the request is refused with ``model_not_found`` and nothing is promised."""
    bench = Bench(Site(), Site())
    work = Work("m" * 100)
    with pytest.raises(HubError) as caught:
        bench.dispatcher.submit(work)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "m" * 65 not in caught.value.message
    assert work.outcome is None
    assert bench.shed() == {}
    bench.check_at_rest()


@virtual
async def test_a_request_goes_where_the_least_runs() -> None:
    """Of several candidates the one that holds the least for its size, so that they fill evenly."""
    bench = Bench(Site(2), Site(4))
    for expected in ([1, 0], [1, 1], [1, 2], [2, 2], [2, 3], [2, 4], [2, 4]):
        bench.submit("", HANG)
        assert [upstream.window.in_flight for upstream in bench.upstreams] == expected
    await bench.close()


@virtual
async def test_a_conversation_goes_where_its_beginning_is_known() -> None:
    """Also if another upstream holds less; what begins otherwise goes there. Hits are counted."""
    bench = Bench(Site(8), Site(8))
    first = bench.submit("", HANG, messages=["a long story"])
    later = bench.submit("", HANG, messages=["a long story", "and its end"])
    other = bench.submit("", HANG, messages=["something else"])
    last = bench.submit("", HANG, messages=["something else", "and more"])
    await asyncio.sleep(1)
    assert [work.places for work in (first, later, other, last)] == [
        ["engine-0"],
        ["engine-0"],
        ["engine-1"],
        ["engine-1"],
    ]
    assert [one.statistics().prefix_hits for one in bench.upstreams] == [1, 1]
    await bench.close()


@virtual
async def test_a_full_upstream_holds_up_nobody_elses_requests() -> None:
    """A request for an upstream with room passes those that wait for a full one."""
    bench = Bench(Site(models={"left": True}), Site(models={"right": True}), flush_interval=9.0)
    bench.submit("left", HANG)
    stuck = bench.submit("left")
    passing = bench.submit("right")
    await passing.over.wait()
    assert stuck.started_at is None
    assert passing.started_at is not None
    assert passing.started_at <= 9.0
    await bench.close()


@virtual
async def test_a_model_that_is_withdrawn_holds_up_its_own_requests_only() -> None:
    """If the only engine for a model says meanwhile that it does not serve it, who waits for it
    goes on waiting; nothing leaks, and others run."""
    bench = Bench(Site(models={"old": True, "": True}))
    first, stuck, third = bench.submit(), bench.submit("old"), bench.submit()
    bench.engines[0].answers["old"] = False
    await third.over.wait()
    assert third.started_at == first.ended_at
    assert (stuck.started_at, bench.dispatcher.statistics().queued) == (None, 1)
    bench.engines[0].answers["old"] = True
    await bench.submit().over.wait()
    assert stuck.started_at is not None
    await bench.close()


@virtual
async def test_models_are_those_of_all_upstreams_each_with_its_first_engine() -> None:
    """The union of what is served, in the order of the upstreams; a drained one serves nothing."""
    first = Site(models={"a": True, "b": True})
    bench = Bench(first, Site(models={"b": True, "c": True, "d": None}))
    assert await bench.dispatcher.models() == {"a": "engine-0", "b": "engine-0", "c": "engine-1"}
    bench.submit("a", HANG)
    bench.dispatcher.drain(bench.upstreams[0])
    assert await bench.dispatcher.models() == {"b": "engine-1", "c": "engine-1"}
    await bench.close()


@virtual
async def test_an_upstream_that_cannot_be_asked_hides_no_other() -> None:
    """Its failure is the answer only if nobody else has one, and then the first failure is."""
    engines = [ScriptedEngine(name, {"a": True}, arrays=False) for name in ("1st", "2nd", "alive")]
    engines[0].down = engines[1].down = True
    some = Dispatcher([Upstream(engine, 1) for engine in engines])
    assert await some.models() == {"a": "alive"}
    none = Dispatcher([Upstream(engine, 1) for engine in engines[:2]])
    with pytest.raises(HubError, match="1st") as caught:
        await none.models()
    assert caught.value.code == "upstream_unavailable"


# Places that are kept free.


@virtual
async def test_places_are_kept_free_only_while_somebody_may_want_them() -> None:
    """Background work fills its share of a window for a minute after better requests were seen,
    then all of it; the timer for that needs no other news."""
    bench = Bench(Site(10), ceiling=0.6, age=1e9)
    await bench.submit("", terms=CHAT).over.wait()
    works = bench.submit_all(10, HANG, terms=BACKGROUND)
    assert [work.started_at for work in works] == [2.0] * 6 + [None] * 4
    await asyncio.sleep(0)
    bench.engines[0].down = True  # so that it cannot be asked how it is
    await asyncio.sleep(RESERVED_FOR + 10)
    assert [work.started_at for work in works[6:]] == [RESERVED_FOR] * 4
    assert timers() <= 1
    await bench.close()


# Counting.


@virtual
async def test_the_statistics_tell_waits_and_what_is_held() -> None:
    """Queued and dispatched by class, how long they waited, and what every upstream holds."""
    bench = Bench(Site(1))
    bench.submit("", Act(tokens=0, delay=2), terms=CHAT)
    bench.submit("", HANG, terms=CHAT, max_tokens=10)
    bench.submit("", HANG, terms=rank(Class.BACKGROUND, tenant="a"))
    bench.submit("", HANG, terms=rank(Class.BACKGROUND, tenant="b"))
    await asyncio.sleep(3)
    statistics = bench.dispatcher.statistics()
    assert (statistics.queued, statistics.in_flight) == (2, 1)
    chat, background = statistics.classes["chat"], statistics.classes["background"]
    assert (chat.queued, chat.dispatched, chat.wait_seconds, chat.longest_wait) == (0, 2, 2.0, 2.0)
    assert sum(chat.waits) == 2
    assert chat.waits[WAITS.index(3.0)] == 1
    assert (background.queued, background.dispatched, background.tenants) == (2, 0, 2)
    upstream = statistics.upstreams["engine-0"]
    assert (upstream.state, upstream.in_flight, upstream.window) == ("closed", 1, 1)
    assert upstream.tokens == 17
    assert upstream.ended == {"ok": 1}
    await bench.close()
