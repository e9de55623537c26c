"""The interface between hub and what keeps responses beyond a process's life, in prose.

A store keeps *records* (one per response), the *segments* of their logs, *jobs* (background
responses that somebody has to run, and those that run somewhere), the keys of idempotent requests,
and the deliveries of webhooks. hub has three: in memory and in SQLite, for one process, and in
Redis, *shared* by many nodes.

**Order.** Every method is a plain call that takes its place in one queue; what it returns is a
future. Calls take effect in the order in which they were made, whether or not anybody awaits
them: so a segment that is appended before a completion is written before it. A future that nobody
awaits is no error; its failure is.

**Durability.** ``put`` and ``complete`` are done when a power loss no longer undoes them.
``append`` is done when the death of the process no longer undoes it (written, not synced): a
reader may see its events from then on. Many calls share one commit.

**Repeating.** After an error a call may have been carried out all the same. ``put`` of an id that
is there keeps nothing and gives the id; a delivery whose id is there is ignored; a ``complete``
that had succeeded fails with ``Fenced``.

**Fences.** Every claim of a job raises its *attempt*, which is its fencing number. ``append``,
``complete``, ``renew`` and ``release`` name the attempt that they act for. With another one than
the latest, after the end of the response, or for one that is not there, they change nothing and
fail with ``Fenced``. So a worker that was thought dead and comes back can do no harm; it stops
when it is told. A job that was never claimed has attempt 0: whoever names it may end it.

**Jobs.** A record without a result is a job if it is background work, or if it was put with a
*hold*: then somebody runs it already, whose claim it is. That is how a foreground response is kept
whose log others can read, and go on with.

**Leases.** A claimed job is its owner's until the lease ends, unless it is renewed. Whoever claims
after that gets it, with the next attempt.

**Tenants.** Where a tenant is named, a record of another tenant does not exist.

**Segments.** A segment holds the events ``first`` to ``last`` of a log in a form that only its
writer understands, and it is written once: one that reaches no further than the log does already
is ignored, so a writer may repeat itself after an error. Segments have no gaps and do not overlap:
one that would leave a gap fails with ``store_unavailable``, since the one before it has failed.

**Nodes.** Processes that share a store find each other through it: who is alive (``beat``), and
short messages to all of them (``tell``, ``hear``), which may be lost. In a store that is not shared
a node is alone.

**Time** is Unix time in seconds and comes in as ``now``.

**Failures.** What the medium cannot do (disk full, file gone) fails with ``HubError``
``store_unavailable``, and so does a call that finds it out of reach for ``PATIENCE`` seconds. A
call never blocks the event loop.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hub.errors import HubError

PATIENCE = 2.0
"""Seconds for which a call waits for a store that is out of reach."""
DELIVERY_HOLD = 60.0
"""Seconds for which a webhook is one node's."""


class Fenced(Exception):
    """The caller is no longer the writer of this response: stop, and publish nothing."""


class IdempotencyConflict(Exception):
    """The idempotency key was used for another request."""


class Behind(HubError):
    """The log in the store ends at ``last``, and what comes next there has not been written, or was
    lost again: write the events after ``last`` once more."""

    def __init__(self, last: int, message: str) -> None:
        super().__init__("store_unavailable", message)
        self.last = last


@dataclass(frozen=True, slots=True)
class Record:
    """One response as it is kept."""

    id: str
    tenant: str
    status: str
    """As in the response object; ``queued`` and ``in_progress`` are those of a job."""
    background: bool
    created_at: float
    expires_at: float
    """When retention may delete it."""
    request: bytes
    """The body of its create request (JSON)."""
    previous_response_id: str | None = None
    result: bytes | None = None
    """The response object (JSON), once it has ended."""
    attempt: int = 0
    """How often it was claimed: the fencing number of the last claim."""
    cancelled: bool = False
    """Somebody asked for its end: its owner is told when it renews."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a log: the events ``first`` to ``last``."""

    first: int
    last: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The key under which a client may repeat a request without running it twice.

    It may outlive its response: then it names one that is not there.
    """

    key: str
    digest: bytes
    """Of the request: the same key with another digest is a conflict."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook that has to be delivered."""

    id: str
    """The event's id, the same at every try: receivers tell repetitions by it."""
    response_id: str
    url: str
    body: bytes
    next_at: float
    """When to try, or to try again."""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim that is to be renewed."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Hold:
    """The claim of who puts a record and runs it at once."""

    owner: str
    until: float
    """The end of the lease."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the store holds and how it fares."""

    records: int
    jobs: int
    bytes: int
    waiting: int
    """Calls that wait for their commit."""
    commits: int
    last_commit: float
    """Seconds that the last commit took."""


class Store(Protocol):
    """See the contract at the top of this file."""

    place: str
    """Where it keeps things, for people: ``memory``, a path, or an address without secrets."""

    shared: bool
    """Whether other nodes may use it at the same time."""

    node: str
    """This process among those that share it: random, another one after each start."""

    async def start(self, now: float) -> None:
        """Open it, and bring what an earlier version left there up to date.

        Raises ``HubError`` ``store_unavailable`` if that is impossible, or if another process
        uses it that it cannot be shared with.
        """
        ...

    async def close(self) -> None:
        """Finish what was queued, and let go of the medium."""
        ...

    @property
    def lag(self) -> float:
        """Seconds for which the oldest call has been waiting, or for which the store has been out
        of reach; admission stops when it grows."""
        ...

    # Records.

    def put(
        self,
        record: Record,
        *,
        segment: Segment | None = None,
        idempotency: Idempotency | None = None,
        hold: Hold | None = None,
    ) -> asyncio.Future[str]:
        """Keep a new response; with ``background`` and no result it is a job that can be claimed.

        With ``hold`` it is a job, background or not, that was claimed already: as the record's
        ``attempt``, which is 1 or more. Gives the record's id. If ``idempotency`` has been used for
        the same request before, it keeps nothing and gives the id of then; for another request it
        fails with ``IdempotencyConflict``.
        """
        ...

    def repeated(self, tenant: str, idempotency: Idempotency) -> asyncio.Future[str | None]:
        """The id of the response that an earlier ``put`` with this key has kept, if any.

        Fails with ``IdempotencyConflict`` if that was another request.
        """
        ...

    def get(self, tenant: str, id: str) -> asyncio.Future[Record | None]:
        """The record of that id."""
        ...

    def delete(self, tenant: str, id: str) -> asyncio.Future[bool]:
        """Forget a response, its log and its job. False if there was none."""
        ...

    def expire(self, now: float, max_bytes: int | None = None) -> asyncio.Future[int]:
        """Forget what has expired, then the oldest that have ended until the rest holds
        ``max_bytes`` at most. Jobs that have not ended stay. Gives how many went."""
        ...

    # Logs.

    def append(self, id: str, attempt: int, segment: Segment) -> asyncio.Future[None]:
        """Add a segment to a job's log."""
        ...

    def read(self, id: str, after: int = -1) -> asyncio.Future[Sequence[Segment]]:
        """The segments that reach beyond ``after``, in order: the first may begin before it."""
        ...

    def follow(self, id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` on the event loop after every append to a log and after its end, until the
        function that is returned is called. Read what is there after following, not before."""
        ...

    # Jobs.

    def claim(
        self, owner: str, now: float, lease: float, limit: int, *, foreground: bool = False
    ) -> asyncio.Future[Sequence[Record]]:
        """Take up to ``limit`` jobs that nobody holds, oldest first, for ``lease`` seconds: of
        background work, or of the ``foreground``.

        Their status is ``in_progress`` from then on. Cancelled ones are claimed, too: to be ended.
        """
        ...

    def renew(
        self, leases: Sequence[Lease], now: float, lease: float
    ) -> asyncio.Future[Sequence[Lease]]:
        """Hold claims for ``lease`` seconds more. Gives those that are to stop: lost to another
        owner, deleted, ended, or cancelled. It does not fail with ``Fenced``."""
        ...

    def release(self, id: str, attempt: int) -> asyncio.Future[None]:
        """Give a claim back, so that it can be claimed at once."""
        ...

    def cancel(self, tenant: str, id: str) -> asyncio.Future[bool]:
        """Ask for a job's end. False if there is no such job or it has ended. All nodes are told
        (``cancel``), so that its owner need not wait for its next renewal."""
        ...

    def complete(
        self,
        id: str,
        attempt: int,
        *,
        status: str,
        result: bytes,
        segment: Segment | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> asyncio.Future[None]:
        """End a job: its last segment, its result and the webhooks that tell of it, at once."""
        ...

    # Webhooks.

    def deliveries(self, now: float, limit: int) -> asyncio.Future[Sequence[Delivery]]:
        """Those that are due, the longest due first. In a shared store each is given to one node:
        it is that node's for ``DELIVERY_HOLD`` seconds after it has asked for it last."""
        ...

    def retry(self, id: str, next_at: float) -> asyncio.Future[None]:
        """A try has failed: count it, and set the time of the next one."""
        ...

    def delivered(self, id: str) -> asyncio.Future[None]:
        """It was delivered, or given up: forget it."""
        ...

    # Nodes.

    def beat(self, state: bytes, ttl: float) -> asyncio.Future[Mapping[str, bytes]]:
        """This node is alive for ``ttl`` seconds more, and its state is this. Gives the states of
        all that are alive by their names, its own included. With ``ttl`` 0 it leaves."""
        ...

    def tell(self, kind: str, body: str) -> None:
        """Send a message to the other nodes, as far as they can be reached: not to itself. A
        ``kind`` is a word."""
        ...

    def hear(self, news: Callable[[str, str], None]) -> None:
        """Have ``news`` called on the event loop with the ``kind`` and the ``body`` of each message
        that another node has sent. Several may listen. The store itself sends ``cancel`` with the
        id of a job that was cancelled, ``job`` with that of one that can be claimed: new, or
        released, and ``missed`` when messages may have been lost."""
        ...

    def statistics(self) -> Statistics:
        """Plain, without waiting: as of the last commit."""
        ...
