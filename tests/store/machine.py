"""Any calls, in any order, against the model; in SQLite also over restarts.

The rules only make calls: the store's queue gets a burst of them before anybody waits, so many of
them share a commit. ``settle`` waits, and compares every answer with the model's.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

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
    Store,
)
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from tests.store.model import Model

TENANTS = st.sampled_from(["ada", "bob"])
NUMBERS = st.integers(0, 7)
ATTEMPTS = st.sampled_from([0, 0, 0, -1, -1, 1, -9])
"""How far from the latest: mostly it, often the one before."""
BODIES = st.binary(max_size=3)
LEASES = st.sampled_from([1.0, 5.0])

MEMORY = Path("/dev/shm")
"""Syncing is not what is tested here, and it takes most of the time on a disk."""


class StoreMachine(RuleBasedStateMachine):
    """A memory store and its model."""

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.model = Model()
        self.now = 100.0
        self.made = 0
        self.calls: list[tuple[asyncio.Future[Any], object]] = []
        self.open()

    def new_store(self) -> Store:
        return MemoryStore()

    def open(self) -> None:
        self.store = self.new_store()
        self.runner.run(self.store.start(self.now))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.settle()
            self.runner.run(self.store.close())
            self.runner.close()

    # What happens.

    @rule(
        tenant=TENANTS,
        age=st.integers(0, 3),
        life=st.integers(1, 9),
        ended=st.booleans(),
        background=st.sampled_from([True, True, False]),
        request=BODIES,
        begun=st.booleans(),
        key=st.none() | st.tuples(st.sampled_from("xy"), st.sampled_from([b"1", b"2"])),
        again=st.booleans(),
        held=st.none() | LEASES,
    )
    def put(
        self,
        tenant: str,
        age: int,
        life: int,
        ended: bool,
        background: bool,
        request: bytes,
        begun: bool,
        key: tuple[str, bytes] | None,
        again: bool,
        held: float | None,
    ) -> None:
        runs = held is not None and not ended
        self.made += not (again and self.made)
        record = Record(
            id=self.id(-1),
            tenant=tenant,
            status="completed" if ended else "in_progress" if runs else "queued",
            background=background,
            created_at=self.now - age,
            expires_at=self.now + life,
            request=request,
            result=b"{}" if ended else None,
            attempt=int(runs),
        )
        hold = Hold("me", self.now + held) if held is not None and runs else None
        segment = Segment(0, 1, b"01") if begun else None
        used = Idempotency(*key, self.now + life) if key else None
        self.call(
            self.store.put(record, segment=segment, idempotency=used, hold=hold),
            self.model.put(record, segment, used, hold),
        )

    @rule(tenant=TENANTS, key=st.sampled_from("xy"), digest=st.sampled_from([b"1", b"2"]))
    def repeated(self, tenant: str, key: str, digest: bytes) -> None:
        used = Idempotency(key, digest, self.now)
        self.call(self.store.repeated(tenant, used), self.model.repeated(tenant, used))

    @rule(tenant=TENANTS, number=NUMBERS)
    def get(self, tenant: str, number: int) -> None:
        id = self.id(number)
        self.call(self.store.get(tenant, id), self.model.get(tenant, id))

    @rule(tenant=TENANTS, number=NUMBERS)
    def delete(self, tenant: str, number: int) -> None:
        id = self.id(number)
        self.call(self.store.delete(tenant, id), self.model.delete(tenant, id))

    @rule(max_bytes=st.none() | st.integers(0, 4000))
    def expire(self, max_bytes: int | None) -> None:
        self.call(
            self.store.expire(self.now, max_bytes),
            self.model.expire(self.now, max_bytes),
        )

    @rule(
        number=NUMBERS,
        off=ATTEMPTS,
        start=st.sampled_from([0, 0, 0, 0, -1, -3, 1]),
        length=st.integers(1, 3),
        body=BODIES,
    )
    def append(self, number: int, off: int, start: int, length: int, body: bytes) -> None:
        id, attempt = self.writer(number, off)
        segment = self.segment(id, start, length, body)
        self.call(self.store.append(id, attempt, segment), self.model.append(id, attempt, segment))

    @rule(number=NUMBERS, after=st.integers(-1, 9))
    def read(self, number: int, after: int) -> None:
        id = self.id(number)
        self.call(self.store.read(id, after), self.model.read(id, after))

    @rule(lease=LEASES, limit=st.integers(0, 3), foreground=st.booleans())
    def claim(self, lease: float, limit: int, foreground: bool) -> None:
        self.call(
            self.store.claim("me", self.now, lease, limit, foreground=foreground),
            self.model.claim(self.now, lease, limit, foreground),
        )

    @rule(which=st.lists(st.tuples(NUMBERS, ATTEMPTS), max_size=4), lease=LEASES)
    def renew(self, which: list[tuple[int, int]], lease: float) -> None:
        leases = [Lease(*self.writer(number, off)) for number, off in which]
        self.call(
            self.store.renew(leases, self.now, lease), self.model.renew(leases, self.now, lease)
        )

    @rule(number=NUMBERS, off=ATTEMPTS)
    def release(self, number: int, off: int) -> None:
        id, attempt = self.writer(number, off)
        self.call(self.store.release(id, attempt), self.model.release(id, attempt))

    @rule(tenant=TENANTS, number=NUMBERS)
    def cancel(self, tenant: str, number: int) -> None:
        id = self.id(number)
        self.call(self.store.cancel(tenant, id), self.model.cancel(tenant, id))

    @rule(
        number=NUMBERS,
        off=ATTEMPTS,
        start=st.none() | st.sampled_from([0, 0, -1, 1]),
        due=st.lists(st.integers(-3, 3), max_size=2),
        body=BODIES,
    )
    def complete(
        self, number: int, off: int, start: int | None, due: list[int], body: bytes
    ) -> None:
        id, attempt = self.writer(number, off)
        segment = None if start is None else self.segment(id, start, 1, body)
        deliveries = [
            Delivery(f"evt_{id}_{index}", id, "https://example.com", body, self.now + later)
            for index, later in enumerate(due)
        ]
        self.call(
            self.store.complete(
                id, attempt, status="failed", result=body, segment=segment, deliveries=deliveries
            ),
            self.model.complete(id, attempt, "failed", body, segment, deliveries),
        )

    @rule(limit=st.integers(0, 3))
    def deliveries(self, limit: int) -> None:
        self.call(self.store.deliveries(self.now, limit), self.model.deliveries(self.now, limit))

    @precondition(lambda self: self.model.webhooks)
    @rule(data=st.data(), later=st.integers(1, 3))
    def retry(self, data: st.DataObject, later: int) -> None:
        id = data.draw(st.sampled_from(self.model.webhooks)).id
        self.model.retry(id, self.now + later)
        self.call(self.store.retry(id, self.now + later), None)

    @precondition(lambda self: self.model.webhooks)
    @rule(data=st.data())
    def delivered(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.model.webhooks)).id
        self.model.delivered(id)
        self.call(self.store.delivered(id), None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def settle(self) -> None:
        """Every answer is the model's, and so is all that the store holds."""
        for number in range(self.made):
            for tenant in ("ada", "bob"):
                self.get(tenant, number)
            self.read(number, -1)
        self.deliveries(1000)
        calls, self.calls = self.calls, []
        outcomes = self.runner.run(_outcomes([future for future, _ in calls]))
        for outcome, (_, expected) in zip(outcomes, calls, strict=True):
            assert outcome == expected
        statistics = self.store.statistics()
        assert statistics.records == len(self.model.kept)
        assert statistics.jobs == sum(kept.live for kept in self.model.kept)
        assert statistics.bytes == self.model.size
        assert statistics.waiting == 0

    # How it is said.

    def call(self, future: asyncio.Future[Any], expected: object) -> None:
        self.calls.append((future, expected))

    def id(self, number: int) -> str:
        """Of a record that may be; -1 for the newest."""
        return f"resp_{self.made if number < 0 else self.made - number}"

    def writer(self, number: int, off: int) -> tuple[str, int]:
        kept = self.model.find(self.id(number))
        return self.id(number), (kept.record.attempt if kept else 0) + off

    def segment(self, id: str, start: int, length: int, body: bytes) -> Segment:
        """One that starts so far from the end of the log."""
        kept = self.model.find(id)
        first = kept.log[-1].last + 1 if kept and kept.log else 0
        return Segment(max(first + start, 0), max(first + start, 0) + length - 1, body)


class SqliteMachine(StoreMachine):
    """A SQLite store and its model."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        super().start()

    def new_store(self) -> Store:
        return SqliteStore(Path(self.directory.name))

    @rule()
    def restart(self) -> None:
        """What was not awaited before is done by then, and the leases are void."""
        self.runner.run(self.store.close())
        self.model.restart()
        self.open()
        self.settle()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "directory"):
            self.directory.cleanup()


async def _outcomes(futures: list[asyncio.Future[Any]]) -> list[object]:
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    refusals = (Fenced, IdempotencyConflict, HubError)
    return [next((kind for kind in refusals if isinstance(one, kind)), one) for one in outcomes]
