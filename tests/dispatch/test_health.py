"""How an upstream is given up, asked whether it is back, and taken up again."""

import asyncio
import logging

import pytest

from hub.dispatch.breaker import FAILURES
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import Class
from hub.dispatch.upstream import Upstream
from hub.engines.base import Load
from hub.errors import HubError
from tests.dispatch.bench import HANG, Act, Bench, ScriptedEngine, Site, now, rank, timers
from tests.virtual import virtual

ERROR = Act(tokens=0, end="upstream_error")


def state(bench: Bench, number: int = 0) -> str:
    return bench.dispatcher.statistics().upstreams[f"engine-{number}"].state


@virtual
async def test_nobody_is_asked_and_no_timer_runs_while_all_is_well() -> None:
    """With room for everybody the dispatcher does nothing between its requests."""
    bench = Bench(Site(None), Site(4))
    works = bench.submit_all(6, HANG, terms=rank(Class.BACKGROUND, patience=float("inf")))
    await asyncio.sleep(0)
    assert timers() == 0
    assert {work.started_at for work in works} == {0.0}
    await bench.close()
    assert [engine.probes for engine in bench.engines] == [[], []]


@virtual
async def test_who_holds_requests_back_is_asked_once_a_second_until_there_is_room() -> None:
    """What it says of itself counts; the questions end with the waiting."""
    bench = Bench(Site(None, slots=2))
    engine, upstream = bench.engines[0], bench.upstreams[0]
    terms = rank(Class.BACKGROUND, patience=float("inf"))
    works = bench.submit_all(4, Act(tokens=0, delay=10), terms=terms)
    assert upstream.window.in_flight == 2
    await asyncio.sleep(2.5)
    assert engine.probes == [1.0, 2.0]
    engine.load = Load(slots=3, kv_tokens=10_000)
    await asyncio.sleep(1)
    # Nobody has to wait for news of another kind.
    assert [work.started_at for work in works] == [0.0, 0.0, 3.0, None]
    assert upstream.window.budget == 10_000
    await asyncio.sleep(60)
    assert {work.outcome for work in works} == {"completed"}
    assert max(engine.probes) <= 11
    assert timers() == 0
    await bench.close()


@virtual
async def test_three_failures_in_a_row_open_the_breaker() -> None:
    """An answer in between starts the count again, and so does a refusal for the request's
    content; an overloaded server is not broken."""
    bench = Bench()
    for end in ("finish", "context_length_exceeded"):
        for act in [ERROR] * (FAILURES - 1) + [Act(tokens=0, end=end)]:
            await bench.submit("", act).over.wait()
            assert state(bench) == "closed"
    for _ in range(5):
        await bench.submit("", Act(tokens=0, end="upstream_overloaded")).over.wait()
    for number in range(FAILURES):
        assert state(bench) == "closed", number
        await bench.submit("", ERROR).over.wait()
    assert state(bench) == "open"
    await bench.close()


@virtual
async def test_who_cannot_be_reached_is_given_up_at_once_and_asked_ever_more_rarely() -> None:
    """After 1, 2, 4 and 8 s, then every 10 s; it is taken up again when it answers."""
    bench = Bench()
    bench.engines[0].down = True
    work = bench.submit()
    await work.over.wait()
    assert (work.code, state(bench)) == ("upstream_unavailable", "open")
    await asyncio.sleep(39)
    assert bench.engines[0].probes == [1.0, 3.0, 7.0, 15.0, 25.0, 35.0]
    bench.engines[0].down = False
    await asyncio.sleep(7)
    assert (state(bench), timers()) == ("half_open", 0)
    await bench.submit().over.wait()
    assert state(bench) == "closed"
    await bench.close()


@virtual
async def test_all_that_are_broken_refuse_at_the_door_and_say_when_to_come_back() -> None:
    """With the failure's own code and words; with one that is well nobody is refused."""
    bench = Bench(Site(), Site())
    bench.engines[0].down = True
    await bench.submit().over.wait()
    for act in [Act(tokens=0, end="upstream_timeout")] * FAILURES:
        await bench.submit("", act).over.wait()
    assert [state(bench, 0), state(bench, 1)] == ["open", "open"]
    with pytest.raises(HubError) as caught:
        bench.submit()
    assert (caught.value.code, caught.value.retry_after) == ("upstream_unavailable", 1.0)
    assert "down" in caught.value.message
    assert bench.shed() == {"upstream_unavailable": 1}
    await asyncio.sleep(1.5)
    assert [state(bench, 0), state(bench, 1)] == ["open", "half_open"]
    await bench.submit().over.wait()
    await bench.close()


@virtual
async def test_half_open_it_gets_one_request_and_the_rest_with_its_first_token() -> None:
    """Not at its end: those that wait leave as soon as the server has proved well."""
    bench = Bench(Site(3))
    bench.engines[0].down = True
    await bench.submit().over.wait()
    bench.engines[0].down = False
    await asyncio.sleep(1.5)
    works = bench.submit_all(4, Act(tokens=2, delay=10))
    assert [work.started_at for work in works] == [1.5, None, None, None]
    await asyncio.sleep(12)
    assert state(bench) == "closed"
    assert [work.started_at for work in works] == [1.5, 11.5, 11.5, None]
    await bench.close()


@virtual
async def test_a_failed_trial_opens_it_again_and_those_that_wait_go_on_waiting() -> None:
    """The request of the trial fails; the others are tried later, and lose nothing."""
    bench = Bench(Site(3))
    bench.engines[0].down = True
    await bench.submit().over.wait()
    bench.engines[0].down = False
    await asyncio.sleep(1.5)
    trial, *rest = bench.submit("", ERROR), *bench.submit_all(2)
    await trial.over.wait()
    assert (trial.code, state(bench)) == ("upstream_error", "open")
    await asyncio.sleep(20)
    assert {work.outcome for work in rest} == {"completed"}
    await bench.close()


@virtual
async def test_whoever_does_not_answer_at_the_start_joins_later() -> None:
    """It is asked from the beginning, without any request for it."""
    engine = ScriptedEngine("late", {"": True}, arrays=False)
    engine.down = True
    upstream = Upstream(engine, 1)
    upstream.unreachable(HubError("upstream_unavailable", "not there"), now())
    dispatcher = Dispatcher([upstream])
    await asyncio.sleep(2)
    engine.down = False
    await asyncio.sleep(2)
    assert upstream.breaker.state == "half_open"
    await dispatcher.close()
    assert timers() == 0


@virtual
async def test_an_answer_to_an_older_question_ends_no_pause() -> None:
    """An upstream that breaks while it is asked how full it is stays open for its time."""
    bench = Bench()
    bench.engines[0].probing = 0.4
    bench.submit("", Act(tokens=1, delay=1.2, end="upstream_unavailable"))
    bench.submit_all(FAILURES - 1, ERROR)
    # Asked at 1.0; broken three times by 1.2; answered at 1.4.
    await asyncio.sleep(1.5)
    assert state(bench) == "open"
    assert bench.upstreams[0].breaker.until == 2.2
    await asyncio.sleep(1)
    assert bench.engines[0].probes == [1.0, 2.2]
    assert state(bench) == "open"
    await asyncio.sleep(0.2)
    assert state(bench) == "half_open"
    await bench.close()


class DefectiveEngine(ScriptedEngine):
    """One that breaks when it is asked how it is."""

    async def probe(self) -> Load:
        await super().probe()
        raise ZeroDivisionError


@virtual
async def test_a_defect_in_answering_is_logged_and_counts_as_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The questions go on at their pace; the upstream stays open."""
    engine = DefectiveEngine("defective", {"": True}, arrays=False)
    upstream = Upstream(engine, 1)
    upstream.unreachable(HubError("upstream_unavailable", "not there"), now())
    dispatcher = Dispatcher([upstream])
    await asyncio.sleep(8)
    assert engine.probes == [1.0, 3.0, 7.0]
    assert upstream.breaker.state == "open"
    await dispatcher.close()
    records = [one for one in caplog.records if one.name == "hub.dispatch"]
    assert [record.levelno for record in records] == [logging.ERROR] * 3
    assert "defective" in records[0].getMessage()


@pytest.mark.parametrize("after", [0.5, 1.2, 1.5, 2.0])
@virtual
async def test_close_ends_the_questions(after: float) -> None:
    """Whether one is open, due, or neither: nothing is asked any more."""
    bench = Bench()
    bench.engines[0].probing = 0.4
    bench.engines[0].down = True
    await bench.submit().over.wait()
    await asyncio.sleep(after)
    asked = len(bench.engines[0].probes)
    await bench.close()
    await asyncio.sleep(100)
    assert len(bench.engines[0].probes) == asked
