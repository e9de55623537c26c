"""A connection to Redis that is made again as often as it is lost.

redis-py makes it (addresses, TLS, passwords, users, databases); from then on the bytes are ours,
for a call of redis-py costs more than all else that an append does. hiredis reads them.

When a link gives a connection up, what it has sent may still be under way, and would be carried out
after what is sent on the next one. So the next one begins with the end of its predecessor (``CLIENT
KILL``), and what is in this machine's buffers is thrown away.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError, ResponseError

from hub.errors import HubError
from hub.store.base import PATIENCE

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between two tries to connect: the first doubles until it is the longest."""

_NOTHING = object()
_DISCARD = struct.pack("ii", 1, 0)
"""SO_LINGER: what was not sent is not sent any more."""


class Address:
    """Where Redis is. Raises ``HubError`` ``store_unavailable`` for a URL that is none."""

    def __init__(self, url: str) -> None:
        try:
            options: dict[str, Any] = dict(parse_url(url))
            parts = urlsplit(url)
            self.database = int(options.get("db", 0))
        except ValueError as error:
            raise HubError(
                "store_unavailable", f"--store is no address of Redis: {error}"
            ) from None
        place = options.get("path")
        if place is None:
            host = options.get("host", "localhost")
            host = f"[{host}]" if ":" in host else host
            place = f"{host}:{options.get('port', 6379)}/{self.database}"
        self.place = f"{parts.scheme}://{place}"
        """The address for people: without user, password and options."""
        self._kind: Any = options.pop("connection_class", Connection)
        defaults = {"socket_connect_timeout": PATIENCE, "socket_timeout": PATIENCE}
        self._options = defaults | options | {"protocol": 2, "driver_info": None}
        try:
            self.connection()
        except (TypeError, ValueError, RedisError) as error:
            raise HubError(
                "store_unavailable", f"--store has an option that Redis's client refuses: {error}"
            ) from None

    def connection(self) -> Connection:
        """A new one, not yet connected."""
        connection: Connection = self._kind(**self._options)
        return connection


async def connect(connection: Connection) -> None:
    """Connect. Raises ``RedisError`` or ``OSError``."""
    await connection.connect()  # type: ignore[no-untyped-call]


async def ask(connection: Connection, *commands: Iterable[Any]) -> list[Any]:
    """Send commands on a connection that is still redis-py's; gives the answers. Those that are
    errors are among them."""
    await connection.send_packed_command(connection.pack_commands(commands))
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await connection.read_response(disable_decoding=True))
        except ResponseError as error:
            answers.append(error)
    return answers


class User(Protocol):
    """Whom a link serves. All but ``prepare`` are plain and quick."""

    async def prepare(self, connection: Connection) -> None:
        """What a new connection begins with. May raise ``RedisError``: then it is given up."""
        ...

    def up(self) -> None:
        """The link can be written to, and has nothing of what was written before."""
        ...

    def heard(self, reply: Any) -> None:
        """An answer, or a message. An error is an instance of ``hiredis.ReplyError``."""
        ...

    def down(self) -> None:
        """It cannot be written to any more. What was written may have been carried out."""
        ...


class Link:
    """See the top of this file."""

    def __init__(self, address: Address, name: str, user: User) -> None:
        """``name`` is what Redis calls it in ``CLIENT LIST``."""
        self._address = address
        self._name = name
        self._user = user
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wire: _Wire | None = None
        self.is_up = False
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._former: int | None = None
        self.down_since: float | None = None
        """The loop's time of the loss, while it is down."""

    async def start(self) -> None:
        """Connect. Raises ``RedisError`` or ``OSError`` if that fails now; later it tries again."""
        self._loop = asyncio.get_running_loop()
        await self._connect()
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Send what was written, and let go."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self.is_up = False
        if self._wire is not None:
            self._wire.transport.close()
            await asyncio.wait([self._wire.closed], timeout=PATIENCE)
            await self._wire.let_go()

    def write(self, data: bytes) -> None:
        """Send it, while the link is up."""
        assert self._wire is not None, "it is up"
        self._wire.transport.write(data)

    def drop(self) -> None:
        """Take the connection for lost: it does not answer."""
        if self._wire is not None and self.is_up:
            self._wire.abort()
            self._end()

    async def _connect(self) -> None:
        connection = self._address.connection()
        try:
            await connect(connection)
            await self._introduce(connection)
            await self._user.prepare(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._wire = _Wire(connection, self._user, self._end)
        self._lost.clear()
        self.is_up = True
        self.down_since = None
        self._user.up()

    async def _introduce(self, connection: Connection) -> None:
        """Say who this is, and end its predecessor. Who may not do that, does without."""
        commands: list[tuple[Any, ...]] = [("CLIENT", "SETNAME", self._name), ("CLIENT", "ID")]
        if self._former is not None:
            commands.append(("CLIENT", "KILL", "ID", self._former))
        _, number, *_ = await ask(connection, *commands)
        self._former = number if isinstance(number, int) else None

    def _end(self) -> None:
        if not self.is_up:
            return  # It is being closed.
        assert self._loop is not None
        self.is_up = False
        self.down_since = self._loop.time()
        self._user.down()
        self._lost.set()

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._lost.wait()
            if self._wire is not None:
                await self._wire.let_go()
                self._wire = None
                pause = FIRST_PAUSE
            # So that a crowd of nodes does not come at once.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
            # Nothing of it is told: what waits for the link says that it is out of reach.
            # uvloop has a RuntimeError for what is written to a connection that was just lost.
            with suppress(RedisError, OSError, RuntimeError):
                await self._connect()


class _Wire(asyncio.Protocol):
    """A connection whose bytes are ours."""

    def __init__(self, connection: Connection, user: User, lost: Callable[[], None]) -> None:
        # It has no public way to hand its socket over. Kept, since it closes what it loses.
        self._connection = connection
        assert connection._writer is not None, "it is connected"
        transport = connection._writer.transport
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self.transport = cast(asyncio.Transport, transport)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._user = user
        self._lost = lost
        self._given_up = False
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        if self._given_up:
            return
        reader = self._reader
        heard = self._user.heard
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                heard(reply)
                if self._given_up:
                    return
        except hiredis.ProtocolError:
            # Whatever is there, it is not Redis. What follows cannot be understood either.
            self.abort()
            self._lost()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if not self._given_up:
            self._lost()

    def abort(self) -> None:
        """Hear nothing more, and send nothing more."""
        self._given_up = True
        opened = self.transport.get_extra_info("socket")
        if opened is not None:
            with suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)
        self.transport.abort()

    async def let_go(self) -> None:
        """After its end."""
        await self._connection.disconnect(nowait=True)
