"""Several nodes over one store through anything: crashes, partitions, a standstill, drains.

In virtual time. Each node has its hub, dispatcher, engine and store; the stores have one ledger in
common (``SharedMemoryStore``). All engines say the same to the same prompt, as a model at
temperature 0 does, so a text can be checked wherever it is made. Readers hop between the nodes with
their cursors, as clients do.

What must hold:

- Every event of a response is the same for every reader at any node at any time, in order and once.
  A text is a beginning of what the model says to its prompt; all of it if it completed.
- What was accepted ends exactly once, only as there was a reason for, and its result is the same
  from every node.
- Who is read anywhere is not cancelled for want of readers; who is not, is.
- Where readers go on from memory while the store is away, they get that text or ``worker_lost``.
- At rest nothing is held at any node, and all of them still work.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

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
from hub.journal import JobJournal
from hub.live import Live
from hub.policy import Policy
from hub.store.base import Idempotency
from tests.shared_store import Common, SharedMemoryStore
from tests.test_hub_stateful import Step, end, step, text_of
from tests.traces import traces
from tests.virtual import virtual

LEASE = 1.0
GRACE = 2.5718
"""Longer than a lease, as it should be: who stands still for a grace period has lost his lease."""
JOBS = 2
SPEED = 0.25
SOON = 0.05
PATIENCE = 300.0
SLACK = 1.0
"""Seconds of trouble's aftermath in which a reader's coming may not have been heard of."""
TAKEN = ContextVar[set[asyncio.Task[Any]]]("TAKEN")
"""The tasks of the node that the code at hand belongs to."""


@dataclass(eq=False)
class Story:
    """One response, as its readers have seen it."""

    body: Json
    parent: "Story | None"
    key: Idempotency
    id: str | None = None
    """Once somebody was told of it."""
    expected: str = field(default="", repr=False)
    wires: dict[int, bytes] = field(default_factory=dict, repr=False)
    end: int | None = None
    stopped: bool = False
    """Somebody asked for its end."""
    shaken: bool = False
    """A node or the store had trouble while it ran."""
    forgotten: bool = False
    """It may be gone."""

    @property
    def background(self) -> bool:
        return bool(self.body.get("background"))

    @property
    def stored(self) -> bool:
        return bool(self.body.get("store", True))

    @property
    def parent_lost(self) -> bool:
        return self.parent is not None and (self.parent.forgotten or self.parent.parent_lost)

    def note(self, seq: int, type: str, wire: bytes) -> None:
        """A reader has read an event."""
        assert self.wires.setdefault(seq, wire) == wire, (self.wires[seq], wire)
        if type in TERMINAL_EVENTS:
            assert self.end in (None, seq)
            self.end = seq
        assert self.end is None or seq <= self.end

    def failures(self, memory: bool) -> set[str]:
        """The codes with which it may fail."""
        codes = set()
        if "error" in self.body["model"]:
            codes.add("upstream_error")
        if self.shaken and (self.body["reasoning"] or memory):
            codes.add("worker_lost")
        if self.shaken and self.parent_lost:
            codes.add("previous_response_not_found")
        return codes


class Node:
    """One of them: ``boot``, then perhaps ``kill``."""

    def __init__(self, world: "World", place: int) -> None:
        self.world = world
        self.place = place
        self.tasks: set[asyncio.Task[Any]] = set()
        self.closing = False
        self.up = False
        self.context = copy_context()
        self.context.run(TAKEN.set, self.tasks)

    async def boot(self) -> None:
        """Start."""
        world = self.world
        self.store = SharedMemoryStore(world.common, world.latency)
        await self.store.start(world.now())
        self.engine = SimEngine(PROFILES["h100-8b"], speed=SPEED, faults=True)
        self.dispatcher = Dispatcher([Upstream(self.engine, 2)], rules_with(queue_size=2))
        policy = Policy(
            grace=GRACE,
            jobs=JOBS,
            remembered=30_000,
            default_model="sim",
            lease=LEASE,
            on_store_loss="memory" if world.memory else "pause",
        )
        others = lambda: any(one.up and one is not self for one in world.nodes)  # noqa: E731
        self.hub = Hub(self.dispatcher, self.store, policy, now=world.now, others=others)
        self.hub.start()
        self.up = True

    def run(self, main: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Have something done that ends when the node does."""
        return self.context.run(asyncio.create_task, main)

    async def kill(self, *, carried_out: bool) -> None:
        """Let it vanish."""
        self.up = False
        self.store.die(carried_out=carried_out)
        # A place that gets free has the dead hub start what waits for it.
        while tasks := self.tasks - {asyncio.current_task()}:
            await end(tasks)

    def check_empty(self) -> None:
        assert self.hub.statistics().live == 0
        assert self.dispatcher.reserved == 0
        state = self.engine.statistics()
        assert (state.running, state.waiting, state.kv_used) == (0, 0, 0)
        assert self.store.followed == 0, "somebody follows a log"
        owned = self.hub._owned
        assert (len(owned._mirrors), len(owned._jobs), len(owned._tasks)) == (0, 0, 0)
        assert self.hub._archive._keys == {}


class Reader:
    """A reader at a cursor, wherever it reads; an *eager* one reads whenever there is more."""

    def __init__(self, world: "World", story: Story, *, eager: bool) -> None:
        self.world = world
        self.story = story
        self.eager = eager
        self.cursor = -1
        self.text = ""
        self.adrift = False
        """It has seen what the store may not have."""
        self.over = False
        self.live: Live | None = None
        self.node: Node | None = None
        self.since = 0.0
        """When it began to read where it reads."""

    def again(self, *, eager: bool) -> "Reader":
        """Another one that goes on where this one has stopped."""
        other = Reader(self.world, self.story, eager=eager)
        other.cursor, other.text, other.adrift = self.cursor, self.text, self.adrift
        return other

    def attach(self, node: Node, live: Live) -> None:
        live.check_cursor(self.cursor, "starting_after")
        node.hub.join(live)
        self.node, self.live = node, live
        self.since = self.world.now()
        if self.eager:
            live.log.subscribe(self.wake)
        live.when_moved(self.moved)
        self.wake()

    def detach(self, *, leave: bool = True) -> None:
        live, node = self.live, self.node
        if live is None or node is None:
            return
        live.log.unsubscribe(self.wake)
        live.stay(self.moved)
        self.live = self.node = None
        if leave:
            node.hub.leave(live)

    def moved(self) -> None:
        """Another node goes on with it: go along, or where this node stops, to another one."""
        node = self.node
        assert node is not None
        self.read()
        self.detach()
        if self.over:
            return
        if node.closing:
            self.world.spawn(self.world.come(self, node.place + 1, 0.0))
        else:
            self.world.spawn(self.world.come(self, node.place, 0.0))

    def wake(self) -> None:
        try:
            if self.eager or self.cursor < 0:
                self.read()
        except BaseException as failure:
            self.world.failures.append(failure)  # Not on the writer's stack.

    def read(self, budget: int | None = None) -> None:
        live, story = self.live, self.story
        assert live is not None
        if isinstance(live.journal, JobJournal) and live.journal.adrift:
            self.adrift = True
        for event in live.log.read(self.cursor, budget=budget):
            assert event.seq == self.cursor + 1
            assert not self.over
            self.cursor = event.seq
            self.world.tell_id(story, live)
            if event.type == "response.output_text.delta":
                self.text += event.delta
                assert story.expected.startswith(self.text), (story.expected, self.text)
            self.over = event.type in TERMINAL_EVENTS
            if self.over and self.eager:
                self.world.check_cancelled(story, live, self.since)
            if self.over and self.adrift:
                self.world.check_adrift_end(self, live)
            if not self.adrift:
                story.note(event.seq, event.type, event.wire)


class World:
    """The nodes and all who use them. ``play``, then ``settle``."""

    def __init__(self, number: int, latency: float, *, memory: bool) -> None:
        self.memory = memory
        self.latency = latency
        self.loop = asyncio.get_running_loop()
        self.loop.set_task_factory(_taken)  # type: ignore[arg-type]
        self.common = Common()
        self.failures: list[BaseException] = []
        self.stories: list[Story] = []
        self.readers: list[Reader] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.troubled_until = float("-inf")
        """By then everybody has heard of everything again."""
        self.settling = False
        self.nodes = [Node(self, place) for place in range(number)]

    async def play(self, steps: list[Step]) -> None:
        for node in self.nodes:
            await node.run(node.boot())
        for do, arguments, pause in steps:
            await do(self, **arguments)
            await asyncio.sleep(pause)
            self.check()

    def check(self) -> None:
        if self.failures:
            raise self.failures[0]

    def now(self) -> float:
        return self.loop.time() + 1e9

    def spawn(self, main: Coroutine[Any, Any, None], node: Node | None = None) -> None:
        """Have a client do something, for as long as the ``node`` lives that it talks to."""

        def done(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            if not task.cancelled() and (failure := task.exception()) is not None:
                self.failures.append(failure)

        context = node.context if node is not None else copy_context()
        task = context.run(asyncio.create_task, main)
        self.tasks.add(task)
        task.add_done_callback(done)

    def node(self, place: int) -> Node | None:
        """That one, or the next that can be talked to."""
        for further in range(len(self.nodes)):
            node = self.nodes[(place + further) % len(self.nodes)]
            if node.up and not node.closing:
                return node
        return None

    def story(self, number: int) -> Story | None:
        stories = [story for story in self.stories if story.id]
        return stories[-1 - number] if number < len(stories) else None

    def tell_id(self, story: Story, live: Live) -> None:
        """A client was told of the response."""
        if story.id is None:
            story.id = live.id
        assert story.id == live.id or self.memory

    def shake(self, seconds: float = 0.0) -> None:
        """Trouble begins, and is over after so many seconds."""
        until = self.now() + seconds + LEASE * 2 + GRACE + SLACK
        self.troubled_until = max(self.troubled_until, until)
        for story in self.stories:
            if story.end is None:
                story.shaken = True

    # Clients.

    async def create(
        self, node: int, kind: str, parent: int | None, eager: bool, twice: int, **fields: Any
    ) -> None:
        """A request, perhaps at two nodes at once."""
        prompt = fields.pop("prompt")
        body: Json = {"input": f"Tell me about number {prompt}.", **fields}
        if kind == "background":
            body["background"] = True
        elif kind == "unstored":
            body["store"] = False
        chained = [story for story in self.stories if story.id and story.stored]
        before = chained[-1 - parent] if parent is not None and parent < len(chained) else None
        if before is not None:
            body["previous_response_id"] = before.id
        number = len(self.stories)
        key = Idempotency(f"key {number}", b"%d" % number, 2e9)
        story = Story(body, before, key, forgotten=kind == "unstored")
        story.shaken = self.now() < self.troubled_until
        self.stories.append(story)
        self.ask_at(node, story, eager=eager)
        if twice and kind != "unstored":
            self.ask_at(node + twice, story, eager=eager)

    async def repeat(self, node: int, which: int) -> None:
        """Ask again with the same key: it is the same response."""
        stories = [one for one in self.stories if one.stored and not one.forgotten]
        if stories:
            self.ask_at(node, stories[-1 - which % len(stories)], eager=True)

    def ask_at(self, place: int, story: Story, *, eager: bool) -> None:
        node = self.node(place)
        if node is not None:
            self.spawn(self.ask(node, story, eager=eager), node)

    async def ask(self, node: Node, story: Story, *, eager: bool) -> None:
        """Create a response, as the endpoint does."""
        hub, request = node.hub, parse_create(story.body)
        reader = Reader(self, story, eager=eager)
        try:
            live = await hub.repeated(story.key)
            if live is None:
                context = await hub.context(request)
                expected = full_text(with_messages(request, context).generation)
                assert story.expected in ("", expected)
                story.expected = expected
                if request.background:
                    live = await hub.accept(request, context, idempotency=story.key)
                    self.tell_id(story, live)
                else:
                    live = hub.submit(request, context, idempotency=story.key)
        except HubError as refusal:
            self.check_refusal(refusal, story, node)
            return
        if not story.background or eager:
            self.readers.append(reader)
            reader.attach(node, live)

    async def wait_for(self, node: int, which: int) -> None:
        """Have all of it in one answer."""
        await self._do(node, which, self._wait_for)

    async def _wait_for(self, node: Node, story: Story) -> None:
        assert story.id is not None
        live, since = await node.hub.open(story.id), self.now()
        async with asyncio.timeout(PATIENCE):
            live = await node.hub.ended(live)
        assert live.log.sealed
        if live.recorder.status == "completed":
            assert text_of(live.recorder.snapshot()) == story.expected
        self.check_cancelled(story, live, since)

    async def come(self, reader: Reader, place: int, later: float) -> None:
        """Read on at a node, or at the next one that can serve it."""
        for attempt in range(40):
            await asyncio.sleep(later)
            later = 0.5
            node = self.node(place + attempt)
            if node is None:
                continue
            if reader.story.id is None:
                # Nobody was told of it: it is asked for again.
                self.ask_at(node.place, reader.story, eager=reader.eager)
                return
            done = asyncio.Event()
            self.spawn(self.come_to(reader, node, done), node)
            waiting = asyncio.ensure_future(done.wait())
            await asyncio.wait((waiting,), timeout=5)
            waiting.cancel()
            if reader.live is not None or reader.over or reader.story.forgotten:
                return
            if self.memory and reader.adrift:
                return

    async def come_to(self, reader: Reader, node: Node, done: asyncio.Event) -> None:
        story = reader.story
        assert story.id is not None
        try:
            live = await node.hub.open(story.id)
            if reader.live is None:
                reader.attach(node, live)
                if reader not in self.readers:
                    self.readers.append(reader)
        except HubError as refusal:
            self.check_refusal(refusal, story, node, adrift=reader.adrift)
        finally:
            done.set()

    async def hop(self, node: int, which: int, later: float, eager: bool) -> None:
        """A reader goes away, and reads on at another node so many seconds later."""
        reading = [reader for reader in self.readers if reader.live]
        if reading:
            reader = reading[-1 - which % len(reading)]
            reader.read(1000)
            again = reader.again(eager=eager)
            reader.detach()
            if not reader.over:
                self.spawn(self.come(again, node, later))

    async def drop(self, which: int) -> None:
        """A reader goes away."""
        reading = [reader for reader in self.readers if reader.live]
        if reading:
            reading[-1 - which % len(reading)].detach()

    async def join(self, node: int, which: int, eager: bool) -> None:
        """Another reader comes, and reads from the beginning."""
        story = self.story(which)
        if story is not None:
            self.spawn(self.come(Reader(self, story, eager=eager), node, 0.0))

    async def look(self, node: int, which: int) -> None:
        """Have the response object as it is now."""
        await self._do(node, which, self._look)

    async def _look(self, node: Node, story: Story) -> None:
        assert story.id is not None
        async with asyncio.timeout(PATIENCE):
            result = orjson.loads(await node.hub.result(story.id))
        assert story.expected.startswith(text_of(result))

    async def cancel(self, node: int, which: int) -> None:
        await self._do(node, which, self._cancel)

    async def _cancel(self, node: Node, story: Story) -> None:
        assert story.id is not None
        live = await node.hub.open(story.id)
        story.stopped = True
        node.hub.cancel(live)
        async with asyncio.timeout(PATIENCE):
            await node.hub.ended(live)

    async def delete(self, node: int, which: int) -> None:
        await self._do(node, which, self._delete)

    async def _delete(self, node: Node, story: Story) -> None:
        assert story.id is not None
        story.forgotten = story.stopped = True
        async with asyncio.timeout(PATIENCE):
            await node.hub.delete(story.id)

    async def _do(
        self, place: int, which: int, do: Callable[[Node, Story], Coroutine[Any, Any, None]]
    ) -> None:
        story, node = self.story(which), self.node(place)
        if story is None or node is None:
            return

        async def main() -> None:
            try:
                await do(node, story)
            except HubError as refusal:
                self.check_refusal(refusal, story, node)

        self.spawn(main(), node)

    # The world around them.

    async def wait(self) -> None:
        """Only let time pass."""

    async def trouble(self, node: int, latency: float, failing: int, carried_out: bool) -> None:
        """A node's store is slow, or fails for a while."""
        store = self.nodes[node % len(self.nodes)].store
        store.latency, store.failing, store.carried_out = latency, failing, carried_out
        if failing:
            self.shake(failing)

    async def deafen(self, node: int, number: int) -> None:
        """A node does not hear some messages."""
        self.nodes[node % len(self.nodes)].store.deaf = number
        self.shake()

    async def cut(self, node: int, seconds: float, carried_out: bool) -> None:
        """A node is cut off from the store for a while."""
        self._cut([self.nodes[node % len(self.nodes)]], seconds, carried_out)

    async def outage(self, seconds: float, carried_out: bool) -> None:
        """The store is away, for everybody."""
        self._cut(self.nodes, seconds, carried_out)

    def _cut(self, nodes: list[Node], seconds: float, carried_out: bool) -> None:
        self.shake(seconds)
        for node in nodes:
            if node.up:
                node.store.cut(carried_out=carried_out)
                self.loop.call_later(seconds, node.store.heal, context=node.context)

    async def freeze(self, node: int, seconds: float) -> None:
        """A node stands still for a while: nothing of what it does gets through until then."""
        one = self.nodes[node % len(self.nodes)]
        self.shake(seconds)
        if one.up:
            one.store.frozen = True
            self.loop.call_later(seconds, one.store.heal, context=one.context)

    async def crash(self, node: int, carried_out: bool) -> None:
        """A node dies, and another one takes its place."""
        one = self.nodes[node % len(self.nodes)]
        if not one.up or one.closing:
            return
        self.shake()
        await one.kill(carried_out=carried_out)
        for story in self.stories:
            # Where nobody was told of it, it may never have been.
            story.forgotten |= self.memory and story.end is None
        for reader in self.readers:
            if reader.node is one:
                story = reader.story
                reader.detach(leave=False)
                if not reader.over and story.stored:
                    self.spawn(self.come(reader.again(eager=reader.eager), node + 1, 0.1))
        await self._replace(one)

    async def restart(self, node: int, drain: float) -> None:
        """A node hands over what it runs and ends, and another one takes its place."""
        one = self.nodes[node % len(self.nodes)]
        if one.up and not one.closing:
            self.shake(drain)
            one.closing = True
            self.spawn(self._close(one, drain, again=True))

    async def _close(self, node: Node, drain: float, *, again: bool) -> None:
        # Within what the drain, a store that is away and the writes that it has lost may take.
        async with asyncio.timeout(drain + 60.0):
            await node.run(node.hub.close(drain))
        for reader in self.readers:
            if reader.node is node:
                # The server cuts it off, and it comes back to another node.
                story = reader.story
                reader.detach(leave=False)
                if not reader.over and story.stored and again:
                    self.spawn(self.come(reader.again(eager=reader.eager), node.place + 1, 0.1))
        node.up = False
        await end({task for task in node.tasks if task in self.tasks})
        await node.store.close()
        await node.engine.close()
        assert node.dispatcher.reserved == 0
        assert node.store.followed == 0
        if again:
            await self._replace(node)

    async def _replace(self, node: Node) -> None:
        new = self.nodes[node.place] = Node(self, node.place)
        await new.run(new.boot())

    # What must hold.

    def check_refusal(
        self, refusal: HubError, story: Story, node: Node, *, adrift: bool = False
    ) -> None:
        """Refusals have a reason."""
        match refusal.code:
            case "store_unavailable":
                assert self.now() < self.troubled_until
            case "shutting_down":
                assert node.closing
            case "response_not_found":
                assert story.forgotten or (self.memory and story.shaken)
            case "previous_response_not_found":
                assert story.parent is not None
            case "invalid_value":
                assert adrift, "a cursor ahead of what the store has"
            case code:
                assert code == "rate_limit_exceeded"

    def check_cancelled(self, story: Story, live: Live, since: float) -> None:
        """Nobody is cancelled whom somebody reads, ``since`` then."""
        if live.recorder.status == "cancelled" and not (story.stopped or self.memory):
            assert self.now() < max(since + SLACK, self.troubled_until), f"{story} was read"

    def check_adrift_end(self, reader: Reader, live: Live) -> None:
        """Who has seen more than the store had gets all of the text, or is told of the loss."""
        match live.recorder.status:
            case "completed" | "incomplete":
                assert reader.text == reader.story.expected
            case "cancelled":
                pass
            case _:
                assert live.recorder.error is not None
                assert live.recorder.error.code in reader.story.failures(True)

    async def settle(self) -> None:
        """Leave everything alone: it ends as it should, and nothing is left."""
        self.settling = True
        for node in self.nodes:
            store = node.store
            store.failing, store.latency, store.deaf = 0, 0.001, 0
            store.heal()
        await asyncio.sleep(LEASE)
        for reader in self.readers:
            reader.detach()
        self.troubled_until = self.now() + PATIENCE
        deadline = self.loop.time() + 2 * PATIENCE
        while self.tasks:
            assert self.loop.time() < deadline, [task.get_coro() for task in self.tasks]
            await asyncio.wait({*self.tasks}, timeout=PATIENCE)
        self.check()
        for reader in self.readers:
            reader.detach()
        # What finds no room at one node after another is claimed again and again until then.
        async with asyncio.timeout(10 * (GRACE + LEASE)):
            while any(  # noqa: ASYNC110 - in virtual time
                not live.background for node in self.nodes for live in node.hub._archive.live
            ):
                await asyncio.sleep(SOON)
        async with asyncio.timeout(PATIENCE):
            while self.common.statistics().jobs:  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(1)
        self.check()
        for story in self.stories:
            if story.id is not None:
                await self.check_end(story)
        # More than may run at once: so no place is taken by something that has ended.
        for node in self.nodes:
            await node.run(self.check_works(node))
        await asyncio.sleep(GRACE)
        for node in self.nodes:
            node.check_empty()
        for node in self.nodes:
            node.closing = True
            await self._close(node, 0.0, again=False)
        await end(self.tasks)
        self.check()

    async def check_works(self, node: Node) -> None:
        for number in range(JOBS + 1):
            body: Json = {"input": f"more {number}", "background": True, "max_output_tokens": 5}
            live = await node.hub.accept(parse_create(body))
            async with asyncio.timeout(PATIENCE):
                live = await node.hub.ended(live)
            assert live.recorder.status == "incomplete"

    async def check_end(self, story: Story) -> None:
        """It is the same from every node."""
        assert story.id is not None
        results = []
        for node in self.nodes:
            try:
                live = await node.hub.open(story.id)
                async with asyncio.timeout(PATIENCE):
                    live = await node.hub.ended(live)
                reader = Reader(self, story, eager=True)
                reader.attach(node, live)
                reader.detach()
                self.check()
                assert story.end == reader.cursor or self.memory
                result = orjson.loads(await node.hub.result(story.id))
            except HubError as refusal:
                self.check_refusal(refusal, story, node)
                continue
            assert text_of(result) == reader.text
            results.append(result)
            match live.recorder.status:
                case "completed" | "incomplete":
                    assert reader.text == story.expected
                case "cancelled":
                    assert story.stopped or not story.background
                case status:
                    assert status == "failed"
                    assert live.recorder.error is not None
                    assert live.recorder.error.code in story.failures(self.memory)
        assert all(result == results[0] for result in results)


def _taken(
    loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, Any], **options: Any
) -> "asyncio.Task[Any]":
    """Make a task, and know whose it is."""
    task = asyncio.Task(main, loop=loop, **options)
    tasks = TAKEN.get(None)
    if tasks is not None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return task


# Any trace of it.

NODE = st.integers(0, 2)
WHICH = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4])
SECONDS = st.sampled_from([0.2, 0.8, 1.5, 3.0, 6.0])
CREATE: dict[str, st.SearchStrategy[Any]] = {
    "node": NODE,
    "kind": st.sampled_from([*["background"] * 3, *["stored"] * 5, "unstored"]),
    "parent": st.none() | st.none() | st.integers(0, 4),
    "eager": st.sampled_from([True, True, False]),
    "twice": st.sampled_from([0, 0, 0, 1, 2]),
    "prompt": st.integers(0, 99),
    "model": st.sampled_from([*["sim"] * 9, "sim+error=5"]),
    "max_output_tokens": st.sampled_from([None, None, None, 1, 12]),
    "reasoning": st.sampled_from([None, None, None, {"effort": "low"}]),
}
STEPS = st.one_of(
    *[step(World.create, **CREATE) for _ in range(6)],
    *[
        step(
            World.hop,
            node=NODE,
            which=WHICH,
            later=st.sampled_from([0.0, 0.1, 1.0, 3.0]),
            eager=st.sampled_from([True, True, False]),
        )
        for _ in range(3)
    ],
    step(World.join, node=NODE, which=WHICH, eager=st.booleans()),
    step(World.drop, which=WHICH),
    step(World.repeat, node=NODE, which=WHICH),
    step(World.look, node=NODE, which=WHICH),
    step(World.wait_for, node=NODE, which=WHICH),
    step(World.cancel, node=NODE, which=WHICH),
    step(World.delete, node=NODE, which=WHICH),
    step(World.wait, pause=st.sampled_from([0.3, 1.0, 2.5, 5.0])),
    step(
        World.trouble,
        node=NODE,
        latency=st.sampled_from([0.0, 0.001, 0.05, 0.3]),
        failing=st.sampled_from([0, 0, 1, 3]),
        carried_out=st.booleans(),
    ),
    step(World.deafen, node=NODE, number=st.integers(1, 5)),
    step(World.cut, node=NODE, seconds=SECONDS, carried_out=st.booleans()),
    step(World.outage, seconds=SECONDS, carried_out=st.booleans()),
    step(World.freeze, node=NODE, seconds=SECONDS),
    step(World.crash, node=NODE, carried_out=st.booleans()),
    step(World.restart, node=NODE, drain=st.sampled_from([0.0, 1.0, 20.0])),
)


@settings(max_examples=80)
@given(traces(STEPS, 60), st.sampled_from([2, 3]), st.sampled_from([0.001, 0.001, 0.05]))
@virtual
async def test_whatever_happens_all_nodes_tell_the_same(
    steps: list[Step], number: int, latency: float
) -> None:
    """See the top of this file; while the store is away, everything waits for it."""
    world = World(number, latency, memory=False)
    await world.play(steps)
    await world.settle()


@settings(max_examples=40)
@given(traces(STEPS, 60), st.sampled_from([2, 3]), st.sampled_from([0.001, 0.05]))
@virtual
async def test_so_it_is_where_readers_go_on_from_memory(
    steps: list[Step], number: int, latency: float
) -> None:
    """The same, where readers see what the store does not have while it is away."""
    world = World(number, latency, memory=True)
    await world.play(steps)
    await world.settle()
