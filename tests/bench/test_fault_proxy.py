"""The fault proxy, between real sockets: a client, and a server that echoes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from hub.bench.fault_proxy import FaultProxy

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that says what it hears, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self.changed = asyncio.Event()
        self.came = self.gone = 0
        """Connections, and those of them that have ended."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.heard += data
                writer.write(data)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.gone += 1
        self.changed.set()

    async def until_gone(self, number: int) -> None:
        while self.gone < number:
            self.changed.clear()
            await self.changed.wait()


@pytest.fixture(params=["tcp", "unix"])
async def through(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[FaultProxy, int, Echo]]:
    """A proxy before an echo, the proxy's port, and the echo."""
    echo = Echo()
    if request.param == "tcp":
        server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
        proxy = FaultProxy(server.sockets[0].getsockname()[:2])
    else:
        server = await asyncio.start_unix_server(echo.serve, tmp_path / "echo")
        proxy = FaultProxy(tmp_path / "echo")
    yield proxy, await proxy.start(), echo
    await proxy.close()
    await echo.until_gone(echo.came)
    server.close()
    await server.wait_closed()


async def said(connection: Connection, text: bytes) -> bytes:
    """Say something, and give what is said back."""
    reader, writer = connection
    writer.write(text)
    return await reader.readexactly(len(text))


async def ends(connection: Connection) -> bytes | None:
    """What comes until the end of a connection; ``None`` if that is a reset."""
    try:
        return await connection[0].read()
    except ConnectionResetError:
        return None
    finally:
        connection[1].close()


async def test_what_is_sent_passes(through: tuple[FaultProxy, int, Echo]) -> None:
    proxy, port, echo = through
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    large = b"x" * 3_000_000
    answers = [said(one, large) for one in connections]
    assert await asyncio.gather(*answers) == [large] * 3
    assert proxy.connections == 3
    for reader, writer in connections:
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    await echo.until_gone(3)
    assert proxy.connections == 0


async def test_a_black_hole_hears_everything_and_tells_nobody_until_it_is_healed(
    through: tuple[FaultProxy, int, Echo],
) -> None:
    proxy, port, echo = through
    before = await asyncio.open_connection("127.0.0.1", port)
    assert await said(before, b"one ") == b"one "
    proxy.black_hole()
    during = await asyncio.open_connection("127.0.0.1", port)
    answers = [
        asyncio.create_task(said(before, b"two ")),
        asyncio.create_task(said(during, b"three ")),
    ]
    # Another connection's whole life shows that the proxy had its turns meanwhile.
    gone = await asyncio.open_connection("127.0.0.1", port)
    gone[1].write(b"four ")
    gone[1].close()
    await gone[1].wait_closed()
    assert echo.heard == b"one "
    assert not any(answer.done() for answer in answers)
    proxy.heal()
    assert await asyncio.gather(*answers) == [b"two ", b"three "]
    # What had been sent arrives though its sender is gone.
    await echo.until_gone(1)
    assert sorted(echo.heard.split()) == [b"four", b"one", b"three", b"two"]
    for _, writer in (before, during):
        writer.close()


async def test_what_a_black_hole_holds_is_lost_by_a_cut(
    through: tuple[FaultProxy, int, Echo],
) -> None:
    proxy, port, echo = through
    one = await asyncio.open_connection("127.0.0.1", port)
    assert await said(one, b"heard") == b"heard"
    proxy.black_hole()
    one[1].write(b"lost")
    await one[1].drain()
    proxy.cut()
    assert await ends(one) is None
    proxy.heal()
    await echo.until_gone(1)
    assert echo.heard == b"heard"


async def test_a_cut_resets_what_is_open_and_takes_what_comes(
    through: tuple[FaultProxy, int, Echo],
) -> None:
    proxy, port, _ = through
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for one in connections:
        assert await said(one, b"before") == b"before"
    proxy.cut()
    assert [await ends(one) for one in connections] == [None] * 3
    assert proxy.connections == 0
    after = await asyncio.open_connection("127.0.0.1", port)
    assert await said(after, b"after") == b"after"
    after[1].close()


async def test_refusing_closes_new_connections_only(
    through: tuple[FaultProxy, int, Echo],
) -> None:
    proxy, port, _ = through
    before = await asyncio.open_connection("127.0.0.1", port)
    assert await said(before, b"before") == b"before"
    proxy.refuse()
    assert await ends(await asyncio.open_connection("127.0.0.1", port)) is None
    assert await said(before, b"still") == b"still"
    proxy.heal()
    after = await asyncio.open_connection("127.0.0.1", port)
    assert await said(after, b"after") == b"after"
    for _, writer in (before, after):
        writer.close()


async def test_a_cut_after_so_many_bytes_lets_just_those_pass_once(
    through: tuple[FaultProxy, int, Echo],
) -> None:
    proxy, port, _ = through
    one = await asyncio.open_connection("127.0.0.1", port)
    proxy.cut_after(7)
    assert await said(one, b"four") == b"four"
    one[1].write(b"six of them")
    assert await ends(one) == b"six"
    after = await asyncio.open_connection("127.0.0.1", port)
    assert await said(after, b"as long as you like") == b"as long as you like"
    after[1].close()


async def test_what_is_delayed_comes_later_in_its_order(
    through: tuple[FaultProxy, int, Echo],
) -> None:
    proxy, port, _ = through
    one = await asyncio.open_connection("127.0.0.1", port)
    assert await said(one, b"at once") == b"at once"
    proxy.delay(0.02)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    one[1].write(b"first")
    assert await one[0].readexactly(1) == b"f"
    # There and back.
    assert loop.time() - begun >= 0.03
    one[1].write(b"second")
    await one[1].drain()
    proxy.delay(0.001)
    assert await said(one, b"third") == b"irsts"
    assert await one[0].readexactly(10) == b"econdthird"
    proxy.heal()
    assert await said(one, b"at once") == b"at once"
    one[1].close()


async def test_a_target_that_is_not_there_is_a_reset() -> None:
    absent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = absent.sockets[0].getsockname()[:2]
    absent.close()
    await absent.wait_closed()
    proxy = FaultProxy(address)
    port = await proxy.start()
    assert await ends(await asyncio.open_connection("127.0.0.1", port)) is None
    await proxy.close()
