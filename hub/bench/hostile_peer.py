"""A hostile client's connection, the pace at which it attempts things, and what it got for them.

Connections are bare sockets: a client that does not read must really not read, and one that says
half a thing must be left with the half.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from hub.bench import wire
from hub.bench.clients import Target
from hub.bench.wire import FrameReader, HttpReader, WireError

RECEIVED = 4096
"""Bytes that the kernel may hold for a client that does not read; it takes its least instead, if
that is more."""
_LOOK = 0.5
"""Seconds between two looks whether the other side is still there."""
_ESTABLISHED = 1
"""The first byte of Linux's ``TCP_INFO`` while both sides are there."""

Answers = Counter[str]


class Attempts:
    """One attack's pace, from an address of its own, and its outcomes."""

    def __init__(self, target: Target, source: str, rate: float, key: str | None) -> None:
        """``rate``: attempts per second, of all its workers together. ``source``: the address to
        come from, empty for any."""
        self.target = target
        self.key = key
        self.begun = 0
        """Attempts."""
        self.got: Answers = Counter()
        """What they came to: statuses, close codes, codes of errors, or how they ended."""
        self.memory: dict[str, str] = {}
        """What the workers of one attack know together."""
        self._source = source
        self._gap = 1 / rate
        self._next = 0.0

    async def turn(self, number: int = 1) -> None:
        """Wait until so many more attempts may begin."""
        self._next = max(self._next, time.monotonic() - 1) + number * self._gap
        await asyncio.sleep(max(0.0, self._next - number * self._gap - time.monotonic()))
        self.begun += number

    @asynccontextmanager
    async def dial(self, *, reads: bool = True) -> AsyncIterator["Peer"]:
        """A connection, closed at the end of the block. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            if not reads:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
            if self._source:
                # Without a port of its own until it connects: another server's side decides then.
                sock.setsockopt(socket.IPPROTO_IP, _BIND_WITHOUT_PORT, 1)
                sock.bind((self._source, 0))
            await loop.sock_connect(sock, (self.target.host, self.target.port))
            try:
                yield Peer(self, sock)
            except asyncio.CancelledError:
                self.got["open at the end"] += 1
                raise


_BIND_WITHOUT_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)


class Peer:
    """One connection. What it sends may fail with ``OSError``: the other side has had enough."""

    def __init__(self, attempts: Attempts, sock: socket.socket) -> None:
        self._attempts = attempts
        self.sock = sock
        self._frames = FrameReader()
        self._rest = b""

    async def send(self, data: bytes) -> None:
        """Returns when the kernel has taken all of it."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self) -> bytes:
        """What comes next; empty at the end. Raises ``OSError``."""
        return await asyncio.get_running_loop().sock_recv(self.sock, 65536)

    async def answer(self, *, body: bool = True) -> tuple[str, bytes, bool]:
        """The next HTTP answer: its status, or how the connection ended without one, its body, and
        whether there may be another. Without ``body`` no more than the head is waited for."""
        reader = HttpReader()
        pieces = []
        try:
            while not (reader.done or (reader.headed and not body)):
                data = await self.receive()
                if not data:
                    return str(reader.status) if reader.headed else "closed", b"", False
                pieces.append(reader.feed(data))
        except ConnectionError:
            return str(reader.status) if reader.headed else "reset", b"", False
        except WireError:
            return "no HTTP", b"", False
        self._rest = reader.rest
        return str(reader.status), b"".join(pieces), reader.keeps_alive

    async def ask(self, request: bytes) -> tuple[str, bytes, bool]:
        """Send a request and read its answer, which may come before all is sent."""
        sending = asyncio.create_task(self.send(request))
        try:
            return await self.answer()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def upgrade(self) -> bool:
        """Become a WebSocket. If that is refused, the status is an outcome."""
        target = self._attempts.target
        await self.send(wire.upgrade(target.authority, "/v1/responses", self._attempts.key))
        status, _, _ = await self.answer(body=False)
        if status != "101":
            self._attempts.got[status] += 1
        return status == "101"

    async def frames(self) -> list[tuple[int, bytes]]:
        """The next frames of a WebSocket; none at its end. A close frame's code and an error's are
        outcomes; so is an end without a close frame."""
        try:
            while True:
                data, self._rest = self._rest or await self.receive(), b""
                if not data:
                    self._attempts.got["closed"] += 1
                    return []
                if found := self._frames.feed(data):
                    break
        except ConnectionError:
            self._attempts.got["reset"] += 1
            return []
        for opcode, payload in found:
            if opcode == wire.CLOSE:
                self._attempts.got[str(int.from_bytes(payload[:2]) or 1005)] += 1
                return []
            if opcode == wire.TEXT and payload.startswith(b'{"type":"error"'):
                self._attempts.got[orjson.loads(payload)["error"]["code"]] += 1
        return found

    async def watch(self) -> None:
        """Read a WebSocket to its end."""
        while await self.frames():
            pass

    async def drip(self, data: bytes, gap: float) -> tuple[str, bytes, bool]:
        """Send a byte every ``gap`` seconds, until there is an answer."""
        for at in range(len(data)):
            await self.send(data[at : at + 1])
            waiting = asyncio.create_task(self.answer())
            done, _ = await asyncio.wait((waiting,), timeout=gap)
            if done:
                return waiting.result()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return await self.answer()

    async def gone(self) -> None:
        """Read nothing, and return when the other side has closed the connection."""
        while self._state() == _ESTABLISHED:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(_LOOK)

    def _state(self) -> int:
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
