"""The queue's rules, at the top of ``queue.py``, against any traffic.

``QueueMachine`` does what the dispatcher does and reads the rules once more, in its own words. It
says who must leave and who may; where the rules leave a choice to fairness, so does it. What is
easier to see in a traffic of its own is in ``test_queue_shares.py``.
"""

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub.dispatch.queue import AGED_SHARE, Batch, Queue
from hub.dispatch.terms import Class, Rules, Terms, Ticket

rules = st.builds(
    Rules,
    batch_size=st.integers(1, 4),
    flush_interval=st.sampled_from([0.0, 1.0, 3.0]),
    queue_size=st.integers(2, 60),
    tenant_queue=st.integers(1, 40),
    age=st.sampled_from([0.0, 2.0, inf]),
)
terms = st.builds(
    Terms, st.sampled_from(Class), st.sampled_from("pq"), st.sampled_from(["", "", "l", "m"])
)
moments = st.sampled_from([0.0, 0.5, 1.0, 3.0])


class QueueMachine(RuleBasedStateMachine):
    """Upstreams ``a`` and ``b`` have places, of which a request of the model ``""`` may have any,
    and a large one needs two. The last place of each is not for the background, unless it aged."""

    @initialize(rules=st.tuples(*[rules] * len(Class)), places=st.tuples(*[st.integers(0, 8)] * 2))
    def start(self, rules: tuple[Rules, ...], places: tuple[int, int]) -> None:
        self.ranks = dict(zip(Class, rules, strict=True))
        self.queue = Queue(self.ranks)
        self.free = dict(zip("ab", places, strict=True))
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.running: list[tuple[Ticket, str]] = []
        self.gone: list[Ticket] = []
        self.tokens: dict[Ticket, int] = {}
        self.may_be_held = dict.fromkeys(Class, False)
        self.is_held = dict.fromkeys(Class, False)
        """Whether somebody of the class has had to wait for room since it was last empty: perhaps,
        for sure."""
        self.passed = dict.fromkeys(Class, 0)
        """Places that went to better classes since the last for this one, while it was aged."""

    # What happens.

    @rule(
        terms=terms,
        model=st.sampled_from(["", "a", "b"]),
        size=st.sampled_from([1, 1, 1, 2]),
        patience=st.sampled_from([inf, inf, 0.5, 3.0]),
        number=st.sampled_from([1, 1, 2, 4, 20]),
    )
    def put(self, terms: Terms, model: str, size: int, patience: float, number: int) -> None:
        for _ in range(number):
            ticket = Ticket(terms, model, 10, size, deadline=self.now + patience)
            others = self.of(terms.rank)
            own = [one for one in others if one.terms.tenant == terms.tenant]
            full = self.queue.full(terms.rank, terms.tenant)
            bounds = self.ranks[terms.rank]
            assert (full == "queue_full") == (len(others) >= bounds.queue_size)
            assert (full is not None) == (full == "queue_full" or len(own) >= bounds.tenant_queue)
            if full:
                break
            self.note_arrival(ticket)
            self.queue.put(ticket, self.now)
            assert ticket.since == self.now
        self.pump()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), avoids=st.booleans())
    def put_back(self, data: st.DataObject, avoids: bool) -> None:
        """Some requests have failed before they said anything."""
        for _ in range(data.draw(st.integers(1, len(self.running)))):
            ticket, place = data.draw(st.sampled_from(self.running))
            self.running.remove((ticket, place))
            self.free[place] += ticket.need
            if avoids:
                ticket.avoid.add(place)
            self.note_arrival(ticket)
            self.may_be_held[ticket.terms.rank] = self.is_held[ticket.terms.rank] = True
            self.queue.put_back(ticket)
            assert ticket.charged == 0
        self.pump()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A cancellation. The dispatcher does not ask for batches then."""
        ticket = data.draw(st.sampled_from(self.waiting))
        assert self.queue.remove(ticket)
        assert not self.queue.remove(ticket)
        self.waiting.remove(ticket)
        self.gone.append(ticket)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ended = data.draw(st.sampled_from(self.running))
        self.running.remove(ended)
        ticket, place = ended
        self.free[place] += ticket.need
        self.gone.append(ticket)
        self.charge(ticket, 3)
        self.pump()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.integers(1, 50))
    def say(self, data: st.DataObject, tokens: int) -> None:
        ticket, _ = data.draw(st.sampled_from(self.running))
        self.charge(ticket, tokens)

    def charge(self, ticket: Ticket, tokens: int) -> None:
        self.tokens[ticket] = self.tokens.get(ticket, 0) + tokens
        self.queue.charge(ticket, self.tokens[ticket])
        assert ticket.charged == ticket.service(self.tokens[ticket])

    @rule(name=st.sampled_from("ab"), more=st.sampled_from([1, 2, 6, 20]))
    def widen(self, name: str, more: int) -> None:
        self.free[name] += more
        self.pump()

    @rule(rank=st.sampled_from(Class), rules=rules)
    def configure(self, rank: Class, rules: Rules) -> None:
        self.ranks[rank] = self.queue.classes[rank].rules = rules
        self.pump()

    @rule(seconds=moments)
    def wait(self, seconds: float) -> None:
        """Time passes, and the timer rings when it was set for."""
        end = self.now + seconds
        while (due := self.queue.due) <= end:
            assert due > self.now, "the timer would ring for ever"
            self.now = due
            self.pump()
        self.now = end

    # The dispatcher's part.

    def pump(self) -> None:
        """Do what is to be done now, check every batch, and that nobody waits for nothing."""
        expired = self.queue.expire(self.now)
        late = [ticket for ticket in self.waiting if ticket.deadline <= self.now]
        assert sorted(late, key=lambda ticket: ticket.number) == sorted(
            expired, key=lambda ticket: ticket.number
        )
        for ticket in expired:
            self.waiting.remove(ticket)
            self.gone.append(ticket)
        self.note_wants()
        while True:
            before = [*self.waiting]
            must = {rank: self.must_leave(rank) for rank in Class}
            turns = {rank: self.must_leave(rank, aged=True) for rank in Class}
            idle = not self.running
            batch = self.queue.take(self.now, self.reserve, idle=idle)
            if batch is None:
                break
            self.check(batch, before, must, turns, idle)
            self.note_wants()
        assert not any(map(self.must_leave, Class)), "a place, and yet somebody waits"
        assert self.queue.due > self.now, "the timer would ring at once"
        for rank in Class:
            if self.of(rank) and self.open(rank, idle=not self.running):
                self.is_held[rank] = True

    def reserve(self, ticket: Ticket, aged: bool) -> str | None:
        assert ticket in self.waiting
        assert self.first_of_lane(ticket)
        place = self.place_of(ticket, aged)
        if place is not None:
            self.free[place] -= ticket.need
            self.waiting.remove(ticket)
            self.running.append((ticket, place))
        return place

    # The rules once more.

    def of(self, rank: Class) -> list[Ticket]:
        return [ticket for ticket in self.waiting if ticket.terms.rank is rank]

    def first_of_lane(self, ticket: Ticket) -> bool:
        """First in, first out in a lane, whoever was there before included."""
        lane = [one for one in self.waiting if one.terms == ticket.terms and ticket.terms.lane]
        return ticket.number == min([one.number for one in lane], default=ticket.number)

    def place_of(self, ticket: Ticket, aged: bool) -> str | None:
        kept = int(ticket.terms.rank is Class.BACKGROUND and not aged)
        for name in ticket.model or "ab":
            if name not in ticket.avoid and self.free[name] - kept >= ticket.need:
                return name
        return None

    def open(self, rank: Class, *, idle: bool) -> bool:
        """Whether the gate is open for sure."""
        rules, waiting = self.ranks[rank], self.of(rank)
        return bool(waiting) and (
            idle
            or rules.flush_interval == 0
            or self.is_held[rank]
            or len(waiting) >= rules.batch_size
            or self.now >= self.oldest(rank) + rules.flush_interval
        )

    def oldest(self, rank: Class) -> float:
        return min([ticket.since for ticket in self.of(rank)], default=inf)

    def aged(self, rank: Class) -> bool:
        return self.now - self.oldest(rank) >= self.ranks[rank].age

    def must_leave(self, rank: Class, aged: bool = False) -> list[Ticket]:
        """Those with an open gate and a place, first in their lane, held up by nobody."""
        waiting = self.of(rank)
        stuck = {t.model for t in waiting if not t.avoid and self.place_of(t, aged) is None}
        return [
            ticket
            for ticket in waiting
            if self.open(rank, idle=not self.running)
            and ticket.model not in stuck
            and self.place_of(ticket, aged) is not None
            and self.first_of_lane(ticket)
        ]

    def check(
        self,
        batch: Batch[str],
        before: list[Ticket],
        must: dict[Class, list[Ticket]],
        turns: dict[Class, list[Ticket]],
        idle: bool,
    ) -> None:
        rank, rules = batch.rank, self.ranks[batch.rank]
        members = [ticket for ticket, _ in batch.members]
        waited = [ticket for ticket in before if ticket.terms.rank is rank]
        oldest = min(ticket.since for ticket in waited)
        assert 1 <= len(members) <= rules.batch_size
        assert all(ticket.terms.rank is rank for ticket in members)
        assert all(ticket.charged == ticket.service(0) for ticket in members)
        assert all(item in self.running for item in batch.members)
        match batch.reason:
            case "idle":
                assert idle
            case "room":
                assert self.may_be_held[rank] or rules.flush_interval == 0
            case "full":
                assert len(waited) >= rules.batch_size
            case "timer":
                assert self.now >= oldest + rules.flush_interval
        if any(must[one] for one in Class if one < rank):
            assert len(members) == 1
            assert self.now - oldest >= rules.age, "only the aged go before better ones"
            assert self.passed[rank] >= AGED_SHARE - 1, "not before it was passed over so often"
        self.passed[rank] = 0
        for worse in Class:
            if worse > rank and self.aged(worse):
                self.passed[worse] += len(members)
                assert not turns[worse] or self.passed[worse] < AGED_SHARE, "it starves"

    def note_arrival(self, ticket: Ticket) -> None:
        rank = ticket.terms.rank
        if not self.of(rank):
            self.may_be_held[rank] = self.is_held[rank] = False
        self.waiting.append(ticket)
        self.tokens[ticket] = 0

    def note_wants(self) -> None:
        """Note who may find out that there is no place for him."""
        for ticket in self.waiting:
            if self.place_of(ticket, aged=False) is None or self.place_of(ticket, True) is None:
                self.may_be_held[ticket.terms.rank] = True

    # What always holds.

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        """Every request is in one place: waiting, running or gone."""
        assert len(self.queue) == len(self.waiting)
        assert all(ticket in self.queue for ticket in self.waiting)
        assert not any(ticket in self.queue for ticket, _ in self.running)
        everywhere = [*self.waiting, *(ticket for ticket, _ in self.running), *self.gone]
        assert len({*everywhere}) == len(everywhere)
        for rank, queue in self.queue.classes.items():
            waiting = self.of(rank)
            assert len(queue) == len(waiting)
            assert {*queue.tenants} == {ticket.terms.tenant for ticket in waiting}
            assert queue.oldest == self.oldest(rank)
            for tenant in "pq":
                own = [ticket for ticket in waiting if ticket.terms.tenant == tenant]
                assert queue.waiting(tenant) == len(own)

    @invariant()
    def the_timer_is_set_for_everything_that_time_brings(self) -> None:
        """Nobody's deadline, and no gate with a closed interval, passes unnoticed."""
        deadlines = [ticket.deadline for ticket in self.waiting]
        assert self.queue.due <= min(deadlines, default=inf)
        for rank, rules in self.ranks.items():
            if self.of(rank) and not self.may_be_held[rank]:
                assert self.queue.due <= self.oldest(rank) + rules.flush_interval
        if not self.waiting:
            assert self.queue.due == inf


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=60)


def test_a_request_is_queued_once() -> None:
    """What is in the queue already is not put there again."""
    queue = Queue(dict.fromkeys(Class, Rules()))
    ticket = Ticket(Terms(), "", 1, 1)
    queue.put(ticket, 0.0)
    with pytest.raises(AssertionError, match="queued twice"):
        queue.put(ticket, 0.0)
