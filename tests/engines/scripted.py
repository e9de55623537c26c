"""A model server that says exactly what a test wants, byte by byte, over real TCP."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
"""The head of a stream that the end of the connection ends."""


def answer(status: int, body: bytes, headers: str = "", kind: str = "application/json") -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """An event with one chunk; without a delta, one without choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + orjson.dumps({"choices": choices, **more}) + b"\n\n"


class Peer:
    """The server's end of one connection, its request already read."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        line, *fields = head.decode().split("\r\n")
        self.request = line.rpartition(" ")[0]
        self.headers = {
            name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)
        }
        self.body: Any = orjson.loads(body) if body else None

    async def send(self, *pieces: bytes) -> None:
        """Write the pieces one by one, the loop turning in between."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Send RST instead of FIN."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """A listening server: where it is, and whom it has talked to."""

    url = ""

    def __init__(self) -> None:
        self.peers: list[Peer] = []


@asynccontextmanager
async def serve(script: Script, *, reads: bool = True) -> AsyncIterator[Server]:
    """Run ``script`` for every connection, then close it. Its failure fails the test.

    ``reads=False`` runs no script and never reads a byte.
    """
    state = Server()
    tasks: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [f for f in head.lower().split(b"\r\n") if f.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
            peer = Peer(reader, writer, head.strip(), body)
            state.peers.append(peer)
            await script(peer)
        finally:
            writer.close()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.get_running_loop().create_future()
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conduct = talk if reads else ignore
        tasks.append(asyncio.ensure_future(conduct(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    state.url = f"http://127.0.0.1:{port}"
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def replies(*pieces: bytes) -> Script:
    """A script that sends the pieces and closes."""

    async def script(peer: Peer) -> None:
        await peer.send(*pieces)

    return script
