"""What live responses may hold: one of them, and all of them together."""

import asyncio
from collections.abc import Iterable, Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.ids import new_id
from hub.api.recorder import Recorder
from hub.api.requests import Generation, Request
from hub.api.responses import parse_create
from hub.api.transcript import Transcript
from hub.bounds import INTERVAL, Bounds
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.engines.base import Sink
from hub.engines.sim import SimEngine
from hub.errors import HubError
from hub.hub import Hub
from hub.live import Live
from hub.log import Event
from hub.policy import Policy
from hub.store.memory import MemoryStore
from tests.virtual import virtual

INPUT = "x" * 1000


class Speaker(SimEngine):
    """Says what it was given, a piece per turn of the loop, and then waits until it is done."""

    def __init__(self, pieces: Sequence[int] = ()) -> None:
        super().__init__()
        self.pieces = pieces
        self.running = 0
        self.let_go = 0
        self.done = asyncio.Event()

    async def generate(self, generation: Generation, sink: Sink) -> None:
        self.running += 1
        try:
            for length in self.pieces:
                sink.text("x" * length)
                await asyncio.sleep(0)
            await self.done.wait()
            sink.finish("stop")
        except asyncio.CancelledError:
            self.let_go += 1
            raise
        finally:
            self.running -= 1


async def started(engine: SimEngine, **policy: int) -> Hub:
    dispatcher = Dispatcher([Upstream(engine, 16)])
    loop = asyncio.get_running_loop()
    hub = Hub(dispatcher, MemoryStore(), Policy(**policy), now=loop.time)  # type: ignore[arg-type]
    await hub.store.start(0.0)
    hub.start()
    return hub


async def stopped(hub: Hub) -> None:
    await hub.close(0)
    await hub.store.close()


def create(**fields: object) -> Request:
    return parse_create({"input": INPUT, "store": False, **fields})


def events(live: Live) -> list[Event]:
    return live.log.read(-1)


def said(live: Live) -> int:
    """How much a reader was told."""
    return sum(len(event.delta) for event in events(live))


# One response.


@given(
    st.lists(st.integers(0, 2000), max_size=30),
    st.integers(0, 20_000),
    st.sampled_from(["store: false", "store: true", "background"]),
)
@virtual
async def test_a_response_that_grows_too_large_fails_and_its_upstream_is_let_go_of(
    pieces: list[int], limit: int, kind: str
) -> None:
    """It fails if its log is larger than its bound, and else it does not; it grows by no more than
    the one thing that was said last; what a reader was told can be read from the store again."""
    engine = Speaker(pieces)
    hub = await started(engine, response_bytes=limit)
    if kind == "background":
        live = await hub.accept(create(store=True, background=True))
    else:
        live = hub.submit(create(store=kind == "store: true"))
    hub.join(live)
    begun = live.log.size
    await asyncio.sleep(1)
    size = live.log.size
    engine.done.set()
    await live.until_ended()
    bounds = hub.bounds.statistics()
    if bounds.too_large:
        assert live.recorder.status == "failed"
        assert live.recorder.error is not None
        assert live.recorder.error.code == "response_too_large"
        assert engine.let_go <= 1
        assert engine.running == 0
        # At the end are its start, which may be too much already, the last thing that was said,
        # which has made three events at most, and the terminal event.
        before = sum(event.size for event in events(live)[:-5])
        assert before <= max(limit, begun)
    else:
        assert size <= limit
        assert live.recorder.status == "completed"
        assert said(live) == sum(pieces)
    if live.transcript is not None:
        kept = await hub.store.read(live.id)
        again = Transcript(
            Recorder(live.recorder.request, id=live.id, model="", now=live.recorder.created_at)
        )
        again.recorder.created()
        for segment in kept:
            again.play(segment.body)
        assert [e.wire for e in again.recorder.log.read(-1)] == [e.wire for e in events(live)]
    hub.leave(live)
    await stopped(hub)


@virtual
async def test_what_ends_a_response_is_not_what_makes_it_too_large() -> None:
    """Its last events repeat its text, several times; a text that fits is no reason to fail."""
    engine = Speaker([5000])
    hub = await started(engine, response_bytes=14_000)
    live = hub.submit(create())
    hub.join(live)
    engine.done.set()
    await live.until_ended()
    assert live.log.size > 20_000
    assert live.recorder.status == "completed"
    assert hub.bounds.statistics().too_large == 0
    hub.leave(live)
    await stopped(hub)


@virtual
async def test_who_is_too_large_and_done_in_one_turn_has_failed_as_well() -> None:
    """An engine that ends before it could be stopped changes nothing."""

    class Hasty(SimEngine):
        async def generate(self, generation: Generation, sink: Sink) -> None:
            sink.text("x" * 50_000)
            sink.finish("stop")

    hub = await started(Hasty(), response_bytes=40_000)
    live = hub.submit(create())
    await live.until_ended()
    assert live.recorder.error is not None
    assert live.recorder.error.code == "response_too_large"
    assert hub.bounds.statistics().too_large == 1
    await stopped(hub)


# All together.


@virtual
async def test_a_full_memory_refuses_what_is_new_until_something_ends() -> None:
    """Nothing is promised to who is refused, and what runs goes on."""
    engine = Speaker([20_000])
    hub = await started(engine, live_bytes=100_000)
    lives: list[Live] = []

    async def fill() -> None:
        for _ in range(20):
            lives.append(hub.submit(create()))
            hub.join(lives[-1])
            await asyncio.sleep(INTERVAL)

    with pytest.raises(HubError) as refused:
        await fill()
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.retry_after == 1.0
    assert 3 <= len(lives) <= 5
    found = hub.bounds.statistics()
    held = sum(live.asked + live.log.size for live in lives)
    assert found.live_bytes == held > found.max_live_bytes
    assert (found.refused, hub.statistics().accepted) == (1, len(lives))
    hub.leave(lives.pop())
    await asyncio.sleep(INTERVAL)
    lives.append(hub.submit(create()))
    hub.join(lives[-1])
    engine.done.set()
    for live in lives:
        await live.until_ended()
        hub.leave(live)
    assert hub.statistics().by_status == {"completed": len(lives), "cancelled": 1}
    assert hub.bounds.statistics().live_bytes == 0
    await stopped(hub)


@virtual
async def test_what_waits_counts_with_what_it_was_asked() -> None:
    """A thousand requests of a megabyte may not wait together, though nobody has said anything."""
    engine = Speaker()
    hub = await started(engine, live_bytes=1_000_000)
    lives: list[Live] = []

    async def fill() -> None:
        for _ in range(1000):
            lives.append(hub.submit(parse_create({"input": "x" * 40_000, "store": False})))
            hub.join(lives[-1])
            await asyncio.sleep(INTERVAL)

    with pytest.raises(HubError, match="memory"):
        await fill()
    assert len(lives) * 40_000 < 1_100_000
    for live in lives:
        hub.leave(live)
    await stopped(hub)


@virtual
async def test_background_work_waits_in_the_store_while_memory_is_full() -> None:
    """It is accepted, and runs when there is room; what waits itself does not count."""
    engine = Speaker([20_000])
    hub = await started(engine, live_bytes=10_000)
    first = hub.submit(create())
    hub.join(first)
    await asyncio.sleep(INTERVAL)
    jobs = [await hub.accept(create(store=True, background=True)) for _ in range(20)]
    await asyncio.sleep(60)
    assert engine.running == 1
    assert all(job.recorder.status == "queued" for job in jobs)
    hub.cancel(jobs[0])
    await jobs[0].until_ended()
    hub.leave(first)
    engine.done.set()
    for job in jobs[1:]:
        await job.until_ended()
        assert job.recorder.status == "completed"
        assert orjson.loads(await hub.result(job.id))["status"] == "completed"
    await stopped(hub)


@virtual
async def test_background_work_that_waits_is_bounded_too() -> None:
    """It is held until it has ended, so beyond the bound no more of it is accepted."""
    engine = Speaker()
    hub = await started(engine, live_bytes=1_000_000, jobs=1)
    jobs: list[Live] = []

    async def fill() -> None:
        for _ in range(1000):
            body = {"input": "x" * 40_000, "background": True}
            jobs.append(await hub.accept(parse_create(body)))
            await asyncio.sleep(INTERVAL)

    with pytest.raises(HubError, match="wait fill"):
        await fill()
    assert len(jobs) * 40_000 < 1_200_000
    engine.done.set()
    for job in jobs:
        await job.until_ended()
        assert job.recorder.status == "completed"
    await asyncio.sleep(INTERVAL)
    await hub.accept(parse_create({"input": "Hello", "background": True}))
    await stopped(hub)


@virtual
async def test_the_sum_is_made_a_few_times_a_second_however_many_ask() -> None:
    """A thousand requests at once cost one look at the live logs."""
    looks = 0

    def lives() -> Iterable[Live]:
        nonlocal looks
        looks += 1
        return [live]

    recorder = Recorder(create(), id=new_id("resp"), model="", now=0)
    live = Live(recorder, (), tenant="", now=lambda: 0.0)
    bounds = Bounds(Policy(live_bytes=live.asked), live=lives, stop=lambda live: None)
    for _ in range(1000):
        assert bounds.room()
    recorder.created()
    assert bounds.room(), "as of a moment ago"
    await asyncio.sleep(INTERVAL)
    for _ in range(1000):
        assert not bounds.room()
    assert looks == 2


@virtual
async def test_a_conversation_grows_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small its steps are, and whoever holds what was before: the next one needs it all."""
    monkeypatch.setattr("hub.bounds.MAX_CHAIN", 10 * len(INPUT))
    hub = await started(Speaker())
    body = {"input": INPUT, "generate": False}
    # Alone it may be as long as a message.
    long = hub.submit(parse_create({**body, "input": INPUT * 20}))
    body["previous_response_id"] = long.id
    steps = [hub.submit(parse_create(body))]
    for _ in range(3):
        steps.append(hub.submit(parse_create(body), steps[-1].history()))
    with pytest.raises(HubError) as refused:
        hub.submit(parse_create(body), 3 * steps[-1].history())
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(HubError) as refused:
        await hub.accept(parse_create({**body, "background": True}), long.history())
    assert refused.value.code == "context_length_exceeded"
    await stopped(hub)
