"""The parts of an exchange that the upstream engine's tests do not reach."""

import asyncio

import pytest

from hub.engines.base import PAUSE, UNNOTED, Notes, Unnoted
from hub.engines.exchange import MAX_HEAD, Exchange, Target
from hub.errors import HubError
from tests.engines.scripted import Peer, replies, serve
from tests.virtual import virtual

OK = b"HTTP/1.1 200 OK\r\n"


class Collected:
    """An answer that is kept."""

    def __init__(self, *, enough: int | None = None, limit: float | None = None) -> None:
        self.enough = enough
        self.limit = limit
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.done = False

    def head(self, status: int, headers: dict[str, str]) -> float | None:
        self.status, self.headers = status, headers
        return None

    def feed(self, data: bytes) -> float | None:
        self.body += data
        self.done = self.enough is not None and len(self.body) >= self.enough
        return self.limit


async def ask(
    url: str,
    answer: Collected,
    *,
    body: bytes = b"{}",
    idle: float = 5.0,
    notes: Notes = UNNOTED,
) -> None:
    target = Target(f"{url}/v1", {})
    exchange = Exchange(target.request("x", body), answer, idle_timeout=idle, notes=notes)
    try:
        await target.connect(exchange)
        await exchange.done
    finally:
        exchange.close()


@pytest.mark.parametrize(
    "pieces",
    [
        (OK + b"Content-Length: 5\r\n\r\n", b"Hel", b"lo"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nHel\r\n2\r\nlo\r\n0\r\n\r\n"),
        (OK + b"\r\n", b"Hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nHello",),
        (b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nHello",),
        (OK + b"Content-Length: 5\r\n\r\nHello and more than was promised",),
    ],
)
async def test_a_body_ends_as_its_head_says(pieces: tuple[bytes, ...]) -> None:
    """By its length, by its last chunk, or with the connection; 1xx is not an answer."""
    answer = Collected()
    async with serve(replies(*pieces)) as server:
        await ask(server.url, answer)
        (peer,) = server.peers
    assert (answer.status, answer.body) == (200, b"Hello")
    assert "a" not in answer.headers
    assert peer.request == "POST /v1/x"


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ((), "upstream_unavailable"),
        ((b"HTTP/1.1 200",), "upstream_unavailable"),
        ((OK + b"Content-Length: 5\r\n\r\nHell",), "upstream_incomplete_stream"),
        (
            (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nHello\r\n"),
            "upstream_incomplete_stream",
        ),
        (
            (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"no chunk\r\n"),
            "upstream_incomplete_stream",
        ),
        ((b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",), "upstream_protocol_error"),
        ((OK + b"A: " + b"x" * MAX_HEAD,), "upstream_protocol_error"),
        ((OK + b"Content-Encoding: br\r\n\r\n",), "upstream_protocol_error"),
    ],
)
async def test_what_is_no_answer_is_a_typed_error(pieces: tuple[bytes, ...], code: str) -> None:
    """A connection that ends too early, and bytes that are not HTTP."""
    async with serve(replies(*pieces)) as server:
        with pytest.raises(HubError) as caught:
            await ask(server.url, Collected())
    assert caught.value.code == code


async def test_who_has_enough_closes_the_connection() -> None:
    """A server that would go on is told so by the end of the connection."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(OK + b"\r\n", b"Hello")
        await peer.gone()
        gone.set()

    answer = Collected(enough=5)
    async with serve(script) as server:
        await ask(server.url, answer)
        await gone.wait()
    assert answer.body == b"Hello"


async def test_a_bound_on_the_rest_ends_an_answer_without_an_error() -> None:
    """The answer is taken as complete when the time for the rest is over."""

    async def script(peer: Peer) -> None:
        await peer.send(OK + b"\r\n", b"Hello")
        await peer.gone()

    answer = Collected(limit=0.05)
    async with serve(script) as server:
        await ask(server.url, answer)
    assert answer.body == b"Hello"


async def test_a_server_that_does_not_read_is_given_up() -> None:
    """The idle time runs from the connection on, and what is left to send is thrown away."""

    async def script(peer: Peer) -> None:
        await peer.gone()

    async with serve(script, reads=False) as server:
        with pytest.raises(HubError) as caught:
            await ask(server.url, Collected(), body=b"x" * (16 << 20), idle=0.1)
    assert caught.value.code == "upstream_timeout"


async def test_a_name_is_tried_at_every_address() -> None:
    """``localhost`` may be another address family than the one that the server listens on."""
    answer = Collected()
    async with serve(replies(OK + b"Content-Length: 2\r\n\r\nHi")) as server:
        await ask(server.url.replace("127.0.0.1", "localhost"), answer)
    assert answer.body == b"Hi"


async def test_nobody_there_is_an_os_error() -> None:
    """The engine knows what that means."""
    async with serve(replies()) as server:
        url = server.url
    with pytest.raises(ConnectionRefusedError):
        await ask(url, Collected())


class Silences(Unnoted):
    """Takes down the pauses, and how much of the answer there was before each had ended."""

    def __init__(self, answer: Collected) -> None:
        self._answer = answer
        self.noted: list[tuple[float, bytes]] = []

    def pause(self, seconds: float) -> None:
        self.noted.append((seconds, self._answer.body))


class Nowhere(asyncio.Transport):
    """A socket whose other end is the test."""

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def close(self) -> None: ...
    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


@virtual
async def test_a_silence_is_noted_before_what_ends_it() -> None:
    """Each that is long enough, once; what comes quickly is none."""
    answer = Collected()
    silences = Silences(answer)
    exchange = Exchange(b"request", answer, idle_timeout=60.0, notes=silences)
    exchange.connection_made(Nowhere())
    exchange.data_received(OK + b"Content-Length: 4\r\n\r\na")
    for seconds, data in ((PAUSE / 2, b"b"), (PAUSE, b"c"), (3.0, b"d")):
        await asyncio.sleep(seconds)
        exchange.data_received(data)
    await exchange.done
    exchange.close()
    assert [before for _, before in silences.noted] == [b"ab", b"abc"]
    assert [seconds for seconds, _ in silences.noted] == pytest.approx([PAUSE, 3.0])
