"""Background work: who claims it, for how long it is held, and what happens in trouble."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import HubError
from hub.jobs import LEASE, Jobs
from hub.store.base import Fenced, Hold, Lease, Record
from hub.store.ledger import Ledger
from hub.store.memory import MemoryStore
from tests.traces import traces
from tests.virtual import virtual

T = TypeVar("T")


class TroubledStore(MemoryStore):
    """A store that fails while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.claims = 0

    def _call(self, work: Callable[[Ledger], T]) -> asyncio.Future[T]:
        if not self.down:
            return super()._call(work)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.set_exception(HubError("store_unavailable", "The disk is full."))
        return future

    def claim(
        self, owner: str, now: float, lease: float, limit: int, *, foreground: bool = False
    ) -> asyncio.Future[Sequence[Record]]:
        self.claims += 1
        return super().claim(owner, now, lease, limit, foreground=foreground)


class Worker:
    """One process that runs jobs, as far as jobs are concerned."""

    def __init__(self, store: TroubledStore, limit: int = 3, lease: float = LEASE) -> None:
        self.jobs = Jobs(
            store,
            limit=limit,
            now=asyncio.get_running_loop().time,
            run=self._run,
            stop=self._stop,
            lease=lease,
        )
        self.store = store
        self.limit = limit
        self.attempts: dict[str, int] = {}
        """What runs here, and as which attempt."""
        self.ran: list[str] = []
        self.stopped: list[str] = []
        self.refuses: set[str] = set()
        """What is given back as soon as it was claimed."""
        self.broken: dict[str, Exception] = {}

    async def _run(self, record: Record) -> None:
        assert record.id not in self.attempts, "it runs here already"
        if record.id in self.broken:
            raise self.broken[record.id]
        self.attempts[record.id] = record.attempt
        self.ran.append(record.id)
        assert len(self.jobs) <= self.limit
        assert len(self.attempts) <= self.limit
        if record.id in self.refuses:
            del self.attempts[record.id]
            await self.jobs.release(record.id)

    def _stop(self, id: str) -> None:
        self.stopped.append(id)

    async def complete(self, id: str) -> None:
        """End what runs here."""
        attempt = self.attempts.pop(id)
        await self.store.complete(id, attempt, status="completed", result=b"{}")
        self.jobs.done(id)


def put(store: TroubledStore, *ids: str) -> None:
    for id in ids:
        store.put(Record(id, "ada", "queued", True, 0.0, 1000.0, b"{}"))


async def opened() -> TroubledStore:
    store = TroubledStore()
    await store.start(0.0)
    return store


async def started(store: TroubledStore, *ids: str, **options: Any) -> Worker:
    """A worker that has claimed what it may of these."""
    put(store, *ids)
    worker = Worker(store, **options)
    worker.jobs.start()
    await turn()
    return worker


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def free(store: TroubledStore) -> list[str]:
    """What another worker could claim now; it is given back."""
    now = asyncio.get_running_loop().time()
    claimed = await store.claim("other", now, 0.0, 99)
    for record in claimed:
        await store.release(record.id, record.attempt)
    return [record.id for record in claimed]


# Claiming.

steps = st.one_of(
    st.tuples(st.just("put")),
    st.tuples(st.just("complete"), st.integers(0, 9)),
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.just("trouble"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, LEASE / 3, LEASE / 2])),
)


@given(traces(steps, 40), st.integers(1, 4))
@virtual
async def test_never_more_than_the_limit_and_every_job_runs(
    steps: list[tuple[Any, ...]], limit: int
) -> None:
    """However jobs come, end, are given back, and whatever trouble the store has: never more than
    ``limit`` are held, what is held is run, once at a time, and every job runs in the end."""
    store = await opened()
    worker = await started(store, limit=limit)
    accepted: list[str] = []
    ended: list[str] = []

    async def complete(id: str) -> None:
        await worker.complete(id)
        ended.append(id)

    for step in steps:
        running = [*worker.attempts]
        match step:
            case ("put",) if not store.down:
                accepted.append(f"resp_{len(accepted)}")
                put(store, accepted[-1])
                worker.jobs.wake()
            case ("complete", int(place)) if running and not store.down:
                await complete(running[place % len(running)])
            case ("release", int(place)) if running:
                id = running[place % len(running)]
                del worker.attempts[id]
                await worker.jobs.release(id)
            case ("trouble", bool(down)):
                store.down = down
            case ("wait", float(seconds)):
                await asyncio.sleep(seconds)
        await turn()
        assert len(worker.jobs) == len(worker.attempts) <= limit
    store.down = False
    while len(ended) < len(accepted):
        await asyncio.sleep(2 * LEASE)
        assert worker.attempts, "there are jobs, and room"
        await complete(next(iter(worker.attempts)))
    assert sorted(ended) == sorted(accepted)
    assert store.statistics().jobs == 0
    await worker.jobs.close()


@virtual
async def test_a_job_that_is_done_makes_room_at_once() -> None:
    """The oldest are claimed first, and the next as soon as there is room."""
    store = await opened()
    worker = await started(store, "a", "b", "c", limit=2)
    assert worker.ran == ["a", "b"]
    await worker.complete("b")
    await turn()
    assert worker.ran == ["a", "b", "c"]
    worker.jobs.done("b")
    assert len(worker.jobs) == 2, "done twice is done"
    await worker.jobs.close()


@virtual
async def test_a_new_job_is_claimed_when_its_worker_is_woken_or_looks() -> None:
    """``wake`` has the worker look at once; it looks three times per lease anyway."""
    store = await opened()
    worker = await started(store)
    put(store, "a")
    worker.jobs.wake()
    await turn()
    assert worker.ran == ["a"]
    put(store, "b")
    await asyncio.sleep(LEASE / 3 + 0.1)
    assert worker.ran == ["a", "b"]
    await worker.jobs.close()


@virtual
async def test_what_an_earlier_owner_left_is_claimed_when_its_lease_has_lapsed() -> None:
    """A job whose owner has died runs again, soon after its lease and not before it."""
    store = await opened()
    put(store, "a")
    await store.claim("dead", 0.0, LEASE, 9)
    worker = await started(store)
    await asyncio.sleep(LEASE - 0.1)
    assert worker.ran == []
    await asyncio.sleep(LEASE / 3 + 0.2)
    assert worker.attempts == {"a": 2}
    await worker.jobs.close()


@virtual
async def test_what_is_given_back_at_once_is_not_claimed_at_once() -> None:
    """When all that was claimed is given back, the worker waits for its next look; it would claim
    the same for ever."""
    store = await opened()
    put(store, "a", "b", "c")
    worker = Worker(store, limit=2)
    worker.refuses = {"a", "b", "c"}
    worker.jobs.start()
    await turn()
    assert store.claims == 1
    await asyncio.sleep(LEASE)
    assert store.claims <= 5
    worker.refuses.clear()
    await asyncio.sleep(LEASE)
    assert sorted(worker.attempts) == ["a", "b"]
    await worker.jobs.close()


@pytest.mark.parametrize(
    "error", [HubError("store_unavailable", "The disk is full."), ZeroDivisionError()]
)
@virtual
async def test_a_job_that_cannot_be_started_harms_no_other(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be run is let go of; the others run, and it is tried again after its lease."""
    store = await opened()
    put(store, "a", "b", "c")
    worker = Worker(store, limit=2)
    worker.broken["a"] = error
    worker.jobs.start()
    await turn()
    assert worker.ran == ["b", "c"]
    assert [record.message for record in caplog.records] == ["a could not be started"]
    await worker.complete("b")
    del worker.broken["a"]
    await asyncio.sleep(LEASE * 4 / 3 + 0.1)
    assert worker.attempts == {"c": 1, "a": 2}
    await worker.jobs.close()


# Holding.


@given(st.sampled_from([3.0, LEASE, 40.0]), traces(st.floats(0.0, 10.0), 20))
@virtual
async def test_what_runs_is_held(lease: float, pauses: list[float]) -> None:
    """While its worker lives, nobody else can claim a job, however long it runs and whatever its
    worker is woken for."""
    store = await opened()
    worker = await started(store, "a", "b", lease=lease)
    for pause in [*pauses, 100.0]:
        await asyncio.sleep(pause)
        assert await free(store) == []
        worker.jobs.wake()
    assert worker.attempts == {"a": 1, "b": 1}
    assert worker.stopped == []
    await worker.jobs.close()


@virtual
async def test_what_was_cancelled_or_lost_is_stopped() -> None:
    """Who renews is told what is to stop, within a third of a lease, and stops that."""
    store = await opened()
    worker = await started(store, "a", "b", "c")
    await store.cancel("ada", "b")
    await asyncio.sleep(LEASE / 3 + 0.1)
    assert worker.stopped == ["b"]
    await store.delete("ada", "c")
    await asyncio.sleep(LEASE / 3)
    assert set(worker.stopped) == {"b", "c"}
    await worker.jobs.close()


@virtual
async def test_what_is_given_back_is_anybodys_at_once() -> None:
    """``release`` lets another worker have the job, once; what is not held is nobody's to give."""
    store = await opened()
    worker = await started(store, "a", "b")
    await worker.jobs.release("a")
    assert await free(store) == ["a"]
    (record,) = await store.claim("other", 0.0, LEASE, 9)
    await worker.jobs.release("a")
    await worker.jobs.release("never")
    held = await store.renew([Lease("a", record.attempt)], 0.0, LEASE)
    assert held == [], "the other one has it still"
    assert len(worker.jobs) == 1
    await worker.jobs.close()


class RefusingStore(TroubledStore):
    """A store that takes nothing back."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def release(self, id: str, attempt: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(self._error)
        return future


@pytest.mark.parametrize(
    "error", [Fenced("a is at attempt 2"), HubError("store_unavailable", "The disk is full.")]
)
@virtual
async def test_what_cannot_be_given_back_is_let_go_of(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is another's already, or will be when its lease has lapsed: it is held no more."""
    store = RefusingStore(error)
    await store.start(0.0)
    worker = await started(store, "a")
    await worker.jobs.release("a")
    assert len(worker.jobs) == 0
    assert [record.message[:26] for record in caplog.records] == ["a could not be given back:"]
    await worker.jobs.close()


# Trouble.


@virtual
async def test_trouble_with_the_store_does_not_end_the_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the store fails, what runs goes on; when it is back, new work is claimed."""
    store = await opened()
    worker = await started(store, "a")
    put(store, "b")
    store.down = True
    await asyncio.sleep(LEASE)
    assert worker.ran == ["a"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    store.down = False
    await asyncio.sleep(LEASE)
    assert worker.ran == ["a", "b"]
    await worker.jobs.close()


@virtual
async def test_trouble_with_the_store_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Once for each time of trouble, however long it lasts."""
    store = await opened()
    worker = await started(store, "a")
    for number in (1, 2):
        store.down = True
        await asyncio.sleep(LEASE * 2)
        said = [one for one in caplog.records if one.levelno == logging.WARNING]
        assert len(said) == number
        store.down = False
        await asyncio.sleep(LEASE)
    await worker.jobs.close()


@virtual
async def test_nobody_claims_his_own_work_after_trouble() -> None:
    """When the store was away for longer than a lease, what runs here is renewed before anything
    is claimed: it must not run twice."""
    store = await opened()
    worker = await started(store, "a")
    store.down = True
    await asyncio.sleep(2 * LEASE + 0.1)
    store.down = False
    put(store, "b")
    worker.jobs.wake()
    await asyncio.sleep(LEASE)
    assert worker.attempts == {"a": 1, "b": 1}
    assert len(worker.jobs) == 2
    await worker.complete("a")
    await worker.jobs.close()


# Closing.


@virtual
async def test_closing_ends_the_claiming_and_leaves_what_is_held() -> None:
    """After ``close`` nothing more is claimed, and what is held can still end or be given back."""
    store = await opened()
    worker = await started(store, "a", "b")
    await worker.jobs.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    put(store, "c")
    worker.jobs.wake()
    await asyncio.sleep(LEASE / 2)
    assert worker.ran == ["a", "b"]
    assert len(worker.jobs) == 2
    await worker.complete("a")
    await worker.jobs.release("b")
    assert await free(store) == ["b", "c"]
    assert len(worker.jobs) == 0
    await worker.jobs.close()


@virtual
async def test_what_never_started_can_be_closed() -> None:
    """A worker that has not begun has nothing to end."""
    worker = Worker(await opened())
    await worker.jobs.close()
    assert len(worker.jobs) == 0


# Where nodes share a store.


class SharedTrouble(TroubledStore):
    """The troubled store, as one that nodes share."""

    shared = True


def put_held(store: TroubledStore, owner: str, *ids: str, until: float = LEASE) -> None:
    """Foreground responses that a node has begun."""
    for id in ids:
        record = Record(id, "ada", "in_progress", False, 0.0, 1000.0, b"{}", attempt=1)
        store.put(record, hold=Hold(owner, until))


async def shared(limit: int = 2) -> tuple[SharedTrouble, Worker]:
    store = SharedTrouble()
    await store.start(0.0)
    worker = Worker(store, limit=limit)
    worker.limit = 99
    return store, worker


@virtual
async def test_what_is_put_with_a_claim_is_held_like_what_is_claimed() -> None:
    """``hold`` has it renewed, under the attempt that it was put with, until it is done."""
    store, worker = await shared()
    worker.jobs.start()
    hold = worker.jobs.claimed()
    record = Record("a", "ada", "in_progress", False, 0.0, 1000.0, b"{}", attempt=1)
    store.put(record, hold=hold)
    worker.jobs.hold(record)
    await asyncio.sleep(3 * LEASE)
    now = asyncio.get_running_loop().time()
    assert await store.claim("other", now, LEASE, 9, foreground=True) == []
    assert worker.jobs.room == 2, "it takes no place of background work"
    worker.jobs.done("a")
    await asyncio.sleep(2 * LEASE)
    assert worker.attempts == {"a": 2}, "its lease has lapsed"
    await worker.jobs.close()
    await worker.jobs.end()


@virtual
async def test_foreground_responses_are_claimed_beyond_the_limit() -> None:
    """What a dead node has left of them is taken over at once, all of it, however many background
    jobs run; only those have a limit."""
    store, worker = await shared(limit=1)
    put(store, "x", "y")
    put_held(store, "dead", "a", "b", "c", until=0.0)
    worker.jobs.start()
    await asyncio.sleep(0.1)
    assert set(worker.attempts) == {"a", "b", "c", "x"}
    assert worker.jobs.room == 0
    await worker.jobs.close()
    await worker.jobs.end()


@virtual
async def test_after_trouble_every_owner_has_the_time_to_renew() -> None:
    """When the store was away, all leases may have lapsed though their owners live: nothing is
    claimed until each of them has had the time to renew."""
    store, worker = await shared()
    other = Worker(store)
    for one in (worker, other):
        one.limit = 99
        one.jobs.start()
    await turn()
    put_held(store, "me", "a", until=LEASE)
    other.jobs.hold(Record("a", "ada", "in_progress", False, 0.0, 1000.0, b"{}", attempt=1))
    await asyncio.sleep(1.0)
    store.down = True
    await asyncio.sleep(3 * LEASE)
    store.down = False
    await asyncio.sleep(2 * LEASE)
    assert worker.attempts == {}
    assert other.attempts == {}
    for one in (worker, other):
        await one.jobs.close()
        await one.jobs.end()


@virtual
async def test_what_is_let_lapse_is_not_claimed_before() -> None:
    """A job that is let lapse is held no more, and nobody has it until its lease is over."""
    store, worker = await shared()
    put(store, "a")
    worker.jobs.start()
    await turn()
    del worker.attempts["a"]
    worker.jobs.let_lapse("a")
    assert not worker.jobs.holds("a")
    await asyncio.sleep(LEASE * 0.9)
    assert worker.attempts == {}
    await asyncio.sleep(LEASE / 2)
    assert worker.attempts == {"a": 2}
    await worker.jobs.close()
    await worker.jobs.end()


@virtual
async def test_what_runs_while_a_node_drains_stays_its_own() -> None:
    """After ``close`` nothing more is claimed, but what is held is renewed, also through trouble,
    for as long as the drain takes; after ``end`` it lapses."""
    store, worker = await shared()
    put(store, "a")
    worker.jobs.start()
    await turn()
    await worker.jobs.close()
    put(store, "b")
    await asyncio.sleep(LEASE)
    store.down = True
    await asyncio.sleep(LEASE / 2)
    store.down = False
    await asyncio.sleep(LEASE)
    assert await free(store) == ["b"]
    await worker.jobs.end()
    await asyncio.sleep(LEASE + 0.1)
    assert await free(store) == ["a", "b"]


@virtual
async def test_what_was_claimed_and_not_begun_is_given_back() -> None:
    """A node that stops while it is starting a job does not keep it."""
    store, worker = await shared()
    put(store, "a")
    run = asyncio.Event()

    async def slow(record: Record) -> None:
        await run.wait()

    worker.jobs._run = slow
    worker.jobs.start()
    await turn()
    assert worker.jobs.holds("a")
    await worker.jobs.close()
    assert not worker.jobs.holds("a")
    assert await free(store) == ["a"]
    await worker.jobs.end()
