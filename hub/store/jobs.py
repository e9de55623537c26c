"""The jobs that have not ended: who may write to them, and who may take them.

Rules of this file's world:

- A job is *held* or *free*, never both. A claim takes free jobs, oldest first; it raises their
  attempt. A job whose lease has lapsed is free from the next claim on; until somebody takes it, its
  owner may still renew, since nobody else has begun.
- The *attempt* alone is the fence: whoever names the latest one may write, whatever has become of
  the lease. A job that ended or was deleted is not here, so nobody may.
- Given back (*released*) is not lapsed: who has released cannot renew.

Leases live in memory only. A store that keeps them for one process needs no more: when that process
has died, every lease is void. What may not be in this file: a file, a loop, a clock.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hub.errors import HubError
from hub.store.base import Fenced, Hold, Lease, Record, Segment


@dataclass(slots=True, eq=False)
class Job:
    """A job that has not ended, and how far its log reaches."""

    n: int
    """Its place in the order of arrival; never used again."""
    id: str
    tenant: str
    created_at: float
    size: int
    """Bytes that it counts for, with its log (see ``size.py``)."""
    attempt: int = 0
    cancelled: bool = False
    background: bool = True
    last: int = -1
    """The last event in its log."""
    owner: str | None = None
    """Who claimed it last, unless it was given back."""
    until: float = 0.0
    """The end of the owner's lease."""

    def lacks(self, segment: Segment) -> bool:
        """Whether a segment brings something new.

        A log begins where its first segment does. After that, a segment that leaves a gap is
        refused: it was sent before its predecessor had failed. The writer sends both again.
        """
        if 0 <= self.last < segment.first - 1:
            raise HubError(
                "store_unavailable",
                f"The events from {self.last + 1} to {segment.first - 1} were not stored.",
            )
        return segment.last > self.last

    @property
    def _key(self) -> tuple[float, int, str]:
        return self.created_at, self.n, self.id


def is_job(record: Record) -> bool:
    """Whether a new record is something that somebody has to run, or runs already."""
    return record.result is None and (record.background or record.attempt > 0)


class Jobs:
    """The jobs of one store. See the rules at the top of this file."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._held: dict[str, Job] = {}
        # Sorted. A hundred thousand entries move in 20 us when one leaves the front, and a new job
        # is nearly always the last. The background's and the foreground's.
        self._free: dict[bool, list[tuple[float, int, str]]] = {True: [], False: []}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, id: str) -> Job | None:
        """The job of that id, unless it has ended."""
        return self._jobs.get(id)

    def add(self, job: Job) -> None:
        """A new job, free."""
        assert job.id not in self._jobs, "a job is added once"
        self._jobs[job.id] = job
        insort(self._free[job.background], job._key)

    def end(self, id: str) -> Job:
        """Forget a job, which it gives: it has ended, or was deleted."""
        job = self._jobs.pop(id)
        if self._held.pop(id, None) is None:
            self._take(job)
        return job

    def fence(self, id: str, attempt: int) -> Job:
        """The job that somebody is about to write to. Raises ``Fenced`` if he is not its writer."""
        job = self._jobs.get(id)
        if job is None:
            raise Fenced(f"{id} has ended, or is no job")
        if job.attempt != attempt:
            raise Fenced(f"{id} is at attempt {job.attempt}, not {attempt}")
        return job

    def hold(self, id: str, hold: Hold) -> None:
        """Its maker runs it at once, as the attempt that it has."""
        self._hold(self._jobs[id], hold.owner, hold.until)

    def claim(
        self, owner: str, now: float, lease: float, limit: int, *, background: bool = True
    ) -> list[Job]:
        """Take up to ``limit`` free jobs, oldest first."""
        for job in [job for job in self._held.values() if job.until <= now]:
            self._let_go(job)
        free = self._free[background]
        keys = free[: max(limit, 0)]
        del free[: len(keys)]
        taken = [self._jobs[id] for _, _, id in keys]
        for job in taken:
            job.attempt += 1
            job.owner = owner
            job.until = now + lease
            self._held[job.id] = job
        return taken

    def renew(self, leases: Sequence[Lease], now: float, lease: float) -> list[Lease]:
        """Prolong leases. Gives those whose owner is to stop.

        A cancelled job is prolonged too: its owner has still to complete it.
        """
        stop: list[Lease] = []
        for claim in leases:
            job = self._jobs.get(claim.id)
            if job is None or job.attempt != claim.attempt or job.owner is None:
                stop.append(claim)
                continue
            self._hold(job, job.owner, now + lease)
            if job.cancelled:
                stop.append(claim)
        return stop

    def release(self, id: str, attempt: int) -> None:
        """Give a claim back. Raises ``Fenced``; giving it back twice is giving it back."""
        job = self.fence(id, attempt)
        job.owner = None
        self._let_go(job)

    def keep_leases(self, former: Iterable[Job]) -> None:
        """Take the leases over from what these jobs were before they were read again."""
        for old in former:
            job = self._jobs.get(old.id)
            if job is not None and job.attempt == old.attempt and old.owner is not None:
                self._hold(job, old.owner, old.until)

    def _hold(self, job: Job, owner: str, until: float) -> None:
        job.owner = owner
        job.until = until
        if job.id not in self._held:
            self._take(job)
            self._held[job.id] = job

    def _let_go(self, job: Job) -> None:
        if self._held.pop(job.id, None) is not None:
            insort(self._free[job.background], job._key)

    def _take(self, job: Job) -> None:
        free = self._free[job.background]
        at = bisect_left(free, job._key)
        assert free[at] == job._key, "a job that nobody holds is free"
        del free[at]
