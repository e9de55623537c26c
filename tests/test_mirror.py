"""The mirror: what readers see here of a response that another node writes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.recorder import Recorder
from hub.api.responses import parse_create
from hub.api.transcript import Transcript
from hub.errors import HubError
from hub.live import Live
from hub.mirror import Mirror
from hub.store.base import Hold, Record, Segment
from hub.store.memory import MemoryStore
from tests.traces import traces
from tests.virtual import virtual

ID = "resp_" + "0" * 32


class SlowReads(MemoryStore):
    """A store whose reads take a second and may fail, and whose news the test sends itself."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.error: Exception | None = None
        self.wakes: list[Callable[[], None]] = []

    def read(self, id: str, after: int = -1) -> asyncio.Future[Sequence[Segment]]:
        self.reads.append(after)
        loop = asyncio.get_running_loop()
        late: asyncio.Future[Sequence[Segment]] = loop.create_future()
        found = super().read(id, after).result()
        if self.error is not None:
            loop.call_later(1.0, late.set_exception, self.error)
        else:
            loop.call_later(1.0, late.set_result, found)
        return late

    def follow(self, id: str, wake: Callable[[], None]) -> Callable[[], None]:
        self.wakes.append(wake)
        return lambda: self.wakes.remove(wake)


class Bench:
    """A response that its owner writes to the store, and its mirror."""

    def __init__(self) -> None:
        self.store = SlowReads()
        self.owner = new().transcript
        self.live = new()

    async def start(self) -> "Bench":
        await self.store.start(0.0)
        record = Record(ID, "", "in_progress", False, 0.0, 1e9, b"{}", attempt=1)
        self.store.put(record, hold=Hold("owner", 1e9))
        self.mirror = Mirror(self.store, self.live)
        return self

    def say(self, text: str) -> None:
        """The owner says something, which is in the store then."""
        assert self.owner is not None
        self.owner.text(text)
        self.keep()

    def keep(self) -> None:
        assert self.owner is not None
        taken = self.owner.take()
        assert taken is not None
        self.store.append(ID, 1, Segment(*taken))

    def wake(self) -> None:
        for wake in [*self.store.wakes]:
            wake()

    def check_same(self) -> None:
        assert self.owner is not None
        theirs = self.owner.recorder.log.read(-1)
        assert [event.wire for event in self.live.log.read(-1)] == [event.wire for event in theirs]


def new() -> Live:
    request = parse_create({"input": "Hi"})
    recorder = Recorder(request, id=ID, model="m", now=0.0)
    recorder.created()
    transcript = Transcript(recorder)
    return Live(recorder, (), tenant="", now=lambda: 0.0, transcript=transcript)


steps = st.one_of(
    st.tuples(st.just("say"), st.text(max_size=3)),
    st.tuples(st.just("wake"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.4, 1.0, 1.1])),
    st.tuples(st.just("fail"), st.booleans()),
)


@given(traces(steps, 40))
@virtual
async def test_whenever_it_is_woken_the_log_is_the_owners(steps: list[tuple[str, Any]]) -> None:
    """However wake-ups come, are lost, or meet a store that fails: what readers see is a beginning
    of the owner's log, all of it after one wake-up more, and one read is under way at a time."""
    bench = await Bench().start()
    assert bench.owner is not None
    bench.owner.started()
    bench.keep()
    for what, how in steps:
        match what:
            case "say":
                bench.say(how)
            case "wake":
                bench.wake()
            case "wait":
                await asyncio.sleep(how)
            case _:
                bench.store.error = HubError("store_unavailable", "No.") if how else None
        mirrored = [event.wire for event in bench.live.log.read(-1)]
        assert (
            mirrored == [event.wire for event in bench.owner.recorder.log.read(-1)][: len(mirrored)]
        )
    bench.store.error = None
    await asyncio.sleep(2.0)
    bench.wake()
    await asyncio.sleep(1.0)
    bench.check_same()
    bench.mirror.close()


@virtual
async def test_news_during_a_read_lead_to_one_more() -> None:
    """However often it is woken while it reads, one more read follows, from where it stands then,
    and none follows that one."""
    bench = await Bench().start()
    bench.say("a")
    for _ in range(5):
        bench.wake()
    await asyncio.sleep(1.5)
    assert len(bench.store.reads) == 2
    await asyncio.sleep(5.0)
    assert len(bench.store.reads) == 2
    bench.check_same()
    bench.mirror.close()


@virtual
async def test_it_asks_for_what_it_does_not_have() -> None:
    """What is read is what follows the last event that was played."""
    bench = await Bench().start()
    bench.say("a")
    await asyncio.sleep(1.0)
    bench.wake()
    await asyncio.sleep(1.0)
    bench.say("b")
    bench.wake()
    await asyncio.sleep(1.0)
    assert bench.store.reads == [0, 0, bench.live.log.last - 1]
    bench.check_same()
    bench.mirror.close()


@virtual
async def test_it_ends_with_the_log() -> None:
    """When the terminal event was played, nothing is followed any more."""
    bench = await Bench().start()
    assert bench.owner is not None
    bench.owner.cancel()
    bench.keep()
    await asyncio.sleep(1.0)
    bench.wake()
    await asyncio.sleep(1.0)
    assert bench.live.log.sealed
    assert bench.store.wakes == []


@virtual
async def test_what_is_closed_plays_nothing_more() -> None:
    """Also what was being read when it was closed is not played."""
    bench = await Bench().start()
    bench.say("a")
    bench.wake()
    await asyncio.sleep(0.5)
    bench.mirror.close()
    await asyncio.sleep(5.0)
    assert (bench.live.log.last, bench.store.wakes) == (0, [])


@virtual
async def test_what_is_settled_has_all_and_stays_so() -> None:
    """After ``settle`` the log holds what the store has, also what came while it was read, once;
    and later news are not played."""
    bench = await Bench().start()
    bench.say("a")
    await asyncio.sleep(0.5)
    bench.say("b")
    await bench.mirror.settle()
    bench.check_same()
    assert bench.store.wakes == []
    last = bench.live.log.last
    bench.say("c")
    bench.wake()
    await asyncio.sleep(5.0)
    assert bench.live.log.last == last


@virtual
async def test_what_cannot_be_settled_goes_on() -> None:
    """If the store cannot be read, ``settle`` says so, and the mirror follows as before."""
    bench = await Bench().start()
    await asyncio.sleep(1.0)
    bench.store.error = HubError("store_unavailable", "No.")
    with pytest.raises(HubError):
        await bench.mirror.settle()
    bench.store.error = None
    bench.say("a")
    bench.wake()
    await asyncio.sleep(1.0)
    bench.check_same()
    bench.mirror.close()
