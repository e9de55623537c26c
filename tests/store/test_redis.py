"""What only the Redis store does: connections, news, many nodes, a server with its own life."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from hub.errors import HubError
from hub.store import redis_calls, redis_checks
from hub.store.base import DELIVERY_HOLD, PATIENCE, Behind, Hold, Lease, Segment
from hub.store.redis import RedisStore
from hub.store.redis_records import MOST_PUSHED
from tests.redis_server import RedisServer, needs_redis, running_redis
from tests.store.contract import LEASE, answer, claimed, delivery, job, refused, segment

pytestmark = needs_redis

Node = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
async def node(redis_server: RedisServer, no_blocking: BlockBuster) -> AsyncIterator[Node]:
    """Start nodes on one Redis."""
    nodes: list[RedisStore] = []

    async def start(url: str = redis_server.url, **options: Callable[[], float]) -> RedisStore:
        store = RedisStore(url, **options)
        await store.start(time.time())
        nodes.append(store)
        return store

    yield start
    for store in nodes:
        await store.close()


@pytest.fixture
def restored(redis_server: RedisServer) -> Iterator[RedisServer]:
    """Redis, whose settings may be changed."""
    yield redis_server
    for setting in ("maxmemory 0", "maxmemory-policy noeviction"):
        redis_server.ask("CONFIG", "SET", *setting.split())
    redis_server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
    redis_server.ask("ACL", "DELUSER", "limited")
    redis_server.ask("REPLICAOF", "NO", "ONE")


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that Redis or the network is to bring about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def ask(server: RedisServer, *words: str) -> bytes:
    """A command to Redis from somebody else."""
    return await asyncio.to_thread(server.ask, *words)


async def ask_all(server: RedisServer, *commands: str) -> None:
    for command in commands:
        await ask(server, *command.split())


# The start.


async def test_an_address_without_a_redis_is_said_at_the_start() -> None:
    store = RedisStore("redis://:secret@127.0.0.1:1/2")
    with pytest.raises(HubError, match=r"cannot be reached.*Check that it runs") as caught:
        await store.start(0.0)
    assert caught.value.code == "store_unavailable"
    assert "secret" not in str(caught.value)
    assert store.place == "redis://127.0.0.1:1/2"
    await store.close()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1", "redis://127.0.0.1:port", "redis://127.0.0.1?no_such_option=1"],
)
def test_what_is_no_address_of_redis_is_refused(url: str) -> None:
    with pytest.raises(HubError, match="--store"):
        RedisStore(url)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"redis_version": "6.2.14"}, "Redis 6.2.14.*needs Redis 7.0"),
        ({"redis_version": "7.2.4", "valkey_version": "7.1.0"}, "Valkey 7.1.0"),
        ({"redis_version": "7.2.4", "cluster_enabled": "1"}, "Redis Cluster"),
        ({"redis_version": "7.2.4", "role": "slave"}, "replica.*primary"),
        ({"redis_version": "7.2.4", "loading": "1"}, "reading its files"),
        (
            {"redis_version": "7.2.4", "maxmemory": "9", "maxmemory_policy": "allkeys-lru"},
            "allkeys-lru.*CONFIG SET maxmemory-policy noeviction",
        ),
    ],
)
def test_a_redis_that_would_lose_responses_is_refused(info: dict[str, str], reason: str) -> None:
    with pytest.raises(HubError, match=reason):
        redis_checks.check_info("redis://there", info)


def test_a_redis_of_the_right_kind_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    for info in (
        {"redis_version": "7.0.15", "maxmemory": "0", "maxmemory_policy": "allkeys-lru"},
        {"redis_version": "7.2.4", "valkey_version": "9.1.0", "aof_enabled": "1"},
        {"redis_version": "8.0", "maxmemory": "9", "maxmemory_policy": "noeviction"},
    ):
        redis_checks.check_info("redis://there", info)
    assert not caplog.records


async def test_what_is_risky_is_logged_with_what_to_do(
    node: Node, restored: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await node()
    assert not caplog.records
    await ask(restored, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 60")
    await node()
    assert "client-output-buffer-limit" in caplog.messages[0]
    redis_checks.check_info("redis://there", {"redis_version": "7.2.4", "aof_enabled": "0"})
    assert "CONFIG SET appendonly yes" in caplog.messages[1]


async def test_a_real_redis_with_eviction_is_refused(node: Node, restored: RedisServer) -> None:
    await ask_all(restored, "CONFIG SET maxmemory-policy volatile-ttl", "CONFIG SET maxmemory 1gb")
    with pytest.raises(HubError, match="maxmemory-policy volatile-ttl"):
        await node()


async def test_a_user_of_few_rights_is_enough(
    node: Node, restored: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As on managed services: then nobody is asked how Redis is set up."""
    rights = "on >pass ~hub:* &hub:* +@all -@admin -@dangerous"
    await ask_all(restored, f"ACL SETUSER limited {rights}")
    url = restored.url.replace("//", "//limited:pass@")
    with pytest.raises(HubError, match="password"):
        await RedisStore(url.replace("pass", "wrong")).start(0.0)
    store = await node(url)
    assert store.place == restored.url
    assert len(caplog.messages) == 2
    assert all("See to it yourself" in message for message in caplog.messages)
    woken = asyncio.Event()
    store.follow("resp_a", woken.set)
    await store.put(job(), segment=segment(0, 0))
    await woken.wait()
    assert await store.get("ada", "resp_a") == job()


async def test_passwords_databases_and_sockets_are_in_the_address(
    tmp_path: Path, node: Node
) -> None:
    path = tmp_path / "redis.sock"
    with running_redis("--requirepass", "a b", "--unixsocket", str(path)) as server:
        one = await node(server.url.replace("//", "//:a%20b@").replace("/0", "/3"))
        same = await node(f"unix://{path}?db=3&password=a+b")
        other = await node(f"unix://{path}?password=a+b")
        assert same.place == f"unix://{path}"
        heard: list[str] = []
        for store in (same, other):
            store.hear(lambda kind, body: heard.append(body))
        await store.get("ada", "resp_a")
        await one.put(answer())
        assert await same.get("ada", "resp_a") == answer()
        assert await other.get("ada", "resp_a") is None
        one.tell("word", "of database 3")
        await until(lambda: heard)
        assert heard == ["of database 3"]
        for store in (one, same, other):
            await store.close()


# Connections.


async def test_calls_of_one_turn_are_written_together(node: Node) -> None:
    store = await node()
    before = store.statistics().commits
    for number in range(100):
        store.put(job(f"resp_{number}"))
    last = store.append("resp_99", 0, segment(0, 0))
    assert store.statistics().waiting == 101
    await last
    statistics = store.statistics()
    assert (statistics.waiting, statistics.commits) == (0, before + 1)
    assert statistics.last_commit > 0


async def test_a_restart_loses_nothing_and_repeats_what_may_be_repeated(
    node: Node, restored: RedisServer
) -> None:
    """Killed with calls on their way, before it has read them."""
    store = await node()
    await store.put(job())
    await claimed(store)
    restored.signal(signal.SIGSTOP)
    first = store.append("resp_a", 1, segment(0, 1))
    claim = store.claim("me", 100.0, LEASE, 1)
    await asyncio.sleep(0)
    restored.signal(signal.SIGKILL)
    await refused(claim, HubError)
    assert store.lag > 0
    later = store.claim("me", 100.0, LEASE, 1)
    second = store.append("resp_a", 1, segment(2, 2))
    assert not second.done()
    await asyncio.to_thread(restored.start)
    await asyncio.gather(first, second)
    assert await later == []
    assert await store.read("resp_a") == [segment(0, 1), segment(2, 2)]
    assert store.lag == 0


async def test_a_redis_that_does_not_answer_is_given_up_after_a_time(
    node: Node, restored: RedisServer
) -> None:
    """What has failed is not done later; what came later is; and while it is known to be out of
    reach, calls fail at once."""
    store = await node()
    await store.put(job())
    restored.signal(signal.SIGSTOP)
    try:
        early = store.append("resp_a", 0, segment(0, 0))
        late = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        loop.call_later(PATIENCE - 0.2, lambda: late.set_result(store.get("ada", "resp_a")))
        with pytest.raises(HubError) as caught:
            await early
        assert caught.value.code == "store_unavailable"
        assert caught.value.retry_after == 1.0
        assert "127.0.0.1" not in str(caught.value)
        assert not (await late).done()
        await refused(await late, HubError)
        await until(lambda: store.lag > PATIENCE)
        at_once = store.get("ada", "resp_a")
        assert at_once.done()
        await refused(at_once, HubError)
    finally:
        restored.signal(signal.SIGCONT)
    await until(lambda: not store.lag)
    assert await store.get("ada", "resp_a") == job()
    log = await store.read("resp_a")
    await store.append("resp_a", 0, segment(0, 0))
    assert log in ([], [segment(0, 0)])
    assert await store.read("resp_a") == [segment(0, 0)]


async def test_what_waits_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_calls, "MOST_WAITING", 10)
    store = await node()
    calls = [store.get("ada", "resp_a") for _ in range(10)]
    with pytest.raises(HubError, match="too many calls"):
        await store.get("ada", "resp_a")
    assert await asyncio.gather(*calls) == [None] * 10


async def test_scripts_that_redis_has_forgotten_are_loaded_and_the_order_stays(
    node: Node, redis_server: RedisServer
) -> None:
    store = await node()
    for _ in range(2):
        await store.delete("ada", "resp_a")
        await ask(redis_server, "SCRIPT", "FLUSH")
        store.put(job())
        claim = store.claim("me", 100.0, LEASE, 1)
        for number in range(20):
            store.append("resp_a", 1, segment(number, number))
        await asyncio.sleep(0)
        done = store.complete("resp_a", 1, status="completed", result=b"{}")
        log = store.read("resp_a")
        assert len(await claim) == 1
        await done
        assert len(await log) == 20


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["CONFIG SET maxmemory 1"], "out of memory"),
        (["REPLICAOF 127.0.0.1 1"], "replica"),
        (["SET hub:n word"], "refused"),
    ],
)
async def test_what_redis_refuses_is_an_error_with_its_reason(
    node: Node, restored: RedisServer, settings: list[str], reason: str
) -> None:
    store = await node()
    await ask_all(restored, *settings)
    with pytest.raises(HubError, match=reason) as caught:
        await store.put(job())
    assert caught.value.code == "store_unavailable"
    await ask_all(restored, "CONFIG SET maxmemory 0", "REPLICAOF NO ONE", "DEL hub:n")
    await store.put(job())


async def test_what_was_asked_before_closing_is_done(node: Node) -> None:
    store, other = await node(), await node()
    store.put(job())
    last = store.append("resp_a", 0, segment(0, 0))
    await store.close()
    assert last.done()
    await refused(store.get("ada", "resp_a"), HubError)
    assert await other.read("resp_a") == [segment(0, 0)]
    await store.close()


# Large things.


async def test_large_requests_results_and_segments_come_back(node: Node) -> None:
    store, other = await node(), await node()
    woken = asyncio.Event()
    other.follow("resp_a", woken.set)
    await other.read("resp_a")
    large = job(request=bytes(3_000_000))
    part = Segment(0, 9, bytes(MOST_PUSHED + 1))
    await store.put(large, segment=part)
    await woken.wait()
    assert await other.read("resp_a") == [part]
    assert await other.get("ada", "resp_a") == large
    await store.complete("resp_a", 0, status="completed", result=bytes(2_000_000), segment=part)
    assert await other.get("ada", "resp_a") == replace(
        large, status="completed", result=bytes(2_000_000)
    )


async def test_what_was_deleted_by_hand_stands_in_nobodys_way(
    node: Node, redis_server: RedisServer
) -> None:
    """The other jobs are claimed, also when their leases have lapsed, and what expires goes."""
    store = await node()
    for id in ("job_1", "job_2"):
        await store.put(job(id))
    await store.put(answer("answer", expires_at=200.0))
    await ask(redis_server, "DEL", "hub:r:job_1", "hub:r:answer")
    assert [one.id for one in await store.claim("me", 100.0, LEASE, 2)] == ["job_2"]
    await ask(redis_server, "DEL", "hub:r:job_2")
    await store.put(job("job_3"))
    later = 101.0 + LEASE
    assert [one.id for one in await store.claim("me", later, LEASE, 2)] == ["job_3"]
    await store.expire(200.0)


async def test_many_records_expire_and_many_leases_are_renewed_in_pieces(node: Node) -> None:
    store = await node()
    count = 450
    for number in range(count):
        store.put(answer(f"answer_{number}", expires_at=200.0))
        store.put(job(f"job_{number:03}"))
    jobs = await store.claim("me", 100.0, LEASE, count)
    assert len(jobs) == count
    store.cancel("ada", "job_007")
    store.cancel("ada", "job_321")
    leases = [Lease(one.id, one.attempt) for one in jobs]
    assert await store.renew(leases, 101.0, LEASE) == [leases[7], leases[321]]
    assert await store.expire(200.0) == count
    assert store.statistics().records == count


# News.


async def test_a_follower_on_another_node_is_answered_without_asking_redis(
    node: Node, redis_server: RedisServer
) -> None:
    writer, reader = await node(), await node()
    await writer.put(job(), segment=segment(0, 0))
    woken = asyncio.Event()
    reader.follow("resp_a", woken.set)
    assert await reader.read("resp_a") == [segment(0, 0)]
    # It was read before the subscription was confirmed: whatever came in between is asked for.
    await woken.wait()
    assert await reader.read("resp_a", 0) == []
    await ask(redis_server, "CONFIG", "RESETSTAT")
    cursor = 0
    for number in range(1, 50):
        woken.clear()
        await writer.append("resp_a", 0, segment(number, number))
        await woken.wait()
        news = await reader.read("resp_a", cursor)
        assert news == [segment(number, number)]
        cursor = number
    assert b"xrange" not in await ask(redis_server, "INFO", "commandstats")
    assert len(await reader.read("resp_a")) == 50


async def test_the_end_and_the_deletion_of_a_job_wake_on_another_node(node: Node) -> None:
    writer, reader = await node(), await node()
    for end in (
        lambda: writer.complete(
            "resp_a", 0, status="failed", result=b"", segment=segment(1, 1), deliveries=[]
        ),
        lambda: writer.delete("ada", "resp_a"),
    ):
        await writer.put(job(), segment=segment(0, 0))
        woken = asyncio.Event()
        unfollow = reader.follow("resp_a", woken.set)
        await reader.read("resp_a")
        await woken.wait()
        woken.clear()
        await end()
        await woken.wait()
        record = await reader.get("ada", "resp_a")
        log = await reader.read("resp_a", 0)
        assert (record is None) is (log == [])
        assert record is None or record.result is not None
        unfollow()
        await writer.delete("ada", "resp_a")


async def test_a_message_that_was_lost_is_made_good(node: Node, redis_server: RedisServer) -> None:
    """The log grows without a word of it."""
    reader = await node()
    await reader.put(job(), segment=segment(0, 0))
    woken = asyncio.Event()
    reader.follow("resp_a", woken.set)
    await ask(redis_server, "XADD", "hub:l:resp_a", "2-1", "b", "1-1")
    await woken.wait()
    assert await reader.read("resp_a", 0) == [segment(1, 1)]


async def test_a_message_that_was_lost_before_another_is_found(
    node: Node, redis_server: RedisServer
) -> None:
    writer, reader = await node(), await node()
    await writer.put(job(), segment=segment(0, 0))
    woken = asyncio.Event()
    reader.follow("resp_a", woken.set)
    await reader.read("resp_a")
    await woken.wait()
    woken.clear()
    await ask(redis_server, "XADD", "hub:l:resp_a", "2-1", "b", "1-1")
    await ask(redis_server, "HSET", "hub:r:resp_a", "last", "1")
    await writer.append("resp_a", 0, segment(2, 2))
    await woken.wait()
    assert await reader.read("resp_a", 0) == [segment(1, 1), segment(2, 2)]


async def test_after_a_cut_followers_are_woken_and_messages_come_again(
    node: Node, redis_server: RedisServer
) -> None:
    writer, reader = await node(), await node()
    await writer.put(job(), segment=segment(0, 0))
    woken = asyncio.Event()
    heard: list[tuple[str, str]] = []
    reader.follow("resp_a", woken.set)
    reader.hear(lambda kind, body: heard.append((kind, body)))
    await reader.read("resp_a")
    await woken.wait()
    woken.clear()
    await ask(redis_server, "CLIENT", "KILL", "TYPE", "pubsub")
    await writer.append("resp_a", 0, segment(1, 1))
    await woken.wait()
    cursor = 0
    for number in range(2, 20):
        await writer.append("resp_a", 0, segment(number, number))
    while cursor < 19:
        for part in await reader.read("resp_a", cursor):
            assert part == segment(cursor + 1, cursor + 1)
            cursor = part.last
        await asyncio.sleep(0)
    while ("word", "body") not in heard:
        writer.tell("word", "body")
        await writer.get("ada", "resp_a")
    assert set(heard) == {("missed", ""), ("word", "body")}


async def test_who_no_longer_follows_is_not_told(node: Node, redis_server: RedisServer) -> None:
    store = await node()
    for _ in range(3):
        unfollow = store.follow("resp_a", lambda: None)
        unfollow()
    store.follow("resp_b", lambda: None)

    async def channels() -> bytes:
        return await ask(redis_server, "PUBSUB", "SHARDCHANNELS", "hub:c:resp_*")

    found = b""
    while b"resp_b" not in found:
        found = await channels()
    assert b"resp_a" not in found


async def test_a_reader_who_never_reads_costs_no_more_than_a_bound(node: Node) -> None:
    writer, reader = await node(), await node()
    await writer.put(job())
    woken: list[int] = []
    reader.follow("resp_a", lambda: woken.append(1))
    body = bytes(60_000)
    for number in range(40):
        await writer.append("resp_a", 0, Segment(number, number, body))
    await until(lambda: woken)
    assert [one.last for one in await reader.read("resp_a")] == list(range(40))


# Nodes.


async def test_nodes_tell_each_other(node: Node) -> None:
    one, two = await node(), await node()
    heard: list[tuple[str, str]] = []
    two.hear(lambda kind, body: heard.append((kind, body)))
    two.hear(lambda kind, body: heard.append((kind.upper(), body)))
    while not heard:  # Until it is subscribed.
        one.tell("ready", "")
        await one.get("ada", "resp_a")
    heard.clear()
    two.tell("word", "of its own")
    await two.put(job("resp_own"))
    one.tell("word", "a b  c")
    held = job("resp_h", status="in_progress", attempt=1)
    one.put(held, hold=Hold("me", 1e10))
    one.put(answer("resp_e"))
    one.put(job("resp_a"))
    one.put(job("resp_a"))
    one.cancel("bob", "resp_a")
    one.cancel("ada", "resp_a")
    one.cancel("ada", "resp_a")
    one.release("resp_a", 0)
    one.release("resp_h", 1)
    await until(lambda: ("job", "resp_h") in heard)
    expected = [
        ("word", "a b  c"),
        ("job", "resp_a"),
        ("cancel", "resp_a"),
        ("job", "resp_h"),
    ]
    assert [said for said in heard if said[0].islower() and said[0] != "ready"] == expected


async def test_nodes_know_who_is_alive(node: Node) -> None:
    one, two = await node(), await node()
    assert await one.beat(b"\x00one", 60.0) == {one.node: b"\x00one"}
    both = {one.node: b"\x00one", two.node: b"two"}
    assert await two.beat(b"two", 60.0) == both
    assert await one.beat(b"", 0.0) == {two.node: b"two"}
    await one.beat(b"brief", 0.001)
    await until(lambda: time.time() > began + 0.002) if (began := time.time()) else None
    assert await two.beat(b"two", 60.0) == {two.node: b"two"}


async def test_a_webhook_is_one_nodes_until_its_hold_ends(node: Node) -> None:
    one, two = await node(), await node()
    await one.put(job())
    hooks = [delivery("a", 101.0), delivery("b", 102.0), delivery("c", 103.0)]
    await one.complete("resp_a", 0, status="failed", result=b"", deliveries=hooks)
    assert await one.deliveries(103.0, 2) == hooks[:2]
    assert await two.deliveries(103.0, 2) == hooks[2:]
    assert await one.deliveries(104.0, 9) == hooks[:2]
    assert await two.deliveries(103.0 + DELIVERY_HOLD, 9) == hooks[2:]
    assert await two.deliveries(104.0 + DELIVERY_HOLD, 9) == hooks
    assert await one.deliveries(104.0 + DELIVERY_HOLD, 9) == []
    await one.delivered("a")
    assert await two.deliveries(104.0 + DELIVERY_HOLD, 9) == hooks[1:]


async def test_leases_are_made_by_one_clock(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """One node's clock is 100 s ahead."""
    ahead, right = await node(clock=lambda: time.time() + 100.0), await node()
    assert [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "-100.0" in caplog.messages[0]
    now = time.time()
    await ahead.put(job("resp_a", attempt=1), hold=Hold("ahead", now + 100.0 + LEASE))
    await right.put(job("resp_b"))
    assert [one.id for one in await ahead.claim("ahead", now + 100.0, LEASE, 9)] == ["resp_b"]
    assert await right.claim("right", now + LEASE - 5.0, LEASE, 9) == []
    await ahead.renew([Lease("resp_a", 1)], now + 105.0, LEASE)
    found = await right.claim("right", now + LEASE + 3.0, LEASE, 9)
    assert [one.id for one in found] == ["resp_b"]


async def test_a_log_that_redis_has_lost_the_end_of_is_written_again(
    node: Node, redis_server: RedisServer
) -> None:
    """As after a failover to a replica that had not got it yet."""
    store = await node()
    await store.put(job())
    for number in range(5):
        await store.append("resp_a", 0, segment(number, number))
    await ask(redis_server, "XDEL", "hub:l:resp_a", "4-3", "5-4")
    await ask(redis_server, "XSETID", "hub:l:resp_a", "3-2")
    await ask(redis_server, "HSET", "hub:r:resp_a", "last", "2")
    behind: list[int] = []
    with pytest.raises(Behind, match="from 3 to 4") as caught:
        await store.append("resp_a", 0, segment(5, 5))
    behind.append(caught.value.last)
    with pytest.raises(Behind) as caught:
        await store.complete("resp_a", 0, status="failed", result=b"", segment=segment(5, 5))
    behind.append(caught.value.last)
    assert behind == [2, 2]
    await store.append("resp_a", 0, segment(3, 4))
    await store.append("resp_a", 0, segment(5, 5))
    assert [one.last for one in await store.read("resp_a")] == [0, 1, 2, 4, 5]


async def test_what_a_restart_has_lost_of_the_last_seconds_is_made_once_more(
    no_blocking: BlockBuster,
) -> None:
    with running_redis("--appendonly", "no") as server:
        store, other = RedisStore(server.url), RedisStore(server.url)
        for one in (store, other):
            await one.start(time.time())
        held = job("resp_a", status="in_progress", background=False, attempt=1)
        await store.put(held, segment=segment(0, 1), hold=Hold("me", 200.0))
        await store.append("resp_a", 1, segment(2, 3))
        await other.put(job("resp_b"))
        [claimed_b] = await other.claim("you", 100.0, LEASE, 1)
        await other.append("resp_b", 1, segment(0, 4))
        await store.put(job("resp_c"))
        await store.complete(
            "resp_c", 0, status="completed", result=b"{}", deliveries=[delivery("evt_1")]
        )
        await store.put(answer("resp_d"))
        heard: list[tuple[str, str]] = []
        for one in (store, other):
            one.hear(lambda kind, body: heard.append((kind, body)))
        assert await other.delete("ada", "resp_d")
        other.tell("deleted", "resp_d")
        await until(lambda: ("deleted", "resp_d") in heard)

        await asyncio.to_thread(server.signal, signal.SIGKILL)
        await asyncio.to_thread(server.start, "--appendonly", "no")
        await until(lambda: heard.count(("missed", "")) == 2)

        assert await store.get("ada", "resp_a") == held
        assert await store.read("resp_a") == [segment(0, 1), segment(2, 3)]
        ended = job("resp_c", status="completed", result=b"{}")
        assert await store.get("ada", "resp_c") == ended
        assert await store.deliveries(100.0, 9) == [delivery("evt_1")]
        assert await store.get("ada", "resp_d") is None
        await other.append("resp_b", 1, segment(5, 5))
        assert await other.get("ada", "resp_b") == claimed_b
        assert [one.last for one in await other.read("resp_b")] == [4, 5]
        for one in (store, other):
            await one.close()
