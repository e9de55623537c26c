"""What breaks the WebSocket's protocol, over a socket: byte for byte, and what becomes of the rest.

``tests/fuzz/frames.py`` tries all kinds of breaches; these are those that hub got wrong once.
"""

import asyncio
import os
import socket
import struct

import orjson
import pytest

from tests.fuzz.frames import connected, frame
from tests.running import Start


async def test_a_client_that_is_still_sending_learns_why_it_was_closed(start: Start) -> None:
    """The kernel would reset the connection, and with it the close frame, if what the client sends
    meanwhile was not read."""
    hub = await start(max_message=1024)
    async with connected(hub.port) as client:
        client.writer.write(frame(1, claimed=1 << 30))
        for _ in range(64):
            client.writer.write(os.urandom(1 << 16))
            await asyncio.sleep(0)
        while await client.read():
            pass
        assert client.code == 1009


async def test_a_connection_that_is_broken_leaves_what_it_has_just_asked_for(start: Start) -> None:
    """Its lookups in the store have not even begun, and its responses have nobody to read them."""
    hub = await start()
    create = {"type": "response.create", "input": "Hello", "stream_id": "a", "store": False}
    resume = {"type": "response.resume", "response_id": "resp_x", "stream_id": "b"}
    breach = frame(1, b"x", mask=None)
    async with connected(hub.port) as client:
        client.writer.write(
            frame(1, orjson.dumps(create)) + frame(1, orjson.dumps(resume)) + breach
        )
        while await client.read():
            pass
        assert client.code == 1002
        assert not client.texts
    await hub.hub.until_idle()


@pytest.mark.parametrize("late", [frame(9, b"x"), frame(1, b"{}"), b"\xff" * 1000])
async def test_what_follows_a_close_frame_does_not_spoil_its_answer(
    start: Start, late: bytes
) -> None:
    hub = await start()
    async with connected(hub.port) as client:
        client.writer.write(frame(8, struct.pack("!H", 3000)))
        await asyncio.sleep(0)
        client.writer.write(late)
        while await client.read():
            pass
        assert client.code == 3000


@pytest.mark.parametrize(
    "header",
    [b"Sec-WebSocket-Key: \xc3\xff", b"Connection: Upgrad\xdd", b"Sec-WebSocket-Version: \xff"],
)
async def test_a_handshake_that_is_no_text_is_refused_without_a_word_in_the_log(
    start: Start, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hub = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    fields = {
        b"Upgrade": b"websocket",
        b"Connection": b"Upgrade, close",
        b"Sec-WebSocket-Version": b"13",
        b"Sec-WebSocket-Key": b"AAAAAAAAAAAAAAAAAAAAAA==",
    }
    name, _, value = header.partition(b": ")
    lines = [b"%b: %b\r\n" % field for field in {**fields, name: value}.items()]
    writer.write(b"GET /v1/responses HTTP/1.1\r\nHost: hub\r\n" + b"".join(lines) + b"\r\n")
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.split()[1] in (b"400", b"426")
    assert not caplog.records


@pytest.mark.parametrize("empty", [frame(9, b"x"), frame(10), frame(0, fin=False)])
async def test_many_frames_that_say_nothing_are_too_many(start: Start, empty: bytes) -> None:
    """Each costs hub as much as one that says something, and there is no end of them."""
    hub = await start()
    async with connected(hub.port) as client:
        client.writer.write(frame(1, b"{", fin=False) + empty * 1001)
        while client.code is None and await client.read():
            pass
        assert client.code == 1008


async def test_pongs_that_nobody_reads_do_not_pile_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is no room only the last ping is remembered, and it is answered at last."""
    monkeypatch.setattr("hub.server.websocket.MAX_EMPTY", 1 << 30)
    hub = await start()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", hub.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(
        b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.set_write_buffer_limits(high=0)
    pings = 40_000
    for number in range(0, pings, 1000):
        writer.write(b"".join(frame(9, b"%0100d" % n) for n in range(number, number + 1000)))
        await writer.drain()
    answered = -1
    pongs = 0
    while answered < pings - 1:
        assert await reader.readexactly(2) == bytes((0x8A, 100))
        answered, before = int(await reader.readexactly(100)), answered
        assert answered > before
        pongs += 1
    assert pongs < pings / 2
    writer.close()
    await writer.wait_closed()


async def test_a_message_of_many_fragments_is_one_message(start: Start) -> None:
    """Also if some of them are empty."""
    hub = await start()
    message = orjson.dumps({"type": "response.create", "input": "Hello", "store": False})
    parts = [message[at : at + 1] for at in range(len(message))]
    async with connected(hub.port) as client:
        client.writer.write(
            frame(1, fin=False)
            + b"".join(frame(0, part, fin=False) + frame(0, fin=False) for part in parts)
            + frame(0)
        )
        while await client.read():
            if any(b'"response.completed"' in one for one in client.texts):
                break
        assert any(b'"response.completed"' in one for one in client.texts)


@pytest.mark.parametrize("begin", [frame(1, claimed=1000)[:12], frame(1, b"x", fin=False)])
async def test_a_message_has_to_come_to_its_end(
    start: Start, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps a connection, but not a message, which may take a megabyte."""
    monkeypatch.setattr("hub.server.app.PING_INTERVAL", 0.02)
    hub = await start()
    async with connected(hub.port) as client:
        client.writer.write(begin)
        while client.code is None and await client.read():
            client.writer.write(frame(10) if begin.endswith(b"x") else b"x")
        assert client.code == 1008
