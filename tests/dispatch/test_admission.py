"""Who is refused at the door, and what is told to come back when."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.admission import refusal
from hub.dispatch.queue import Queue
from hub.dispatch.terms import Class, Terms, Ticket, rules_with
from hub.dispatch.upstream import Upstream
from hub.errors import HubError
from tests.dispatch.bench import ScriptedEngine

DEAD = HubError("upstream_unavailable", "The model server cannot be reached.")


def upstream(
    window: int = 1, *, held: int = 0, mean: float | None = None, until: float | None = None
) -> Upstream:
    """An upstream that holds so many requests, which took it so many seconds lately; with
    ``until``, one that is broken till then."""
    made = Upstream(ScriptedEngine("a", {}, arrays=False), window)
    for _ in range(min(held, window)):
        made.take(1, 0.0)
    made.service.mean = mean
    if until is not None:
        made.unreachable(DEAD, 0.0)
        made.breaker.until = until
    return made


def queue(waiting: int = 0, *, tenant: str = "", rank: Class = Class.CHAT, **rules: int) -> Queue:
    """A queue with so many requests of a tenant."""
    made = Queue(rules_with(**rules))
    for _ in range(waiting):
        made.put(Ticket(Terms(rank, tenant), "m", 1, 1), 0.0)
    return made


def ticket(patience: float = inf, *, tenant: str = "", rank: Class = Class.CHAT) -> Ticket:
    return Ticket(Terms(rank, tenant), "m", 1, 1, deadline=patience)


def refused(
    found: tuple[str, HubError] | None,
) -> tuple[str, str, float | None] | None:
    """Why, the error's code, and what the client is told."""
    return None if found is None else (found[0], found[1].code, found[1].retry_after)


def test_an_idle_hub_takes_everything() -> None:
    """Even what has no time at all: it is dispatched at once."""
    assert refusal(ticket(0.0), [upstream(mean=100)], queue(), 0.0) is None


def test_when_all_are_broken_the_failure_is_told() -> None:
    """With the time at which the first of them is asked again."""
    broken = [upstream(until=7.0), upstream(until=5.5)]
    found = refusal(ticket(), broken, queue(), 2.0)
    assert refused(found) == ("upstream_unavailable", "upstream_unavailable", 4)
    assert found is not None
    assert found[1].message == DEAD.message
    broken[0].failure = HubError("upstream_timeout", "silent")
    assert refused(refusal(ticket(), broken, queue(), 2.0)) == (
        "upstream_unavailable",
        "upstream_timeout",
        4,
    )
    broken[0].failure = None
    assert refused(refusal(ticket(), broken, queue(), 99.0)) == (
        "upstream_unavailable",
        "upstream_unavailable",
        1,
    )


def test_one_that_is_well_is_enough() -> None:
    """Also one that is only being tried again."""
    trial = upstream(until=5.0)
    trial.breaker.answered()
    assert refusal(ticket(), [upstream(until=5.0), upstream(held=1)], queue(), 0.0) is None
    assert refusal(ticket(), [upstream(until=5.0), trial], queue(), 0.0) is None


def test_a_full_class_refuses() -> None:
    """With the time that the queue needs to drain, as far as it is known."""
    full = queue(4, queue_size=4)
    assert refused(refusal(ticket(), [upstream(held=1)], full, 0.0)) == (
        "queue_full",
        "rate_limit_exceeded",
        1,
    )
    found = refusal(ticket(), [upstream(2, held=2, mean=8.0)], full, 0.0)
    assert refused(found) == ("queue_full", "rate_limit_exceeded", 20)
    assert refusal(ticket(rank=Class.COMPLETION), [upstream(held=1)], full, 0.0) is None


def test_a_tenant_with_too_many_is_refused_alone() -> None:
    """And is told that they are its own; the others come in."""
    full = queue(4, tenant="p", tenant_queue=4)
    found = refusal(ticket(tenant="p"), [upstream(held=1)], full, 0.0)
    assert refused(found) == ("tenant_full", "rate_limit_exceeded", 1)
    assert found is not None
    assert "of yours" in found[1].message
    assert refusal(ticket(tenant="q"), [upstream(held=1)], full, 0.0) is None


def test_what_would_come_too_late_is_refused() -> None:
    """And told to come back when its patience would do; exactly in time is in time."""
    busy = [upstream(2, held=2, mean=4.0)]
    assert refusal(ticket(10.0), busy, queue(4), 0.0) is None
    assert refused(refusal(ticket(9.0), busy, queue(4), 0.0)) == (
        "too_late",
        "rate_limit_exceeded",
        1,
    )
    assert refused(refusal(ticket(9.0), busy, queue(4), 7.5)) == (
        "too_late",
        "rate_limit_exceeded",
        9,
    )


def test_a_fair_share_counts_for_who_has_little_waiting() -> None:
    """A new tenant does not wait behind all that another one has queued."""
    busy = [upstream(held=1, mean=1.0)]
    flood = queue(500, tenant="p")
    assert refusal(ticket(3.0, tenant="q"), busy, flood, 0.0) is None
    assert refused(refusal(ticket(3.0, tenant="p"), busy, flood, 0.0)) is not None


def test_a_broken_upstream_shortens_no_wait() -> None:
    """What it used to do is no help to who comes now."""
    well = upstream(held=1, mean=10.0)
    broken = upstream(100, held=100, mean=1.0, until=9.0)
    found = refusal(ticket(5.0), [well, broken], queue(3), 0.0)
    assert refused(found) == ("too_late", "rate_limit_exceeded", 35)


upstreams = st.builds(
    upstream,
    window=st.integers(1, 4),
    held=st.integers(0, 4),
    mean=st.none() | st.floats(0.1, 1000),
    until=st.none() | st.floats(0, 1000),
)
tickets = st.builds(
    Ticket,
    st.builds(Terms, st.sampled_from(Class), st.sampled_from("pq")),
    st.just("m"),
    st.just(1),
    st.just(1),
    deadline=st.just(inf) | st.floats(0, 1000),
)
queues = st.builds(
    queue,
    st.integers(0, 6),
    tenant=st.sampled_from("pq"),
    rank=st.sampled_from(Class),
    queue_size=st.integers(1, 8),
    tenant_queue=st.integers(1, 8),
)


@given(tickets, st.lists(upstreams, min_size=1, max_size=3), queues, st.floats(0, 1000))
def test_a_refusal_has_one_of_four_reasons(
    wants: Ticket, found: list[Upstream], waiting: Queue, now: float
) -> None:
    """And is true; the client is told a whole number of seconds from 1 to 300, in an error that
    says that trying again may help. Asking changes nothing."""
    before = len(waiting)
    answer = refusal(wants, found, waiting, now)
    assert len(waiting) == before
    broken = all(one.breaker.state == "open" for one in found)
    full = waiting.full(wants.terms.rank, wants.terms.tenant)
    if answer is None:
        assert not broken
        assert full is None
        return
    why, error = answer
    assert error.retry_after is not None
    assert error.retry_after.is_integer()
    assert 1 <= error.retry_after <= 300
    assert error.row.retryable
    assert (why == "upstream_unavailable") == broken
    assert (why in ("queue_full", "tenant_full")) == (not broken and full is not None)
    if why == "too_late":
        well = [one for one in found if one.breaker.state != "open"]
        assert wants.deadline < inf
        assert any(one.service.mean for one in well), "nothing was measured"
        assert not any(one.window.room() for one in well), "there is room"


@given(tickets, st.lists(upstreams, min_size=1, max_size=3), queues)
def test_nobody_is_refused_for_what_was_not_measured(
    wants: Ticket, found: list[Upstream], waiting: Queue
) -> None:
    """Without any service time a request is refused for what is broken or full only."""
    for one in found:
        one.service.mean = None
    answer = refusal(wants, found, waiting, 0.0)
    assert answer is None or answer[0] != "too_late"


@pytest.mark.parametrize("rank", Class)
def test_better_classes_count_as_ahead(rank: Class) -> None:
    """Three completions wait: who comes after them waits for them, whatever its class."""
    busy, waiting = [upstream(held=1, mean=1.0)], queue(3, rank=Class.COMPLETION)
    late = Ticket(Terms(rank), "m", 1, 1, deadline=3.5)
    assert refused(refusal(late, busy, waiting, 0.0)) is not None
    late.deadline = 4.0
    assert refusal(late, busy, waiting, 0.0) is None
