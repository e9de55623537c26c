"""The queue's rules where they need a traffic of their own: shares, turns, gathering, memory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.queue import AGED_SHARE, Batch, Earliest, Queue
from hub.dispatch.terms import Class, Rules, Terms, Ticket, rules_with
from tests.traces import traces

BETTER = [Class.COMPLETION, Class.CHAT]
WORSE = [Class.CHAT, Class.BACKGROUND]


def ticket(
    rank: Class = Class.CHAT,
    tenant: str = "",
    lane: str = "",
    *,
    model: str = "",
    prompt_tokens: int = 1,
    deadline: float = inf,
) -> Ticket:
    terms = Terms(rank, tenant, lane)
    return Ticket(terms, model, prompt_tokens, prompt_tokens, deadline=deadline)


def queue_of(rules: Mapping[Class, Rules] | None = None, **changes: Any) -> Queue:
    """A queue; ``changes`` are rules for every class."""
    return Queue(rules or dict.fromkeys(Class, replace(Rules(), **changes)))


def take_all(queue: Queue, now: float, room: int, *, idle: bool = False) -> list[Batch[int]]:
    """Every batch that leaves now, with so many places for whoever."""
    places = [*range(room)]

    def place(ticket: Ticket, aged: bool) -> int | None:
        return places.pop(0) if places else None

    batches: list[Batch[int]] = []
    while (batch := queue.take(now, place, idle=idle)) is not None:
        batches.append(batch)
        idle = False
    return batches


def members(batches: list[Batch[int]]) -> list[Ticket]:
    return [ticket for batch in batches for ticket, _ in batch.members]


# Rule 1.


@given(
    st.dictionaries(st.sampled_from(Class), st.integers(1, 40), min_size=len(Class)),
    st.sets(st.sampled_from(WORSE), min_size=1),
    st.lists(st.integers(1, 30), min_size=40, max_size=40),
)
def test_whoever_has_aged_gets_one_place_in_sixteen(
    sizes: dict[Class, int], aged: set[Class], rooms: list[int]
) -> None:
    """However many better ones arrive all the time, in batches of whatever size: of the places that
    go to a class that has aged and to better ones, every sixteenth is its own, and no more."""
    rules = {
        rank: Rules(batch_size=size, queue_size=10**6, age=1.0 if rank in aged else inf)
        for rank, size in sizes.items()
    }
    queue = queue_of(rules)
    for rank in Class:
        for _ in range(sum(rooms)):
            queue.put(ticket(rank), 0.0)
    order = [one.terms.rank for room in rooms for one in members(take_all(queue, 1.0, room))]
    assert len(order) == sum(rooms)
    for rank in aged:
        places = [one for one in order if one <= rank]
        turns = [number for number, one in enumerate(places, 1) if one is rank]
        assert turns == [*range(AGED_SHARE, len(places) + 1, AGED_SHARE)]
    assert {*order} <= {*aged, Class.COMPLETION}


@given(st.integers(0, 3 * AGED_SHARE), st.integers(0, 20), st.integers(0, 50))
def test_a_turn_that_could_not_be_used_is_kept_but_not_saved_up(
    before: int, without: int, after: int
) -> None:
    """Whoever had no place at its turn has the next place that it can use, and then one in sixteen
    again, however much went by; meanwhile the others' batches are whole."""
    queue = queue_of(age=0.0, batch_size=8, queue_size=1000)
    queue.put(ticket(Class.BACKGROUND, model="m"), 0.0)
    queue.put(ticket(Class.BACKGROUND, model="m"), 0.0)
    for _ in range(before + 8 * without + after + 64):
        queue.put(ticket(Class.COMPLETION), 0.0)
    left = before + 8 * without

    def nowhere(ticket: Ticket, aged: bool) -> int | None:
        nonlocal left
        if ticket.model or not left:
            return None
        left -= 1
        return 0

    sizes: list[int] = []
    while (batch := queue.take(0.0, nowhere, idle=False)) is not None:
        sizes.append(len(batch.members))
    assert sum(sizes) == before + 8 * without
    # Cut once, before the turn; then eight at a time.
    assert sum(size < 8 for size in sizes) <= 2
    order = [one.terms.rank for one in members(take_all(queue, 0.0, after + 20))]
    turns = [number for number, one in enumerate(order) if one is Class.BACKGROUND]
    first = max(0, AGED_SHARE - 1 - (before + 8 * without))
    assert turns == [one for one in (first, first + AGED_SHARE) if one < len(order)]


def test_without_an_age_a_class_waits_for_ever() -> None:
    """Strict order is what is asked for then."""
    queue = queue_of(queue_size=10**6)
    queue.put(ticket(Class.BACKGROUND), 0.0)
    for _ in range(1000):
        queue.put(ticket(Class.CHAT), 0.0)
    assert all(one.terms.rank is Class.CHAT for one in members(take_all(queue, 1e9, 1000)))
    assert [one.terms.rank for one in members(take_all(queue, 1e9, 9))] == [Class.BACKGROUND]


# Rule 2.


def reasons(batches: list[Batch[int]]) -> list[tuple[str, int]]:
    return [(batch.reason, len(batch.members)) for batch in batches]


def put(queue: Queue, now: float, number: int = 1, rank: Class = Class.CHAT) -> None:
    for _ in range(number):
        queue.put(ticket(rank), now)


def test_reasons_tell_why_a_batch_left() -> None:
    """One request after the other: idle, then full, then by the timer, then for room."""
    queue = queue_of(batch_size=2, flush_interval=1.0)
    put(queue, 0.0)
    assert reasons(take_all(queue, 0.0, 9, idle=True)) == [("idle", 1)]
    put(queue, 0.0)
    assert take_all(queue, 0.0, 8) == []
    put(queue, 0.5)
    assert reasons(take_all(queue, 0.5, 8)) == [("full", 2)]
    put(queue, 0.5)
    assert take_all(queue, 1.25, 6) == []
    assert queue.due == 1.5
    assert reasons(take_all(queue, 1.5, 6)) == [("timer", 1)]
    put(queue, 1.5)
    put(queue, 1.5)
    put(queue, 1.5)
    assert reasons(take_all(queue, 1.5, 2)) == [("full", 2)]
    assert queue.due == 2.5
    assert take_all(queue, 2.5, 0) == []
    assert queue.due == inf
    assert reasons(take_all(queue, 2.75, 1)) == [("room", 1)]


@given(
    st.integers(1, 5),
    st.integers(0, 20),
    st.integers(0, 20),
    st.sampled_from([0.0, 60.0]),
    st.booleans(),
)
def test_nobody_waits_for_company_without_an_interval_or_after_having_waited_for_room(
    batch_size: int, count: int, room: int, flush_interval: float, idle: bool
) -> None:
    """As many leave at once as there is room for, the oldest first, in batches as large as they may
    be."""
    queue = queue_of(batch_size=batch_size, flush_interval=flush_interval)
    put(queue, 0.0, count)
    if flush_interval:
        # The gate opens, and there is no room.
        assert take_all(queue, 60.0, 0) == []
    batches = take_all(queue, 60.0, room, idle=idle)
    left = min(count, room)
    assert [one.number for one in members(batches)] == [*range(1, left + 1)]
    assert len(batches) == -(-left // batch_size)


def test_a_class_that_was_emptied_by_a_cancellation_gathers_again() -> None:
    """Having waited for room is over when the class is empty, however that came."""
    queue = queue_of(batch_size=4, flush_interval=1.0)
    first = ticket()
    queue.put(first, 0.0)
    assert take_all(queue, 1.0, 0) == []
    queue.remove(first)
    put(queue, 2.0)
    assert take_all(queue, 2.0, 1) == []
    assert queue.due == 3.0


def test_a_closed_gate_holds_up_no_other_class() -> None:
    """Chat gathers; what is better and what is worse leaves."""
    rules = {**rules_with(flush_interval=0.0), Class.CHAT: Rules(flush_interval=1.0)}
    queue = queue_of(rules)
    for rank in Class:
        put(queue, 0.0, rank=rank)
    left = [one.terms.rank for one in members(take_all(queue, 0.0, 9))]
    assert left == [Class.COMPLETION, Class.BACKGROUND, Class.SPECULATIVE]
    assert queue.due == 1.0


# Rules 3 and 4.


@given(
    traces(st.tuples(st.sampled_from("pqr"), st.sampled_from("abc")), 40),
    st.integers(1, 4),
)
def test_tenants_and_their_lanes_take_turns(
    requests: list[tuple[str, str]], batch_size: int
) -> None:
    """Of requests that cost the same, a tenant that waits all the time gets no two places while
    another one gets none, nor a lane of a tenant while another lane of it gets none."""
    queue = queue_of(batch_size=batch_size)
    for tenant, lane in requests:
        queue.put(ticket(tenant=tenant, lane=lane), 0.0)
    order = [one.terms for one in members(take_all(queue, 0.0, len(requests)))]
    assert Counter((one.tenant, one.lane) for one in order) == Counter(requests)
    _check_turns([one.tenant for one in order])
    for tenant in "pqr":
        _check_turns([one.lane for one in order if one.tenant == tenant])


def _check_turns(order: list[str]) -> None:
    for at, one in enumerate(order):
        later = order[at + 1 :]
        until = later.index(one) if one in later else len(later)
        assert one not in later or {*later[until:]} - {one} <= {*later[:until]}


def test_without_a_name_each_request_is_a_lane_of_its_own() -> None:
    """And they leave in order, between those of a lane with a name."""
    queue = queue_of()
    for lane in ("l", "l", "", "l", ""):
        queue.put(ticket(lane=lane), 0.0)
    assert [one.number for one in members(take_all(queue, 0.0, 9))] == [1, 3, 5, 2, 4]


@given(st.permutations(range(1, 6)), st.integers(0, 5))
def test_those_that_come_back_stand_where_they_stood(order: list[int], left: int) -> None:
    """Whichever of a lane's requests failed first: they leave again in the order in which they
    came, before those that never left."""
    queue = queue_of()
    lane = [ticket(lane="l", prompt_tokens=10) for _ in range(5)]
    for one in lane:
        queue.put(one, 0.0)
    take_all(queue, 0.0, left)
    for number in order:
        if number <= left:
            queue.put_back(lane[number - 1])
    assert members(take_all(queue, 0.0, 9)) == lane


def test_whoever_comes_back_goes_before_those_of_its_tenant_that_never_left() -> None:
    """In a lane of its own, too."""
    queue = queue_of()
    for _ in range(4):
        queue.put(ticket(), 0.0)
    first = members(take_all(queue, 0.0, 2))
    queue.put_back(first[1])
    assert [one.number for one in members(take_all(queue, 0.0, 9))] == [2, 3, 4]


def test_whoever_comes_back_was_not_served() -> None:
    """Its tenant is next again."""
    queue = queue_of()
    for tenant in "pqpq":
        queue.put(ticket(tenant=tenant, prompt_tokens=10), 0.0)
    queue.put_back(members(take_all(queue, 0.0, 1))[0])
    assert [one.terms.tenant for one in members(take_all(queue, 0.0, 9))] == [*"pqpq"]


# Who holds up whom.


def test_who_has_no_place_holds_up_its_lane_and_its_model_in_its_class_only() -> None:
    """A large request that waits for room is not overtaken by small ones for ever; those that want
    something else do not wait for it."""
    queue = queue_of()
    large = ticket(lane="l", model="m", prompt_tokens=100)
    queue.put(large, 0.0)
    for rank, lane, model in [
        (Class.CHAT, "l", ""),
        (Class.CHAT, "", "m"),
        (Class.CHAT, "", "n"),
        (Class.BACKGROUND, "l", "m"),
    ]:
        queue.put(ticket(rank, lane=lane, model=model), 0.0)
    seen: list[int] = []

    def small(ticket: Ticket, aged: bool) -> int | None:
        if ticket is not large:
            seen.append(ticket.number)
        return None if ticket is large else 0

    while queue.take(0.0, small, idle=False) is not None:
        pass
    assert seen == [4, 5]
    # Where it has failed before, others may well have a place.
    large.avoid.add("upstream")
    while queue.take(0.0, small, idle=False) is not None:
        pass
    assert seen == [4, 5, 3]


@given(st.integers(1, 50), st.integers(1, 50))
def test_who_was_passed_over_for_its_model_is_not_owed_that(passed: int, cost: int) -> None:
    """A tenant whose model had no place for long goes first once it has, but then takes turns; and
    whoever comes then does not start where that one stood."""
    queue = queue_of(queue_size=1000)

    def only(model: str) -> list[str]:
        left = [30]

        def place(ticket: Ticket, aged: bool) -> int | None:
            if ticket.model not in model or not left[0]:
                return None
            left[0] -= 1
            return 0

        order: list[str] = []
        while (batch := queue.take(0.0, place, idle=False)) is not None:
            order += [one.terms.tenant for one, _ in batch.members]
        return order

    for _ in range(30):
        queue.put(ticket(tenant="stuck", model="b", prompt_tokens=cost), 0.0)
    for _ in range(passed):
        queue.put(ticket(tenant="busy", model="a", prompt_tokens=cost), 0.0)
        queue.put(ticket(tenant="busy", model="a", prompt_tokens=cost), 0.0)
        assert only("a") == ["busy"] * 2
    for _ in range(30):
        queue.put(ticket(tenant="busy", model="a", prompt_tokens=cost), 0.0)
        queue.put(ticket(tenant="new", model="a", prompt_tokens=cost), 0.0)
    order = only("ab")
    assert order[0] == "stuck"
    assert all(9 <= count <= 11 for count in Counter(order).values())


# Estimates and memory.


@given(
    st.lists(
        st.one_of(st.tuples(st.sampled_from("pqr"), st.sampled_from(["", "l"])), st.integers(1, 5)),
        max_size=40,
    ),
    st.sampled_from("pqr"),
    st.sampled_from(["", "l", "m"]),
)
def test_ahead_says_how_many_leave_first(
    before: list[tuple[str, str] | int], tenant: str, lane: str
) -> None:
    """In a class whose requests all cost the same, after any arrivals and departures: of those who
    wait when a request comes, no more leave before it than ``ahead`` says, but for one of each
    other tenant; and no more than there are."""
    queue = queue_of()
    for what in before:
        if isinstance(what, int):
            take_all(queue, 0.0, what)
        else:
            queue.put(ticket(tenant=what[0], lane=what[1]), 0.0)
    ahead, waiting = queue.ahead(Class.CHAT, tenant), len(queue)
    others = len({*queue.classes[Class.CHAT].tenants} - {tenant})
    new = ticket(tenant=tenant, lane=lane)
    queue.put(new, 0.0)
    first = members(take_all(queue, 0.0, 1000)).index(new)
    assert first <= ahead + others
    assert ahead <= waiting


@pytest.mark.parametrize(
    ("tenant", "own", "ahead", "first"), [("s", 0, 3, 3), ("r", 1, 5, 5), ("p", 1, 5, 3)]
)
def test_ahead_lets_each_other_tenant_go_first_once_per_turn(
    tenant: str, own: int, ahead: int, first: int
) -> None:
    """A newcomer is after one of each; whoever waits already is a turn later for each of its own,
    if it does not come first in all of them."""
    queue = queue_of()
    for one in "pqr":
        for _ in range(own if one == tenant else 9):
            queue.put(ticket(tenant=one), 0.0)
    new = ticket(tenant=tenant)
    assert queue.ahead(Class.CHAT, tenant) == ahead
    queue.put(new, 0.0)
    assert members(take_all(queue, 0.0, 99)).index(new) == first


def test_ahead_counts_better_classes_in_full() -> None:
    """Strict order: whoever is better leaves first; whoever is worse does not count."""
    queue = queue_of()
    put(queue, 0.0, 3, Class.COMPLETION)
    put(queue, 0.0, 5, Class.BACKGROUND)
    assert queue.ahead(Class.CHAT, "") == 3
    assert queue.ahead(Class.COMPLETION, "") == 3
    assert queue.ahead(Class.BACKGROUND, "") == 8


@given(st.sampled_from([None, 5.0]), st.integers(1, 40))
def test_those_that_left_are_forgotten(first: float | None, waiting: int) -> None:
    """Behind a request that waits for ever, others come and go without end: what the queue holds
    of them is bounded by those that wait."""
    queue = queue_of(queue_size=10**6)
    queue.put(ticket(deadline=first or inf, model="m"), 0.0)

    def elsewhere(ticket: Ticket, aged: bool) -> int | None:
        return None if ticket.model else 0

    for _ in range(30):
        for _ in range(waiting):
            queue.put(ticket(deadline=10.0), 0.0)
        while queue.take(0.0, elsewhere, idle=False) is not None:
            pass
    assert len(queue) == 1
    bound = max(Earliest.LEAST, 2 * (waiting + 1)) + 1
    assert len(queue._deadlines) <= bound
    assert len(queue.classes[Class.CHAT]._arrivals) <= bound


@pytest.mark.parametrize("rank", Class)
def test_an_expired_request_is_told_once(rank: Class) -> None:
    """Even if it has left and come back with the same deadline."""
    queue = queue_of()
    one = ticket(rank, deadline=1.0)
    queue.put(one, 0.0)
    take_all(queue, 0.0, 1)
    queue.put_back(one)
    assert queue.due == 1.0
    assert queue.expire(0.999) == []
    assert queue.expire(1.0) == [one]
    assert queue.expire(1.0) == []
    assert queue.due == inf
