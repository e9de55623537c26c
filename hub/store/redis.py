"""A store in Redis or Valkey, for many nodes at once.

The calls of the contract are scripts (``redis_scripts.py``, ``lua/``) that are sent one after
another without waiting (``redis_calls.py``), over a connection that is made again when it is lost
(``redis_link.py``). A second connection brings the news of logs and of other nodes
(``redis_news.py``).

With ``appendonly yes`` and ``appendfsync always`` what Redis has acknowledged survives its death,
and power losses. With ``everysec``, its default, it may come back without its last second or two:
the nodes that live make their changes of that time once more (``redis_recent.py``).
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from hub.errors import HubError
from hub.store import redis_scripts as lua
from hub.store.base import (
    DELIVERY_HOLD,
    Behind,
    Delivery,
    Fenced,
    Hold,
    Idempotency,
    IdempotencyConflict,
    Lease,
    Record,
    Segment,
    Statistics,
)
from hub.store.jobs import is_job
from hub.store.redis_calls import Calls
from hub.store.redis_checks import check
from hub.store.redis_common import Common
from hub.store.redis_link import Address
from hub.store.redis_news import News, channel
from hub.store.redis_records import (
    MOST_PUSHED,
    delivery_fields,
    delivery_of,
    entry_id,
    is_pushed,
    number,
    record_fields,
    record_of,
    segment_fields,
    segment_of,
)
from hub.store.redis_scripts import Script
from hub.store.size import SEGMENT_OVERHEAD, record_size, segment_size

FIRST = 8
"""Events of a log that wait for no others: the first text is among them."""
AT_ONCE = 200
"""Records that are forgotten, or leases that are renewed, by one script: all others wait for it."""


class RedisStore:
    """See the contract in ``base.py``. ``clock`` gives the Unix time from which ``now`` comes."""

    shared = True

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        """Raises ``HubError`` ``store_unavailable`` if the URL is none of Redis."""
        self._address = Address(url)
        self.place = self._address.place
        self.node = secrets.token_hex(8)
        self._calls = Calls(self._address, f"hub-{self.node}")
        self._news = News(self._address, self.node)
        self._common = Common(self._calls, self.place, clock)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, now: float) -> None:
        self._loop = asyncio.get_running_loop()
        await check(self._address)
        try:
            await self._calls.start()
            await self._news.start()
        except (RedisError, OSError) as error:
            await self.close()
            raise HubError(
                "store_unavailable", f"Responses cannot be kept in {self.place}: {error}."
            ) from error
        await self._common.start()
        self._news.listen(self._heard)

    async def close(self) -> None:
        self._common.close()
        await self._calls.close()
        await self._news.close()

    @property
    def lag(self) -> float:
        return self._calls.lag

    def statistics(self) -> Statistics:
        calls, common = self._calls, self._common
        waiting = calls.waiting - common.waiting
        return Statistics(*common.totals, waiting, calls.writes, calls.last_wait)

    def _run(
        self,
        script: Script,
        keys: Sequence[Any],
        arguments: Sequence[Any],
        understand: Callable[[Any], Any],
        *,
        again: bool = True,
        changes: str = "",
    ) -> asyncio.Future[Any]:
        command = ("EVALSHA", script.name, len(keys), *keys, *arguments)
        return self._calls.call(command, understand, again=again, changes=changes)

    def _touch(self, id: str) -> tuple[str, str, str]:
        """The keys of a response: record, log, channel. It is about to be written from here."""
        feed = self._news.feed(id)
        if feed is not None:
            feed.own = True
        return f"hub:r:{id}", f"hub:l:{id}", channel(id)

    # Records.

    def put(
        self,
        record: Record,
        *,
        segment: Segment | None = None,
        idempotency: Idempotency | None = None,
        hold: Hold | None = None,
    ) -> asyncio.Future[str]:
        def understand(reply: Any) -> str:
            if reply == 0:
                assert idempotency is not None
                raise IdempotencyConflict(idempotency.key)
            self._common.count(reply)
            if reply[1] and segment is not None:
                self._news.wrote(record.id, segment.last)
            return str(reply[0].decode())

        keys: list[Any] = [*self._touch(record.id)]
        key: list[Any] = ["", "", ""]
        if idempotency is not None:
            name = _key(record.tenant, idempotency)
            keys.append(f"hub:i:{name}")
            key = [idempotency.digest, number(idempotency.expires_at), name]
        job = ("b" if record.background else "f") if is_job(record) else ""
        held = number(hold.until + self._common.skew) if job and hold is not None else ""
        size = record_size(record) + (segment_size(segment) if segment is not None else 0)
        created_at, expires_at = number(record.created_at), number(record.expires_at)
        arguments = [record.id, job, held, created_at, expires_at, size, self._news.channel]
        arguments += [self.node, *key, *segment_fields(segment), is_pushed(segment)]
        return self._run(
            lua.PUT, keys, [*arguments, *record_fields(record)], understand, changes=record.id
        )

    def repeated(self, tenant: str, idempotency: Idempotency) -> asyncio.Future[str | None]:
        def understand(reply: Any) -> str | None:
            digest, id = reply
            if id is None:
                return None
            if digest != idempotency.digest:
                raise IdempotencyConflict(idempotency.key)
            return str(id.decode())

        key = f"hub:i:{_key(tenant, idempotency)}"
        return self._calls.call(("HMGET", key, "digest", "id"), understand)

    def get(self, tenant: str, id: str) -> asyncio.Future[Record | None]:
        def understand(reply: Any) -> Record | None:
            record = record_of(id, reply) if reply else None
            return record if record is not None and record.tenant == tenant else None

        return self._calls.call(("HGETALL", f"hub:r:{id}"), understand)

    def delete(self, tenant: str, id: str) -> asyncio.Future[bool]:
        def understand(reply: Any) -> bool:
            self._common.count(reply)
            if reply[1]:
                self._news.wrote(id, -1, ended=True)
            return bool(reply[0])

        return self._run(
            lua.DELETE, self._touch(id), (tenant,), understand, again=False, changes=id
        )

    def expire(self, now: float, max_bytes: int | None = None) -> asyncio.Future[int]:
        most = "" if max_bytes is None else max_bytes

        def understand(reply: Any) -> tuple[int, bool]:
            self._common.count(reply)
            return reply[0], bool(reply[1])

        def once() -> asyncio.Future[tuple[int, bool]]:
            return self._run(lua.EXPIRE, (), (number(now), most, AT_ONCE), understand)

        async def rest(first: asyncio.Future[tuple[int, bool]]) -> int:
            gone, more = await first
            while more:
                also, more = await once()
                gone += also
            return gone

        # The first is called now, in its turn.
        return asyncio.ensure_future(rest(once()), loop=self._loop)

    # Logs.

    def append(self, id: str, attempt: int, segment: Segment) -> asyncio.Future[None]:
        def understand(reply: Any) -> None:
            if isinstance(reply, list):
                raise _behind(reply[0], segment)
            if reply == -2:
                raise _fenced(id, attempt)
            if reply >= 0:
                self._common.bytes = reply
                self._news.wrote(id, segment.last)

        record, log, news = self._touch(id)
        body = segment.body
        return self._calls.call(
            (
                "EVALSHA",
                lua.APPEND.name,
                3,
                record,
                log,
                news,
                attempt,
                segment.first,
                segment.last,
                entry_id(segment),
                body,
                len(body) + SEGMENT_OVERHEAD,
                1 if len(body) <= MOST_PUSHED else 0,
            ),
            understand,
            patient=segment.first > FIRST,
            changes=id,
        )

    def read(self, id: str, after: int = -1) -> asyncio.Future[Sequence[Segment]]:
        feed = self._news.feed(id)
        if feed is not None:
            if not feed.confirmed:
                feed.read_early = True
            elif self._calls.answered >= feed.made:
                known = feed.read(after)
                if known is not None:
                    assert self._loop is not None
                    future: asyncio.Future[Sequence[Segment]] = self._loop.create_future()
                    future.set_result(known)
                    return future

        def understand(reply: Any) -> Sequence[Segment]:
            return [segment_of(entry) for entry in reply]

        return self._calls.call(("XRANGE", f"hub:l:{id}", max(after, -1) + 2, "+"), understand)

    def follow(self, id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """See ``Store.follow``. ``wake`` must not raise."""
        return self._news.follow(id, wake, self._calls.made)

    # Jobs.

    def claim(
        self, owner: str, now: float, lease: float, limit: int, *, foreground: bool = False
    ) -> asyncio.Future[Sequence[Record]]:
        until = number(now + self._common.skew + lease)

        def understand(reply: Any) -> Sequence[Record]:
            claimed = [record_of(id.decode(), fields) for id, fields in reply]
            for one in claimed:
                again = one.id, one.attempt, owner, until
                command = ("EVALSHA", lua.RECLAIM.name, 1, f"hub:r:{one.id}", *again)
                self._calls.remember(one.id, command)
            return claimed

        now += self._common.skew
        kind = "f" if foreground else "b"
        arguments = kind, number(now), until, max(limit, 0), owner
        return self._run(lua.CLAIM, (), arguments, understand, again=False)

    def renew(
        self, leases: Sequence[Lease], now: float, lease: float
    ) -> asyncio.Future[Sequence[Lease]]:
        until = number(now + self._common.skew + lease)

        def some(leases: Sequence[Lease]) -> asyncio.Future[Sequence[Lease]]:
            pairs = [part for one in leases for part in (one.id, one.attempt)]
            return self._run(
                lua.RENEW, (), (until, *pairs), lambda reply: [leases[place] for place in reply]
            )

        if len(leases) <= AT_ONCE:
            return some(leases)
        parts = [some(leases[at : at + AT_ONCE]) for at in range(0, len(leases), AT_ONCE)]

        async def all_of_them() -> Sequence[Lease]:
            return [stop for part in await asyncio.gather(*parts) for stop in part]

        return asyncio.ensure_future(all_of_them(), loop=self._loop)

    def release(self, id: str, attempt: int) -> asyncio.Future[None]:
        def understand(reply: Any) -> None:
            if not reply:
                raise _fenced(id, attempt)

        arguments = id, attempt, self._news.channel, self.node
        return self._run(lua.RELEASE, (f"hub:r:{id}",), arguments, understand, changes=id)

    def cancel(self, tenant: str, id: str) -> asyncio.Future[bool]:
        arguments = id, tenant, self._news.channel, self.node
        return self._run(lua.CANCEL, (f"hub:r:{id}",), arguments, bool, changes=id)

    def complete(
        self,
        id: str,
        attempt: int,
        *,
        status: str,
        result: bytes,
        segment: Segment | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> asyncio.Future[None]:
        def understand(reply: Any) -> None:
            if reply[0] == 0:
                raise _fenced(id, attempt)
            if reply[0] == 1:
                assert segment is not None
                raise _behind(reply[1], segment)
            self._common.count(reply)
            self._news.wrote(id, reply[1], ended=True)

        size = segment_size(segment) if segment is not None else 0
        arguments = [id, attempt, status, result, len(result), *segment_fields(segment), size]
        arguments.append(is_pushed(segment))
        for delivery in deliveries:
            arguments += delivery_fields(delivery)
        return self._run(
            lua.COMPLETE, self._touch(id), arguments, understand, again=False, changes=id
        )

    # Webhooks.

    def deliveries(self, now: float, limit: int) -> asyncio.Future[Sequence[Delivery]]:
        def understand(reply: Any) -> Sequence[Delivery]:
            return [delivery_of(one) for one in reply]

        agreed = now + self._common.skew
        until = number(agreed + DELIVERY_HOLD)
        arguments = number(now), number(agreed), until, max(limit, 0), self.node
        return self._run(lua.DELIVERIES, (), arguments, understand)

    def retry(self, id: str, next_at: float) -> asyncio.Future[None]:
        return self._run(lua.RETRY, (), (id, number(next_at)), _done, again=False)

    def delivered(self, id: str) -> asyncio.Future[None]:
        return self._run(lua.DELIVERED, (), (id,), _done, changes=id)

    # Nodes.

    def beat(self, state: bytes, ttl: float) -> asyncio.Future[Mapping[str, bytes]]:
        def understand(reply: Any) -> Mapping[str, bytes]:
            names = (name.decode() for name in reply[::2])
            return dict(zip(names, reply[1::2], strict=True))

        return self._run(lua.BEAT, (), (self.node, state, int(ttl * 1000)), understand)

    def tell(self, kind: str, body: str) -> None:
        message = f"{self.node} {kind} {body}"
        told = self._calls.call(("PUBLISH", self._news.channel, message), _done, again=False)
        told.add_done_callback(lambda future: future.exception())  # It may be lost.

    def hear(self, news: Callable[[str, str], None]) -> None:
        self._news.listen(news)

    def _heard(self, kind: str, body: str) -> None:
        if kind == "deleted":
            self._calls.forget(body)


def _key(tenant: str, idempotency: Idempotency) -> str:
    return f"{tenant}\0{idempotency.key}"


def _fenced(id: str, attempt: int) -> Fenced:
    return Fenced(f"{id} has ended, is no job, or is not at attempt {attempt}")


def _behind(last: int, segment: Segment) -> Behind:
    return Behind(last, f"The events from {last + 1} to {segment.first - 1} were not stored.")


def _done(reply: Any) -> None:
    return None
