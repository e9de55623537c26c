"""A TCP proxy in front of one address that fails as it is told, while it runs.

What it can do to what goes through it: nothing (``heal``), a ``delay``, nothing at all any more
(``black_hole``), a ``cut``, the refusal of new connections (``refuse``), and a cut in the middle of
an answer (``cut_after``).

In a black hole connections stay open and take what is sent, and nobody hears of it. What was sent
arrives when it is healed, late, as TCP would repeat it after a network's failure; ``cut`` before
``heal`` loses it.
"""

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

_RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` with no time: closing sends a reset, and drops what is not sent (socket(7))."""


class FaultProxy:
    """``start``, then ``close``; in the running loop. It begins healed."""

    def __init__(self, target: tuple[str, int] | Path) -> None:
        """``target``: a host and a port, or a Unix socket's path. It need not be there yet."""
        self._target = target
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self.hold: float = 0.0
        """Seconds that everything takes; ``inf`` in a black hole."""
        self._refusing = False
        self._left: int | None = None
        """Bytes of answers until everything is cut."""

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; the port. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self, None), "127.0.0.1", port)
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Cut everything and stop listening."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    def listening(self) -> bool:
        """Whether it was started and not closed."""
        return self._server is not None and self._server.is_serving()

    @property
    def connections(self) -> int:
        """Those that are open, by their clients."""
        return len(self._pairs)

    def heal(self) -> None:
        """Let everything through, at once, what was held too."""
        self.hold, self._refusing, self._left = 0.0, False, None
        for pair in [*self._pairs]:
            pair.release()

    def delay(self, seconds: float) -> None:
        """Let everything that comes from now on arrive so much later."""
        self.hold = seconds

    def black_hole(self) -> None:
        """Accept and read everything, and forward nothing."""
        self.hold = float("inf")

    def refuse(self) -> None:
        """Close new connections at once; those that are open go on."""
        self._refusing = True

    def cut(self) -> None:
        """Close all connections now, with a reset. New ones are accepted as before."""
        for pair in [*self._pairs]:
            pair.reset()

    def cut_after(self, size: int) -> None:
        """Close everything when so many more bytes of answers have passed, once."""
        self._left = size

    # For connections.

    def opened(self, client: "_Side") -> None:
        if self._refusing:
            reset(client.transport)
            return
        pair = _Pair(self, client)
        self._pairs.add(pair)
        pair.dial()

    async def connect(self, side: Callable[[], "_Side"]) -> None:
        """Open a connection to the target. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        if isinstance(self._target, Path):
            await loop.create_unix_connection(side, str(self._target))
        else:
            await loop.create_connection(side, *self._target)

    def ended(self, pair: "_Pair") -> None:
        self._pairs.discard(pair)

    def passes(self, answer: bytes) -> bytes:
        """How much of an answer passes. Cuts everything soon after the last byte that may."""
        if self._left is None:
            return answer
        passing = answer[: self._left]
        self._left -= len(passing)
        if not self._left:
            self._left = None
            for pair in [*self._pairs]:
                asyncio.get_running_loop().call_soon(pair.close)
        return passing


class _Pair:
    """A client's connection and the one to the target that belongs to it."""

    def __init__(self, proxy: FaultProxy, client: "_Side") -> None:
        self.proxy = proxy
        self._client = client
        self._there = _Side(proxy, self)
        self._dialling: asyncio.Task[None] | None = None
        self.asked = _Pipe(self, self._there)
        self.answered = _Pipe(self, client)
        client.pair = self

    def dial(self) -> None:
        """Connect to the target, unless a black hole is between."""
        if self._dialling is None and self.proxy.hold != float("inf"):
            self._dialling = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        try:
            await self.proxy.connect(lambda: self._there)
        except OSError:
            self.reset()

    def took(self, side: "_Side", data: bytes) -> None:
        if side is self._client:
            self.asked.put(data)
        elif passing := self.proxy.passes(data):
            self.answered.put(passing)

    def dialled(self) -> None:
        self.asked.pump()

    def release(self) -> None:
        self.dial()
        self.asked.release()
        self.answered.release()

    def lost(self, side: "_Side", exc: Exception | None) -> None:
        """One of the two has closed its connection, and so the other's is closed."""
        if exc is not None:
            self.reset()
        elif side is self._client and self.asked.held:
            # It is gone, but what it has sent goes on its way, and its end after that.
            self.asked.on_empty = self.close
        else:
            self.close()

    def reset(self) -> None:
        """Close both at once."""
        self._end(reset)

    def close(self) -> None:
        """Close both when what was written has been sent."""
        self._end(lambda transport: transport.close())

    def _end(self, close: Callable[[asyncio.Transport], None]) -> None:
        self.proxy.ended(self)
        self.asked.drop()
        self.answered.drop()
        if self._dialling is not None and self._dialling is not asyncio.current_task():
            self._dialling.cancel()
        for side in (self._client, self._there):
            if side.open:
                close(side.transport)


class _Pipe:
    """One direction: what is on its way, in its order."""

    def __init__(self, pair: _Pair, to: "_Side") -> None:
        self._pair = pair
        self._to = to
        self.held: deque[tuple[float, bytes]] = deque()
        """With the time at which each is due."""
        self.on_empty: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: bytes) -> None:
        hold = self._pair.proxy.hold
        if not hold and not self.held and self._to.open:
            self._to.transport.write(data)
            return
        due = time.monotonic() + hold
        # In its order, though the delay may have become shorter.
        self.held.append((max(due, self.held[-1][0]) if self.held else due, data))
        self._wait()

    def release(self) -> None:
        """Nothing that is held waits any longer."""
        self.held = deque((0.0, data) for _, data in self.held)
        self.pump()

    def drop(self) -> None:
        self.held.clear()
        self.on_empty = None
        self.pump()

    def pump(self) -> None:
        """Send on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.held and self._to.open and self.held[0][0] <= time.monotonic():
            self._to.transport.write(self.held.popleft()[1])
        if not self.held and self.on_empty is not None:
            self.on_empty()
        self._wait()

    def _wait(self) -> None:
        if self.held and self._to.open and self._timer is None:
            ahead = self.held[0][0] - time.monotonic()
            if ahead != float("inf"):
                loop = asyncio.get_running_loop()
                # A millisecond more: timers of uvloop are due by its own, rounded clock.
                self._timer = loop.call_later(max(0.0, ahead) + 0.001, self.pump)


class _Side(asyncio.Protocol):
    """One connection: a client's, or the one to the target."""

    def __init__(self, proxy: FaultProxy, pair: _Pair | None) -> None:
        self._proxy = proxy
        self.pair = pair
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of ``asyncio.Transport`` without being one.
        self.transport = cast(asyncio.Transport, transport)
        self.open = True
        if self.pair is None:
            self._proxy.opened(self)
        else:
            self.pair.dialled()

    def data_received(self, data: bytes) -> None:
        if self.pair is not None:
            self.pair.took(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self.pair is not None:
            self.pair.lost(self, exc)


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with a reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
