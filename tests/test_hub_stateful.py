"""The hub and its store through anything: readers that hop, crashes, restarts, a bad disk.

In virtual time. A *disk* outlives the hubs that use it one after another. Between a hub and the
disk stands a ``SlowStore``: its calls take a while, share a commit and may fail, as a disk's do. A
crash takes hub, dispatcher, engine and store away in the middle of everything: what waits for its
commit is carried out or not, and nobody learns which.

What must hold (rules 1, 2, 7 and 10 of the design):

- Every event of a response is the same for every reader, at any time, under any hub: so what was
  read before a crash is what is read after it, in order and once.
- A text is a beginning of what the model says to its prompt; all of it if it completed.
- What was accepted in the background ends exactly once, and only as there was a reason for.
- Who is left alone is cancelled: an unstored one at once, a stored one after the grace period, and
  never before it.
- At rest nothing is held, and the hub still works.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.prompt import with_messages
from hub.api.recorder import TERMINAL_EVENTS
from hub.api.requests import Json
from hub.api.responses import parse_create
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_text import full_text
from hub.errors import HubError
from hub.hub import Hub
from hub.live import Live
from hub.log import Event
from hub.policy import Policy
from hub.store.base import Fenced, Idempotency, IdempotencyConflict, Statistics
from hub.store.files import opened
from hub.store.ledger import Ledger, LedgerStore
from hub.store.memory import MemoryStore
from hub.store.tables import Tables
from tests.traces import traces
from tests.virtual import virtual

T = TypeVar("T")
Step = tuple[Callable[..., Coroutine[Any, Any, None]], dict[str, Any], float]
"""What to do, its arguments, and a pause after it. What is not done by then goes on."""

GRACE = 1.5718
"""No sum of the pauses: nobody comes back in the very moment in which it ends."""
JOBS = 2
SPEED = 0.25
"""Of the engine: a text of a hundred tokens takes five seconds."""
SOON = 0.01
PATIENCE = 300.0
"""Seconds in which anything ends, through lapsed leases and repeated writes, or never."""

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Syncing is not what is tested here, and it takes most of the time on a disk."""


# What survives.


class Disk(Protocol):
    """What a crash leaves behind."""

    def mount(self) -> None: ...
    def unmount(self) -> None: ...
    def do(self, work: Callable[[Ledger], T]) -> T: ...
    def jobs(self) -> int: ...


class MemoryDisk(MemoryStore):
    """A memory store that is not closed. Its leases hold beyond the death of their owner."""

    def mount(self) -> None:
        self._loop = asyncio.get_running_loop()

    def unmount(self) -> None:
        pass

    def do(self, work: Callable[[Ledger], T]) -> T:
        return self._call(work).result()

    def jobs(self) -> int:
        return self.statistics().jobs


class SqliteDisk:
    """The tables of the SQLite store, without its thread: that would not know of virtual time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()

    def mount(self) -> None:
        self._tables = Tables(*self._stack.enter_context(opened(self._directory)))

    def unmount(self) -> None:
        self._stack.close()

    def do(self, work: Callable[[Ledger], T]) -> T:
        self._tables.begin()
        try:
            return work(self._tables)
        finally:
            self._tables.commit()

    def jobs(self) -> int:
        return self._tables.totals().jobs


class SlowStore(LedgerStore):
    """A store for one life of a hub. Its calls take effect in order, ``latency`` after the first
    of them was made. ``failing`` commits fail; what was asked for is done nevertheless, or not."""

    place = "a test"

    def __init__(self, disk: Disk, latency: float) -> None:
        super().__init__()
        self.latency = latency
        self.failing = 0
        self.carried_out = False
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[Callable[[Ledger], Any], asyncio.Future[Any]]] = []
        self._dead = False

    async def start(self, now: float) -> None:
        self._disk.mount()

    async def close(self) -> None:
        self.die(carried_out=True)

    def die(self, *, carried_out: bool) -> None:
        """Answer nothing more."""
        if carried_out:
            for work, _ in self._queue:
                self._run(work)
        self._dead = True
        self._disk.unmount()

    @property
    def lag(self) -> float:
        return 0.0

    def statistics(self) -> Statistics:
        raise NotImplementedError

    def _call(self, work: Callable[[Ledger], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._queue:
            self._loop.call_later(self.latency, self._commit)
        self._queue.append((work, future))
        return future

    def _commit(self) -> None:
        if self._dead:
            return
        queue, self._queue = self._queue, []
        fails = self.failing > 0
        self.failing -= fails
        for work, future in queue:
            done = self._run(work) if self.carried_out or not fails else None
            if fails:
                done = HubError("store_unavailable", "as it was asked")
            if future.done():
                continue  # Whoever awaited it was cancelled.
            if isinstance(done, Exception):
                future.set_exception(done)
                # Some failures nobody looks at; asyncio tells of them when they are collected.
                future.exception()
            else:
                future.set_result(done)

    def _run(self, work: Callable[[Ledger], Any]) -> object:
        try:
            return self._disk.do(work)
        except (Fenced, IdempotencyConflict, HubError) as error:
            return error


# What is known of it.


@dataclass(eq=False)
class Story:
    """One response, as its readers have seen it."""

    body: Json
    parent: "Story | None"
    key: Idempotency
    id: str | None = None
    """Once it was accepted."""
    expected: str = field(default="", repr=False)
    wires: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Its events, by number, as its first reader had them."""
    end: int | None = None
    live: Live | None = None
    """If it is a foreground response of this hub."""
    left_at: float = 0.0
    left: bool = False
    """It was alone at some time."""
    readers: int = 0
    stopped: bool = False
    """Somebody asked for its end."""
    interrupted: bool = False
    """A hub ended while it ran."""
    forgotten: bool = False
    """It may be gone: unstored, deleted, or not kept when its process or the disk failed."""

    @property
    def background(self) -> bool:
        return bool(self.body.get("background"))

    @property
    def stored(self) -> bool:
        return bool(self.body.get("store", True))

    @property
    def parent_lost(self) -> bool:
        return self.parent is not None and (self.parent.forgotten or self.parent.parent_lost)

    def note(self, event: Event) -> None:
        """A reader has read an event."""
        assert self.wires.setdefault(event.seq, event.wire) == event.wire
        if event.type in TERMINAL_EVENTS:
            assert self.end in (None, event.seq)
            self.end = event.seq
        assert self.end is None or event.seq <= self.end

    def failures(self) -> set[str]:
        """The codes with which it may fail."""
        codes = set()
        if "error" in self.body["model"]:
            codes.add("upstream_error")
        if self.interrupted and self.body["reasoning"]:
            codes.add("worker_lost")
        if self.interrupted and self.parent_lost:
            codes.add("previous_response_not_found")
        return codes


class Reader:
    """A reader at a cursor; an *eager* one reads whenever there is more."""

    def __init__(self, story: Story, cursor: int, text: str, *, eager: bool) -> None:
        """``text`` is what it has had up to the cursor."""
        self.story = story
        self.cursor = cursor
        self.text = text
        self.eager = eager
        self.live: Live | None = None
        self.failures: list[BaseException] = []

    def attach(self, hub: Hub, live: Live) -> None:
        live.check_cursor(self.cursor, "starting_after")
        hub.join(live)
        self.story.readers += 1
        self.live = live
        if self.eager:
            live.log.subscribe(self.wake)
            self.read()

    def detach(self) -> None:
        if self.live is not None:
            self.live.log.unsubscribe(self.wake)
            self.story.readers -= 1
            self.live = None

    def wake(self) -> None:
        try:
            self.read()
        except AssertionError as failure:
            self.failures.append(failure)  # Not on the writer's stack.

    def read(self, budget: int | None = None) -> None:
        assert self.live is not None
        for event in self.live.log.read(self.cursor, budget=budget):
            assert event.seq == self.cursor + 1
            self.cursor = event.seq
            if event.type == "response.output_text.delta":
                self.text += event.delta
                assert self.story.expected.startswith(self.text)
            self.story.note(event)


def text_of(result: Json) -> str:
    messages = [item for item in result["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


# What happens.


class World:
    """One hub after another over one disk, and all who use them. ``play``, then ``settle``."""

    def __init__(self, disk: Disk, latency: float) -> None:
        self.disk = disk
        self.latency = latency
        self.loop = asyncio.get_running_loop()
        self.failures: list[BaseException] = []
        self.stories: list[Story] = []
        self.readers: list[Reader] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.troubled = False
        self.closing = False

    async def play(self, steps: list[Step]) -> None:
        await self.boot()
        for do, arguments, pause in steps:
            await do(self, **arguments)
            await asyncio.sleep(pause)
            self.check_alone()
            self.check_failures()

    async def boot(self) -> None:
        self.store = SlowStore(self.disk, self.latency)
        await self.store.start(self.now())
        self.engine = SimEngine(PROFILES["h100-8b"], speed=SPEED, faults=True)
        self.dispatcher = Dispatcher([Upstream(self.engine, 2)], rules_with(queue_size=2))
        policy = Policy(grace=GRACE, jobs=JOBS, remembered=30_000, default_model="sim")
        self.hub = Hub(self.dispatcher, self.store, policy, now=self.now)
        self.hub.start()

    def now(self) -> float:
        return self.loop.time() + 1e9

    def spawn(self, main: Coroutine[Any, Any, None]) -> None:
        """Have a client of this hub do something. It ends when the hub does."""

        def done(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            if not task.cancelled() and (failure := task.exception()) is not None:
                self.failures.append(failure)

        task = asyncio.create_task(main)
        self.tasks.add(task)
        task.add_done_callback(done)

    def story(self, number: int) -> Story | None:
        """One of the newest responses that were accepted."""
        stories = [story for story in self.stories if story.id]
        return stories[-1 - number] if number < len(stories) else None

    # Clients.

    async def create(
        self, many: int, kind: str, parent: int | None, eager: bool, **fields: Any
    ) -> None:
        number = fields.pop("prompt")
        body: Json = {"input": f"Tell me about number {number}.", **fields}
        if kind == "background":
            body["background"] = True
        elif kind == "unstored":
            body["store"] = False
        chained = [story for story in self.stories if story.id and story.stored]
        before = chained[-1 - parent] if parent is not None and parent < len(chained) else None
        if before is not None:
            body["previous_response_id"] = before.id
        for _ in range(many):
            number = len(self.stories)
            key = Idempotency(f"key {number}", b"%d" % number, 2e9)
            story = Story(body, before, key, forgotten=kind == "unstored")
            self.stories.append(story)
            self.spawn(self.ask(story, eager=eager))

    async def repeat(self, which: int) -> None:
        """Ask again with the same key: it is the same response."""
        stories = [
            story
            for story in self.stories
            if story.background or (story.id and not story.forgotten)
        ]
        if stories:
            self.spawn(self.ask(stories[-1 - which % len(stories)], eager=False))

    async def ask(self, story: Story, *, eager: bool) -> None:
        """Create a response, as the endpoint does."""
        hub, request = self.hub, parse_create(story.body)
        try:
            live = await hub.repeated(story.key)
            if live is None:
                assert not (story.id and story.background), "it was accepted before"
                context = await hub.context(request)
                story.expected = full_text(with_messages(request, context).generation)
                if request.background:
                    live = await hub.accept(request, context, idempotency=story.key)
                else:
                    live = hub.submit(request, context, idempotency=story.key)
        except HubError as refusal:
            self.check_refusal(refusal, story)
            return
        assert story.id in (None, live.id)
        story.id = live.id
        if story.live is None and not story.background:
            story.live = live
            # It may end while the store still fails, and not be kept.
            story.forgotten |= self.store.failing > 0
            live.log.subscribe(lambda: self.check_end_of_the_lonely(story))
            self.join(Reader(story, -1, "", eager=eager), live)
        elif eager:
            self.join(Reader(story, -1, "", eager=True), live)

    def join(self, reader: Reader, live: Live) -> None:
        self.readers.append(reader)
        reader.attach(self.hub, live)

    async def find(self, story: Story) -> Live | None:
        assert story.id is not None
        try:
            return await self.hub.open(story.id)
        except HubError as refusal:
            self.check_refusal(refusal, story)
            return None

    async def resume(self, which: int, where: int | None, eager: bool) -> None:
        """Read from the beginning, or on where somebody has stopped."""
        story = self.story(which)
        if story is None:
            return
        reader = Reader(story, -1, "", eager=eager)
        others = [other for other in self.readers if other.story is story]
        if where is not None and others:
            other = others[-1 - where % len(others)]
            reader.cursor, reader.text = other.cursor, other.text
        self.spawn(self.come(reader, 0.0))

    async def read(self, which: int, budget: int | None) -> None:
        reading = [reader for reader in self.readers if reader.live]
        if reading:
            reading[-1 - which % len(reading)].read(budget)

    async def drop(self, which: int, back: float | None) -> None:
        """A reader goes away. If he comes back, it is so many seconds later."""
        reading = [reader for reader in self.readers if reader.live]
        if not reading:
            return
        reader = reading[-1 - which % len(reading)]
        self.leave(reader)
        if back is not None:
            again = Reader(reader.story, reader.cursor, reader.text, eager=reader.eager)
            self.spawn(self.come(again, back))

    async def come(self, reader: Reader, later: float) -> None:
        await asyncio.sleep(later)
        live = await self.find(reader.story)
        if live is not None:
            self.join(reader, live)

    def leave(self, reader: Reader) -> None:
        live, story = reader.live, reader.story
        assert live is not None
        reader.detach()
        story.left_at = self.now()
        story.left |= not story.readers
        self.hub.leave(live)

    async def look(self, which: int) -> None:
        """Have the response object as it is now."""
        story = self.story(which)
        if story is None or story.id is None:
            return
        id = story.id

        async def main() -> None:
            try:
                async with asyncio.timeout(PATIENCE):
                    result = orjson.loads(await self.hub.result(id))
            except HubError as refusal:
                self.check_refusal(refusal, story)
            else:
                assert story.expected.startswith(text_of(result))

        self.spawn(main())

    async def cancel(self, which: int) -> None:
        story = self.story(which)
        if story is None:
            return

        async def main() -> None:
            live = await self.find(story)
            if live is None:
                return
            story.stopped = True
            self.hub.cancel(live)
            await asyncio.sleep(SOON)
            assert live.recorder.ended or self.closing
            async with asyncio.timeout(PATIENCE):
                await live.until_ended()

        self.spawn(main())

    async def delete(self, which: int, parent: bool) -> None:
        story = self.story(which)
        if story is not None and parent:
            story = story.parent
        if story is None or story.id is None:
            return
        id = story.id

        async def main() -> None:
            story.forgotten = story.stopped = True
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.hub.delete(id)
            except HubError as refusal:
                self.check_refusal(refusal, story)
            else:
                assert await self.find(story) is None

        self.spawn(main())

    # The world around them.

    async def wait(self) -> None:
        """Only let time pass."""

    async def trouble(self, latency: float, failing: int, carried_out: bool) -> None:
        """The disk is slow, or fails for a while."""
        self.latency = self.store.latency = latency
        self.store.failing = failing
        self.store.carried_out = carried_out
        if failing:
            self.troubled = True
            for story in self.stories:
                # It may end during the trouble, and not be kept.
                story.forgotten |= story.live is not None and not story.live.log.sealed

    async def crash(self, carried_out: bool) -> None:
        for story in self.stories:
            story.interrupted = True
            if story.live is not None:
                story.forgotten |= not story.live.log.sealed
                story.live = None
        for reader in self.readers:
            reader.detach()
        self.store.die(carried_out=carried_out)
        # A place that gets free has the dead hub start what waits for it.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await end(tasks)
        await self.boot()

    async def restart(self, drain: float) -> None:
        await self.close(drain)
        await self.boot()

    async def close(self, drain: float) -> None:
        self.closing = True
        for story in self.stories:
            story.interrupted = True
        async with asyncio.timeout(drain + PATIENCE):
            await self.hub.close(drain)
        for story in self.stories:
            assert story.live is None or story.live.log.sealed
            story.live = None
        for reader in self.readers:
            reader.detach()
        await end(self.tasks)
        await self.store.close()
        await self.engine.close()
        assert self.dispatcher.reserved == 0
        self.closing = False

    # What must hold.

    def check_failures(self) -> None:
        failures = [*self.failures, *(one for r in self.readers for one in r.failures)]
        if failures:
            raise failures[0]

    def check_refusal(self, refusal: HubError, story: Story) -> None:
        """Refusals have a reason."""
        match refusal.code:
            case "store_unavailable":
                assert self.troubled
            case "shutting_down":
                assert self.closing
            case "response_not_found":
                assert story.forgotten
            case "previous_response_not_found":
                assert story.parent is not None
            case code:
                assert code == "rate_limit_exceeded"

    def check_end_of_the_lonely(self, story: Story) -> None:
        """Who was cancelled without being asked was alone, and long enough."""
        live = story.live
        if live is None or live.recorder.status != "cancelled" or story.stopped or self.closing:
            return
        alone = not story.readers and self.now() > story.left_at + GRACE - SOON
        if not (alone if story.stored else story.left):
            self.failures.append(AssertionError(f"{story} was cancelled too early"))

    def check_alone(self) -> None:
        """Who is alone does not run on, beyond the grace period."""
        for story in self.stories:
            live = story.live
            if live is not None and not story.readers and not live.recorder.ended:
                assert self.now() < story.left_at + GRACE * story.stored + SOON

    async def settle(self) -> None:
        """Leave everything alone: it ends as it should, and nothing is left."""
        self.store.failing, self.store.latency = 0, 0.001
        for reader in self.readers:
            if reader.live:
                self.leave(reader)
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=2 * PATIENCE)
        assert not self.tasks
        for story in self.stories:
            if story.background and story.id is None:
                # Nobody was told whether it was accepted; now it is known.
                await self.ask(story, eager=False)
        for story in self.stories:
            if story.id is not None:
                await self.check_end(story)
        await asyncio.sleep(GRACE + SOON)
        self.check_alone()
        async with asyncio.timeout(PATIENCE):
            while self.disk.jobs():  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(1)
        # More than may run at once: so no place is taken by something that has ended.
        for number in range(JOBS + 1):
            body: Json = {"input": f"more {number}", "background": True, "max_output_tokens": 5}
            live = await self.hub.accept(parse_create(body))
            async with asyncio.timeout(PATIENCE):
                await live.until_ended()
            assert live.recorder.status == "incomplete"
        assert self.hub.statistics().live == 0
        assert self.dispatcher.reserved == 0
        state = self.engine.statistics()
        assert (state.running, state.waiting, state.kv_used) == (0, 0, 0)
        await self.close(0)
        self.check_failures()

    async def check_end(self, story: Story) -> None:
        live = await self.find(story)
        if live is None or story.id is None:
            return
        async with asyncio.timeout(PATIENCE):
            await live.until_ended()
        reader = Reader(story, -1, "", eager=False)
        reader.live = live
        reader.read()
        assert live.log.sealed
        assert story.end == reader.cursor
        if story.stored and not story.forgotten:
            result = orjson.loads(await self.hub.result(story.id))
            assert text_of(result) == reader.text
            assert result["status"] == live.recorder.status
        match live.recorder.status:
            case "completed" | "incomplete":
                assert reader.text == story.expected
            case "cancelled":
                assert story.stopped or not story.background
            case status:
                assert status == "failed"
                assert live.recorder.error is not None
                assert live.recorder.error.code in story.failures()


async def end(tasks: set[Any]) -> None:
    """Cancel tasks and wait until they are done."""
    tasks = {*tasks}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


# Any trace of it.

LATENCIES = st.sampled_from([0.0, 0.001, 0.05, 0.3, 0.3])
WHICH = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4])
"""Of the newest, the newest first."""
PAUSES = st.sampled_from([0.0, 0.0005, 0.03, 0.08, 0.15, 0.5, 1.0])


def step(
    do: Callable[..., Coroutine[Any, Any, None]],
    *,
    pause: st.SearchStrategy[float] = PAUSES,
    **arguments: st.SearchStrategy[Any],
) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(do), st.fixed_dictionaries(arguments), pause)


CREATE: dict[str, st.SearchStrategy[Any]] = {
    "many": st.sampled_from([1, 1, 1, 2, 4]),
    "kind": st.sampled_from(["background", "background", "stored", "stored", "unstored"]),
    "parent": st.none() | st.integers(0, 4),
    "eager": st.booleans(),
    "prompt": st.integers(0, 99),
    "model": st.sampled_from([*["sim"] * 8, "sim+error=5", "sim+slow=3"]),
    "max_output_tokens": st.sampled_from([None, None, None, 1, 12]),
    "reasoning": st.sampled_from([None, None, None, {"effort": "low"}]),
}
STEPS = st.one_of(
    *[step(World.create, **CREATE) for _ in range(6)],
    step(World.resume, which=WHICH, where=st.none(), eager=st.booleans()),
    step(World.resume, which=WHICH, where=WHICH, eager=st.booleans()),
    step(World.drop, which=WHICH, back=st.none()),
    step(World.drop, which=WHICH, back=st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    step(World.repeat, which=WHICH),
    step(World.read, which=WHICH, budget=st.sampled_from([1, 1000, None])),
    step(World.look, which=WHICH),
    *[step(World.cancel, which=WHICH) for _ in range(2)],
    step(World.delete, which=WHICH, parent=st.booleans()),
    step(World.wait, pause=st.sampled_from([0.3, 1.0, 2.5, 5.0])),
    step(World.wait, pause=st.sampled_from([2.5, 5.0, 21.0])),
    step(
        World.trouble,
        latency=LATENCIES,
        failing=st.sampled_from([0, 0, 1, 3, 8]),
        carried_out=st.booleans(),
    ),
    step(World.crash, carried_out=st.booleans()),
    step(World.restart, drain=st.sampled_from([0.0, 1.0, 100.0])),
)


@settings(max_examples=150)
@given(traces(STEPS, 80), LATENCIES)
@virtual
async def test_whatever_happens_every_reader_gets_the_log_and_every_job_ends(
    steps: list[Step], latency: float
) -> None:
    """See the top of this file."""
    world = World(MemoryDisk(), latency)
    await world.play(steps)
    await world.settle()


@settings(max_examples=30)
@given(traces(STEPS, 80), LATENCIES)
@virtual
async def test_so_it_is_on_the_files_of_the_sqlite_store(steps: list[Step], latency: float) -> None:
    """The same, where no lease outlives its process."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        world = World(SqliteDisk(Path(directory)), latency)
        await world.play(steps)
        await world.settle()
