"""What every store must do: the contract in ``hub/store/base.py``, sentence by sentence.

``StoreContract`` is run over a store by a class that inherits it and has a fixture ``store``.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hub.errors import HubError
from hub.store.base import (
    Delivery,
    Fenced,
    Hold,
    Idempotency,
    IdempotencyConflict,
    Lease,
    Record,
    Segment,
    Store,
)
from hub.store.size import RECORD_OVERHEAD, SEGMENT_OVERHEAD

LEASE = 15.0


def job(id: str = "resp_a", **fields: Any) -> Record:
    """A background response that nobody has begun."""
    record = Record(
        id=id,
        tenant="ada",
        status="queued",
        background=True,
        created_at=100.0,
        expires_at=1000.0,
        request=b'{"model":"sim"}',
    )
    return replace(record, **fields)


def answer(id: str = "resp_a", **fields: Any) -> Record:
    """A response that has ended when it is stored."""
    ended = {"background": False, "status": "completed", "result": b"{}"}
    return job(id, **(ended | fields))


def segment(first: int, last: int) -> Segment:
    return Segment(first, last, f"{first}-{last}".encode())


def delivery(id: str, next_at: float = 100.0) -> Delivery:
    return Delivery(id, "resp_a", "https://example.com/hook", b"{}", next_at)


async def claimed(store: Store, now: float = 100.0) -> list[tuple[str, int]]:
    """Claim everything that is free; gives ids and attempts."""
    return [(one.id, one.attempt) for one in await store.claim("me", now, LEASE, 100)]


async def refused(future: asyncio.Future[Any], error: type[Exception] = Fenced) -> None:
    with pytest.raises(error):
        await future


class StoreContract:
    """The suite."""

    # Order.

    async def test_calls_take_effect_in_order_though_nobody_awaits_them(self, store: Store) -> None:
        store.put(job())
        store.claim("me", 100.0, LEASE, 1)
        for number in range(50):
            store.append("resp_a", 1, segment(number, number))
        ended = store.complete("resp_a", 1, status="completed", result=b"{}")
        log = store.read("resp_a")
        kept = store.get("ada", "resp_a")
        gone = store.delete("ada", "resp_a")
        assert [one.last for one in await log] == list(range(50))
        assert (await kept) == job(status="completed", result=b"{}", attempt=1)
        assert ended.done()
        assert await gone

    async def test_a_cancelled_wait_does_not_undo_the_call(self, store: Store) -> None:
        store.put(job()).cancel()
        assert await store.get("ada", "resp_a") == job()

    # Records.

    @pytest.mark.parametrize(
        "record",
        [
            job(),
            job(request=b"", previous_response_id="resp_b", expires_at=float("inf")),
            answer(result=b""),
            answer(background=True),
            answer(tenant="jörg 🙂", request=b"\x00\xff", attempt=3, cancelled=True),
        ],
    )
    async def test_a_record_comes_back_as_it_was(self, store: Store, record: Record) -> None:
        assert await store.put(record) == record.id
        assert await store.get(record.tenant, record.id) == record

    async def test_a_record_of_another_tenant_does_not_exist(self, store: Store) -> None:
        await store.put(job())
        assert await store.get("bob", "resp_a") is None
        assert not await store.cancel("bob", "resp_a")
        assert not await store.delete("bob", "resp_a")
        assert await store.get("ada", "resp_a") == job()
        assert await store.get("ada", "resp_b") is None

    async def test_to_put_a_record_again_changes_nothing(self, store: Store) -> None:
        await store.put(job())
        assert await claimed(store) == [("resp_a", 1)]
        assert await store.put(job(), segment=segment(0, 0)) == "resp_a"
        assert await store.get("ada", "resp_a") == job(status="in_progress", attempt=1)
        assert await store.read("resp_a") == []
        assert store.statistics().records == 1

    async def test_delete_forgets_the_log_and_the_job(self, store: Store) -> None:
        await store.put(job(), segment=segment(0, 0))
        await claimed(store)
        await store.append("resp_a", 1, segment(1, 1))
        assert await store.delete("ada", "resp_a")
        assert not await store.delete("ada", "resp_a")
        assert await store.get("ada", "resp_a") is None
        assert await store.read("resp_a") == []
        await refused(store.append("resp_a", 1, segment(1, 1)))
        assert await claimed(store, 1000.0) == []
        assert store.statistics().bytes == 0

    # Idempotency.

    async def test_the_same_request_under_the_same_key_is_kept_once(self, store: Store) -> None:
        key = Idempotency("key", b"digest", 1000.0)
        assert await store.put(job("resp_a"), idempotency=key) == "resp_a"
        assert await store.put(job("resp_b"), idempotency=key) == "resp_a"
        assert await store.get("ada", "resp_b") is None
        other = Idempotency("key", b"other", 1000.0)
        await refused(store.put(job("resp_c"), idempotency=other), IdempotencyConflict)
        assert await store.get("ada", "resp_c") is None
        assert await store.put(job("resp_d", tenant="bob"), idempotency=other) == "resp_d"

    async def test_a_key_can_be_looked_up(self, store: Store) -> None:
        key = Idempotency("key", b"digest", 1000.0)
        assert await store.repeated("ada", key) is None
        await store.put(job("resp_a"), idempotency=key)
        assert await store.repeated("ada", key) == "resp_a"
        assert await store.repeated("bob", key) is None
        other = Idempotency("key", b"other", 1000.0)
        await refused(store.repeated("ada", other), IdempotencyConflict)

    async def test_a_key_lasts_until_it_expires_whatever_becomes_of_the_response(
        self, store: Store
    ) -> None:
        key = Idempotency("key", b"digest", 1000.0)
        await store.put(answer(expires_at=500.0), idempotency=key)
        assert await store.expire(999.0) == 1
        assert await store.put(job("resp_b"), idempotency=key) == "resp_a"
        assert await store.expire(1000.0) == 0
        assert await store.put(job("resp_b"), idempotency=key) == "resp_b"

    # Retention.

    async def test_what_has_expired_goes_but_jobs_stay(self, store: Store) -> None:
        await store.put(answer("resp_a", expires_at=200.0), segment=segment(0, 3))
        await store.put(answer("resp_b", expires_at=201.0))
        await store.put(job("resp_c", expires_at=200.0))
        assert await store.expire(199.0) == 0
        assert await store.expire(200.0) == 1
        assert await store.get("ada", "resp_a") is None
        assert await store.read("resp_a") == []
        await store.complete("resp_c", 0, status="cancelled", result=b"{}")
        assert await store.expire(201.0) == 2
        statistics = store.statistics()
        assert (statistics.records, statistics.bytes) == (0, 0)

    async def test_the_oldest_that_have_ended_go_until_the_rest_fits(self, store: Store) -> None:
        size = 10_000
        await store.put(job("resp_0", created_at=90.0, request=bytes(size)))
        for number, created_at in enumerate([103.0, 102.0, 101.0, 102.0], 1):
            await store.put(answer(f"resp_{number}", created_at=created_at, result=bytes(size)))
        bytes_held = store.statistics().bytes
        assert await store.expire(200.0, bytes_held) == 0
        assert await store.expire(200.0, bytes_held - 1) == 1
        assert await store.get("ada", "resp_3") is None
        assert await store.expire(200.0, 3 * size) == 2
        assert await store.get("ada", "resp_2") is None
        assert await store.get("ada", "resp_4") is None
        assert await store.get("ada", "resp_1") is not None
        assert await store.expire(200.0, 0) == 1
        assert await store.get("ada", "resp_0") is not None

    async def test_bytes_count_bodies_logs_and_an_overhead(self, store: Store) -> None:
        await store.put(job(request=bytes(1000)), segment=Segment(0, 0, bytes(100)))
        await store.append("resp_a", 0, Segment(1, 1, bytes(10)))
        expected = RECORD_OVERHEAD + 1000 + 2 * SEGMENT_OVERHEAD + 110
        assert store.statistics().bytes == expected
        last = Segment(2, 2, b"")
        await store.complete("resp_a", 0, status="failed", result=bytes(7), segment=last)
        assert store.statistics().bytes == expected + 7 + SEGMENT_OVERHEAD

    # Logs.

    async def test_read_gives_the_segments_that_reach_beyond_the_cursor(self, store: Store) -> None:
        await store.put(job(), segment=segment(0, 1))
        await store.append("resp_a", 0, segment(2, 5))
        await store.append("resp_a", 0, segment(6, 6))
        everything = [segment(0, 1), segment(2, 5), segment(6, 6)]
        for after, left_out in [(-1, 0), (0, 0), (1, 1), (2, 1), (4, 1), (5, 2), (6, 3), (99, 3)]:
            assert await store.read("resp_a", after) == everything[left_out:], after
        assert await store.read("resp_b") == []

    async def test_a_segment_is_written_once(self, store: Store) -> None:
        await store.put(job())
        await store.append("resp_a", 0, segment(0, 4))
        await store.append("resp_a", 0, Segment(0, 4, b"again"))
        await store.append("resp_a", 0, Segment(2, 3, b"again"))
        assert await store.read("resp_a") == [segment(0, 4)]
        last = Segment(3, 4, b"again")
        await store.complete("resp_a", 0, status="completed", result=b"{}", segment=last)
        assert await store.read("resp_a") == [segment(0, 4)]

    async def test_a_segment_that_repeats_and_goes_on_is_written(self, store: Store) -> None:
        await store.put(job())
        await store.append("resp_a", 0, segment(0, 4))
        await store.append("resp_a", 0, segment(3, 7))
        assert await store.read("resp_a", 4) == [segment(3, 7)]

    async def test_a_segment_that_would_leave_a_gap_is_refused(self, store: Store) -> None:
        await store.put(job())
        await store.append("resp_a", 0, segment(1, 2))
        await refused(store.append("resp_a", 0, segment(4, 5)), HubError)
        last = segment(4, 5)
        with pytest.raises(HubError, match="from 3 to 3") as caught:
            await store.complete("resp_a", 0, status="completed", result=b"{}", segment=last)
        assert caught.value.code == "store_unavailable"
        assert await store.get("ada", "resp_a") == job()
        assert await store.read("resp_a") == [segment(1, 2)]

    async def test_followers_are_woken_after_appends_and_the_end(self, store: Store) -> None:
        woken: list[int] = []

        async def after(future: asyncio.Future[Any]) -> int:
            """How often it woke."""
            woken.clear()
            await future
            await store.get("ada", "resp_a")
            await asyncio.sleep(0)
            return len(woken)

        unfollow = store.follow("resp_a", lambda: woken.append(1))
        assert await after(store.put(job(), segment=segment(0, 0))) == 1
        assert await after(store.append("resp_a", 0, segment(1, 1))) == 1
        assert await after(store.append("resp_a", 0, segment(0, 1))) == 0
        assert await after(store.put(job("resp_b"), segment=segment(0, 0))) == 0
        completed = store.complete("resp_a", 0, status="completed", result=b"{}")
        assert await after(completed) == 1
        other = store.follow("resp_b", unfollow)
        assert await after(store.delete("ada", "resp_b")) == 0
        assert await after(store.delete("ada", "resp_a")) == 0
        other()
        other()
        unfollow()

    async def test_one_follower_may_end_another(self, store: Store) -> None:
        ends: list[Callable[[], None]] = []
        woken: list[str] = []

        def wake(name: str) -> None:
            woken.append(name)
            for end in ends:
                end()

        ends.append(store.follow("resp_a", lambda: wake("first")))
        ends.append(store.follow("resp_a", lambda: wake("second")))
        await store.put(job(), segment=segment(0, 0))
        await store.append("resp_a", 0, segment(1, 1))
        await asyncio.sleep(0)
        assert woken == ["first"]

    async def test_a_follower_is_not_woken_on_its_own_stack(self, store: Store) -> None:
        await store.put(job())
        woken = asyncio.Event()
        store.follow("resp_a", woken.set)
        store.append("resp_a", 0, segment(0, 0))
        assert not woken.is_set()
        await woken.wait()
        assert await store.read("resp_a") == [segment(0, 0)]

    # Jobs.

    async def test_the_oldest_jobs_are_claimed_first(self, store: Store) -> None:
        for id, created_at in [("c", 103.0), ("a", 101.0), ("b1", 102.0), ("b2", 102.0)]:
            await store.put(job(id, created_at=created_at))
        await store.put(answer("d", created_at=90.0))
        await store.put(answer("e", created_at=90.0, background=True))
        await store.put(job("f", created_at=90.0, background=False))
        assert await store.claim("me", 200.0, LEASE, 0) == []
        assert await store.claim("me", 200.0, LEASE, -1) == []
        assert [one.id for one in await store.claim("me", 200.0, LEASE, 3)] == ["a", "b1", "b2"]
        assert [one.id for one in await store.claim("me", 200.0, LEASE, 3)] == ["c"]

    async def test_a_claim_gives_the_record_as_it_is_then(self, store: Store) -> None:
        await store.put(job(previous_response_id="resp_b"))
        expected = job(status="in_progress", attempt=1, previous_response_id="resp_b")
        assert await store.claim("me", 100.0, LEASE, 1) == [expected]
        assert await store.get("ada", "resp_a") == expected

    async def test_a_claimed_job_is_its_owners_until_the_lease_ends(self, store: Store) -> None:
        await store.put(job())
        assert await claimed(store, 100.0) == [("resp_a", 1)]
        assert await claimed(store, 100.0 + LEASE - 0.1) == []
        assert await store.renew([Lease("resp_a", 1)], 110.0, LEASE) == []
        assert await claimed(store, 100.0 + LEASE) == []
        assert await claimed(store, 110.0 + LEASE) == [("resp_a", 2)]

    async def test_a_lapsed_lease_can_be_renewed_until_somebody_claims(self, store: Store) -> None:
        await store.put(job("resp_a"))
        await store.put(job("resp_b"))
        await claimed(store, 100.0)
        assert len(await store.claim("you", 200.0, LEASE, 1)) == 1
        leases = [Lease("resp_a", 1), Lease("resp_b", 1)]
        assert await store.renew(leases, 200.0, LEASE) == [Lease("resp_a", 1)]
        assert await claimed(store, 200.0) == []

    async def test_who_has_lost_a_claim_can_do_no_harm(self, store: Store) -> None:
        await store.put(job())
        await claimed(store, 100.0)
        await store.append("resp_a", 1, segment(0, 0))
        await claimed(store, 200.0)
        for attempt in (0, 1, 3):
            await refused(store.append("resp_a", attempt, segment(1, 1)))
            await refused(store.append("resp_a", attempt, segment(0, 0)))
            await refused(store.release("resp_a", attempt))
            await refused(store.complete("resp_a", attempt, status="failed", result=b"{}"))
            lost = [Lease("resp_a", attempt)]
            assert await store.renew(lost, 200.0, LEASE) == lost
        assert await store.get("ada", "resp_a") == job(status="in_progress", attempt=2)
        assert await store.read("resp_a") == [segment(0, 0)]
        assert await claimed(store, 200.0) == []
        await store.append("resp_a", 2, segment(1, 1))

    async def test_a_released_job_can_be_claimed_at_once(self, store: Store) -> None:
        await store.put(job())
        await claimed(store)
        await store.release("resp_a", 1)
        await store.release("resp_a", 1)
        assert await store.renew([Lease("resp_a", 1)], 100.0, LEASE) == [Lease("resp_a", 1)]
        assert await claimed(store) == [("resp_a", 2)]
        await refused(store.release("resp_a", 1))

    async def test_a_cancelled_job_stops_at_its_next_renewal(self, store: Store) -> None:
        await store.put(job())
        await claimed(store)
        assert await store.cancel("ada", "resp_a")
        assert await store.cancel("ada", "resp_a")
        lease = Lease("resp_a", 1)
        assert await store.renew([lease], 110.0, LEASE) == [lease]
        assert await claimed(store, 120.0) == []
        await store.append("resp_a", 1, segment(0, 0))
        await store.complete("resp_a", 1, status="cancelled", result=b"{}")
        assert not await store.cancel("ada", "resp_a")
        assert await store.renew([lease], 110.0, LEASE) == [lease]

    async def test_a_cancelled_job_is_claimed_by_whoever_ends_it(self, store: Store) -> None:
        await store.put(job())
        await store.cancel("ada", "resp_a")
        expected = job(status="in_progress", attempt=1, cancelled=True)
        assert await store.claim("me", 100.0, LEASE, 1) == [expected]

    async def test_complete_ends_a_job_at_once(self, store: Store) -> None:
        await store.put(job())
        await claimed(store)
        await store.append("resp_a", 1, segment(0, 0))
        await store.complete(
            "resp_a",
            1,
            status="incomplete",
            result=b'{"id":1}',
            segment=segment(1, 1),
            deliveries=[delivery("evt_1")],
        )
        ended = job(status="incomplete", result=b'{"id":1}', attempt=1)
        assert await store.get("ada", "resp_a") == ended
        assert await store.read("resp_a") == [segment(0, 0), segment(1, 1)]
        assert await store.deliveries(100.0, 10) == [delivery("evt_1")]
        await refused(store.append("resp_a", 1, segment(2, 2)))
        await refused(store.complete("resp_a", 1, status="failed", result=b"{}"))
        await refused(store.release("resp_a", 1))
        assert await claimed(store, 1000.0) == []
        assert store.statistics().jobs == 0

    async def test_what_was_never_a_job_has_no_writer(self, store: Store) -> None:
        await store.put(answer())
        await refused(store.append("resp_a", 0, segment(0, 0)))
        await refused(store.append("resp_b", 0, segment(0, 0)))
        assert not await store.cancel("ada", "resp_a")
        assert await store.renew([Lease("resp_b", 0)], 100.0, LEASE) == [Lease("resp_b", 0)]

    # Foreground jobs.

    async def test_what_is_put_with_a_hold_is_its_makers_until_the_lease_ends(
        self, store: Store
    ) -> None:
        held = job(status="in_progress", background=False, attempt=1)
        await store.put(held, segment=segment(0, 1), hold=Hold("me", 100.0 + LEASE))
        assert store.statistics().jobs == 1
        await store.append("resp_a", 1, segment(2, 2))
        assert await store.claim("you", 114.0, LEASE, 9, foreground=True) == []
        assert await store.renew([Lease("resp_a", 1)], 110.0, LEASE) == []
        assert await store.claim("you", 100.0 + LEASE, LEASE, 9, foreground=True) == []
        assert await store.claim("you", 125.0, LEASE, 9) == []
        [taken] = await store.claim("you", 125.0, LEASE, 9, foreground=True)
        assert taken == replace(held, attempt=2)
        await refused(store.append("resp_a", 1, segment(3, 3)))
        await store.append("resp_a", 2, segment(3, 3))
        await store.complete("resp_a", 2, status="completed", result=b"{}")
        ended = replace(held, attempt=2, status="completed", result=b"{}")
        assert await store.get("ada", "resp_a") == ended
        assert [one.last for one in await store.read("resp_a")] == [1, 2, 3]

    async def test_background_work_can_be_held_from_the_start(self, store: Store) -> None:
        held = job(status="in_progress", attempt=1)
        await store.put(held, hold=Hold("me", 100.0 + LEASE))
        assert await claimed(store, 100.0) == []
        await store.release("resp_a", 1)
        assert await store.claim("you", 100.0, LEASE, 9, foreground=True) == []
        assert await claimed(store, 100.0) == [("resp_a", 2)]

    async def test_a_foreground_job_that_was_given_back_can_be_claimed_at_once(
        self, store: Store
    ) -> None:
        for id, created_at in [("b", 102.0), ("a", 101.0), ("c", 103.0)]:
            held = job(id, status="in_progress", background=False, attempt=1, created_at=created_at)
            await store.put(held, hold=Hold("me", 200.0))
            await store.release(id, 1)
        await store.put(job("d", created_at=90.0))
        first = await store.claim("you", 104.0, LEASE, 2, foreground=True)
        assert [one.id for one in first] == ["a", "b"]
        assert await store.cancel("ada", "c")
        assert await store.delete("ada", "c")
        assert await store.claim("you", 104.0, LEASE, 2, foreground=True) == []

    async def test_a_record_that_is_there_is_not_held_again(self, store: Store) -> None:
        await store.put(job())
        again = job(status="in_progress", attempt=1)
        assert await store.put(again, hold=Hold("me", 200.0)) == "resp_a"
        assert await store.get("ada", "resp_a") == job()
        assert await claimed(store) == [("resp_a", 1)]

    # Webhooks.

    async def test_deliveries_are_due_the_longest_due_first(self, store: Store) -> None:
        await store.put(job())
        deliveries = [delivery("a", 103.0), delivery("b", 101.0), delivery("c", 101.0)]
        await store.complete(
            "resp_a", 0, status="completed", result=b"{}", deliveries=[*deliveries, delivery("a")]
        )
        assert await store.deliveries(100.9, 10) == []
        assert [one.id for one in await store.deliveries(102.0, 10)] == ["b", "c"]
        assert [one.id for one in await store.deliveries(103.0, 2)] == ["b", "c"]
        assert await store.deliveries(103.0, -1) == []
        await store.retry("b", 150.0)
        await store.delivered("c")
        assert await store.deliveries(103.0, 10) == [deliveries[0]]
        assert await store.deliveries(150.0, 10) == [
            deliveries[0],
            replace(delivery("b", 150.0), tries=1),
        ]
        await store.delivered("c")
        await store.retry("c", 150.0)
        await store.delete("ada", "resp_a")
        assert len(await store.deliveries(150.0, 10)) == 2

    # Nodes.

    async def test_a_node_that_beats_is_alive_until_it_leaves(self, store: Store) -> None:
        assert await store.beat(b"state", 60.0) == {store.node: b"state"}
        assert await store.beat(b"other", 60.0) == {store.node: b"other"}
        assert await store.beat(b"", 0.0) == {}

    async def test_a_node_does_not_hear_itself(self, store: Store) -> None:
        heard: list[tuple[str, str]] = []
        store.hear(lambda kind, body: heard.append((kind, body)))
        store.tell("word", "body")
        await store.put(job())
        await store.cancel("ada", "resp_a")
        await asyncio.sleep(0)
        assert heard == []

    # How it fares.

    async def test_at_rest_nothing_waits(self, store: Store) -> None:
        await store.put(job())
        statistics = store.statistics()
        assert (statistics.records, statistics.jobs, statistics.waiting) == (1, 1, 0)
        assert store.lag == 0
