"""Stores that several nodes in one process share: ``SharedStore``, as far as nodes meet through it,
and ``SharedMemoryStore``, all of it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hub.errors import HubError
from hub.store.base import (
    PATIENCE,
    Fenced,
    Hold,
    Idempotency,
    IdempotencyConflict,
    Record,
    Segment,
    Statistics,
)
from hub.store.jobs import is_job
from hub.store.ledger import Ledger, LedgerStore
from hub.store.memory import MemoryStore

T = TypeVar("T")


@dataclass
class Place:
    """Where they meet."""

    way: float = 0.001
    """Seconds that a message takes, and an answer."""
    states: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Each with until when it holds."""
    members: list["SharedStore"] = field(default_factory=list)
    beats: int = 0
    lost: int = 0
    """So many messages are lost from now on."""


class SharedStore(MemoryStore):
    """One node's."""

    shared = True

    def __init__(self, place: Place, name: str) -> None:
        super().__init__()
        self.node = name
        self.away = False
        """Nothing gets through to it, or from it."""
        self.told: list[tuple[str, str]] = []
        self._place = place
        self._listeners: list[Callable[[str, str], None]] = []
        place.members.append(self)

    def beat(self, state: bytes, ttl: float) -> asyncio.Future[Mapping[str, bytes]]:
        return asyncio.ensure_future(self._beat(state, ttl))

    async def _beat(self, state: bytes, ttl: float) -> Mapping[str, bytes]:
        loop, states = asyncio.get_running_loop(), self._place.states
        await asyncio.sleep(self._place.way)
        if self.away:
            raise HubError("store_unavailable", "It is away.")
        self._place.beats += 1
        states[self.node] = (state, loop.time() + ttl)
        alive = {name: one for name, (one, until) in states.items() if until > loop.time()}
        for name in [*states]:
            if name not in alive:
                del states[name]
        await asyncio.sleep(self._place.way)
        return alive

    def tell(self, kind: str, body: str) -> None:
        self.told.append((kind, body))
        if self.away:
            return
        if self._place.lost:
            self._place.lost -= 1
            return
        for other in self._place.members:
            if other is not self:
                asyncio.get_running_loop().call_later(self._place.way, other._news, kind, body)

    def hear(self, news: Callable[[str, str], None]) -> None:
        self._listeners.append(news)

    def _news(self, kind: str, body: str) -> None:
        for listener in () if self.away else self._listeners:
            listener(kind, body)


QUIET = 1.0
"""Seconds after which who follows a log is woken in any case, as Redis's store does."""


class Common(MemoryStore):
    """What the stores of several nodes have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.members: list[SharedMemoryStore] = []
        self.states: dict[str, tuple[bytes, float]] = {}

    def do(self, work: Callable[[Ledger], T]) -> T:
        """Have something done at once."""
        return self._call(work).result()

    def _wake(self, ids: Iterable[str]) -> None:
        for member in self.members:
            member.touched(ids)

    def publish(self, sender: "SharedMemoryStore", kind: str, body: str) -> None:
        for member in self.members:
            if member is not sender:
                member.told(kind, body)


@dataclass(eq=False)
class _Call:
    work: Callable[[Ledger], Any]
    future: asyncio.Future[Any]
    since: float


class SharedMemoryStore(LedgerStore):
    """One node's store over what several have in common: ``Store`` as ``base.py`` says, shared.

    Its calls take effect in order, ``latency`` after the first of them was made; so late are its
    news, too. It can be told to fail, and to be out of reach.
    """

    shared = True
    place = "a test"

    def __init__(self, common: Common, latency: float = 0.001) -> None:
        super().__init__()
        self.latency = latency
        self.failing = 0
        """So many commits fail; what was asked for is done (``carried_out``) or not."""
        self.carried_out = False
        self.deaf = 0
        """So many messages are lost; what has missed some is told so."""
        self.cut_since: float | None = None
        """Nothing gets through since then, and calls fail after ``PATIENCE``."""
        self.frozen = False
        """Its process stands still: nothing gets through, and all of it does afterwards."""
        self._dead = False
        self._common = common
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Call] = []
        self._due = False
        self._listeners: list[Callable[[str, str], None]] = []
        self._late: list[tuple[str, str]] = []
        self._missed = False
        self._context = copy_context()
        """Of the node: what is done here at another one's instance is its own doing."""

    async def start(self, now: float) -> None:
        if not self._common.members:
            await self._common.start(now)
        self._common.members.append(self)

    async def close(self) -> None:
        if self.cut_since is None:
            for call in self._queue:
                self._do(call)
        self.die()

    def die(self, *, carried_out: bool = False) -> None:
        """Answer nothing more."""
        for call in self._queue if carried_out else ():
            self._do(call)
        self._dead = True
        if self in self._common.members:
            self._common.members.remove(self)

    @property
    def lag(self) -> float:
        now = self._loop.time()
        return 0.0 if self.cut_since is None else now - self.cut_since

    @property
    def followed(self) -> int:
        """How many logs are followed."""
        return len(self._followers)

    def statistics(self) -> Statistics:
        return self._common.statistics()

    # Trouble.

    @property
    def _through(self) -> bool:
        return not (self._dead or self.frozen) and self.cut_since is None

    def cut(self, *, carried_out: bool = False) -> None:
        """Nothing gets through until ``heal``. What is on its way fails, and is done or not."""
        if self.cut_since is not None:
            return
        self.cut_since = self._loop.time()
        queue, self._queue = self._queue, []
        for call in queue:
            if carried_out:
                self._do(call)
            if not call.future.done():
                _fail(call.future)

    def heal(self) -> None:
        """Let everything through again, also what was waiting."""
        self.cut_since = None
        self.frozen = False
        self._missed_some()
        for kind, body in self._late:
            self.told(kind, body)
        self._late = []
        self._come_due()
        self.touched([*self._followers])

    # Calls.

    def _call(self, work: Callable[[Ledger], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        now = self._loop.time()
        if self.cut_since is not None and now - self.cut_since > PATIENCE:
            self._loop.call_soon(_fail, future)
            return future
        call = _Call(work, future, now)
        self._queue.append(call)
        if self.cut_since is not None:
            self._loop.call_later(PATIENCE, self._give_up, call)
        self._come_due()
        return future

    def _give_up(self, call: _Call) -> None:
        if call in self._queue and not self.frozen:
            self._queue.remove(call)
            _fail(call.future)

    def _come_due(self) -> None:
        if self._queue and not self._due:
            self._due = True
            self._loop.call_later(self.latency, self._commit)

    def _commit(self) -> None:
        self._due = False
        if not self._through:
            return
        queue, self._queue = self._queue, []
        fails = self.failing > 0
        self.failing -= fails
        if fails:
            self._loop.call_later(QUIET, lambda: self.touched([*self._followers]))
        for call in queue:
            done = self._do(call) if self.carried_out or not fails else None
            if call.future.done():
                continue  # Whoever awaited it was cancelled.
            if fails:
                _fail(call.future)
            elif isinstance(done, Exception):
                call.future.set_exception(done)
                call.future.exception()
            else:
                call.future.set_result(done)

    def _do(self, call: _Call) -> object:
        try:
            return self._common.do(call.work)
        except (Fenced, IdempotencyConflict, HubError) as error:
            return error

    # News.

    def touched(self, ids: Iterable[str]) -> None:
        """These logs have grown."""
        self._loop.call_later(self.latency, self._wake_if_through, ids, context=self._context)

    def _wake_if_through(self, ids: Iterable[str]) -> None:
        if self._through:
            self._wake(ids)

    def told(self, kind: str, body: str) -> None:
        """Another one has sent a message."""
        if self.deaf or self.cut_since is not None:
            self.deaf -= self.deaf > 0
            self._missed = True
            self._loop.call_later(QUIET, self._missed_some, context=self._context)
        elif self.frozen:
            self._late.append((kind, body))
        else:
            self._loop.call_later(self.latency, self._hear, kind, body, context=self._context)

    def _missed_some(self) -> None:
        if self._missed and self._through:
            self._missed = False
            self._hear("missed", "")

    def _hear(self, kind: str, body: str) -> None:
        for listener in () if self._dead else self._listeners:
            listener(kind, body)

    def hear(self, news: Callable[[str, str], None]) -> None:
        self._listeners.append(news)

    def tell(self, kind: str, body: str) -> None:
        told = self._call(lambda ledger: self._common.publish(self, kind, body))
        told.add_done_callback(lambda future: future.exception())  # It may be lost.

    def beat(self, state: bytes, ttl: float) -> asyncio.Future[Mapping[str, bytes]]:
        def beat(ledger: Ledger) -> Mapping[str, bytes]:
            now, states = self._loop.time(), self._common.states
            states[self.node] = state, now + ttl
            return {name: one for name, (one, until) in states.items() if until > now}

        return self._call(beat)

    def put(
        self,
        record: Record,
        *,
        segment: Segment | None = None,
        idempotency: Idempotency | None = None,
        hold: Hold | None = None,
    ) -> asyncio.Future[str]:
        def put(ledger: Ledger) -> str:
            id = ledger.put(record, segment, idempotency, hold)
            if id == record.id and is_job(record) and hold is None:
                self._common.publish(self, "job", id)
            return id

        return self._call(put)

    def release(self, id: str, attempt: int) -> asyncio.Future[None]:
        def release(ledger: Ledger) -> None:
            ledger.release(id, attempt)
            self._common.publish(self, "job", id)

        return self._call(release)

    def cancel(self, tenant: str, id: str) -> asyncio.Future[bool]:
        def cancel(ledger: Ledger) -> bool:
            found = ledger.cancel(tenant, id)
            if found:
                self._common.publish(self, "cancel", id)
            return found

        return self._call(cancel)


def _fail(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(HubError("store_unavailable", "It is out of reach."))
        # Some failures nobody looks at; asyncio tells of them when they are collected.
        future.exception()
