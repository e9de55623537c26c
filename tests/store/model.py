"""The contract of the stores once more, as short as it can be said.

No index, no order kept, no number cached: each call looks at everything and takes what it needs.
Refusals are given, not raised: the class of the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
)
from hub.store.size import record_size, segment_size

Refusal = type[Fenced] | type[IdempotencyConflict] | type[HubError]


@dataclass
class Kept:
    record: Record
    log: list[Segment] = field(default_factory=list)
    until: float | None = None
    """The end of the lease, if there is one that was not given back."""

    @property
    def live(self) -> bool:
        job = self.record.background or self.record.attempt > 0
        return job and self.record.result is None

    @property
    def size(self) -> int:
        return record_size(self.record) + sum(map(segment_size, self.log))


class Model:
    """The state that a store shows."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.keys: list[tuple[str, Idempotency, str]] = []
        self.webhooks: list[Delivery] = []

    def find(self, id: str) -> Kept | None:
        return next((kept for kept in self.kept if kept.record.id == id), None)

    def of(self, tenant: str, id: str) -> Kept | None:
        kept = self.find(id)
        return kept if kept is not None and kept.record.tenant == tenant else None

    def written_by(self, id: str, attempt: int) -> Kept | None:
        kept = self.find(id)
        return kept if kept and kept.live and kept.record.attempt == attempt else None

    @property
    def size(self) -> int:
        return sum(kept.size for kept in self.kept)

    def restart(self) -> None:
        for kept in self.kept:
            kept.until = None

    def repeated(self, tenant: str, idempotency: Idempotency) -> str | Refusal | None:
        for owner, used, id in self.keys:
            if (owner, used.key) == (tenant, idempotency.key):
                return id if used.digest == idempotency.digest else IdempotencyConflict
        return None

    def put(
        self,
        record: Record,
        segment: Segment | None,
        idempotency: Idempotency | None,
        hold: Hold | None,
    ) -> str | Refusal:
        if idempotency and (used := self.repeated(record.tenant, idempotency)):
            return used
        if not self.find(record.id):
            until = hold.until if hold else None
            self.kept.append(Kept(record, [segment] if segment else [], until))
            if idempotency:
                self.keys.append((record.tenant, idempotency, record.id))
        return record.id

    def get(self, tenant: str, id: str) -> Record | None:
        kept = self.of(tenant, id)
        return kept.record if kept else None

    def delete(self, tenant: str, id: str) -> bool:
        kept = self.of(tenant, id)
        if kept:
            self.kept.remove(kept)
        return kept is not None

    def expire(self, now: float, max_bytes: int | None) -> int:
        before = len(self.kept)
        self.keys = [key for key in self.keys if key[1].expires_at > now]
        self.kept = [kept for kept in self.kept if kept.live or kept.record.expires_at > now]
        ended = sorted(
            (kept for kept in self.kept if not kept.live), key=lambda kept: kept.record.created_at
        )
        while max_bytes is not None and ended and self.size > max_bytes:
            self.kept.remove(ended.pop(0))
        return before - len(self.kept)

    def append(self, id: str, attempt: int, segment: Segment) -> Refusal | None:
        kept = self.written_by(id, attempt)
        if not kept:
            return Fenced
        if kept.log and segment.first > kept.log[-1].last + 1:
            return HubError
        if not kept.log or segment.last > kept.log[-1].last:
            kept.log.append(segment)
        return None

    def read(self, id: str, after: int) -> list[Segment]:
        kept = self.find(id)
        return [segment for segment in kept.log if segment.last > after] if kept else []

    def claim(self, now: float, lease: float, limit: int, foreground: bool) -> list[Record]:
        jobs = [one for one in self.kept if one.live and one.record.background is not foreground]
        free = [one for one in jobs if one.until is None or one.until <= now]
        free.sort(key=lambda kept: kept.record.created_at)
        for kept in free[:limit]:
            attempt = kept.record.attempt + 1
            kept.record = replace(kept.record, status="in_progress", attempt=attempt)
            kept.until = now + lease
        return [kept.record for kept in free[:limit]]

    def renew(self, leases: Sequence[Lease], now: float, lease: float) -> list[Lease]:
        stop = []
        for claim in leases:
            kept = self.written_by(claim.id, claim.attempt)
            if kept and kept.until is not None:
                kept.until = now + lease
            if not kept or kept.until is None or kept.record.cancelled:
                stop.append(claim)
        return stop

    def release(self, id: str, attempt: int) -> Refusal | None:
        kept = self.written_by(id, attempt)
        if not kept:
            return Fenced
        kept.until = None
        return None

    def cancel(self, tenant: str, id: str) -> bool:
        kept = self.of(tenant, id)
        if not kept or not kept.live:
            return False
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
    ) -> Refusal | None:
        if not (kept := self.written_by(id, attempt)):
            return Fenced
        if segment and (refusal := self.append(id, attempt, segment)):
            return refusal
        kept.record = replace(kept.record, status=status, result=result)
        self.webhooks.extend(deliveries)
        return None

    def deliveries(self, now: float, limit: int) -> list[Delivery]:
        due = [webhook for webhook in self.webhooks if webhook.next_at <= now]
        return sorted(due, key=lambda webhook: webhook.next_at)[:limit]

    def retry(self, id: str, next_at: float) -> None:
        self.webhooks = [
            replace(webhook, next_at=next_at, tries=webhook.tries + 1)
            if webhook.id == id
            else webhook
            for webhook in self.webhooks
        ]

    def delivered(self, id: str) -> None:
        self.webhooks = [webhook for webhook in self.webhooks if webhook.id != id]
