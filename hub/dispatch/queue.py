"""The queue of the dispatcher: who leaves next, and with whom.

A batch is a dispatch decision, not an HTTP body: its members leave together, each as a stream of
its own. The rules, in the order in which they decide:

1. **Class.** The best class that has anybody who can leave goes first. But a class whose oldest has
   waited for its ``age`` gets one place after every fifteen that go to better classes meanwhile, so
   that none starves however many arrive ahead of it, and the better ones lose no more than that.
2. **Gathering.** A class lets nobody go while its gate is closed: with room, and while something
   runs, its requests wait for company until ``batch_size`` are there (*full*) or the oldest has
   waited ``flush_interval`` (*timer*). The gate is open whenever nothing runs (*idle*), and from
   when somebody had to wait for room until the class is empty (*room*); so it always is with an
   interval of 0. A closed gate holds up no other class.
3. **Tenant.** The one who was served least (``fair.py``).
4. **Lane.** A tenant's lanes take turns; inside a lane it is first in, first out.

A request for which there is no place holds up those behind it in its lane and those of its class
that want the same model, and nobody else.

Why not "wait until the batch is full": a model server batches by itself at every decode step, so
waiting only adds to the time to first token. Pure: time comes in as ``now``, in seconds.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import takewhile
from math import inf
from typing import Generic, Literal, TypeVar

from hub.dispatch.fair import FairShare
from hub.dispatch.terms import Class, Rules, Ticket

Place = TypeVar("Place")

Reason = Literal["idle", "room", "full", "timer"]

AGED_SHARE = 16
"""One place in so many goes to a class that has waited too long."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[Place]):
    """Requests that leave together, each with the place reserved for it."""

    rank: Class
    reason: Reason
    members: list[tuple[Ticket, Place]]


class Earliest:
    """Requests by a time, the earliest first. Those that are ``gone`` are dropped when they come to
    be first, or when they may be most of all."""

    LEAST = 64

    def __init__(self, gone: Callable[[Ticket], bool]) -> None:
        self._gone = gone
        self._heap: list[tuple[float, int, Ticket]] = []
        self._held: set[Ticket] = set()
        self._most = self.LEAST

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, ticket: Ticket) -> None:
        """Add a request. One that was gone and is back is still here, perhaps: at the same time."""
        if ticket in self._held:
            return
        heappush(self._heap, (when, ticket.number, ticket))
        self._held.add(ticket)
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if not self._gone(entry[2])]
            heapify(self._heap)
            self._held = {ticket for _, _, ticket in self._heap}
            self._most = max(self.LEAST, 2 * len(self._heap))

    @property
    def first(self) -> tuple[float, Ticket] | None:
        """The earliest that is not gone, and its time."""
        while self._heap:
            when, _, ticket = self._heap[0]
            if not self._gone(ticket):
                return when, ticket
            heappop(self._heap)
            self._held.remove(ticket)
        return None


class ClassQueue:
    """The requests of one class: rules 2 to 4."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.fair = FairShare()
        self.passed = 0
        """Places that went to better classes while its oldest had waited too long."""
        self._tickets: set[Ticket] = set()
        self._arrivals = Earliest(lambda ticket: ticket not in self._tickets)
        self._tenants: dict[str, OrderedDict[object, deque[Ticket]]] = {}
        self._counts: dict[str, int] = {}
        self._blocked = False

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._tickets

    @property
    def tenants(self) -> list[str]:
        """Those who have something waiting."""
        return [*self._tenants]

    def waiting(self, tenant: str) -> int:
        """How many requests of a tenant wait."""
        return self._counts.get(tenant, 0)

    @property
    def oldest(self) -> float:
        """Since when the longest waiting has waited; infinity if nobody waits."""
        first = self._arrivals.first
        return inf if first is None else first[0]

    def aged(self, now: float) -> bool:
        """Whether somebody has waited too long."""
        return now - self.oldest >= self.rules.age

    def put(self, ticket: Ticket, *, again: bool) -> None:
        """Add a request at the end of its lane; if it is here ``again``, where it stood."""
        assert ticket not in self._tickets, "queued twice"
        if not self._tickets:
            self._blocked = False
        tenant = ticket.terms.tenant
        if tenant not in self._tenants:
            self.fair.arrive(tenant, self._tenants)
            self._tenants[tenant] = OrderedDict()
        self._counts[tenant] = self._counts.get(tenant, 0) + 1
        lanes = self._tenants[tenant]
        key = _lane(ticket)
        lane = lanes.setdefault(key, deque())
        self._tickets.add(ticket)
        self._arrivals.add(ticket.since, ticket)
        if again:
            # Those before it are here again, too: all that left came before all that never did.
            earlier = takewhile(lambda one: one.number < ticket.number, lane)
            lane.insert(sum(1 for _ in earlier), ticket)
            lanes.move_to_end(key, last=False)
            self._blocked = True
        else:
            lane.append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Take a request out, wherever it stands."""
        self._tickets.remove(ticket)
        tenant, key = ticket.terms.tenant, _lane(ticket)
        lanes = self._tenants[tenant]
        lane = lanes[key]
        lane.remove(ticket)
        if not lane:
            del lanes[key]
        self._counts[tenant] -= 1
        if not lanes:
            del self._tenants[tenant], self._counts[tenant]

    def take(
        self,
        now: float,
        place: Callable[[Ticket, bool], Place | None],
        *,
        idle: bool,
        aged: bool,
        most: float,
    ) -> tuple[Reason, list[tuple[Ticket, Place]]] | None:
        """The requests that may leave now, at ``most`` so many, or ``None``; only one if it is the
        class's turn because it ``aged``."""
        reason = self._gate(now, idle)
        if reason is None:
            return None
        members: list[tuple[Ticket, Place]] = []
        full: set[str] = set()
        most = 1 if aged else min(most, self.rules.batch_size)
        while len(members) < most:
            chosen = self._next(place, aged, full)
            if chosen is None:
                self._blocked = bool(self._tickets)
                break
            members.append(chosen)
        return (reason, members) if members else None

    def _next(
        self, place: Callable[[Ticket, bool], Place | None], aged: bool, full: set[str]
    ) -> tuple[Ticket, Place] | None:
        """The next request that has a place, taken out. ``full`` are the models that have none."""
        order = self.fair.order(self._tenants)
        for tenant in order:
            lanes = self._tenants[tenant]
            for key, lane in lanes.items():
                ticket = lane[0]
                if ticket.model in full:
                    continue
                found = place(ticket, aged)
                if found is None:
                    # Where one has failed before, another may well have a place.
                    if not ticket.avoid:
                        full.add(ticket.model)
                    continue
                lanes.move_to_end(key)
                self.remove(ticket)
                ticket.charged = ticket.service(0)
                self.fair.dispatch(tenant, ticket.charged, order)
                return ticket, found
        return None

    def _gate(self, now: float, idle: bool) -> Reason | None:
        if not self._tickets:
            return None
        if idle:
            return "idle"
        if self._blocked or not self.rules.flush_interval:
            return "room"
        if len(self._tickets) >= self.rules.batch_size:
            return "full"
        if now >= self.oldest + self.rules.flush_interval:
            return "timer"
        return None

    @property
    def due(self) -> float:
        """When the gate opens for the oldest's waiting; infinity if only other news can help."""
        if self._blocked or not self._tickets:
            return inf
        return self.oldest + self.rules.flush_interval


class Queue:
    """All classes: rule 1, the bounds, and the deadlines."""

    def __init__(self, rules: Mapping[Class, Rules]) -> None:
        self.classes = {rank: ClassQueue(rules[rank]) for rank in Class}
        self._deadlines = Earliest(lambda ticket: ticket not in self)
        self._number = 0

    def __len__(self) -> int:
        return sum(map(len, self.classes.values()))

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self.classes[ticket.terms.rank]

    def full(self, rank: Class, tenant: str) -> Literal["queue_full", "tenant_full"] | None:
        """Whether a request has to be refused for want of room, and which bound it meets."""
        queue = self.classes[rank]
        if len(queue) >= queue.rules.queue_size:
            return "queue_full"
        if queue.waiting(tenant) >= queue.rules.tenant_queue:
            return "tenant_full"
        return None

    def ahead(self, rank: Class, tenant: str) -> int:
        """How many requests leave before one that arrived now, if all cost the same and nobody else
        comes: of each other tenant perhaps one more."""
        better = sum(len(self.classes[one]) for one in Class if one < rank)
        queue = self.classes[rank]
        tenants = len({*queue.tenants, tenant})
        # The others of the class take turns with this tenant's.
        return better + min(len(queue), (queue.waiting(tenant) + 1) * tenants - 1)

    def put(self, ticket: Ticket, now: float) -> None:
        """Add a request, which arrived now. The caller has asked ``full``, and calls ``take``."""
        self._number += 1
        ticket.since, ticket.number = now, self._number
        self.classes[ticket.terms.rank].put(ticket, again=False)
        self._note_deadline(ticket)

    def put_back(self, ticket: Ticket) -> None:
        """Queue a request again that was dispatched in vain: it goes where it stood in its lane,
        has waited since it first came, and waits for no company."""
        queue = self.classes[ticket.terms.rank]
        queue.fair.charge(ticket.terms.tenant, -ticket.charged)
        ticket.charged = 0.0
        queue.put(ticket, again=True)
        self._note_deadline(ticket)

    def _note_deadline(self, ticket: Ticket) -> None:
        if ticket.deadline < inf:
            self._deadlines.add(ticket.deadline, ticket)

    def remove(self, ticket: Ticket) -> bool:
        """Take a request out, wherever it stands. False if it is not here."""
        if ticket not in self:
            return False
        self.classes[ticket.terms.rank].remove(ticket)
        return True

    def charge(self, ticket: Ticket, output_tokens: int) -> None:
        """A dispatched request has made so many tokens by now: its tenant is charged for them."""
        service = ticket.service(output_tokens)
        fair = self.classes[ticket.terms.rank].fair
        fair.charge(ticket.terms.tenant, service - ticket.charged)
        ticket.charged = service

    def expire(self, now: float) -> list[Ticket]:
        """Take out those whose deadline has passed."""
        expired: list[Ticket] = []
        while (first := self._deadlines.first) is not None and now >= first[0]:
            self.remove(first[1])
            expired.append(first[1])
        return expired

    def take(
        self,
        now: float,
        place: Callable[[Ticket, bool], Place | None],
        *,
        idle: bool,
    ) -> Batch[Place] | None:
        """The next batch to send, or ``None`` if nobody may leave now.

        ``place`` finds a place for one request and takes it, or gives ``None``; it is told whether
        the request is there for its class's age, and may use what is kept free for better ones.
        ``idle`` says that nothing runs. Call it again after a batch: more may be waiting. After
        ``None``, ``due`` says when to come back.
        """
        for rank, queue, aged in self._order(now):
            most = self._until_turn(rank, now)
            taken = queue.take(now, place, idle=idle, aged=aged, most=most)
            if taken is not None:
                self._count(rank, len(taken[1]), now)
                return Batch(rank, *taken)
        return None

    def _until_turn(self, rank: Class, now: float) -> float:
        """How many places a class may have until it is the turn of one that has aged."""
        others = (one for other, one in self.classes.items() if other > rank and one.aged(now))
        left = (AGED_SHARE - 1 - one.passed for one in others)
        # Whoever has had its turn, and had no place, cuts no batches.
        return min((places for places in left if places > 0), default=inf)

    def _order(self, now: float) -> list[tuple[Class, ClassQueue, bool]]:
        order = [(rank, queue, False) for rank, queue in self.classes.items() if queue]
        turns = [
            (rank, queue, True)
            for rank, queue, _ in reversed(order)
            if queue.passed >= AGED_SHARE - 1 and queue.aged(now)
        ]
        return turns + order

    def _count(self, rank: Class, places: int, now: float) -> None:
        self.classes[rank].passed = 0
        for other in Class:
            if other > rank and self.classes[other].aged(now):
                self.classes[other].passed += places

    @property
    def due(self) -> float:
        """When ``take`` or ``expire`` have something to do without other news, or infinity."""
        gates = min(queue.due for queue in self.classes.values())
        first = self._deadlines.first
        return gates if first is None else min(gates, first[0])


def _lane(ticket: Ticket) -> object:
    return ticket.terms.lane or ticket
