"""What a store does, in plain calls, and how the calls of its contract come to that.

The *ledger* holds all logic: each of its methods does one call of the contract at once, whole or
not at all. The store only decides when that happens and gives a future for it.
"""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hub.store.base import Delivery, Hold, Idempotency, Lease, Record, Segment

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Totals:
    """What a ledger holds."""

    records: int = 0
    jobs: int = 0
    bytes: int = 0


class Ledger(Protocol):
    """The methods of ``Store`` of the same names, as plain functions: they give what the future
    gives, and raise what it raises."""

    def put(
        self,
        record: Record,
        segment: Segment | None,
        idempotency: Idempotency | None,
        hold: Hold | None,
    ) -> str: ...

    def repeated(self, tenant: str, idempotency: Idempotency) -> str | None: ...

    def get(self, tenant: str, id: str) -> Record | None: ...

    def delete(self, tenant: str, id: str) -> bool: ...

    def expire(self, now: float, max_bytes: int | None) -> int: ...

    def append(self, id: str, attempt: int, segment: Segment) -> None: ...

    def read(self, id: str, after: int) -> Sequence[Segment]: ...

    def claim(
        self, owner: str, now: float, lease: float, limit: int, foreground: bool
    ) -> Sequence[Record]: ...

    def renew(self, leases: Sequence[Lease], now: float, lease: float) -> Sequence[Lease]: ...

    def release(self, id: str, attempt: int) -> None: ...

    def cancel(self, tenant: str, id: str) -> bool: ...

    def complete(
        self,
        id: str,
        attempt: int,
        status: str,
        result: bytes,
        segment: Segment | None,
        deliveries: Sequence[Delivery],
    ) -> None: ...

    def deliveries(self, now: float, limit: int) -> Sequence[Delivery]: ...

    def retry(self, id: str, next_at: float) -> None: ...

    def delivered(self, id: str) -> None: ...


class LedgerStore(ABC):
    """The calls of ``Store``, made on a ledger. See the contract in ``base.py``. Its process is
    alone."""

    shared = False

    def __init__(self) -> None:
        self.node = secrets.token_hex(8)
        self._followers: dict[str, dict[object, Callable[[], None]]] = {}

    @abstractmethod
    def _call(self, work: Callable[[Ledger], T]) -> asyncio.Future[T]:
        """Have ``work`` done on the ledger after everything that was asked for before."""

    def put(
        self,
        record: Record,
        *,
        segment: Segment | None = None,
        idempotency: Idempotency | None = None,
        hold: Hold | None = None,
    ) -> asyncio.Future[str]:
        return self._call(lambda ledger: ledger.put(record, segment, idempotency, hold))

    def repeated(self, tenant: str, idempotency: Idempotency) -> asyncio.Future[str | None]:
        return self._call(lambda ledger: ledger.repeated(tenant, idempotency))

    def get(self, tenant: str, id: str) -> asyncio.Future[Record | None]:
        return self._call(lambda ledger: ledger.get(tenant, id))

    def delete(self, tenant: str, id: str) -> asyncio.Future[bool]:
        return self._call(lambda ledger: ledger.delete(tenant, id))

    def expire(self, now: float, max_bytes: int | None = None) -> asyncio.Future[int]:
        return self._call(lambda ledger: ledger.expire(now, max_bytes))

    def append(self, id: str, attempt: int, segment: Segment) -> asyncio.Future[None]:
        return self._call(lambda ledger: ledger.append(id, attempt, segment))

    def read(self, id: str, after: int = -1) -> asyncio.Future[Sequence[Segment]]:
        return self._call(lambda ledger: ledger.read(id, after))

    def claim(
        self, owner: str, now: float, lease: float, limit: int, *, foreground: bool = False
    ) -> asyncio.Future[Sequence[Record]]:
        return self._call(lambda ledger: ledger.claim(owner, now, lease, limit, foreground))

    def renew(
        self, leases: Sequence[Lease], now: float, lease: float
    ) -> asyncio.Future[Sequence[Lease]]:
        return self._call(lambda ledger: ledger.renew(leases, now, lease))

    def release(self, id: str, attempt: int) -> asyncio.Future[None]:
        return self._call(lambda ledger: ledger.release(id, attempt))

    def cancel(self, tenant: str, id: str) -> asyncio.Future[bool]:
        return self._call(lambda ledger: ledger.cancel(tenant, id))

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
        return self._call(
            lambda ledger: ledger.complete(id, attempt, status, result, segment, deliveries)
        )

    def deliveries(self, now: float, limit: int) -> asyncio.Future[Sequence[Delivery]]:
        return self._call(lambda ledger: ledger.deliveries(now, limit))

    def retry(self, id: str, next_at: float) -> asyncio.Future[None]:
        return self._call(lambda ledger: ledger.retry(id, next_at))

    def delivered(self, id: str) -> asyncio.Future[None]:
        return self._call(lambda ledger: ledger.delivered(id))

    def follow(self, id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """See ``Store.follow``. ``wake`` must not raise. Appends that share a commit wake once."""
        followers = self._followers.setdefault(id, {})
        key = object()
        followers[key] = wake

        def unfollow() -> None:
            if followers.pop(key, None) is not None and not followers:
                del self._followers[id]

        return unfollow

    def beat(self, state: bytes, ttl: float) -> asyncio.Future[Mapping[str, bytes]]:
        alive: asyncio.Future[Mapping[str, bytes]] = asyncio.get_running_loop().create_future()
        alive.set_result({self.node: state} if ttl else {})
        return alive

    def tell(self, kind: str, body: str) -> None:
        return

    def hear(self, news: Callable[[str, str], None]) -> None:
        return

    def _wake(self, ids: Iterable[str]) -> None:
        """Tell who follows these logs. On the event loop, and on no caller's stack."""
        for id in ids:
            followers = self._followers.get(id, {})
            for key, wake in tuple(followers.items()):
                if key in followers:  # The wake before may have ended this one.
                    wake()
