"""The dispatcher with small engines, in virtual time: one end for everybody, no room lost."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.recorder import Recorder
from hub.api.requests import Generation, Json, Request, Usage
from hub.dispatch.dispatcher import Dispatcher, Upstream
from hub.engines.base import Sink
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_text import script as sim_script
from hub.errors import HubError
from tests.traces import traces
from tests.virtual import virtual


@dataclass(frozen=True)
class Script:
    """What an engine does for one request."""

    tokens: int = 1
    delay: float = 1.0
    """Seconds before each token, and before the end."""
    end: str = "finish"
    """``finish``; ``fail`` with an error from the table; ``break`` with any other; ``hang``."""
    letting_go: float = 0.0
    """Seconds that it takes to let go when it is cancelled."""


class ScriptedEngine:
    """An engine that does what each request's script says."""

    slots: int | None = None
    continues = False

    def __init__(self, name: str, models: Mapping[str, bool | None]) -> None:
        self.name = name
        self.answers = dict(models)
        self.running = 0
        self.most = 0
        self.asked: list[Generation] = []

    def serves(self, model: str) -> bool | None:
        return self.answers.get(model, False)

    async def generate(self, generation: Generation, sink: Sink) -> None:
        script: Script = generation.extra["script"]
        self.asked.append(generation)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for number in range(script.tokens):
                await asyncio.sleep(script.delay)
                sink.text(f"{number};")
            match script.end:
                case "fail":
                    raise HubError("upstream_error", "as the script says")
                case "break":
                    raise ZeroDivisionError
                case "hang":
                    await asyncio.get_running_loop().create_future()
            await asyncio.sleep(script.delay)
            sink.finish("stop")
        except asyncio.CancelledError:
            await asyncio.sleep(script.letting_go)
            raise
        finally:
            self.running -= 1

    async def models(self) -> list[str]:
        return [model for model, serves in self.answers.items() if serves]

    async def close(self) -> None:
        assert self.running == 0


class Work:
    """A job that writes down what happens to it, and the sink of its tokens."""

    def __init__(self, model: str = "", script: Script | None = None) -> None:
        self.script = script or Script()
        self.generation = Generation(model, (), extra={"script": self.script})
        self.said: list[str] = []
        self.submitted_at: float | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.outcome: str | None = None
        self.error: HubError | None = None
        self.over = asyncio.Event()

    @property
    def sink(self) -> "Work":
        return self

    # dispatch.dispatcher.Job

    def started(self) -> None:
        assert self.started_at is None, "started twice"
        assert self.outcome is None, "started after its end"
        self.started_at = asyncio.get_running_loop().time()

    def completed(self) -> None:
        self._end("completed")

    def failed(self, error: HubError) -> None:
        self.error = error
        self._end("failed")

    def cancelled(self) -> None:
        self._end("cancelled")

    def _end(self, outcome: str) -> None:
        assert self.outcome is None, f"{outcome} after {self.outcome}"
        assert self.started_at is not None or outcome == "cancelled"
        self.outcome = outcome
        self.ended_at = asyncio.get_running_loop().time()
        self.over.set()

    # engines.base.Sink

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        assert self.outcome is None, "a token after the end"
        self.said.append(delta)

    def finish(self, reason: str) -> None:
        assert reason == "stop"

    def reasoning(self, delta: str) -> None:
        raise AssertionError("no script has reasoning")

    def refusal(self, delta: str) -> None:
        raise AssertionError("no script has refusals")

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        raise AssertionError("no script has tool calls")

    def usage(self, usage: Usage) -> None:
        raise AssertionError("no script has usage")


class Bench:
    """A dispatcher and its upstreams, each a scripted engine."""

    def __init__(
        self,
        windows: Sequence[int] = (1,),
        models: Sequence[Mapping[str, bool | None]] = ({"": True},),
        *,
        batch_size: int = 8,
        flush_interval: float = 0.0,
        queue_size: int = 1024,
    ) -> None:
        self.engines = [
            ScriptedEngine(f"engine-{number}", answers) for number, answers in enumerate(models)
        ]
        self.upstreams = [
            Upstream(engine, window) for engine, window in zip(self.engines, windows, strict=True)
        ]
        self.dispatcher = Dispatcher(
            self.upstreams,
            batch_size=batch_size,
            flush_interval=flush_interval,
            queue_size=queue_size,
        )

    def submit(self, model: str = "", script: Script | None = None) -> Work:
        work = Work(model, script)
        self.dispatcher.submit(work)
        work.submitted_at = asyncio.get_running_loop().time()
        return work

    def check_at_rest(self) -> None:
        """Nothing runs, nothing waits, nothing is reserved."""
        assert self.dispatcher.reserved == 0
        statistics = self.dispatcher.statistics()
        assert (statistics.queued, statistics.in_flight) == (0, 0)
        assert [engine.running for engine in self.engines] == [0] * len(self.engines)


# Any traffic.

MODELS: list[dict[str, bool | None]] = [
    {"": True, "left": True, "any": None},
    {"": True, "right": True, "any": None},
]
TICK = 1 / 8
END = 10_000.0


@dataclass(frozen=True)
class Plan:
    """One request of the traffic, in ticks."""

    arrives: int
    model: str
    script: Script
    cancelled_after: int | None


plans = st.builds(
    Plan,
    st.integers(0, 40),
    st.sampled_from(["", "left", "right", "any"]),
    st.builds(
        Script,
        tokens=st.integers(0, 3),
        delay=st.integers(0, 8).map(lambda ticks: ticks * TICK),
        end=st.sampled_from(["finish", "finish", "finish", "fail", "break", "hang"]),
        letting_go=st.integers(0, 4).map(lambda ticks: ticks * TICK),
    ),
    st.none() | st.integers(0, 24),
)


class Traffic:
    """Plays plans on a bench, and checks afterwards what each rule says about it."""

    def __init__(
        self, bench: Bench, plans: list[Plan], flush_interval: float, queue_size: int
    ) -> None:
        self.bench = bench
        self.plans = plans
        self.flush_interval = flush_interval
        self.queue_size = queue_size
        self.accepted: list[Work] = []
        self.cancelled: set[Work] = set()
        self.refused = 0

    async def play(self) -> None:
        loop = asyncio.get_running_loop()
        for plan in self.plans:
            loop.call_at(plan.arrives * TICK, self._arrive, plan)
        # A tick between the ticks at which things happen: nothing is on its way.
        for tick in range(100):
            await asyncio.sleep((tick + 0.5) * TICK - loop.time())
            self._check_now()
        await asyncio.sleep(END - loop.time())
        await self.bench.dispatcher.close()
        self.bench.check_at_rest()

    def _arrive(self, plan: Plan) -> None:
        queued = self.bench.dispatcher.statistics().queued
        try:
            work = self.bench.submit(plan.model, plan.script)
        except HubError as refusal:
            self._refuse(refusal, queued)
            return
        self.accepted.append(work)
        if plan.cancelled_after is not None:
            delay = plan.cancelled_after * TICK
            asyncio.get_running_loop().call_later(delay, self._cancel, work)

    def _refuse(self, refusal: HubError, queued: int) -> None:
        assert refusal.code == "rate_limit_exceeded"
        assert queued == self.bench.dispatcher.statistics().queued == self.queue_size
        self.refused += 1

    def _cancel(self, work: Work) -> None:
        if work.outcome is None:
            self.cancelled.add(work)
        self.bench.dispatcher.cancel(work)
        assert work.started_at is not None or work.outcome == "cancelled"

    def _check_now(self) -> None:
        """Reserved capacity equals live requests, and no window is exceeded."""
        statistics = self.bench.dispatcher.statistics()
        assert self.bench.dispatcher.reserved == statistics.in_flight
        assert statistics.in_flight == sum(engine.running for engine in self.bench.engines)
        for upstream, engine in zip(self.bench.upstreams, self.bench.engines, strict=True):
            assert engine.running == upstream.window.in_flight <= upstream.window.size
        live = [work for work in self.accepted if work.outcome is None]
        assert len(live) == statistics.in_flight + statistics.queued

    def check_ends(self) -> None:
        """Everybody has the one end that his script, or his cancellation, gives him."""
        assert len(self.accepted) + self.refused == len(self.plans)
        assert self.bench.dispatcher.statistics().refused == self.refused
        for work in self.accepted:
            script = work.script
            said = [f"{number};" for number in range(script.tokens)]
            assert work.outcome is not None
            if work.outcome == "cancelled":
                assert work.said == said[: len(work.said)]
                assert work.ended_at is not None
                assert work in self.cancelled or work.ended_at >= END
                continue
            assert work.said == said
            assert work.started_at is not None
            assert work.ended_at is not None
            if script.end == "finish":
                assert work.outcome == "completed"
                # Nobody else has slowed it.
                assert work.ended_at == work.started_at + (script.tokens + 1) * script.delay
            else:
                assert work.error is not None
                code = {"fail": "upstream_error", "break": "server_error"}[script.end]
                assert (work.outcome, work.error.code) == ("failed", code)

    def check_dispatches(self) -> None:
        """Each went to one engine, once, that serves its model; within the window; and was counted
        in one batch."""
        for upstream, engine in zip(self.bench.upstreams, self.bench.engines, strict=True):
            assert engine.most <= upstream.window.size
            assert all(engine.serves(asked.model) is not False for asked in engine.asked)
        asked = [id(one) for engine in self.bench.engines for one in engine.asked]
        assert len(asked) == len(set(asked)), "dispatched twice"
        started = [work for work in self.accepted if work.started_at is not None]
        assert set(asked) <= {id(work.generation) for work in started}
        statistics = self.bench.dispatcher.statistics()
        sizes = {int(size): count for size, count in statistics.batches.items()}
        assert sum(size * count for size, count in sizes.items()) == len(started)
        assert sum(sizes.values()) == sum(statistics.dispatched.values())

    def check_order(self) -> None:
        """Requests for the same model start in the order in which they came."""
        for model in ("", "left", "right", "any"):
            of_model = [work for work in self.accepted if work.generation.model == model]
            starts = [work.started_at for work in of_model if work.started_at is not None]
            assert starts == sorted(starts)

    def check_no_idle_waits(self) -> None:
        """No request waits, beyond the gather time, while an upstream that may serve it has
        room."""
        times = {
            time
            for work in self.accepted
            for time in (work.submitted_at, work.started_at, work.ended_at)
            if time is not None
        }
        for work in self.accepted:
            assert work.submitted_at is not None
            end = work.ended_at if work.started_at is None else work.started_at
            assert end is not None
            patience = work.submitted_at + self.flush_interval
            moments = [patience, *sorted(time for time in times if patience < time < end), end]
            for before, after in pairwise(moments):
                if before < after:
                    self._check_full(work.generation.model, (before + after) / 2)

    def _check_full(self, model: str, time: float) -> None:
        for engine, upstream in zip(self.bench.engines, self.bench.upstreams, strict=True):
            if engine.serves(model) is not False:
                there = {id(asked) for asked in engine.asked}
                running = [
                    work
                    for work in self.accepted
                    if id(work.generation) in there
                    and work.started_at is not None
                    and work.ended_at is not None
                    and work.started_at < time < work.ended_at
                ]
                assert len(running) == upstream.window.size, "room, and yet somebody waits"


@given(
    traces(plans, 25),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 4),
    st.sampled_from([0.0, 2 * TICK, 8 * TICK]),
    st.integers(1, 20),
)
@virtual
async def test_rules_hold_under_any_traffic(
    traffic: list[Plan],
    windows: tuple[int, int],
    batch_size: int,
    flush_interval: float,
    queue_size: int,
) -> None:
    """Whatever arrives, fails, hangs and is cancelled when: every accepted request is started once
    at most and ends once, as its own script says; no window is exceeded and none is left taken; no
    request waits while there is room for it."""
    bench = Bench(
        windows,
        MODELS,
        batch_size=batch_size,
        flush_interval=flush_interval,
        queue_size=queue_size,
    )
    played = Traffic(bench, traffic, flush_interval, queue_size)
    await played.play()
    played.check_ends()
    played.check_dispatches()
    played.check_order()
    played.check_no_idle_waits()


# Admission.


@virtual
async def test_a_full_queue_refuses_and_promises_nothing() -> None:
    """The request beyond the queue's size is refused with ``rate_limit_exceeded`` and a time to
    come back; it is never started, and no end comes."""
    bench = Bench(queue_size=2)
    accepted = [bench.submit() for _ in range(3)]
    refused = Work()
    with pytest.raises(HubError) as caught:
        bench.dispatcher.submit(refused)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.retry_after is not None
    assert bench.dispatcher.statistics().refused == 1
    for work in accepted:
        await work.over.wait()
    assert refused.started_at is None
    assert refused.outcome is None
    bench.submit()
    await bench.dispatcher.close()
    bench.check_at_rest()


# Cancellation, in each phase.


@virtual
async def test_cancelling_a_queued_request_takes_it_out_at_once() -> None:
    """It is cancelled without having started, and whoever is behind it moves up."""
    bench = Bench()
    first, second, third = (bench.submit() for _ in range(3))
    bench.dispatcher.cancel(second)
    assert second.outcome == "cancelled"
    assert bench.dispatcher.statistics().queued == 1
    bench.dispatcher.cancel(second)
    await third.over.wait()
    assert third.started_at == first.ended_at == 2.0
    assert second.started_at is None
    bench.check_at_rest()


@virtual
async def test_cancelling_before_the_first_step_of_its_task_gives_its_place_back_once() -> None:
    """A request that was started but has not run a step never reaches its engine; its place is
    free for the next one."""
    bench = Bench()
    first, second = bench.submit(), bench.submit()
    assert first.started_at == 0.0
    bench.dispatcher.cancel(first)
    bench.dispatcher.cancel(first)
    await first.over.wait()
    assert first.outcome == "cancelled"
    assert second.started_at == 0.0
    await second.over.wait()
    assert [asked is second.generation for asked in bench.engines[0].asked] == [True]
    bench.check_at_rest()


@pytest.mark.parametrize("letting_go", [0.0, 3.0])
@virtual
async def test_cancelling_a_running_request_gives_its_place_back_when_its_engine_let_go(
    letting_go: float,
) -> None:
    """The engine closes what it holds open first; only then is the request cancelled and its place
    free, once."""
    bench = Bench()
    first = bench.submit(script=Script(tokens=5, letting_go=letting_go))
    second = bench.submit()
    await asyncio.sleep(1.5)
    bench.dispatcher.cancel(first)
    assert first.outcome is None
    await first.over.wait()
    assert first.said == ["0;"]
    assert second.started_at == first.ended_at == 1.5 + letting_go
    await second.over.wait()
    assert bench.engines[0].most == 1
    bench.check_at_rest()


@virtual
async def test_cancelling_what_has_ended_has_no_effect() -> None:
    """A cancellation that comes after the end changes nothing."""
    bench = Bench()
    work = bench.submit()
    await work.over.wait()
    bench.dispatcher.cancel(work)
    assert work.outcome == "completed"
    bench.check_at_rest()


@virtual
async def test_who_waits_for_company_has_his_own_interval_if_the_oldest_leaves() -> None:
    """The timer of the queue is that of the oldest who is still there."""
    bench = Bench([4], flush_interval=4.0)
    bench.submit(script=Script(end="hang"))
    oldest = bench.submit()
    await asyncio.sleep(1)
    younger = bench.submit()
    assert (oldest.started_at, younger.started_at) == (None, None)
    bench.dispatcher.cancel(oldest)
    await asyncio.sleep(9)
    assert younger.started_at == 5.0
    await bench.dispatcher.close()
    bench.check_at_rest()


# Failures.


@virtual
async def test_an_engines_error_ends_its_own_request_only() -> None:
    """A ``HubError`` reaches its request as it is; the others' tokens are the same."""
    bench = Bench([3])
    before, failing, after = (
        bench.submit(script=Script(tokens=3, end=end)) for end in ("finish", "fail", "finish")
    )
    for work in (before, failing, after):
        await work.over.wait()
        assert work.said == ["0;", "1;", "2;"]
    assert failing.outcome == "failed"
    assert failing.error is not None
    assert failing.error.message == "as the script says"
    assert (before.outcome, after.outcome) == ("completed", "completed")
    bench.check_at_rest()


@virtual
async def test_a_defect_of_an_engine_is_logged_and_ends_its_own_request_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Any other exception fails its request with ``server_error``, tells the operator where it
    came from and the client nothing."""
    bench = Bench([2])
    broken, whole = bench.submit(script=Script(end="break")), bench.submit()
    await whole.over.wait()
    assert broken.error is not None
    assert broken.error.code == "server_error"
    assert "ZeroDivision" not in broken.error.message
    assert whole.outcome == "completed"
    bench.check_at_rest()
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
    bench = Bench([1, 1], [{"m": answer} for answer in answers])
    assert bench.dispatcher.candidates("m") == [bench.upstreams[number] for number in expected]


@virtual
async def test_a_model_that_nobody_serves_is_refused() -> None:
    """If all say no, the request is refused with ``model_not_found`` and nothing is promised."""
    bench = Bench([1, 1], [{"": True}, {"": True}])
    work = Work("m" * 100)
    with pytest.raises(HubError) as caught:
        bench.dispatcher.submit(work)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "m" * 65 not in caught.value.message
    assert work.outcome is None
    assert bench.dispatcher.statistics().refused == 0
    bench.check_at_rest()


@virtual
async def test_a_request_goes_where_there_is_most_room() -> None:
    """Of several candidates the one with the most room is taken, so that they fill evenly."""
    bench = Bench([2, 4], [{"": True}, {"": True}])
    hang = Script(end="hang")
    for expected in ([0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [2, 4], [2, 4]):
        bench.submit(script=hang)
        assert [upstream.window.in_flight for upstream in bench.upstreams] == expected
    await bench.dispatcher.close()
    bench.check_at_rest()


@virtual
async def test_a_full_upstream_holds_up_nobody_elses_requests() -> None:
    """A request for an upstream with room passes those that wait for a full one."""
    bench = Bench([1, 1], [{"left": True}, {"right": True}], flush_interval=9.0)
    bench.submit("left", Script(end="hang"))
    stuck = bench.submit("left")
    passing = bench.submit("right")
    await passing.over.wait()
    assert stuck.started_at is None
    assert passing.started_at is not None
    assert passing.started_at <= 9.0
    await bench.dispatcher.close()
    bench.check_at_rest()


@virtual
async def test_a_model_that_is_withdrawn_holds_up_its_own_requests_only() -> None:
    """If the only engine for a model says meanwhile that it does not serve it, who waits for it
    goes on waiting; nothing leaks, and others run."""
    bench = Bench([1], [{"old": True, "": True}])
    first, stuck, third = bench.submit(), bench.submit("old"), bench.submit()
    bench.engines[0].answers["old"] = False
    await third.over.wait()
    assert third.started_at == first.ended_at
    assert (stuck.started_at, bench.dispatcher.statistics().queued) == (None, 1)
    bench.engines[0].answers["old"] = True
    await bench.submit().over.wait()
    assert stuck.started_at is not None
    await bench.dispatcher.close()
    bench.check_at_rest()


@virtual
async def test_models_are_those_of_all_upstreams_each_with_its_first_engine() -> None:
    """The union of what is served, in the order of the upstreams."""
    bench = Bench([1, 1], [{"a": True, "b": True}, {"b": True, "c": True, "d": None}])
    assert await bench.dispatcher.models() == {
        "a": "engine-0",
        "b": "engine-0",
        "c": "engine-1",
    }


class UnreachableEngine(ScriptedEngine):
    """An engine that cannot be asked."""

    async def models(self) -> list[str]:
        raise HubError("upstream_unavailable", self.name)


@virtual
async def test_an_upstream_that_cannot_be_asked_hides_no_other() -> None:
    """Its failure is the answer only if nobody else has one, and then the first failure is."""
    dead = [UnreachableEngine(name, {}) for name in ("first", "second")]
    alive = ScriptedEngine("alive", {"a": True})
    some = Dispatcher([Upstream(engine, 1) for engine in (*dead, alive)])
    assert await some.models() == {"a": "alive"}
    none = Dispatcher([Upstream(engine, 1) for engine in dead])
    with pytest.raises(HubError, match="first") as caught:
        await none.models()
    assert caught.value.code == "upstream_unavailable"


# The end.


@virtual
async def test_close_ends_everything_and_returns_when_it_has_ended() -> None:
    """Who waits is cancelled at once, who runs as soon as its engine let go; then close returns."""
    bench = Bench([2], batch_size=2)
    hang = Script(end="hang", letting_go=2.0)
    running = [bench.submit(script=hang) for _ in range(2)]
    queued = [bench.submit(script=hang) for _ in range(5)]
    await asyncio.sleep(1)
    await bench.dispatcher.close()
    assert {work.outcome for work in (*running, *queued)} == {"cancelled"}
    assert {work.ended_at for work in queued} == {1.0}
    assert {work.ended_at for work in running} == {3.0}
    assert all(work.started_at is None for work in queued)
    bench.check_at_rest()
    await bench.dispatcher.close()


def test_close_leaves_no_timer() -> None:
    """A request that waited for company is cancelled, and nothing is scheduled any more."""

    @virtual
    async def close_and_wait() -> None:
        bench = Bench([2], flush_interval=5.0)
        bench.submit(script=Script(end="hang"))
        waiting = bench.submit()
        await bench.dispatcher.close()
        assert waiting.outcome == "cancelled"
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="virtual time stands still"):
        close_and_wait()


# Batches.


@virtual
async def test_batches_are_counted_by_size_and_by_reason() -> None:
    """The first leaves since nothing runs, the next gather until they are a batch or the oldest
    has waited the interval, and who waited for room leaves as soon as there is some."""
    bench = Bench([5], batch_size=3, flush_interval=0.5)
    slow = Script(tokens=0, delay=100)
    first = bench.submit(script=slow)
    gathered = [bench.submit(script=slow) for _ in range(3)]
    await asyncio.sleep(1)
    alone = bench.submit(script=slow)
    await asyncio.sleep(1)
    late = bench.submit(script=slow)
    assert first.started_at == 0.0
    assert [work.started_at for work in gathered] == [0.0] * 3
    assert alone.started_at == 1.5
    assert late.started_at is None
    await late.over.wait()
    assert late.started_at == 100.0
    statistics = bench.dispatcher.statistics()
    assert statistics.dispatched == {"idle": 1, "full": 1, "timer": 1, "room": 1}
    assert statistics.batches == {"1": 3, "3": 1}
    assert statistics.windows == {"engine-0": 5}
    bench.check_at_rest()


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
    bench = Bench([8], batch_size=batch_size, flush_interval=flush_interval)
    works = [bench.submit() for _ in range(4)]
    assert [work.started_at for work in works] == [0.0] * 4
    assert bench.dispatcher.statistics().batches == expected
    await bench.dispatcher.close()


# With the simulated engine.


def said(recorder: Recorder) -> str:
    return "".join(event.delta for event in recorder.log.read(-1) if event.part is not None)


class Answer(Recorder):
    """A job with a real log: a ``Recorder`` with the dispatcher's words for its ends."""

    __slots__ = ()

    @property
    def generation(self) -> Generation:
        return self.request.generation

    @property
    def sink(self) -> Sink:
        return self

    def completed(self) -> None:
        self.complete(0.0)

    def failed(self, error: HubError) -> None:
        self.fail(error)

    def cancelled(self) -> None:
        self.cancel()


def ask(number: int) -> Answer:
    messages = [{"role": "user", "content": f"Tell me about number {number}."}]
    generation = Generation("sim", messages, max_tokens=40)
    return Answer(Request("sim", generation), id=f"resp_{number}", model="sim", now=0.0)


@given(
    traces(st.tuples(st.integers(0, 400), st.none() | st.integers(0, 800)), 12),
    st.integers(1, 4),
    st.integers(1, 4),
)
@virtual
async def test_the_simulated_engine_says_to_each_what_it_would_say_to_it_alone(
    arrivals: list[tuple[int, int | None]], window: int, batch_size: int
) -> None:
    """Whoever else runs, waits or is cancelled: each answer is what it would be alone, each
    cancelled one a beginning of it; no slot stays taken."""
    loop = asyncio.get_running_loop()
    engine = SimEngine(PROFILES["h100-8b"])
    dispatcher = Dispatcher([Upstream(engine, window)], batch_size=batch_size)
    answers = [ask(number) for number in range(len(arrivals))]
    left = set()
    for answer, (arrives, leaves) in zip(answers, arrivals, strict=True):
        loop.call_at(arrives / 1000, dispatcher.submit, answer)
        if leaves is not None:
            left.add(answer)
            loop.call_at((arrives + leaves) / 1000, dispatcher.cancel, answer)
    await asyncio.sleep(1000)
    assert dispatcher.reserved == 0
    for answer in answers:
        alone = "".join(sim_script(answer.generation, 0).text)
        assert answer.ended
        if answer.status == "cancelled":
            assert answer in left
            assert alone.startswith(said(answer))
        else:
            assert answer.status in ("completed", "incomplete")
            assert said(answer) == alone
    statistics = engine.statistics()
    assert (statistics.running, statistics.waiting, statistics.kv_used) == (0, 0, 0)
    await dispatcher.close()
    await engine.close()
