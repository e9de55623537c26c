"""Who writes a response where nodes share a store, and what becomes of its readers meanwhile.

In virtual time, with two nodes whose engines are the test's. What may happen in any order is in
``test_nodes_stateful.py``.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from hub.api.requests import Json
from hub.api.responses import parse_create
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import rules_with
from hub.dispatch.upstream import Upstream
from hub.errors import HubError
from hub.hub import Hub
from hub.live import Live
from hub.policy import Policy
from hub.store.base import Idempotency
from tests.manual import ManualEngine
from tests.shared_store import Common, SharedMemoryStore
from tests.virtual import virtual

LEASE = 5.0
GRACE = 12.0
STEP = 0.1
"""Seconds in which a call of the store, or a message, has long been answered."""


class Node:
    """A hub whose engine is in the hands of the test."""

    def __init__(self, common: Common, **policy: Any) -> None:
        self.common = common
        self.store = SharedMemoryStore(common)
        self.engine = ManualEngine()
        self.dispatcher = Dispatcher([Upstream(self.engine, 2)], rules_with(queue_size=1))
        known = {"default_model": "m", "lease": LEASE, "grace": GRACE, "jobs": 2, **policy}
        self.hub = Hub(
            self.dispatcher,
            self.store,
            Policy(**known),
            now=now,
            others=lambda: len(common.members) > 1,
        )

    async def start(self) -> "Node":
        await self.store.start(now())
        self.hub.start()
        return self

    def submit(self, key: Idempotency | None = None, **fields: Any) -> Live:
        """A stored foreground response, with a reader."""
        live = self.hub.submit(create(**fields), idempotency=key)
        self.hub.join(live)
        return live

    async def open(self, id: str) -> Live:
        """Another reader."""
        live = await self.hub.open(id)
        self.hub.join(live)
        return live

    async def die(self) -> None:
        """Stop in the middle of everything, as far as others can see."""
        self.store.die()

    @property
    def mirrors(self) -> int:
        return len(self.hub._owned._mirrors)


def now() -> float:
    return asyncio.get_running_loop().time() + 1e9


def create(**fields: Any) -> Any:
    return parse_create({"input": "hi", **fields})


async def nodes(number: int = 2, **policy: Any) -> list[Node]:
    common = Common()
    return [await Node(common, **policy).start() for _ in range(number)]


def text(live: Live) -> str:
    return "".join(event.delta for event in live.log.read(-1))


def seen(live: Live) -> list[bytes]:
    return [event.wire for event in live.log.read(-1)]


def key(number: int = 0, request: bytes = b"same") -> Idempotency:
    return Idempotency(f"key {number}", request, 2e9)


# Beginning, and reading elsewhere.


@virtual
async def test_nothing_is_seen_before_it_is_kept() -> None:
    """Readers see the first event when the store has it, and so at every node: what one has read
    can be read on at another one."""
    a, b = await nodes()
    live = a.submit()
    assert live.log.last == -1
    await asyncio.sleep(STEP)
    assert live.log.last == 1
    (await a.engine.call(0)).sink.text("Hello")
    await asyncio.sleep(STEP)
    there = await b.open(live.id)
    await asyncio.sleep(STEP)
    assert seen(there) == seen(live)
    assert text(there) == "Hello"
    (await a.engine.call(0)).sink.text(" you")
    (await a.engine.call(0)).finish()
    await asyncio.sleep(STEP)
    assert there.log.sealed
    assert seen(there) == seen(live)
    assert await a.hub.result(live.id) == await b.hub.result(live.id)
    assert b.mirrors == 0


@virtual
async def test_what_is_not_stored_never_reaches_the_store() -> None:
    """``store: false`` is this node's alone, and seen at once."""
    a, _ = await nodes()
    live = a.submit(store=False)
    assert live.log.last >= 0
    await asyncio.sleep(STEP)
    assert a.common.statistics().records == 0


@virtual
async def test_a_response_whose_beginning_is_not_kept_yet_is_not_taken_for_lost() -> None:
    """While the store does not have it, it is not among the leases that are renewed: it would be
    called lost, and stopped. It is held from its first write on, for a whole lease."""
    a, b = await nodes()
    for node in (a, b):
        node.store.cut()
    live = a.submit()
    await asyncio.sleep(1.9)
    for node in (a, b):
        node.store.heal()
    await asyncio.sleep(0.3)
    assert not a.hub._owned._jobs.holds(live.id) or live.log.last >= 0
    await asyncio.sleep(LEASE * 2)
    assert live.attempt == 1
    assert not live.recorder.ended
    assert len(b.engine.calls) == 0


@virtual
async def test_the_same_request_at_two_nodes_is_one_response() -> None:
    """Of two requests with one key the faster one is it; who has asked the other node reads that
    one, and nothing of his own was shown."""
    a, b = await nodes()
    b.store.latency = 0.05
    first, second = a.submit(key()), b.submit(key())
    waiting = asyncio.create_task(b.hub.ended(second))
    await asyncio.sleep(STEP)
    assert second.log.last == -1
    assert second.kept_as == first.id
    (await a.engine.call(0)).sink.text("Once")
    (await a.engine.call(0)).finish()
    answer = await waiting
    assert (answer.id, text(answer)) == (first.id, "Once")
    assert (await b.hub.repeated(key())) is answer
    assert a.common.statistics().records == 1


@virtual
async def test_another_request_with_the_same_key_fails() -> None:
    """Two requests that differ, with one key, at two nodes at once: the slower one is told."""
    a, b = await nodes()
    b.store.latency = 0.05
    first, second = a.submit(key()), b.submit(key(request=b"another"))
    await asyncio.sleep(STEP)
    assert not first.recorder.ended
    assert second.log.sealed
    assert second.recorder.error is not None
    assert second.recorder.error.code == "idempotency_conflict"
    assert a.common.statistics().records == 1


# Readers, and their grace.


@virtual
async def test_who_is_read_elsewhere_is_not_alone() -> None:
    """Nobody reads it at its own node, but somebody at another one: it goes on. When he goes, too,
    it ends after its grace."""
    a, b = await nodes()
    live = a.submit()
    await asyncio.sleep(STEP)
    there = await b.open(live.id)
    a.hub.leave(live)
    await asyncio.sleep(3 * GRACE)
    assert not live.recorder.ended
    b.hub.leave(there)
    assert b.mirrors == 0
    await asyncio.sleep(GRACE * 0.7)
    assert not live.recorder.ended
    await asyncio.sleep(GRACE * 0.4)
    assert live.recorder.status == "cancelled"


@virtual
async def test_a_reader_who_comes_to_another_node_just_in_time_is_heard_of() -> None:
    """The grace starts anew as soon as somebody begins to read, wherever that is."""
    a, b = await nodes()
    live = a.submit()
    await asyncio.sleep(STEP)
    a.hub.leave(live)
    await asyncio.sleep(GRACE - 0.5)
    await b.open(live.id)
    await asyncio.sleep(GRACE)
    assert not live.recorder.ended


@virtual
async def test_a_lost_response_that_nobody_reads_ends_too() -> None:
    """What a dead node has left is taken over, and cancelled after its grace if nobody comes."""
    a, b = await nodes()
    live = a.submit()
    await asyncio.sleep(STEP)
    await a.die()
    await b.engine.call(0)
    await asyncio.sleep(GRACE + STEP)
    result = orjson.loads(await b.hub.result(live.id))
    assert result["status"] == "cancelled"


# Taking over.


@virtual
async def test_what_a_dead_node_wrote_is_gone_on_with() -> None:
    """When its lease has lapsed, another node asks its engine for the rest; who reads there sees
    one text. The old owner, if it wakes up, is fenced off, and its readers see the same."""
    a, b = await nodes()
    live = a.submit()
    (await a.engine.call(0)).sink.text("Hello")
    await asyncio.sleep(STEP)
    there = await b.open(live.id)
    a.store.frozen = True
    (await a.engine.call(0)).sink.text(" never seen")
    call = await b.engine.call(0)
    assert call.generation.continues
    assert call.generation.messages[-1] == {"role": "assistant", "content": "Hello"}
    call.sink.text(" you")
    call.finish()
    await asyncio.sleep(STEP)
    assert (there.log.sealed, text(there)) == (True, "Hello you")
    moved: list[bool] = []
    live.when_moved(lambda: moved.append(True))
    a.store.heal()
    await asyncio.sleep(1.0)
    assert moved == [True]
    assert text(live) == "Hello"
    assert (await a.engine.call(0)).result.cancelled()
    assert seen(await a.open(live.id)) == seen(there)


@virtual
async def test_a_node_does_not_take_over_from_itself() -> None:
    """A lease may lapse, and its own node be the first to see it: what runs goes on, once, under
    the new claim."""
    a, b = await nodes()
    await b.die()
    live = a.submit()
    await asyncio.sleep(STEP)
    renew = a.store.renew
    a.store.renew = lambda leases, now, lease: renew(leases, now - 2 * LEASE, lease)  # type: ignore[method-assign]
    await asyncio.sleep(2 * LEASE)
    a.store.renew = renew  # type: ignore[method-assign]
    assert live.attempt > 1
    assert len(a.engine.calls) == 1
    (await a.engine.call(0)).sink.text("Hello")
    (await a.engine.call(0)).finish()
    await asyncio.sleep(STEP)
    assert (live.log.sealed, text(live)) == (True, "Hello")
    assert a.common.statistics().jobs == 0


@virtual
async def test_what_finds_no_room_is_not_passed_on_without_a_pause() -> None:
    """A job that no node can run just now is tried again and again, but once per lease."""
    a, b = await nodes()
    for node in (a, b):
        for _ in range(3):
            node.submit(store=False)
    claims = 0
    for store in (a.store, b.store):
        claim = store.claim

        def counted(*args: Any, claim: Callable[..., Any] = claim, **options: Any) -> Any:
            nonlocal claims
            claims += 1
            return claim(*args, **options)

        store.claim = counted  # type: ignore[method-assign]
    await a.hub.accept(create(background=True))
    await asyncio.sleep(10 * LEASE)
    assert claims < 200


# Cancelling and deleting.


@virtual
async def test_anybody_can_cancel_it_anywhere() -> None:
    """A cancel at another node reaches the owner at once, and every reader sees the same end."""
    a, b = await nodes()
    live = a.submit()
    (await a.engine.call(0)).sink.text("Hello")
    await asyncio.sleep(STEP)
    there = await b.open(live.id)
    b.hub.cancel(there)
    await asyncio.sleep(STEP)
    assert live.recorder.status == "cancelled"
    assert seen(there) == seen(live)


@virtual
async def test_a_cancel_that_the_store_cannot_be_told_of_is_told_later() -> None:
    """A node that is cut off keeps the wish until it is heard of again."""
    a, b = await nodes()
    live = a.submit()
    (await a.engine.call(0)).sink.text("Hello")
    await asyncio.sleep(STEP)
    there = await b.open(live.id)
    b.store.cut()
    b.hub.cancel(there)
    await asyncio.sleep(3.5)
    assert not live.recorder.ended
    b.store.heal()
    await asyncio.sleep(3.5)
    assert live.recorder.status == "cancelled"
    assert seen(there) == seen(live)


@virtual
async def test_two_who_cancel_what_nobody_runs_end_it_once() -> None:
    """A job that waits can be cancelled at two nodes at once."""
    a, b = await nodes(jobs=0)
    live = await a.hub.accept(create(background=True))
    await asyncio.sleep(STEP)
    there = await b.open(live.id)
    b.store.latency = 0.02
    a.hub.cancel(live)
    b.hub.cancel(there)
    for node, one in ((a, live), (b, there)):
        ended = await node.hub.ended(one)
        assert ended.recorder.status == "cancelled"
    assert await a.hub.result(live.id) == await b.hub.result(live.id)


@virtual
async def test_what_is_deleted_is_gone_everywhere() -> None:
    """No node remembers it, and who still reads it is told to look for it again."""
    a, b = await nodes()
    live = a.submit()
    (await a.engine.call(0)).finish()
    await asyncio.sleep(STEP)
    await b.open(live.id)
    await a.hub.delete(live.id)
    await asyncio.sleep(STEP)
    for node in (a, b):
        with pytest.raises(HubError) as caught:
            await node.hub.open(live.id)
        assert caught.value.code == "response_not_found"


@virtual
async def test_what_was_deleted_unheard_is_not_waited_for() -> None:
    """A node that has missed messages looks again for what it shows: whoever waits for a response
    that was deleted meanwhile is told."""
    a, b = await nodes()
    live = a.submit()
    await asyncio.sleep(STEP)
    waiting = asyncio.create_task(b.hub.ended(await b.hub.open(live.id)))
    await asyncio.sleep(STEP)
    b.store.cut()
    await a.hub.delete(live.id)
    b.store.heal()
    with pytest.raises(HubError) as caught:
        await waiting
    assert caught.value.code == "response_not_found"
    assert b.mirrors == 0


@virtual
async def test_a_node_that_misses_messages_again_and_again_looks_once_at_a_time() -> None:
    """While the store is away each reconnect asks for a look; one goes on, for all of them."""
    a, b = await nodes()
    first, second = a.submit(), a.submit()
    await asyncio.sleep(STEP)
    there = [await b.open(first.id), await b.open(second.id)]
    b.store.cut()
    await a.hub.delete(first.id)
    for _ in range(5):
        b.hub._owned._heard("missed", "")
        await asyncio.sleep(STEP)
    assert len(b.hub._owned._tasks) == 1
    b.store.heal()
    await asyncio.sleep(10.0)
    assert b.hub.find(first.id) is None
    assert b.hub.find(second.id) is there[1]
    assert not b.hub._owned._tasks


# Handing over.


async def hand_over(
    node: Node, live: Live, drain: float = 30.0
) -> tuple[bool, "asyncio.Task[None]"]:
    """Close a node. Whether the response was given away at once."""
    moved: list[bool] = []
    live.when_moved(lambda: moved.append(True))
    closing = asyncio.create_task(node.hub.close(drain))
    await asyncio.sleep(1.0)
    return bool(moved), closing


@virtual
async def test_what_another_node_can_go_on_with_is_handed_over() -> None:
    """A text in the middle goes on at another node at once, and its readers are told; nothing of it
    is repeated or lost."""
    a, b = await nodes()
    live = a.submit()
    (await a.engine.call(0)).sink.text("Hello")
    await asyncio.sleep(STEP)
    moved, closing = await hand_over(a, live)
    assert moved
    a.hub.leave(live)
    call = await b.engine.call(0)
    assert call.generation.messages[-1]["content"] == "Hello"
    there = await b.open(live.id)
    call.sink.text(" you")
    call.finish()
    await asyncio.sleep(STEP)
    assert seen(there)[: len(seen(live))] == seen(live)
    assert text(there) == "Hello you"
    await closing


def tool_call(call: Any) -> None:
    call.sink.tool_call(0, "c", "f", "{")


def plain(call: Any) -> None:
    call.sink.text("Hello")


@pytest.mark.parametrize("why", ["a waiter", "a tool call", "an engine that cannot go on"])
@virtual
async def test_what_cannot_move_is_finished(why: str) -> None:
    """Whoever waits for one answer, half a tool call, and a text that no engine can go on with stay
    until the drain's end, and their leases with them, however long that takes."""
    a, b = await nodes()
    if why == "an engine that cannot go on":
        a.engine.continues = b.engine.continues = False
    live = a.submit()
    waiting = asyncio.create_task(a.hub.ended(live)) if why == "a waiter" else None
    call = await a.engine.call(0)
    (tool_call if why == "a tool call" else plain)(call)
    await asyncio.sleep(STEP)
    moved, closing = await hand_over(a, live)
    assert not moved
    await asyncio.sleep(3 * LEASE)
    call.finish()
    await asyncio.sleep(STEP)
    assert live.log.sealed
    assert live.recorder.status == "completed"
    assert len(b.engine.calls) == 0
    if waiting is not None:
        assert (await waiting) is live
    await closing


@virtual
async def test_who_reads_what_another_node_writes_is_sent_there() -> None:
    """At a node that stops, readers of mirrors are told at once; who waits for a whole answer stays
    until the drain's end and is told then."""
    a, b = await nodes()
    live, other = a.submit(), a.submit()
    await asyncio.sleep(STEP)
    there = await b.open(live.id)
    waiting = asyncio.create_task(b.hub.ended(await b.hub.open(other.id)))
    await asyncio.sleep(STEP)
    moved, closing = await hand_over(b, there, drain=3.0)
    assert moved
    await closing
    with pytest.raises(HubError) as caught:
        await waiting
    assert caught.value.code == "shutting_down"
    assert (b.mirrors, b.store.followed) == (0, 0)
    assert not live.recorder.ended


# From memory.


@virtual
async def test_readers_go_on_from_memory_and_the_store_catches_up() -> None:
    """While the store is away readers see all that is said; when it is back in time, it gets all of
    it, and every node has the same."""
    a, b = await nodes(on_store_loss="memory", lease=60.0)
    live = a.submit()
    call = await a.engine.call(0)
    call.sink.text("Hello")
    await asyncio.sleep(STEP)
    a.store.cut()
    call.sink.text(" you")
    await asyncio.sleep(5.0)
    call.sink.text(" there")
    assert text(live) == "Hello you there"
    a.store.heal()
    await asyncio.sleep(3.0)
    call.finish()
    await asyncio.sleep(STEP)
    assert seen(await b.open(live.id)) == seen(live)


@virtual
async def test_a_second_text_is_never_shown() -> None:
    """Whose reader has seen what the store does not have, and which another node has taken over,
    fails for him; everybody else reads the other text, also at the same node."""
    a, b = await nodes(on_store_loss="memory")
    live = a.submit()
    call = await a.engine.call(0)
    call.sink.text("Hello")
    await asyncio.sleep(STEP)
    a.store.cut()
    call.sink.text(" you")
    other = await b.engine.call(0)
    other.sink.text(" world")
    other.finish()
    await asyncio.sleep(2.0)
    call.sink.text(" there")
    assert text(live) == "Hello you there"
    a.store.heal()
    await asyncio.sleep(2.0)
    assert live.recorder.error is not None
    assert live.recorder.error.code == "worker_lost"
    assert text(await a.open(live.id)) == text(await b.open(live.id)) == "Hello world"


# Refusing.


@virtual
async def test_what_must_be_stored_is_refused_while_the_store_is_away() -> None:
    """After ``PATIENCE`` nothing that is to be stored is accepted, with a hint when to come back;
    what is not stored runs as ever, and all of it when the store is back."""
    a, _ = await nodes()
    a.store.cut()
    await asyncio.sleep(3.0)
    body: Json = {"background": True}
    with pytest.raises(HubError) as caught:
        await a.hub.accept(create(**body))
    assert caught.value.code == "store_unavailable"
    assert caught.value.retry_after is not None
    with pytest.raises(HubError):
        a.submit()
    assert a.hub.unready() is not None
    a.submit(store=False)
    a.store.heal()
    assert a.hub.unready() is None
    await a.hub.accept(create(**body))
