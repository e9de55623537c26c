"""The ledger of the SQLite store: hub.db, and log.db through ``Segments``.

Rules of this file's world:

- It belongs to one thread, which runs many calls between ``begin`` and ``commit`` or
  ``rollback``. A call that fails leaves no trace and spares its neighbours; an error of the disk
  (``sqlite3.Error``, ``OSError``) is to end the batch with ``rollback``.
- The fences, leases and totals are in memory, as of the calls so far. So an append asks no table.
  After a rollback they are read again from the tables, which are the truth.
- log.db is committed before hub.db, and logs are deleted after it. So in a crash between the two, a
  log may lack its record (the next start deletes it), but never a record its log.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hub.store import rows
from hub.store.base import (
    Delivery,
    Hold,
    Idempotency,
    IdempotencyConflict,
    Lease,
    Record,
    Segment,
)
from hub.store.jobs import Job, Jobs, is_job
from hub.store.ledger import Totals
from hub.store.segments import Segments, give_back
from hub.store.size import RECORD_OVERHEAD, record_size, segment_size


class Tables:
    """A ``Ledger`` in two databases. See the rules at the top of this file."""

    def __init__(self, hub: sqlite3.Connection, log: sqlite3.Connection) -> None:
        self._hub = hub
        self._segments = Segments(log)
        self._jobs = Jobs()
        self._n = 0
        self._records = 0
        self._bytes = 0
        self._touched: set[str] = set()
        self._leaving: list[int] = []
        self._ended: list[Job] = []
        self._vacuum = False
        self._load()
        self._stale = False
        kept = {n for (n,) in hub.execute("SELECT n FROM records")}
        self._segments.forget(n for n in self._segments.logs() if n not in kept)
        self.tidy()

    # The batch.

    def begin(self) -> None:
        """Start a batch. After a rollback, this is what undoes the calls and reads what is true."""
        if self._stale:
            self._segments.rollback()
            if self._hub.in_transaction:
                self._hub.execute("ROLLBACK")
            self._load()
            self._stale = False

    def commit(self) -> bool:
        """Make the calls of the batch last. False if there was nothing to write."""
        wrote = self._segments.commit()
        if self._hub.in_transaction:
            self._hub.execute("COMMIT")
            wrote = True
        self._segments.forget(self._leaving)
        self._leaving = []
        self._ended = []
        return wrote

    def rollback(self) -> None:
        """Give the batch up. Cannot fail, since the work is left to the next ``begin``."""
        self._touched = set()
        self._leaving = []
        self._stale = True

    def tidy(self) -> None:
        """What can wait until the batch's callers have their answer, and may fail."""
        try:
            self._segments.tidy(vacuum=self._vacuum)
            if self._vacuum:
                give_back(self._hub)
        except sqlite3.Error:
            return  # It is only space. The next batch will meet the disk's error, if it lasts.
        self._vacuum = False

    def totals(self) -> Totals:
        return Totals(self._records, len(self._jobs), self._bytes)

    def take_touched(self) -> set[str]:
        """The ids of the logs that have changed since this was last asked."""
        touched = self._touched
        if touched:
            self._touched = set()
        return touched

    def _load(self) -> None:
        jobs = Jobs()
        live = self._hub.execute(
            "SELECT n, id, tenant, created_at, length(body), attempt, cancelled, background"
            " FROM records JOIN requests USING (n) WHERE job"
        )
        job_bytes = 0
        for n, id, tenant, created_at, request, attempt, cancelled, background in live:
            last, log = self._segments.extent(n)
            size = RECORD_OVERHEAD + request + log
            job_bytes += size
            flags = bool(cancelled), bool(background)
            jobs.add(Job(n, id, tenant, created_at, size, attempt, *flags, last))
        jobs.keep_leases(self._jobs)
        jobs.keep_leases(self._ended)
        highest, ended, ended_bytes = self._hub.execute(
            "SELECT coalesce(max(n), 0), coalesce(sum(NOT job), 0),"
            " coalesce(sum(size) FILTER (WHERE NOT job), 0) FROM records"
        ).fetchone()
        self._jobs = jobs
        self._records = ended + len(jobs)
        self._bytes = ended_bytes + job_bytes
        # A number that was rolled back may have segments in log.db: it is not used again.
        self._n = max(self._n, highest, self._segments.highest())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One call's changes to hub.db. If the call fails, they are undone, and only they."""
        hub = self._hub
        if not hub.in_transaction:
            hub.execute("BEGIN IMMEDIATE")
        hub.execute("SAVEPOINT call")
        try:
            yield
        except BaseException:
            if hub.in_transaction:  # Some errors of the disk have ended it.
                hub.execute("ROLLBACK TO call")
            raise
        hub.execute("RELEASE call")

    # Records.

    def put(
        self,
        record: Record,
        segment: Segment | None,
        idempotency: Idempotency | None,
        hold: Hold | None = None,
    ) -> str:
        hub = self._hub
        if idempotency is not None:
            used = self.repeated(record.tenant, idempotency)
            if used is not None:
                return used
        if hub.execute("SELECT 1 FROM records WHERE id = ?", (record.id,)).fetchone():
            return record.id
        n = self._n + 1
        size = record_size(record)
        with self._writing():
            rows.insert(
                hub, n, record, size + (segment_size(segment) if segment is not None else 0)
            )
            if idempotency is not None:
                hub.execute(
                    "INSERT INTO idempotency (tenant, key, digest, id, expires_at)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (
                        record.tenant,
                        idempotency.key,
                        idempotency.digest,
                        record.id,
                        idempotency.expires_at,
                    ),
                )
        self._n = n
        self._records += 1
        self._bytes += size
        job = None
        if is_job(record):
            job = Job(n, record.id, record.tenant, record.created_at, size)
            job.attempt, job.cancelled = record.attempt, record.cancelled
            job.background = record.background
            self._jobs.add(job)
            if hold is not None:
                self._jobs.hold(record.id, hold)
        if segment is not None:
            self._write(n, record.id, job, segment, synced=True)
        return record.id

    def repeated(self, tenant: str, idempotency: Idempotency) -> str | None:
        digest, id = self._hub.execute(
            "SELECT digest, id FROM idempotency WHERE tenant = ? AND key = ?",
            (tenant, idempotency.key),
        ).fetchone() or (None, None)
        if id is not None and digest != idempotency.digest:
            raise IdempotencyConflict(idempotency.key)
        return id

    def get(self, tenant: str, id: str) -> Record | None:
        row = self._hub.execute(
            f"{rows.SELECT} WHERE id = ? AND tenant = ?", (id, tenant)
        ).fetchone()
        return rows.record(row) if row is not None else None

    def delete(self, tenant: str, id: str) -> bool:
        row = self._hub.execute(
            "SELECT n, size FROM records WHERE id = ? AND tenant = ?", (id, tenant)
        ).fetchone()
        if row is None:
            return False
        n, size = row
        job = self._jobs.get(id)
        self._forget([(n, job.size if job is not None else size)])
        if job is not None:
            self._ended.append(self._jobs.end(id))
            self._touched.add(id)
        return True

    def expire(self, now: float, max_bytes: int | None) -> int:
        with self._writing():
            self._hub.execute("DELETE FROM idempotency WHERE expires_at <= ?", (now,))
        expired = self._hub.execute(
            "SELECT n, size FROM records WHERE NOT job AND expires_at <= ?", (now,)
        ).fetchall()
        self._forget(expired)
        surplus = self._oldest(self._bytes - max_bytes) if max_bytes is not None else []
        self._forget(surplus)
        self._vacuum = True
        return len(expired) + len(surplus)

    def _oldest(self, size: int) -> list[tuple[int, int]]:
        """Enough of the oldest records that have ended to hold ``size`` bytes, if there are."""
        oldest: list[tuple[int, int]] = []
        if size <= 0:
            return oldest
        for n, held in self._hub.execute(
            "SELECT n, size FROM records WHERE NOT job ORDER BY created_at, n"
        ):
            oldest.append((n, held))
            size -= held
            if size <= 0:
                break
        return oldest

    def _forget(self, records: Sequence[tuple[int, int]]) -> None:
        """Delete records, given by number and size, and their logs."""
        with self._writing():
            self._hub.executemany("DELETE FROM records WHERE n = ?", [(n,) for n, _ in records])
        self._leaving += [n for n, _ in records]
        self._records -= len(records)
        self._bytes -= sum(size for _, size in records)

    # Logs.

    def append(self, id: str, attempt: int, segment: Segment) -> None:
        job = self._jobs.fence(id, attempt)
        if job.lacks(segment):
            self._write(job.n, id, job, segment, synced=False)

    def read(self, id: str, after: int) -> Sequence[Segment]:
        job = self._jobs.get(id)
        if job is not None:
            return self._segments.read(job.n, after)
        row = self._hub.execute("SELECT n FROM records WHERE id = ?", (id,)).fetchone()
        return self._segments.read(row[0], after) if row is not None else []

    def _write(self, n: int, id: str, job: Job | None, segment: Segment, *, synced: bool) -> None:
        self._segments.add(n, segment, synced=synced)
        size = segment_size(segment)
        self._bytes += size
        self._touched.add(id)
        if job is not None:
            job.last = segment.last
            job.size += size

    # Jobs.

    def claim(
        self, owner: str, now: float, lease: float, limit: int, foreground: bool
    ) -> Sequence[Record]:
        jobs = self._jobs.claim(owner, now, lease, limit, background=not foreground)
        if not jobs:
            return []
        with self._writing():
            self._hub.executemany(
                "UPDATE records SET status = 'in_progress', attempt = ? WHERE n = ?",
                [(job.attempt, job.n) for job in jobs],
            )
        return [
            rows.record(self._hub.execute(f"{rows.SELECT} WHERE n = ?", (job.n,)).fetchone())
            for job in jobs
        ]

    def renew(self, leases: Sequence[Lease], now: float, lease: float) -> Sequence[Lease]:
        return self._jobs.renew(leases, now, lease)

    def release(self, id: str, attempt: int) -> None:
        self._jobs.release(id, attempt)

    def cancel(self, tenant: str, id: str) -> bool:
        job = self._jobs.get(id)
        if job is None or job.tenant != tenant:
            return False
        if not job.cancelled:
            with self._writing():
                self._hub.execute("UPDATE records SET cancelled = 1 WHERE n = ?", (job.n,))
            job.cancelled = True
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
        if segment is not None and not job.lacks(segment):
            segment = None
        size = job.size + len(result) + (segment_size(segment) if segment is not None else 0)
        with self._writing():
            self._hub.execute(
                "UPDATE records SET status = ?, job = 0, size = ? WHERE n = ?",
                (status, size, job.n),
            )
            self._hub.execute("INSERT INTO results (n, body) VALUES (?, ?)", (job.n, result))
            self._hub.executemany(
                "INSERT OR IGNORE INTO deliveries (id, response_id, url, body, next_at, tries)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [(d.id, d.response_id, d.url, d.body, d.next_at, d.tries) for d in deliveries],
            )
        self._bytes += len(result)
        if segment is not None:
            self._write(job.n, id, job, segment, synced=True)
        self._ended.append(self._jobs.end(id))
        self._touched.add(id)

    # Webhooks.

    def deliveries(self, now: float, limit: int) -> Sequence[Delivery]:
        due = self._hub.execute(
            "SELECT id, response_id, url, body, next_at, tries FROM deliveries"
            " WHERE next_at <= ? ORDER BY next_at, n LIMIT ?",
            (now, max(limit, 0)),
        )
        return [Delivery(*row) for row in due]

    def retry(self, id: str, next_at: float) -> None:
        with self._writing():
            self._hub.execute(
                "UPDATE deliveries SET next_at = ?, tries = tries + 1 WHERE id = ?", (next_at, id)
            )

    def delivered(self, id: str) -> None:
        with self._writing():
            self._hub.execute("DELETE FROM deliveries WHERE id = ?", (id,))
