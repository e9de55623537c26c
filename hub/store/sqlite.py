"""A store in a directory, in SQLite: what it has promised survives the process, and the power.

The calls of the contract (``ledger.py``) run on tables (``tables.py``, over ``segments.py``) in a
thread of its own (``writer.py``). The directory is one process's at a time (``files.py``).
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hub.store.base import Statistics
from hub.store.files import opened, unusable
from hub.store.ledger import Ledger, LedgerStore
from hub.store.tables import Tables
from hub.store.writer import Writer

T = TypeVar("T")


class SqliteStore(LedgerStore):
    """See the contract in ``base.py``.

    Only one process uses a directory, so at its start there is nobody who holds a lease: every job
    that has not ended can be claimed at once.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.place = str(directory)
        self._directory = directory
        self._writer = Writer(self._tables, self._wake)

    async def start(self, now: float) -> None:
        await self._writer.start()

    async def close(self) -> None:
        await self._writer.close()

    @property
    def lag(self) -> float:
        return self._writer.lag

    def statistics(self) -> Statistics:
        writer = self._writer
        totals = writer.totals
        return Statistics(
            totals.records,
            totals.jobs,
            totals.bytes,
            waiting=writer.waiting,
            commits=writer.commits,
            last_commit=writer.last_commit,
        )

    def _call(self, work: Callable[[Ledger], T]) -> asyncio.Future[T]:
        return self._writer.call(work)

    @contextmanager
    def _tables(self) -> Iterator[Tables]:
        with opened(self._directory) as (hub, log):
            try:
                tables = Tables(hub, log)
            except sqlite3.Error as error:
                raise unusable(self._directory, error) from error
            yield tables
