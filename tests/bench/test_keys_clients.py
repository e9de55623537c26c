"""Editors' clients, against servers that misbehave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hub.bench.keys_clients import Shot, Socket
from hub.bench.wire import WireError

UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)


@asynccontextmanager
async def saying(answer: bytes, *, stay: bool = False) -> AsyncIterator[str]:
    """A server that says something to whatever it is asked, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if stay:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(10):
        yield f"http://127.0.0.1:{port}"


def answer(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


async def ended(said: bytes) -> tuple[str, str]:
    """How a shot ends, and what it has read."""
    async with saying(said) as url:
        shot = Shot(url, "/infill", b"{}").fire()
        return await shot.ended, shot.text


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        (answer(b'{"content":"a"}'), "", "a"),
        (answer(b"{}"), "", ""),
        (answer(b'{"choices":[{"text":"a"}],"usage":{"completion_tokens":1}}'), "", "a"),
        (answer(b'data: {"choices":[{"delta":{}}]}\n\n', kind=b"text/event-stream"), "", ""),
        (answer(b'data: {"error":"no"}\n\n', kind=b"text/event-stream"), "unreadable", ""),
        (answer(b'{"error":"no"}', b"503 Service Unavailable"), "503", ""),
        (answer(b"{"), "unreadable", ""),
        (b"hello\r\n", "unreadable", ""),
        (answer(b'{"content":"a"}')[:-3], "connection_lost", ""),
    ],
)
async def test_an_answer_is_whole_or_an_error(said: bytes, error: str, text: str) -> None:
    found = await ended(said)
    assert found[0].startswith(error)
    assert bool(found[0]) == bool(error)
    assert found[1] == text


async def test_nobody_listens() -> None:
    async with saying(b"") as url:
        pass
    assert (await Shot(url, "/infill", b"{}").fire().ended).startswith("connection_failed")


async def test_who_goes_away_has_ended() -> None:
    async with saying(b"", stay=True) as url:
        shot = Shot(url, "/infill", b"{}").fire()
        shot.close()
        assert await shot.ended == ""


def on_event(event: dict[str, Any]) -> None:
    raise KeyError(event["type"])


@pytest.mark.parametrize("said", [b"", answer(b"{}"), b"hello\r\n", UPGRADED % b"no"])
async def test_what_opens_no_socket_is_an_error(said: bytes) -> None:
    async with saying(said) as url:
        with pytest.raises(WireError):
            await Socket(url, on_event).open()
