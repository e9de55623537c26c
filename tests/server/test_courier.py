"""The courier: when it tries in virtual time, and what it sends over a socket in real time."""

import asyncio
import logging
import math
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientConnectorDNSError, web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer
from blockbuster import BlockBuster
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI

from hub.errors import HubError
from hub.server.courier import (
    ANSWER,
    AT_ONCE,
    FAILURES,
    HORIZON,
    PAUSE,
    SHARED_HORIZON,
    Courier,
    Post,
    PublicResolver,
    open_transport,
    public_socket,
)
from hub.server.webhooks import LIFETIME, Endpoint, backoff, deliveries_of
from hub.store.base import DELIVERY_HOLD, Delivery, Record
from hub.store.memory import MemoryStore
from tests.virtual import virtual

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
START = 1_795_466_984.0
"""The wall clock when virtual time is 0."""
A, B = "https://a.example/hook?token=private", "https://b.example/hook"


def wall() -> float:
    return START + asyncio.get_running_loop().time()


def elapsed() -> float:
    return asyncio.get_running_loop().time()


class WatchedStore(MemoryStore):
    """A store that tells what it was asked, and can be slow or out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[float] = []
        self.due: dict[str, float] = {}
        """When a try of each row is allowed."""
        self.forgotten: list[str] = []
        self.empty = asyncio.Event()
        self.latency: Callable[[], float] | None = None
        self.failures: list[Exception] = []
        """Of the next calls, one each."""

    async def add(self, rows: Sequence[Delivery]) -> None:
        """Let a response end."""
        id = f"resp_{len(self.due)}"
        record = Record(id, "tenant", "queued", True, START, math.inf, b"{}")
        await self.put(record)
        [claimed] = await self.claim("me", START, 60, 1)
        done = self.complete(id, claimed.attempt, status="completed", result=b"{}", deliveries=rows)
        await done
        self.due |= {row.id: row.next_at for row in rows}

    def deliveries(self, now: float, limit: int) -> asyncio.Future[Sequence[Delivery]]:
        self.reads.append(elapsed())
        return self._faulty(lambda: super(WatchedStore, self).deliveries(now, limit))

    def retry(self, id: str, next_at: float) -> asyncio.Future[None]:
        def work() -> asyncio.Future[None]:
            self.due[id] = next_at
            return super(WatchedStore, self).retry(id, next_at)

        return self._faulty(work)

    def delivered(self, id: str) -> asyncio.Future[None]:
        def work() -> asyncio.Future[None]:
            self.forgotten.append(id)
            done = super(WatchedStore, self).delivered(id)
            if not super(WatchedStore, self).deliveries(math.inf, 1).result():
                self.empty.set()
            return done

        return self._faulty(work)

    def _faulty(self, work: Callable[[], asyncio.Future[Any]]) -> asyncio.Future[Any]:
        """It takes effect now, or not at all; the caller hears of it later."""
        loop = asyncio.get_running_loop()
        if self.failures:
            failed: asyncio.Future[Any] = loop.create_future()
            failed.set_exception(self.failures.pop(0))
            return failed
        done = work()
        if self.latency is None:
            return done
        late: asyncio.Future[Any] = loop.create_future()

        def tell() -> None:
            if not late.done():
                late.set_result(done.result())

        loop.call_later(self.latency(), tell)
        return late


@dataclass(frozen=True)
class Try:
    """A POST."""

    at: float
    """Seconds of virtual time."""
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Wire:
    """A transport to nowhere: its answers are those of a function."""

    def __init__(self, answer: Callable[[Try], Awaitable[int]]) -> None:
        self._answer = answer
        self.tries: list[Try] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        """Tries that ran at once, by URL."""
        self.tried = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Post]:
        yield self._post

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        one = Try(elapsed(), url, headers, body)
        self.tries.append(one)
        self.tried.set()
        self.running[url] += 1
        self.most[url] = max(self.most[url], self.running[url])
        try:
            return await self._answer(one)
        finally:
            self.running[url] -= 1


def answers(*statuses: int) -> Callable[[Try], Awaitable[int]]:
    """These, one after the other, then the last one again and again."""
    rest = list(statuses)

    async def answer(_: Try) -> int:
        return rest.pop(0) if len(rest) > 1 else rest[0]

    return answer


async def hang(_: Try) -> int:
    """What the timeout makes of a receiver that does not answer."""
    await asyncio.sleep(10)
    raise TimeoutError


@asynccontextmanager
async def running(
    store: MemoryStore, wire: Wire, *urls: str, chance: float = 0.5, **options: Any
) -> AsyncIterator[Courier]:
    await store.start(START)
    courier = Courier(
        store,
        [Endpoint(url, SECRET) for url in urls or (A, B)],
        now=wall,
        transport=wire.open,
        **{"chance": lambda: chance, **options},
    )
    courier.start()
    try:
        yield courier
    finally:
        await courier.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def rows(*urls: str, at: float = START, number: int = 1) -> list[Delivery]:
    """So many rows for each URL."""
    endpoints = [Endpoint(url, SECRET) for url in urls or (A,)]
    found: list[Delivery] = []
    for n in range(number):
        found += deliveries_of(endpoints, f"resp_{n}", "completed", at)
    return found


def totals(courier: Courier) -> SimpleNamespace:
    """Its statistics, of all endpoints together."""
    said = asdict(courier.statistics())
    return SimpleNamespace(**{name: sum(counts.values()) for name, counts in said.items()})


# In virtual time: when.


@virtual
async def test_it_delivers_when_it_is_woken() -> None:
    store, wire = WatchedStore(), Wire(answers(204))
    async with running(store, wire) as courier:
        await asyncio.sleep(100)
        assert len(store.reads) == 1
        news = rows(A, B, at=wall())
        await store.add(news)
        courier.wake()
        await store.empty.wait()
        assert elapsed() == 100
        assert {one.url: (one.id, one.body) for one in wire.tries} == {
            row.url: (row.id, row.body) for row in news
        }
        statistics = courier.statistics()
        none, one = {"0": 0, "1": 0}, {"0": 1, "1": 1}
        assert (statistics.held, statistics.tried, statistics.delivered) == (none, one, one)
        assert (statistics.failed, statistics.given_up) == (none, none)


@virtual
async def test_it_does_not_poll() -> None:
    """A day without webhooks, and one of which the next try is hours away."""
    store, wire = WatchedStore(), Wire(answers(200))
    async with running(store, wire):
        await store.add(rows(at=START + 36_000))
        await asyncio.sleep(86_400)
        assert [one.at for one in wire.tries] == [pytest.approx(36_000)]
        assert len(store.reads) <= 86_400 / HORIZON + 3


@virtual
async def test_what_fails_is_tried_until_it_succeeds() -> None:
    store, wire = WatchedStore(), Wire(answers(500, 301, 404, 200))
    async with running(store, wire) as courier:
        await store.add(rows())
        courier.wake()
        await store.empty.wait()
        delays = [backoff(tries, 0.5) for tries in range(3)]
        expected = [0, *(sum(delays[:n]) for n in (1, 2, 3))]
        assert [one.at for one in wire.tries] == pytest.approx(expected)
        # The same event, signed anew.
        assert len({(one.id, one.body) for one in wire.tries}) == 1
        for one in wire.tries:
            assert int(one.headers["webhook-timestamp"]) == pytest.approx(START + one.at, abs=1.01)
        assert len({one.headers["webhook-signature"] for one in wire.tries}) == 4
        statistics = totals(courier)
        assert (statistics.delivered, statistics.failed, statistics.given_up) == (1, 3, 0)


@virtual
async def test_it_gives_up_after_the_lifetime(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hub")
    store, wire = WatchedStore(), Wire(answers(503))
    async with running(store, wire, chance=0.9) as courier:
        await store.add(rows())
        courier.wake()
        await store.empty.wait()
        assert LIFETIME - backoff(100, 0.9) < elapsed() <= LIFETIME
        assert totals(courier).given_up == 1
        tries = len(wire.tries)
        assert totals(courier).failed == tries
        assert sum(backoff(n, 0.9) for n in range(tries)) > LIFETIME
        await asyncio.sleep(LIFETIME)
        assert len(wire.tries) == tries
    [given_up] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert given_up.getMessage().endswith(f"to a.example is given up: try {tries}")
    assert "private" not in caplog.text


@virtual
async def test_what_is_older_than_the_lifetime_has_one_try() -> None:
    """hub was down for days."""
    store, wire = WatchedStore(), Wire(answers(503, 200))
    async with running(store, wire) as courier:
        await store.add(rows(A, at=START - 2 * LIFETIME, number=2))
        courier.wake()
        await store.empty.wait()
        assert elapsed() == 0
        statistics = totals(courier)
        assert (statistics.delivered, statistics.given_up) == (1, 1)


@virtual
async def test_gone_is_given_up_at_once() -> None:
    store, wire = WatchedStore(), Wire(answers(410))
    async with running(store, wire) as courier:
        await store.add(rows())
        courier.wake()
        await store.empty.wait()
        assert len(wire.tries) == 1
        assert totals(courier).given_up == 1


@virtual
async def test_an_endpoint_that_hangs_delays_no_other() -> None:
    """Not even with a long backlog that has been due for longer."""
    store, wire = WatchedStore(), Wire(lambda one: hang(one) if one.url == A else ok(one))
    async with running(store, wire) as courier:
        await store.add(rows(A, number=3000))
        await store.add(rows(B, at=START + 1))
        courier.wake()
        await wire.tried.wait()
        await asyncio.sleep(2)
        assert [one.at for one in wire.tries if one.url == B] == [pytest.approx(1, abs=1)]
        assert wire.most == {A: AT_ONCE, B: 1}


async def ok(_: Try) -> int:
    return 200


@virtual
async def test_tries_of_an_endpoint_are_bounded() -> None:
    async def slow(_: Try) -> int:
        await asyncio.sleep(1)
        return 200

    store, wire = WatchedStore(), Wire(slow)
    async with running(store, wire) as courier:
        await store.add(rows(A, B, number=10 * AT_ONCE))
        courier.wake()
        await store.empty.wait()
        assert wire.most == {A: AT_ONCE, B: AT_ONCE}
        # The workers are never idle, so a backlog takes as long as it must.
        assert elapsed() == pytest.approx(10, abs=0.5)


@virtual
async def test_a_backlog_beyond_what_is_held_is_read_as_there_is_room() -> None:
    store, wire = WatchedStore(), Wire(ok)
    async with running(store, wire, most_held=10) as courier:
        await store.add(rows(number=1000))
        courier.wake()
        await wire.tried.wait()
        assert totals(courier).held <= 10
        await store.empty.wait()
        assert elapsed() < 10


@virtual
async def test_what_is_due_survives_a_restart() -> None:
    """A try that was cut off is repeated, one that failed waits for its time."""
    store, wire = WatchedStore(), Wire(lambda one: hang(one) if one.url == A else failing(one))
    failing = answers(500)
    async with running(store, wire) as courier:
        await store.add(rows(A, B))
        courier.wake()
        await asyncio.sleep(1)
    assert len(wire.tries) == 2
    again = Wire(answers(200))
    async with running(store, again):
        await store.empty.wait()
    assert [(one.url, one.at) for one in again.tries] == [(A, 1), (B, pytest.approx(5))]
    assert {one.id for one in again.tries} == {one.id for one in wire.tries}


@virtual
async def test_a_url_that_is_not_configured_may_come_back() -> None:
    store, wire = WatchedStore(), Wire(answers(200))
    await store.start(START)
    await store.add(rows(A))
    async with running(store, wire, B) as courier:
        await asyncio.sleep(3600)
        assert wire.tries == []
        assert totals(courier).failed > 5
    async with running(store, wire, A):
        await store.empty.wait()


@virtual
async def test_counts_are_by_endpoint_and_tell_no_url() -> None:
    """By its place in the configuration, however often it is there; all others are ``none``."""
    store, wire = WatchedStore(), Wire(answers(200))
    await store.start(START)
    await store.add(rows(A, B))
    endpoints = [Endpoint(A, SECRET), Endpoint(A, SECRET + "YWJj")]
    courier = Courier(store, endpoints, now=wall, chance=lambda: 0.9, transport=wire.open)
    assert courier.statistics().held == {"0": 0}
    courier.start()
    await wire.tried.wait()
    await asyncio.sleep(1)
    statistics = courier.statistics()
    await courier.stop()
    assert statistics.tried == {"0": 1, "none": 1}
    assert statistics.delivered == {"0": 1, "none": 0}
    assert statistics.failed == {"0": 0, "none": 1}
    assert "example" not in repr(statistics)


@virtual
async def test_without_endpoints_what_is_left_is_given_up_in_the_end() -> None:
    store, wire = WatchedStore(), Wire(answers(200))
    await store.start(START)
    await store.add(rows(A))
    courier = Courier(store, [], now=wall, chance=lambda: 0.5, transport=wire.open)
    courier.start()
    await store.empty.wait()
    assert elapsed() == pytest.approx(LIFETIME, rel=0.1)
    assert totals(courier).given_up == 1
    await courier.stop()


@virtual
async def test_a_store_that_fails_is_asked_again_and_nothing_is_sent_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = HubError("store_unavailable", "The disk is full.")
    store, wire = WatchedStore(), Wire(answers(200))
    async with running(store, wire) as courier:
        await store.add(rows())
        store.failures = [full, RuntimeError("a defect"), full]
        courier.wake()
        await wire.tried.wait()
        assert elapsed() == 3 * PAUSE
        store.failures = [full, full]
        # Reads in between still see the row.
        for _ in range(5):
            await asyncio.sleep(1)
            courier.wake()
        await store.empty.wait()
        assert elapsed() == 4 * PAUSE
        assert len(wire.tries) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("webhooks wait for the store: The disk is full.") == 3
    assert messages.count("webhooks wait for the store") == 1


@virtual
async def test_a_defect_of_one_try_is_a_failure_of_that_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def defect(_: Try) -> int:
        if len(wire.tries) == 1:
            raise RuntimeError("a defect")
        return 200

    store, wire = WatchedStore(), Wire(defect)
    async with running(store, wire) as courier:
        await store.add(rows())
        courier.wake()
        await store.empty.wait()
        assert totals(courier).failed == 1
    assert "a defect" in caplog.text


@virtual
async def test_a_courier_that_dies_says_so(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Post]:
        raise RuntimeError("no sockets")
        yield  # pragma: no cover

    store = WatchedStore()
    await store.start(START)
    courier = Courier(store, [], transport=broken)
    courier.start()
    await asyncio.sleep(0.1)
    assert "webhooks are no longer delivered" in caplog.text
    await courier.stop()


@virtual
async def test_what_another_node_has_left_is_found_within_the_horizon() -> None:
    """And while nothing is left, its own rows are asked for before they are anybody's again."""
    store, wire = WatchedStore(), Wire(answers(204))
    async with running(store, wire, horizon=SHARED_HORIZON):
        await asyncio.sleep(100)
        await store.add(rows())
        await store.empty.wait()
        assert elapsed() <= 100 + SHARED_HORIZON + 1
        pauses = [later - sooner for sooner, later in pairwise(store.reads)]
        assert max(pauses) < DELIVERY_HOLD


@virtual
async def test_a_courier_may_stop_before_it_began() -> None:
    store = WatchedStore()
    await store.start(START)
    courier = Courier(store, [])
    await courier.stop()
    courier.start()
    await courier.stop()
    assert store.reads == []


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 300), st.sampled_from([2, 10, 1000]))
@virtual
async def test_whatever_happens_each_is_tried_when_due_until_it_is_settled(
    seed: int, number: int, most_held: int
) -> None:
    """Over a slow store, with answers and failures at random: one try at a time, none before its
    time, none after the end, as many as the store has counted."""
    world = random.Random(seed)
    running_ids: set[str] = set()
    settled: set[str] = set()
    # Not asserted there: to the courier that would be a try that failed.
    wrong: list[str] = []

    async def answer(one: Try) -> int:
        if one.id in running_ids:
            wrong.append("tried twice at once")
        if one.id in settled:
            wrong.append("tried after its end")
        if START + one.at < store.due[one.id] - 1e-6:
            wrong.append("tried before it is due")
        running_ids.add(one.id)
        await asyncio.sleep(world.random())
        running_ids.discard(one.id)
        if world.random() < 0.2:
            raise ConnectionResetError
        status = world.choice([200, 500, 410])
        if status != 500:
            settled.add(one.id)
        return status

    store, wire = WatchedStore(), Wire(answer)
    store.latency = world.random
    async with running(store, wire, chance=0.01, most_held=most_held) as courier:
        left = [
            row
            for _ in range(number)
            for row in rows(world.choice((A, B)), at=START + 100 * world.random())
        ]
        every = {row.id for row in left}
        while left:
            count = world.randint(1, len(left))
            await store.add(left[:count])
            del left[:count]
            courier.wake()
            await asyncio.sleep(10 * world.random())
        while len(store.forgotten) < number:
            store.empty.clear()
            await store.empty.wait()
        await asyncio.sleep(2)
        statistics = totals(courier)
        assert statistics.held == 0
        assert statistics.delivered + statistics.given_up == number
        assert statistics.failed + number == len(wire.tries)
        assert statistics.tried == len(wire.tries)
    assert wrong == []
    assert sorted(store.forgotten) == sorted(every)
    assert max(wire.most.values()) <= AT_ONCE


# Over sockets: what.


@dataclass(frozen=True)
class Received:
    """A request, as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """A server on loopback, whose answers are those of a function."""

    def __init__(self, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        self._answer = answer
        self.received: list[Received] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(app, host="127.0.0.1")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(
            Received(request.method, request.path_qs, headers, await request.read())
        )
        return await self._answer(request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        assert self._server.port is not None
        return self._server.port

    async def __aenter__(self) -> "Receiver":
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


def replies(status: int, **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    return answer


async def test_what_arrives_is_accepted_by_the_sdk(no_blocking: BlockBuster) -> None:
    store = WatchedStore()
    await store.start(0)
    async with Receiver(replies(200)) as receiver:
        endpoint = Endpoint(f"{receiver.url}/hook?a=b%20c", SECRET)
        courier = Courier(store, [endpoint], allow_private=True)
        courier.start()
        await store.add(deliveries_of([endpoint], "resp_1", "incomplete", time.time()))
        courier.wake()
        await store.empty.wait()
        await courier.stop()
    [received] = receiver.received
    assert (received.method, received.path) == ("POST", "/hook?a=b%20c")
    assert received.headers["content-type"] == "application/json"
    assert received.headers["content-length"] == str(len(received.body))
    with OpenAI(api_key="none") as client:
        event = client.webhooks.unwrap(received.body, received.headers, secret=SECRET)
    assert event.type == "response.incomplete"
    assert event.data.id == "resp_1"


@pytest.mark.parametrize("status", [200, 204, 301, 307, 401, 410, 500])
async def test_no_redirect_is_followed(status: int) -> None:
    async with (
        Receiver(replies(status, Location="/elsewhere")) as receiver,
        open_transport(allow_private=True) as post,
    ):
        assert await post(f"{receiver.url}/hook", {}, b"{}") == status
        assert [one.path for one in receiver.received] == ["/hook"]


async def test_no_proxy_and_no_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    async with (
        Receiver(replies(200, **{"Set-Cookie": "a=b"})) as receiver,
        open_transport(allow_private=True) as post,
    ):
        for _ in range(2):
            # A name, as cookie jars take none from addresses.
            assert await post(f"http://localhost:{receiver.port}", {}, b"{}") == 200
        assert all("cookie" not in one.headers for one in receiver.received)
        assert all("authorization" not in one.headers for one in receiver.received)


async def test_an_endless_answer_is_cut_off() -> None:
    sent = 0
    broken_off = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(ANSWER))
                sent += ANSWER
        finally:
            broken_off.set()

    async with Receiver(endless) as receiver, open_transport(allow_private=True) as post:
        assert await post(receiver.url, {}, b"{}") == 200
        await broken_off.wait()
    # The socket's buffers hold some of it, too.
    assert sent < 256 * ANSWER


async def test_an_answer_that_breaks_off_is_an_answer() -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"12345")
        assert request.transport is not None
        request.transport.close()
        return response

    async with Receiver(breaks) as receiver, open_transport(allow_private=True) as post:
        assert await post(receiver.url, {}, b"{}") == 200


async def test_a_receiver_that_is_silent_times_out() -> None:
    silent = asyncio.Event()

    async def wait(_: web.Request) -> web.StreamResponse:
        await silent.wait()
        return web.Response()

    async with (
        Receiver(wait) as receiver,
        open_transport(allow_private=True, patience=0.05) as post,
    ):
        with pytest.raises(TimeoutError):
            await post(receiver.url, {}, b"{}")
        silent.set()


async def test_a_server_that_speaks_no_tls_or_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with (
            Receiver(replies(200)) as receiver,
            open_transport(allow_private=True) as post,
        ):
            for url in (
                f"https://127.0.0.1:{receiver.port}",
                f"http://127.0.0.1:{unused.getsockname()[1]}",
            ):
                with pytest.raises(FAILURES):
                    await post(url, {}, b"{}")
            assert receiver.received == []


@pytest.mark.parametrize("host", ["localhost", "0x7f.1", "0x7f000001"])
async def test_a_name_that_resolves_to_private_addresses_is_refused(host: str) -> None:
    async with Receiver(replies(200)) as receiver, open_transport() as post:
        with pytest.raises(ClientConnectorDNSError, match="not a public address"):
            await post(f"http://{host}:{receiver.port}/", {}, b"{}")
        assert receiver.received == []


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "[::]"),
        # aiohttp resolves none of these, and has refused some of them since 3.14.
        *("2130706433", "017700000001", "127.1", "127.0.0.1.", "\uff11\uff12\uff17.0.0.1"),
    ],
)
async def test_a_private_address_is_refused_at_the_connection(host: str) -> None:
    """Whatever was configured: the transport takes any URL."""
    async with Receiver(replies(200)) as receiver, open_transport() as post:
        with pytest.raises(FAILURES, match="not a"):
            await post(f"http://{host}:{receiver.port}/", {}, b"{}")
        assert receiver.received == []


class Names(AbstractResolver):
    """A resolver with one answer."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=one, port=port, family=family, proto=0, flags=0)
            for one in self._addresses
        ]

    async def close(self) -> None:
        self._addresses = ()


async def test_a_name_with_one_private_address_does_not_resolve() -> None:
    public = PublicResolver(Names("8.8.8.8", "2606:4700::1"))
    assert [one["host"] for one in await public.resolve("h", 443)] == ["8.8.8.8", "2606:4700::1"]
    await public.close()
    assert await public.resolve("h") == []
    for private in ("10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "fe80::1%eth0", "1"):
        with pytest.raises(OSError, match="not a public address"):
            await PublicResolver(Names("8.8.8.8", private)).resolve("h")


def test_a_socket_is_for_a_public_address() -> None:
    """The last door, for what no resolver has seen."""
    kind, protocol = socket.SOCK_STREAM, socket.IPPROTO_TCP
    public_socket((socket.AF_INET, kind, protocol, "", ("8.8.8.8", 443))).close()
    for family, host in (
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "2130706433"),
        (socket.AF_INET6, "::ffff:127.0.0.1"),
        (socket.AF_INET6, "64:ff9b::7f00:1"),
    ):
        with pytest.raises(OSError, match="not a public address"):
            public_socket((family, kind, protocol, "", (host, 443)))
