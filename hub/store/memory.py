"""A store that lasts as long as its process: for running hub without a disk, and for tests.

It holds what it is given until ``expire`` is told otherwise, so whoever runs it calls that with a
bound. Every call is done when it returns.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hub.errors import HubError
from hub.store.base import (
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
from hub.store.jobs import Job, Jobs, is_job
from hub.store.ledger import Ledger, LedgerStore, Totals
from hub.store.size import record_size, segment_size

T = TypeVar("T")


class MemoryStore(LedgerStore):
    """See the contract in ``base.py``."""

    def __init__(self) -> None:
        super().__init__()
        self.place = "memory"
        self._ledger = _MemoryLedger()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, now: float) -> None:
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        self._ledger = _MemoryLedger()

    @property
    def lag(self) -> float:
        return 0.0

    def statistics(self) -> Statistics:
        totals = self._ledger.totals()
        return Statistics(
            totals.records, totals.jobs, totals.bytes, waiting=0, commits=0, last_commit=0.0
        )

    def _call(self, work: Callable[[Ledger], T]) -> asyncio.Future[T]:
        assert self._loop is not None, "start() comes first"
        future: asyncio.Future[T] = self._loop.create_future()
        try:
            future.set_result(work(self._ledger))
        except (Fenced, IdempotencyConflict, HubError) as error:
            future.set_exception(error)
        touched = self._ledger.take_touched()
        if touched:
            self._loop.call_soon(self._wake, touched)
        return future


@dataclass(slots=True)
class _Kept:
    """A record, and everything that goes when it goes."""

    record: Record
    size: int = 0
    log: list[Segment] = field(default_factory=list)


class _MemoryLedger:
    """A ``Ledger`` in dictionaries, each in the order of arrival."""

    def __init__(self) -> None:
        self._n = 0
        self._kept: dict[str, _Kept] = {}
        self._jobs = Jobs()
        self._bytes = 0
        self._idempotency: dict[tuple[str, str], tuple[Idempotency, str]] = {}
        self._deliveries: dict[str, Delivery] = {}
        self._touched: set[str] = set()

    def totals(self) -> Totals:
        return Totals(len(self._kept), len(self._jobs), self._bytes)

    def take_touched(self) -> set[str]:
        """The ids of the logs that have changed since this was last asked."""
        touched = self._touched
        if touched:
            self._touched = set()
        return touched

    # Records.

    def put(
        self,
        record: Record,
        segment: Segment | None,
        idempotency: Idempotency | None,
        hold: Hold | None = None,
    ) -> str:
        if idempotency is not None:
            used = self.repeated(record.tenant, idempotency)
            if used is not None:
                return used
        if record.id in self._kept:
            return record.id
        self._n += 1
        kept = self._kept[record.id] = _Kept(record)
        self._grow(kept, record_size(record))
        if is_job(record):
            self._jobs.add(
                Job(
                    self._n,
                    record.id,
                    record.tenant,
                    record.created_at,
                    kept.size,
                    record.attempt,
                    record.cancelled,
                    record.background,
                )
            )
            if hold is not None:
                self._jobs.hold(record.id, hold)
        if segment is not None:
            self._write(kept, segment)
        if idempotency is not None:
            self._idempotency[record.tenant, idempotency.key] = idempotency, record.id
        return record.id

    def repeated(self, tenant: str, idempotency: Idempotency) -> str | None:
        used, id = self._idempotency.get((tenant, idempotency.key), (None, None))
        if used is not None and used.digest != idempotency.digest:
            raise IdempotencyConflict(idempotency.key)
        return id

    def get(self, tenant: str, id: str) -> Record | None:
        kept = self._kept.get(id)
        return kept.record if kept is not None and kept.record.tenant == tenant else None

    def delete(self, tenant: str, id: str) -> bool:
        if self.get(tenant, id) is None:
            return False
        self._forget(id)
        return True

    def expire(self, now: float, max_bytes: int | None) -> int:
        for key, (idempotency, _) in list(self._idempotency.items()):
            if idempotency.expires_at <= now:
                del self._idempotency[key]
        ended = [kept for id, kept in self._kept.items() if self._jobs.get(id) is None]
        ended.sort(key=lambda kept: kept.record.created_at)
        expired = [kept for kept in ended if kept.record.expires_at <= now]
        for kept in expired:
            self._forget(kept.record.id)
        gone = len(expired)
        for kept in ended:
            if max_bytes is None or self._bytes <= max_bytes:
                break
            if kept.record.id in self._kept:
                self._forget(kept.record.id)
                gone += 1
        return gone

    # Logs.

    def append(self, id: str, attempt: int, segment: Segment) -> None:
        if self._jobs.fence(id, attempt).lacks(segment):
            self._write(self._kept[id], segment)

    def read(self, id: str, after: int) -> Sequence[Segment]:
        kept = self._kept.get(id)
        return [segment for segment in kept.log if segment.last > after] if kept else []

    # Jobs.

    def claim(
        self, owner: str, now: float, lease: float, limit: int, foreground: bool
    ) -> Sequence[Record]:
        claimed = []
        for job in self._jobs.claim(owner, now, lease, limit, background=not foreground):
            kept = self._kept[job.id]
            kept.record = replace(kept.record, status="in_progress", attempt=job.attempt)
            claimed.append(kept.record)
        return claimed

    def renew(self, leases: Sequence[Lease], now: float, lease: float) -> Sequence[Lease]:
        return self._jobs.renew(leases, now, lease)

    def release(self, id: str, attempt: int) -> None:
        self._jobs.release(id, attempt)

    def cancel(self, tenant: str, id: str) -> bool:
        job = self._jobs.get(id)
        if job is None or job.tenant != tenant:
            return False
        job.cancelled = True
        kept = self._kept[id]
        kept.record = replace(kept.record, cancelled=True)
        return True

    def complete(
        self,
        id: str,
        attempt: int,
        status: str,
        result: bytes,
        segment: Segment | None,
        deliveries: Sequence[Delivery],
    ) -> None:
        job = self._jobs.fence(id, attempt)
        news = segment is not None and job.lacks(segment)
        kept = self._kept[id]
        if segment is not None and news:
            self._write(kept, segment)
        kept.record = replace(kept.record, status=status, result=result)
        self._grow(kept, len(result))
        self._jobs.end(id)
        self._touched.add(id)
        for delivery in deliveries:
            self._deliveries.setdefault(delivery.id, delivery)

    # Webhooks.

    def deliveries(self, now: float, limit: int) -> Sequence[Delivery]:
        due = [delivery for delivery in self._deliveries.values() if delivery.next_at <= now]
        due.sort(key=lambda delivery: delivery.next_at)
        return due[: max(limit, 0)]

    def retry(self, id: str, next_at: float) -> None:
        delivery = self._deliveries.get(id)
        if delivery is not None:
            tries = delivery.tries + 1
            self._deliveries[id] = replace(delivery, next_at=next_at, tries=tries)

    def delivered(self, id: str) -> None:
        self._deliveries.pop(id, None)

    # What the calls share.

    def _write(self, kept: _Kept, segment: Segment) -> None:
        kept.log.append(segment)
        self._grow(kept, segment_size(segment))
        self._touched.add(kept.record.id)
        job = self._jobs.get(kept.record.id)
        if job is not None:
            job.last = segment.last

    def _grow(self, kept: _Kept, size: int) -> None:
        kept.size += size
        self._bytes += size

    def _forget(self, id: str) -> None:
        self._bytes -= self._kept.pop(id).size
        if self._jobs.get(id) is not None:
            self._jobs.end(id)
            self._touched.add(id)
