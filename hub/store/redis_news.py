"""What Redis tells a node by itself: the segments of the logs that it follows, and messages.

A *feed* is a log that somebody here follows. Every segment that is written to it is sent to its
channel, body and all, so a follower that is woken is mostly answered from the feed's buffer.

Messages may be lost: the log in Redis is the truth, and a feed never is. It is only believed when
it goes on from exactly where the reader is; else Redis is asked. And whoever follows is woken to
ask it

- when his subscription is confirmed, if he has read before: what was written in between has woken
  nobody;
- after the connection was lost;
- after ``QUIET`` seconds without any news.

What this node writes itself wakes its followers when it is acknowledged, whether or not the message
has come by then. So the news of an event are known by its number, and wake once.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from hiredis import pack_command
from redis.asyncio.connection import Connection

from hub.store.base import PATIENCE, Segment
from hub.store.redis_link import Address, Link

QUIET = 1.0
"""Seconds without news after which a follower is woken all the same."""
PING = 2.0
"""Seconds between two signs of life that are asked of Redis."""
TICK = 0.25
"""Seconds between two looks at all that."""
MOST_BUFFERED = 1 << 20
"""Bytes that wait in one feed for its reader; he finds more in Redis."""
CHANNELS = 500
"""Logs that are followed by one command."""


def channel(id: str) -> str:
    """Of the log of a response."""
    return f"hub:c:{id}"


class Feed:
    """A log that is followed here."""

    def __init__(self, id: str, made: int, now: float) -> None:
        self.id = id
        self.made = made
        """Calls that were made before it was followed: only later reads may be answered here."""
        self.followers: dict[object, Callable[[], None]] = {}
        self.heard_at = now
        self.confirmed = False
        """Redis sends its news."""
        self.read_early = False
        """Somebody has read before that."""
        self.own = False
        """It is written to from here: then reads have to go behind those calls."""
        self._last = -1
        self._ended = False
        self._buffer: deque[Segment] = deque()
        self._size = 0

    def news(self, last: int, ended: bool) -> bool:
        """Note how far the log reaches. Whether that was not known."""
        new = last > self._last or (ended and not self._ended)
        self._last = max(self._last, last)
        self._ended |= ended
        return new

    def push(self, segment: Segment) -> None:
        """Keep it for a reader."""
        buffer = self._buffer
        if buffer and segment.first > buffer[-1].last + 1:
            self.empty()  # The one before it was lost.
        elif buffer and segment.last <= buffer[-1].last:
            return
        buffer.append(segment)
        self._size += len(segment.body)
        if self._size > MOST_BUFFERED:
            self.empty()

    def empty(self) -> None:
        """Let readers ask Redis."""
        self._buffer.clear()
        self._size = 0

    def forget(self) -> None:
        """News may have been lost."""
        self.empty()
        self._last = -1

    def read(self, after: int) -> Sequence[Segment] | None:
        """What goes on from there, as far as it is known for certain."""
        buffer = self._buffer
        while buffer and buffer[0].last <= after:
            self._size -= len(buffer.popleft().body)
        if self.own or not buffer or buffer[0].first > after + 1:
            return None
        return list(buffer)

    def wake(self) -> None:
        """Call everybody who follows. They must not raise."""
        for key, wake in tuple(self.followers.items()):
            if key in self.followers:  # The wake before may have ended this one.
                wake()


class News:
    """See the top of this file. For one event loop."""

    def __init__(self, address: Address, node: str) -> None:
        self.channel = f"hub:news:{address.database}"
        """Where the nodes of one database tell each other something: Redis sends what is published
        to those who are in another one, too."""
        self._node = node.encode()
        self._link = Link(address, f"hub-{node}-news", self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feeds: dict[str, Feed] = {}
        self._asked: deque[Feed] = deque()
        """Those whose confirmation has not come, in the order in which it was asked for."""
        self._unwritten: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._woken: set[Feed] = set()
        self._waking: asyncio.Handle | None = None
        self._missed = False
        """There was a time without a connection."""
        self._listeners: list[Callable[[str, str], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ping_at = 0.0
        self._pinged_at: float | None = None

    async def start(self) -> None:
        """Connect. Raises ``RedisError`` or ``OSError``."""
        self._loop = asyncio.get_running_loop()
        await self._link.start()
        self._look_again(self._loop.time())

    async def close(self) -> None:
        for handle in (self._timer, self._flushing, self._waking):
            if handle is not None:
                handle.cancel()
        await self._link.close()

    def listen(self, news: Callable[[str, str], None]) -> None:
        """Have it called with the kind and the body of each message of another node."""
        self._listeners.append(news)
        if len(self._listeners) == 1:
            self._write(("SUBSCRIBE", self.channel))

    def feed(self, id: str) -> Feed | None:
        """The feed of a log, if it is followed."""
        return self._feeds.get(id)

    def follow(self, id: str, wake: Callable[[], None], made: int) -> Callable[[], None]:
        """See ``Store.follow``. ``made``: how many calls have been made until now."""
        assert self._loop is not None, "start() comes first"
        feed = self._feeds.get(id)
        if feed is None:
            feed = self._feeds[id] = Feed(id, made, self._loop.time())
            self._ask([feed])
        key = object()
        feed.followers[key] = wake

        def unfollow() -> None:
            if feed.followers.pop(key, None) is not None and not feed.followers:
                del self._feeds[id]
                self._write(("SUNSUBSCRIBE", channel(id)))

        return unfollow

    def wrote(self, id: str, last: int, *, ended: bool = False) -> None:
        """This node has written to a log, or has ended it."""
        feed = self._feeds.get(id)
        if feed is not None and feed.news(last, ended):
            self._wake(feed)

    def _wake(self, feed: Feed) -> None:
        """Soon, and once for all that this turn of the loop brings."""
        self._woken.add(feed)
        if self._waking is None:
            assert self._loop is not None
            self._waking = self._loop.call_soon(self._wake_all)

    def _wake_all(self) -> None:
        self._waking = None
        woken, self._woken = self._woken, set()
        for feed in woken:
            feed.wake()

    def _ask(self, feeds: Sequence[Feed]) -> None:
        if self._link.is_up:
            self._asked.extend(feeds)
            self._write(("SSUBSCRIBE", *(channel(feed.id) for feed in feeds)))

    def _write(self, command: tuple[Any, ...]) -> None:
        if not self._link.is_up:
            return  # When it is up again, it asks for everything.
        assert self._loop is not None
        self._unwritten.append(pack_command(command))
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        if self._unwritten and self._link.is_up:
            self._link.write(b"".join(self._unwritten))
        self._unwritten = []

    # What the link tells.

    async def prepare(self, connection: Connection) -> None:
        return

    def up(self) -> None:
        assert self._loop is not None
        self._ping_at = self._loop.time() + PING
        self._pinged_at = None
        if self._listeners:
            self._write(("SUBSCRIBE", self.channel))
        if self._missed:
            self._missed = False
            for listener in tuple(self._listeners):
                self._loop.call_soon(listener, "missed", "")
        feeds = list(self._feeds.values())
        for start in range(0, len(feeds), CHANNELS):
            self._ask(feeds[start : start + CHANNELS])

    def down(self) -> None:
        self._missed = True
        self._asked.clear()
        self._unwritten = []
        for feed in self._feeds.values():
            feed.forget()
            feed.confirmed = False
            feed.read_early = True

    def heard(self, reply: Any) -> None:
        self._pinged_at = None  # Whatever it says, it is alive.
        if isinstance(reply, list):
            kind = reply[0]
            if kind == b"smessage":
                self._pushed(reply[1], reply[2])
            elif kind == b"message":
                self._told(reply[2])
            elif kind == b"ssubscribe":
                self._confirmed(self._asked.popleft())
        elif isinstance(reply, hiredis.ReplyError):
            # A user without the right to a channel. Without news all goes on, but slowly.
            self._link.drop()

    def _confirmed(self, feed: Feed) -> None:
        feed.confirmed = True
        if feed.read_early:
            feed.read_early = False
            self._wake(feed)

    def _pushed(self, name: bytes, payload: bytes) -> None:
        feed = self._feeds.get(name[len("hub:c:") :].decode())
        if feed is None:
            return
        assert self._loop is not None
        feed.heard_at = self._loop.time()
        head, _, body = payload.partition(b"\n")
        kind, first, last = head.split(b" ")
        if kind == b"s":
            feed.push(Segment(int(first), int(last), body))
        else:
            feed.empty()  # After the end, and where the body is too large, Redis is asked.
        if feed.news(int(last), kind[:1] == b"e"):
            self._wake(feed)

    def _told(self, payload: bytes) -> None:
        assert self._loop is not None
        node, kind, body = payload.split(b" ", 2)
        if node != self._node:
            for listener in tuple(self._listeners):
                self._loop.call_soon(listener, kind.decode(), body.decode())

    # Patience.

    def _look_again(self, now: float) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_at(now + TICK, self._look, now + TICK)

    def _look(self, due: float) -> None:
        assert self._loop is not None
        now = self._loop.time()
        self._look_again(now)
        if now - due > TICK:
            return  # It is this process that was late, and news may be there that it has not read.
        if self._link.is_up:
            if self._pinged_at is not None and now - self._pinged_at >= PATIENCE:
                self._link.drop()
            elif self._ping_at <= now:
                self._ping_at = now + PING
                self._pinged_at = self._pinged_at or now
                self._write(("PING",))
        for feed in list(self._feeds.values()):
            if now - feed.heard_at >= QUIET:
                feed.heard_at = now
                feed.empty()
                self._wake(feed)
