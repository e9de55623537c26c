"""Background work: claiming it, holding it, giving it back.

Jobs wait in the store, not in memory: only so many are claimed as may run here. A claim is a
lease; as long as this process lives it is renewed, and when it dies somebody else claims the job.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from hub.errors import HubError
from hub.store.base import Fenced, Lease, Record, Store

logger = logging.getLogger("hub.jobs")

LEASE = 15.0
"""Seconds for which a claim holds. Renewed three times as often."""


class Jobs:
    """Claims jobs and has them run. ``start``, then ``close``."""

    def __init__(
        self,
        store: Store,
        *,
        limit: int,
        now: Callable[[], float],
        run: Callable[[Record], Awaitable[None]],
        stop: Callable[[str], None],
        lease: float = LEASE,
    ) -> None:
        """At most ``limit`` jobs are held at a time. ``run`` starts a claimed one, or raises what
        is wrong: it is let go of then, and claimed again when its lease has lapsed. ``stop`` ends
        one that was lost or cancelled."""
        self._store = store
        self._limit = limit
        self._now = now
        self._run = run
        self._stop = stop
        self._lease = lease
        self._owner = secrets.token_hex(8)
        self._held: dict[str, int] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many jobs are held."""
        return len(self._held)

    def start(self) -> None:
        """Begin to claim, with what an earlier process has left."""
        self._news.set()
        self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """There is a new job."""
        self._news.set()

    def done(self, id: str) -> None:
        """A job's end is in the store."""
        if self._held.pop(id, None) is not None:
            self._news.set()

    async def release(self, id: str) -> None:
        """Give a job back: somebody else may have it at once."""
        attempt = self._held.pop(id, None)
        if attempt is not None:
            try:
                await self._store.release(id, attempt)
            except (Fenced, HubError) as error:
                # Then it is somebody else's, or will be when its lease has lapsed.
                logger.warning("%s could not be given back: %r", id, error)

    async def close(self) -> None:
        """Claim no more. What is held stays held until it is done or released."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _work(self) -> None:
        renewed = self._now()
        while True:
            try:
                async with asyncio.timeout(self._lease / 3):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                # What is not renewed is not safe to claim beside: it might be our own.
                if (now := self._now()) - renewed >= self._lease / 3:
                    await self._renew()
                    renewed = now
                await self._claim()
            except HubError as error:
                # The store is in trouble. What runs goes on; claiming is tried again.
                logger.warning("cannot claim background work: %s", error)

    async def _renew(self) -> None:
        leases = [Lease(id, attempt) for id, attempt in self._held.items()]
        for lease in await self._store.renew(leases, self._now(), self._lease):
            self._stop(lease.id)

    async def _claim(self) -> None:
        while (room := self._limit - len(self._held)) > 0:
            records = await self._store.claim(self._owner, self._now(), self._lease, room)
            kept = [await self._start(record) for record in records]
            if len(records) < room or not all(kept):
                return

    async def _start(self, record: Record) -> bool:
        """Hold a claimed job and have it run. False if it was given back: if nothing else happened,
        it would be claimed again at once."""
        self._held[record.id] = record.attempt
        try:
            await self._run(record)
        except Exception:
            # The boundary of one job: whatever is wrong with it, the others are run.
            logger.exception("%s could not be started", record.id)
            self._held.pop(record.id, None)
            return True
        return record.id in self._held
