"""The queue's rules, at the top of ``queue.py``, against any traffic."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub.dispatch.queue import Batch, BatchQueue, Reason


@dataclass(frozen=True)
class Item:
    """A request for one of two upstreams, ``a`` and ``b``, or for any of them."""

    number: int
    wants: str
    since: float


class QueueMachine(RuleBasedStateMachine):
    """Does what the dispatcher does, in its own time, and checks every batch and every wait."""

    @initialize(
        batch_size=st.integers(1, 4),
        flush_interval=st.sampled_from([0.0, 1.0, 3.0]),
        capacity=st.integers(1, 12),
        windows=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    )
    def start(
        self, batch_size: int, flush_interval: float, capacity: int, windows: tuple[int, int]
    ) -> None:
        self.queue: BatchQueue[Item] = BatchQueue(
            batch_size=batch_size, flush_interval=flush_interval, capacity=capacity
        )
        self.free = dict(zip("ab", windows, strict=True))
        self.now = 0.0
        self.made = 0
        self.waiting: list[Item] = []
        self.running: list[tuple[Item, str]] = []
        self.gone: list[Item] = []
        self.held_up = False
        """Somebody has had to wait for room since the queue was last empty."""

    # What happens.

    @rule(wants=st.sampled_from(["a", "b", "ab"]))
    def put(self, wants: str) -> None:
        item = Item(self.made, wants, self.now)
        if self.queue.full:
            assert len(self.waiting) == self.queue.capacity
            with pytest.raises(AssertionError, match="full queue"):
                self.queue.put(item, self.now)
            return
        self.made += 1
        if not self.waiting:
            self.held_up = False
        self.queue.put(item, self.now)
        self.waiting.append(item)
        self.pump()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        if not self.queue.full:
            with pytest.raises(AssertionError, match="queued twice"):
                self.queue.put(data.draw(st.sampled_from(self.waiting)), self.now)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        assert self.queue.remove(item)
        assert not self.queue.remove(item)
        self.waiting.remove(item)
        self.gone.append(item)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ended = data.draw(st.sampled_from(self.running))
        self.running.remove(ended)
        item, place = ended
        self.gone.append(item)
        self.free[place] += 1
        self.pump()

    @rule(name=st.sampled_from("ab"), more=st.integers(1, 6))
    def widen(self, name: str, more: int) -> None:
        self.free[name] += more
        self.pump()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; whenever the queue is due it is asked, and gives somebody if it can."""
        end = self.now + seconds
        while (due := self.queue.due) is not None and due <= end:
            assert due >= self.now
            self.now = due
            can = [item for item in self.waiting if self.place_of(item)]
            assert self.pump() or not can, "due, and yet nobody may leave"
        self.now = end

    # The dispatcher's part.

    def place_of(self, item: Item) -> str | None:
        return next((name for name in item.wants if self.free[name] > 0), None)

    def reserve(self, item: Item) -> str | None:
        assert item in self.waiting
        place = self.place_of(item)
        if place is not None:
            self.free[place] -= 1
        return place

    def pump(self) -> int:
        """Send what may leave, check each batch, and give their number."""
        sent = 0
        while True:
            room = sum(self.free.values())
            reason, members = self.expected(room)
            batch = self.queue.take(self.now, self.reserve, room=room, idle=not self.running)
            if batch is None:
                assert not members
                return sent
            assert reason is not None
            assert batch == Batch(reason, members)
            sent += 1
            self.running += members
            for item, _ in members:
                self.waiting.remove(item)

    def expected(self, room: int) -> tuple[Reason | None, list[tuple[Item, str]]]:
        """The rules once more, in the words of the test: the next batch and why it leaves."""
        oldest = self.waiting[0].since if self.waiting else 0.0
        interval = self.queue.flush_interval
        if not self.waiting:
            return None, []
        reason: Reason
        if room == 0:
            self.held_up = True
            return None, []
        if not self.running:
            reason = "idle"
        elif self.held_up or interval == 0:
            reason = "room"
        elif len(self.waiting) >= self.queue.batch_size:
            reason = "full"
        elif self.now >= oldest + interval:
            reason = "timer"
        else:
            return None, []
        members: list[tuple[Item, str]] = []
        free = dict(self.free)
        for item in self.waiting:
            if len(members) == min(self.queue.batch_size, room):
                break
            place = next((name for name in item.wants if free[name] > 0), None)
            if place is None:
                self.held_up = True
            else:
                free[place] -= 1
                members.append((item, place))
        return reason, members

    # What always holds.

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        """Every request is in one place: waiting, running or gone."""
        assert len(self.queue) == len(self.waiting) <= self.queue.capacity
        assert all(item in self.queue for item in self.waiting)
        everywhere = [*self.waiting, *(item for item, _ in self.running), *self.gone]
        assert sorted(item.number for item in everywhere) == [*range(self.made)]

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        """Who could run waits for company only: not when idle, not for longer than the interval,
        not after having waited for room, and with the timer set."""
        for item in self.waiting:
            if self.place_of(item):
                assert self.running
                assert not self.held_up
                assert len(self.waiting) < self.queue.batch_size
                assert self.queue.due is not None
                assert self.now <= self.queue.due <= item.since + self.queue.flush_interval

    @invariant()
    def nothing_is_due_in_an_empty_queue(self) -> None:
        assert self.waiting or self.queue.due is None


TestQueue = QueueMachine.TestCase


def take_all(queue: BatchQueue[int], now: float, room: int, *, idle: bool) -> list[Batch[int, int]]:
    """Every batch that leaves now, all of the requests having a place."""
    batches: list[Batch[int, int]] = []
    while True:
        batch = queue.take(now, lambda item: item, room=room, idle=idle)
        if batch is None:
            return batches
        batches.append(batch)
        room -= len(batch.members)
        idle = False


@given(st.integers(1, 5), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_without_an_interval_nobody_waits_for_company(
    batch_size: int, count: int, room: int, idle: bool
) -> None:
    """With ``flush_interval`` 0 as many leave at once as there is room for, the oldest first."""
    queue: BatchQueue[int] = BatchQueue(batch_size=batch_size, flush_interval=0, capacity=20)
    for item in range(count):
        queue.put(item, 0.0)
    batches = take_all(queue, 0.0, room, idle=idle)
    sent = [item for batch in batches for item, _ in batch.members]
    assert sent == [*range(min(count, room))]


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0, 10), st.booleans())
def test_batches_of_one_are_single_requests_at_once(
    count: int, room: int, flush_interval: float, idle: bool
) -> None:
    """With ``batch_size`` 1 every request leaves alone, and none waits for company."""
    queue: BatchQueue[int] = BatchQueue(batch_size=1, flush_interval=flush_interval, capacity=20)
    for item in range(count):
        queue.put(item, 0.0)
    batches = take_all(queue, 0.0, room, idle=idle)
    assert [[item for item, _ in batch.members] for batch in batches] == [
        [item] for item in range(min(count, room))
    ]


def reasons(batches: list[Batch[int, int]]) -> list[tuple[str, list[int]]]:
    return [(batch.reason, [item for item, _ in batch.members]) for batch in batches]


def test_reasons_tell_why_a_batch_left() -> None:
    """One request after the other: idle, then full, then by the timer, then for room."""
    queue: BatchQueue[int] = BatchQueue(batch_size=2, flush_interval=1.0, capacity=9)
    queue.put(1, 0.0)
    assert reasons(take_all(queue, 0.0, 9, idle=True)) == [("idle", [1])]
    queue.put(2, 0.0)
    assert take_all(queue, 0.0, 8, idle=False) == []
    queue.put(3, 0.5)
    assert reasons(take_all(queue, 0.5, 8, idle=False)) == [("full", [2, 3])]
    queue.put(4, 0.5)
    assert take_all(queue, 1.25, 6, idle=False) == []
    assert queue.due == 1.5
    assert reasons(take_all(queue, 1.5, 6, idle=False)) == [("timer", [4])]
    queue.put(5, 1.5)
    assert take_all(queue, 1.5, 0, idle=False) == []
    assert queue.due is None
    assert reasons(take_all(queue, 1.75, 1, idle=False)) == [("room", [5])]


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
def test_who_waited_for_room_does_not_wait_for_company_too(
    batch_size: int, count: int, room: int
) -> None:
    """However much room there is at once, all that waited for it leave; more than a batch, too."""
    queue: BatchQueue[int] = BatchQueue(batch_size=batch_size, flush_interval=60, capacity=12)
    for item in range(count):
        queue.put(item, 0.0)
    assert take_all(queue, 0.0, 0, idle=False) == []
    batches = take_all(queue, 1.0, room, idle=False)
    assert {batch.reason for batch in batches} == {"room"}
    assert sum(len(batch.members) for batch in batches) == min(count, room)


def test_a_queue_that_was_emptied_by_removal_gathers_again() -> None:
    """Having waited for room is over when the queue is empty, however that came."""
    queue: BatchQueue[int] = BatchQueue(batch_size=4, flush_interval=1.0, capacity=9)
    queue.put(1, 0.0)
    assert take_all(queue, 0.0, 0, idle=False) == []
    queue.remove(1)
    queue.put(2, 0.0)
    assert take_all(queue, 0.0, 1, idle=False) == []
    assert queue.due == 1.0


@pytest.mark.parametrize(("batch_size", "flush_interval"), [(0, 0.0), (1, -1.0)])
def test_settings_that_mean_nothing_are_refused(batch_size: int, flush_interval: float) -> None:
    """A batch has a member, and waiting takes no negative time."""
    with pytest.raises(AssertionError):
        BatchQueue(batch_size=batch_size, flush_interval=flush_interval, capacity=1)
