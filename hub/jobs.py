"""Work that the store knows of: claiming it, holding it, giving it back.

Background jobs wait in the store, not in memory: only so many are claimed as may run here. A claim
is a lease; as long as this process lives it is renewed, and when it dies somebody else claims the
job. Where nodes share a store, foreground responses are held in the same way, from their beginning
on, and what a dead node has held is claimed whatever runs here: somebody waits for it.

After trouble with the store every lease may have lapsed though all owners live. So nothing is
claimed until each has had the time to renew.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from hub.errors import HubError
from hub.store.base import Fenced, Hold, Lease, Record, Store

logger = logging.getLogger("hub.jobs")

LEASE = 15.0
"""Seconds for which a claim holds. Renewed three times as often."""
FOREGROUND = 64
"""Most foreground responses that are claimed at a time."""


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
        self._foreground: set[str] = set()
        """Those of them that are no background work."""
        self._starting: set[str] = set()
        """Those of them that are not running yet."""
        self._quiet_until = float("-inf")
        """When the owners of lapsed leases have had their time."""
        self._trouble = False
        """The store has failed, and that was said."""
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

    def claimed(self) -> Hold:
        """The claim of what is put and run here at once; ``hold`` it then."""
        return Hold(self._owner, self._now() + self._lease)

    def hold(self, record: Record) -> None:
        """It was put with a claim of this process: keep it until it is done or released."""
        self._held[record.id] = record.attempt
        if not record.background:
            self._foreground.add(record.id)

    @property
    def room(self) -> int:
        """How many more background jobs may run here."""
        return self._limit - (len(self._held) - len(self._foreground))

    def holds(self, id: str) -> bool:
        """Whether it is this process's."""
        return id in self._held

    def done(self, id: str) -> None:
        """A job's end is in the store, or it is somebody else's."""
        if self._drop(id) is not None:
            self._news.set()

    def let_lapse(self, id: str) -> None:
        """Hold a job no more: somebody else may have it when its lease has run out."""
        self._drop(id)

    async def release(self, id: str) -> None:
        """Give a job back: somebody else may have it at once."""
        attempt = self._drop(id)
        if attempt is not None:
            try:
                await self._store.release(id, attempt)
            except (Fenced, HubError) as error:
                # Then it is somebody else's, or will be when its lease has lapsed.
                logger.warning("%s could not be given back: %r", id, error)

    async def close(self) -> None:
        """Claim no more. What is held stays held until it is done or released; where others could
        take it, it is renewed until ``end``."""
        await self.end()
        for id in [*self._starting]:
            await self.release(id)
        if self._task is not None and self._store.shared:
            self._task = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Renew no more, either."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _keep(self) -> None:
        while True:
            try:
                await self._renew()
                self._trouble = False
            except HubError as error:
                self._complain("cannot renew leases", error)
            await asyncio.sleep(self._lease / 3)

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
                self._trouble = False
            except HubError as error:
                # The store is in trouble. What runs goes on; claiming is tried again.
                self._complain("cannot claim work", error)
                if self._store.shared:
                    renewed = float("-inf")
                    # They try as often as this one, and may have failed just after it.
                    self._quiet_until = self._now() + self._lease * 2 / 3
            except Exception:
                # Boundary: without this task every lease would lapse. What is wrong may be one job.
                logger.exception("claiming has failed")

    def _complain(self, what: str, error: HubError) -> None:
        """Say once that the store is in trouble."""
        logger.log(logging.DEBUG if self._trouble else logging.WARNING, "%s: %s", what, error)
        self._trouble = True

    async def _renew(self) -> None:
        leases = [Lease(id, attempt) for id, attempt in self._held.items()]
        for lease in await self._store.renew(leases, self._now(), self._lease):
            self._stop(lease.id)

    async def _claim(self) -> None:
        if self._now() < self._quiet_until:
            return
        if self._store.shared:
            await self._claim_while(lambda: FOREGROUND, foreground=True)
        await self._claim_while(lambda: self.room, foreground=False)

    async def _claim_while(self, room: Callable[[], int], *, foreground: bool) -> None:
        while (limit := room()) > 0:
            records = await self._store.claim(
                self._owner, self._now(), self._lease, limit, foreground=foreground
            )
            if foreground:
                # Somebody waits for each of them.
                kept = await asyncio.gather(*map(self._start, records))
            else:
                kept = [await self._start(record) for record in records]
            if len(records) < limit or not all(kept):
                return

    async def _start(self, record: Record) -> bool:
        """Hold a claimed job and have it run. False if it was given back: if nothing else happened,
        it would be claimed again at once."""
        self.hold(record)
        self._starting.add(record.id)
        try:
            await self._run(record)
        except Exception:
            # The boundary of one job: whatever is wrong with it, the others are run.
            logger.exception("%s could not be started", record.id)
            self._drop(record.id)
            return True
        self._starting.discard(record.id)
        return record.id in self._held

    def _drop(self, id: str) -> int | None:
        self._foreground.discard(id)
        self._starting.discard(id)
        return self._held.pop(id, None)
