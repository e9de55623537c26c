"""Where responses are found, and what their chains hold."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.ids import new_id
from hub.api.prompt import with_messages
from hub.api.recorder import Recorder
from hub.api.requests import Json, Request
from hub.api.responses import parse_create
from hub.api.transcript import Transcript
from hub.archive import MAX_CHAIN, Archive
from hub.errors import HubError
from hub.live import Live
from hub.store.base import Idempotency, Record, Segment
from hub.store.memory import MemoryStore
from tests.traces import traces
from tests.virtual import virtual

UNKNOWN = "resp_" + "f" * 32


class SlowStore(MemoryStore):
    """A store whose answers take a second, and which counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.takes = 1.0
        self.down = False

    def get(self, tenant: str, id: str) -> asyncio.Future[Record | None]:
        self.asked.append(id)
        return self._late(super().get(tenant, id))

    def read(self, id: str, after: int = -1) -> asyncio.Future[Sequence[Segment]]:
        return self._late(super().read(id, after))

    def _late(self, answer: asyncio.Future[Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        late: asyncio.Future[Any] = loop.create_future()
        if self.down:
            error = HubError("store_unavailable", "The disk is full.")
            loop.call_later(self.takes, late.set_exception, error)
        else:
            loop.call_later(self.takes, late.set_result, answer.result())
        return late


class Bench:
    """An archive, its store, and responses for it."""

    def __init__(self, *, remembered: int = 1 << 20) -> None:
        self.store = SlowStore()
        self.archive = Archive(self.store, remembered=remembered, revive=self._revive)
        self.revived = 0

    async def start(self) -> "Bench":
        await self.store.start(0.0)
        return self

    def _revive(self, record: Record, request: Request, context: Sequence[Json] | None) -> Live:
        self.revived += 1
        live = self._live(request, context, record.id, record.tenant)
        if record.result is None:
            # As the hub does: one that ends while its log is written again has ended.
            live.log.subscribe(lambda: self.archive.ended(live) if live.log.sealed else None)
        return live

    def _live(self, request: Request, context: Sequence[Json] | None, id: str, tenant: str) -> Live:
        if context is not None:
            request = with_messages(request, context)
        recorder = Recorder(request, id=id, model="m", now=100.0)
        recorder.created()
        transcript = Transcript(recorder)
        return Live(recorder, context, tenant=tenant, now=lambda: 105.0, transcript=transcript)

    def begin(
        self, text: str = "Hi", *, context: Sequence[Json] = (), tenant: str = "ada", **fields: Any
    ) -> Live:
        """A response that lives."""
        request = parse_create({"input": text, **fields})
        live = self._live(request, context, new_id("resp"), tenant)
        self.archive.add(live)
        live.started()
        return live

    def end(self, live: Live, text: str = "Hello") -> Live:
        """Say something and end, as far as memory is concerned."""
        if text != "fails":
            live.sink.text(text)
            live.sink.finish("stop")
            live.completed()
        else:
            live.failed(HubError("upstream_error", "No."))
        self.archive.ended(live)
        return live

    def keep(self, live: Live, *, key: Idempotency | None = None, size: int | None = None) -> None:
        """Put it into the store, as it is."""
        assert live.transcript is not None
        recorder = live.recorder
        taken = live.transcript.take()
        self.store.put(
            Record(
                live.id,
                live.tenant,
                recorder.status,
                live.background,
                100.0,
                1000.0,
                orjson.dumps(recorder.request.body),
                previous_response_id=recorder.request.previous_response_id,
                result=orjson.dumps(recorder.snapshot()) if recorder.ended else None,
            ),
            segment=Segment(*taken) if taken else None,
            idempotency=key,
        )

    def stored(self, text: str = "Hi", says: str = "Hello", **options: Any) -> Live:
        """A response that has ended and that only the store knows."""
        live = self.end(self.begin(text, **options), says)
        self.keep(live)
        self.archive.forget(live.id)
        return live

    async def error(self, id: str, tenant: str = "ada", *, history: bool = False) -> str:
        """The code with which it is not found."""
        with pytest.raises(HubError) as caught:
            await (self.archive.history if history else self.archive.open)(id, tenant)
        return caught.value.code


def wires(live: Live) -> list[bytes]:
    return [event.wire for event in live.log.read(-1)]


def said(items: Sequence[Json]) -> list[str]:
    """The texts of a chain."""
    return [item["content"][0]["text"] for item in items]


# Finding.


@virtual
async def test_a_response_is_found_while_it_lives_when_it_has_ended_and_in_the_store() -> None:
    """Wherever it is, it is the same response with the same log; and only for its tenant."""
    bench = await Bench().start()
    live = bench.begin()
    for _ in ("lives", "ended"):
        assert bench.archive.find(live.id, "ada") is live
        assert bench.archive.find(live.id, "bob") is None
        assert await bench.archive.open(live.id, "ada") is live
        bench.end(live) if not live.log.ended else None
    bench.keep(live)
    bench.archive.forget(live.id)
    assert bench.archive.find(live.id, "ada") is None
    assert await bench.error(live.id, "bob") == "response_not_found"
    again = await bench.archive.open(live.id, "ada")
    assert again is not live
    assert wires(again) == wires(live)
    assert again.history() == live.history()
    assert again.recorder.snapshot() == live.recorder.snapshot()
    assert bench.archive.find(live.id, "ada") is again
    assert bench.archive.find(live.id, "bob") is None
    assert bench.archive.live == []


@virtual
async def test_a_job_that_has_not_ended_is_brought_back_to_life() -> None:
    """What the store has of an unfinished job lives again, as far as it had come."""
    bench = await Bench().start()
    job = bench.begin(background=True)
    job.sink.text("so f")
    bench.keep(job)
    bench.archive.forget(job.id)
    again = await bench.archive.open(job.id, "ada")
    assert wires(again) == wires(job)
    assert bench.archive.live == [again]
    assert bench.archive.remembered == 0
    bench.end(again, "ar")
    assert (bench.archive.live, bench.archive.remembered) == ([], 1)


@virtual
async def test_a_job_whose_log_has_ended_is_remembered() -> None:
    """A job whose end is written though its result is not has ended, and counts once."""
    bench = await Bench().start()
    job = bench.end(bench.begin(background=True))
    bench.keep(job)
    record = await bench.archive.record(job.id, "ada")
    assert record is not None
    await bench.store.delete("ada", job.id)
    bench.store.put(
        Record(job.id, "ada", "in_progress", True, 100.0, 1000.0, record.request),
        segment=Segment(2, job.log.last, transcript_of(job)),
    )
    bench.archive.forget(job.id)
    again = await bench.archive.open(job.id, "ada")
    assert again.log.sealed
    assert (bench.archive.live, bench.archive.remembered) == ([], 1)
    bench.archive.forget(job.id)
    assert bench.archive.remembered == 0


def transcript_of(live: Live) -> bytes:
    """What would be kept of a response that said Hello."""
    calls = [["started"], "Hello", ["finish", "stop"], ["complete", 105]]
    assert live.recorder.output[0]["content"][0]["text"] == "Hello"
    return orjson.dumps(calls)


@given(st.text(max_size=50) | st.sampled_from([UNKNOWN.upper(), UNKNOWN + "\n", "", "resp_"]))
@virtual
async def test_what_cannot_be_an_id_does_not_reach_the_store(id: str) -> None:
    """Only hub's own ids are looked up; the answer is the same for all others."""
    bench = await Bench().start()
    assert await bench.error(id) == "response_not_found"
    assert await bench.error(id, history=True) == "previous_response_not_found"
    assert bench.store.asked == []


@virtual
async def test_what_nobody_has_is_not_found() -> None:
    """An id of the right form is looked up, once."""
    bench = await Bench().start()
    assert await bench.error(UNKNOWN) == "response_not_found"
    assert bench.store.asked == [UNKNOWN]


@virtual
async def test_many_who_open_a_response_get_the_same_one() -> None:
    """However many open it at once, it is brought back once: a log has one writer for life."""
    bench = await Bench().start()
    one, other = bench.stored(), bench.stored()
    opened = await asyncio.gather(
        *(bench.archive.open(id, "ada") for id in [one.id, one.id, other.id, one.id])
    )
    assert opened[0] is opened[1] is opened[3]
    assert opened[2].id == other.id
    assert bench.revived == 2


@virtual
async def test_what_is_deleted_while_it_is_opened_does_not_exist() -> None:
    """Nothing comes back from what was read before it was deleted."""
    bench = await Bench().start()
    live = bench.stored()
    opening = asyncio.create_task(bench.archive.open(live.id, "ada"))
    await asyncio.sleep(0.5)
    await bench.store.delete("ada", live.id)
    with pytest.raises(HubError) as caught:
        await opening
    assert caught.value.code == "response_not_found"
    assert (bench.archive.live, bench.archive.remembered) == ([], 0)


@virtual
async def test_trouble_with_the_store_is_not_an_answer() -> None:
    """A response, or its chain, that cannot be read now is not gone: it is found later."""
    bench = await Bench().start()
    parent = bench.stored()
    child = bench.stored("and", previous_response_id=parent.id, context=parent.history())
    record = await bench.archive.record(child.id, "ada")
    assert record is not None
    bench.store.down = True
    assert await bench.error(child.id) == "store_unavailable"
    with pytest.raises(HubError) as caught:
        await bench.archive.load(record)
    assert caught.value.code == "store_unavailable"
    bench.store.down = False
    again = await bench.archive.open(child.id, "ada")
    assert not again.orphaned
    assert again.history() == child.history()


# Remembering.


@given(
    st.integers(0, 60_000),
    traces(st.tuples(st.sampled_from(["end", "find", "forget"]), st.integers(0, 9)), 40),
)
@virtual
async def test_what_has_ended_is_remembered_within_a_bound(
    bound: int, steps: list[tuple[str, int]]
) -> None:
    """Ended responses are held up to so many bytes, with what the model was given, but one at
    least; who was not asked for the longest goes first."""
    bench = await Bench(remembered=bound).start()
    model: dict[str, Live] = {}
    for what, place in steps:
        known = [*model]
        if what == "end":
            live = bench.end(bench.begin("x" * 700 * place), "y" * 300)
            assert live.weigh() > 700 * place + 300
            model[live.id] = live
            while sum(one.weigh() for one in model.values()) > bound and len(model) > 1:
                del model[next(iter(model))]
        elif known and what == "find":
            id = known[place % len(known)]
            model[id] = model.pop(id)
            assert bench.archive.find(id, "ada") is model[id]
        elif known:
            id = known[place % len(known)]
            del model[id]
            bench.archive.forget(id)
            bench.archive.forget(id)
        assert bench.archive.remembered == len(model)
    for live in model.values():
        assert bench.archive.find(live.id, "ada") is live
    assert bench.archive.live == []


@virtual
async def test_what_is_not_to_be_stored_is_forgotten_at_its_end() -> None:
    """Nobody can ask for it later, so nobody holds it."""
    bench = await Bench().start()
    live = bench.begin(store=False)
    assert bench.archive.live == [live]
    bench.end(live)
    assert (bench.archive.live, bench.archive.remembered) == ([], 0)
    assert bench.archive.find(live.id, "ada") is None


@virtual
async def test_an_end_counts_once() -> None:
    """To be told twice that a response has ended changes nothing."""
    bench = await Bench(remembered=0).start()
    live = bench.end(bench.begin())
    bench.archive.ended(live)
    assert bench.archive.remembered == 1
    bench.end(bench.begin())
    assert bench.archive.remembered == 1, "and its bytes are not counted twice"


# Chains.

places = st.sampled_from(["lives", "ended", "stored"])
nodes = st.lists(st.tuples(st.integers(-1, 9), places), min_size=1, max_size=8)


@given(nodes, st.data())
@virtual
async def test_a_chain_is_all_that_was_said_before(
    nodes: list[tuple[int, str]], data: st.DataObject
) -> None:
    """The history of a response is what was asked and answered from its root to it, wherever each
    response of the chain is, and whatever else was forked off; for its own tenant only."""
    bench = await Bench().start()
    made: list[tuple[Live, list[str]]] = []
    for number, (parent, place) in enumerate(nodes):
        above = made[parent % len(made)] if made and parent >= 0 else None
        fields = {"previous_response_id": above[0].id} if above else {}
        context = await bench.archive.history(above[0].id, "ada") if above else ()
        live = bench.begin(f"q{number}", context=context, **fields)
        bench.end(live, f"a{number}")
        if place != "lives":
            bench.keep(live)
        if place == "stored":
            bench.archive.forget(live.id)
        made.append((live, [*(above[1] if above else []), f"q{number}", f"a{number}"]))
    live, texts = data.draw(st.sampled_from(made))
    assert said(await bench.archive.history(live.id, "ada")) == texts
    assert await bench.error(live.id, "bob", history=True) == "previous_response_not_found"
    opened = await bench.archive.open(live.id, "ada")
    assert said(opened.history()) == texts
    assert said(opened.input()) == texts[:-1]


@virtual
async def test_only_what_has_ended_well_can_be_gone_on_with() -> None:
    """A parent that is missing, that has failed, or that has not ended (for its readers) is none;
    one that was cut short is one. It is the same in memory and in the store."""
    bench = await Bench().start()

    async def error(live: Live) -> str:
        return await bench.error(live.id, history=True)

    assert await bench.error(UNKNOWN, history=True) == "previous_response_not_found"
    running = bench.begin(background=True)
    assert await error(running) == "previous_response_not_found"
    running.log.hold()
    bench.end(running)
    assert await error(running) == "previous_response_not_found"
    running.log.release(running.log.next - 1)
    assert said(await bench.archive.history(running.id, "ada")) == ["Hi", "Hello"]
    queued = bench.begin(background=True)
    bench.keep(queued)
    bench.archive.forget(queued.id)
    assert await error(queued) == "previous_response_not_found"
    assert await error(bench.end(bench.begin(), "fails")) == "previous_response_not_found"
    assert await error(bench.stored(says="fails")) == "previous_response_not_found"
    stopped = bench.begin()
    stopped.sink.text("Hel")
    stopped.cancelled()
    bench.keep(stopped)
    for _ in ("in memory", "in the store"):
        assert said(await bench.archive.history(stopped.id, "ada")) == ["Hi", "Hel"]
        bench.archive.forget(stopped.id)


@virtual
async def test_without_its_parent_a_response_can_be_read_and_not_gone_on_with() -> None:
    """When a parent is deleted, what goes on from it is still there, whole, whatever it answered;
    but nobody can go on from it, in memory or in the store."""
    bench = await Bench().start()
    parent = bench.begin("first")
    parent.sink.tool_call(0, "c", "f", "{}")
    parent.sink.finish("tool_calls")
    parent.completed()
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    context = parent.history()
    child = bench.begin("", context=context, previous_response_id=parent.id, input=[output])
    bench.end(child)
    bench.keep(child)
    bench.archive.forget(parent.id)
    bench.archive.forget(child.id)
    assert await bench.error(child.id, history=True) == "previous_response_not_found"
    again = await bench.archive.open(child.id, "ada")
    assert again.orphaned
    assert wires(again) == wires(child)
    assert await bench.error(child.id, history=True) == "previous_response_not_found"


@pytest.mark.parametrize("length", [MAX_CHAIN, MAX_CHAIN + 1])
@virtual
async def test_a_chain_is_bounded(length: int) -> None:
    """So many responses are followed back and no more; what is in memory has its chain with it."""
    bench = await Bench().start()
    bench.store.takes = 0.0
    parent: str | None = None
    for number in range(length):
        fields = {"previous_response_id": parent} if parent else {}
        parent = bench.stored(str(number), **fields).id
    assert parent is not None
    if length <= MAX_CHAIN:
        texts = said(await bench.archive.history(parent, "ada"))
        assert texts[::2] == [str(number) for number in range(length)]
    else:
        assert await bench.error(parent, history=True) == "invalid_value"
        assert (await bench.archive.open(parent, "ada")).log.sealed


# Idempotency.


def key(digest: bytes = b"one", name: str = "key") -> Idempotency:
    return Idempotency(name, digest, 1000.0)


@virtual
async def test_a_repeated_request_is_the_response_that_it_had() -> None:
    """The same key with the same request gives the response, while it lives and, from the store,
    after it has ended; with another request it is a conflict; another tenant's key is another."""
    bench = await Bench().start()
    assert await bench.archive.repeated(key(), "ada") is None
    live = bench.begin()
    bench.archive.know(live, key())

    async def check(expected: Live | None) -> None:
        found = await bench.archive.repeated(key(), "ada")
        assert (found and found.id) == (expected and expected.id)
        with pytest.raises(HubError) as caught:
            await bench.archive.repeated(key(b"other"), "ada")
        assert caught.value.code == "idempotency_conflict"
        assert await bench.archive.repeated(key(), "bob") is None
        assert await bench.archive.repeated(key(name="else"), "ada") is None

    await check(live)
    assert bench.archive.known(key(), "ada") is live
    bench.keep(live, key=key())
    bench.end(live)
    assert bench.archive.known(key(), "ada") is None
    await check(live)
    bench.archive.forget(live.id)
    await check(live)
    other = bench.begin()
    bench.archive.know(other, key(name="new"))
    assert bench.archive.known(key(name="new"), "ada") is other
    with pytest.raises(AssertionError, match="not looked up"):
        bench.archive.know(bench.begin(), key(name="new"))


@virtual
async def test_a_key_outlives_its_response_in_the_store_only() -> None:
    """What has ended at once is never known by its key; what the store has under a key may be
    gone."""
    bench = await Bench().start()
    ended = bench.end(bench.begin())
    bench.archive.know(ended, key())
    assert bench.archive.known(key(), "ada") is None
    bench.keep(ended, key=key())
    bench.archive.forget(ended.id)
    await bench.store.delete("ada", ended.id)
    with pytest.raises(HubError) as caught:
        await bench.archive.repeated(key(), "ada")
    assert caught.value.code == "response_not_found"


# Loading.


@virtual
async def test_what_is_loaded_for_one_does_not_wait_for_another() -> None:
    """Two that ask for the same response get one, which is loaded once; whoever asks for another
    one does not wait for that."""
    bench = await Bench().start()
    loop = asyncio.get_running_loop()
    first, second = bench.stored().id, bench.stored().id
    began = loop.time()
    lives = await asyncio.gather(
        *(bench.archive.open(id, "ada") for id in (first, first, second, first))
    )
    assert lives[0] is lives[1] is lives[3] is not lives[2]
    assert bench.revived == 2
    assert loop.time() - began <= 3 * bench.store.takes + 0.1


@virtual
async def test_what_was_forgotten_is_not_remembered_when_it_ends() -> None:
    """A response that is held no more ends for its last readers; whoever asks for it later gets
    what the store has, which may be another text. Its key is forgotten with it."""
    bench = await Bench().start()
    live = bench.begin()
    key = Idempotency("key", b"digest", 1e9)
    bench.archive.know(live, key)
    bench.archive.forget(live.id)
    assert bench.archive.known(key, "ada") is None
    live.cancelled()
    bench.archive.ended(live)
    assert bench.archive.find(live.id, "ada") is None
    assert bench.archive.remembered == 0
