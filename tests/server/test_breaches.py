"""What breaks the WebSocket's protocol, over a socket: byte for byte, and what becomes of the rest.

``tests/fuzz/frames.py`` tries all kinds of breaches; these are those that hub got wrong once.
"""

import asyncio
import os
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
