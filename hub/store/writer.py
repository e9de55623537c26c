"""The thread of the SQLite store: one after another, many calls to a commit.

Group commit with a leading edge: the thread takes everything that waits, runs it in one transaction
and answers all of it at once. Whatever comes meanwhile shares the next one. So a call alone waits
for nothing, and the busier it is, the more calls share the cost of a sync.

SQLite wants a thread because its calls block, and one thread because it has one writer. Reads take
their place in the same queue: they see every call before them without asking for it.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, TypeVar

from hub.errors import HubError
from hub.store.ledger import Totals
from hub.store.tables import Tables

T = TypeVar("T")


class _Call:
    """A call on its way: made on the loop, run by the thread, answered on the loop."""

    __slots__ = ("error", "future", "result", "since", "work")

    def __init__(
        self, work: Callable[[Tables], object], future: asyncio.Future[Any], since: float
    ) -> None:
        self.work = work
        self.future = future
        self.since = since
        self.result: object = None
        self.error: Exception | None = None

    def answer(self) -> None:
        if self.future.done():
            return  # Whoever awaited it was cancelled.
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


@dataclass(frozen=True, slots=True)
class _Done:
    """What the thread tells of a batch."""

    calls: int
    totals: Totals | None
    """As of the commit; ``None`` if it failed."""
    touched: set[str]
    seconds: float | None
    """That the commit took, if there was anything to commit."""


class Writer:
    """Runs calls on ``Tables``, which it opens in its thread; for one event loop."""

    def __init__(
        self,
        tables: Callable[[], AbstractContextManager[Tables]],
        wake: Callable[[Iterable[str]], None],
    ) -> None:
        self.totals = Totals()
        self.commits = 0
        self.last_commit = 0.0
        self._tables = tables
        self._wake = wake
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._unanswered: deque[_Call] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._open = False

    # On the loop.

    async def start(self) -> None:
        """Open the tables. Raises what that raises."""
        assert self._thread is None, "a writer is started once"
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Totals] = self._loop.create_future()
        # A daemon, so that a loop that ends without closing its store does not keep the process.
        self._thread = Thread(target=self._run, args=(opened,), name="hub-store", daemon=True)
        self._thread.start()
        self.totals = await opened
        self._open = True

    async def close(self) -> None:
        """Finish what was asked for, and close the tables."""
        self._open = False
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def call(self, work: Callable[[Tables], T]) -> asyncio.Future[T]:
        """Run ``work`` in its turn."""
        loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._open:
            future.set_exception(HubError("store_unavailable", "The store is closed."))
            return future
        call = _Call(work, future, loop.time())
        self._unanswered.append(call)
        self._queue.put(call)
        return future

    @property
    def waiting(self) -> int:
        """Calls without an answer."""
        return len(self._unanswered)

    @property
    def lag(self) -> float:
        """Seconds for which the oldest of them has been waiting."""
        if not self._unanswered or self._loop is None:
            return 0.0
        return self._loop.time() - self._unanswered[0].since

    def _answer(self, done: _Done) -> None:
        if done.totals is not None:
            self.totals = done.totals
        if done.seconds is not None:
            self.commits += 1
            self.last_commit = done.seconds
        for _ in range(done.calls):
            self._unanswered.popleft().answer()
        self._wake(done.touched)

    def _give_up(self, first: _Call) -> None:
        assert first.error is not None
        self._open = False
        first.answer()
        while self._unanswered:
            call = self._unanswered.popleft()
            call.error = _unavailable(first.error)
            call.answer()

    # In the thread.

    def _run(self, opened: asyncio.Future[Totals]) -> None:
        first = _Call(Tables.totals, opened, 0.0)
        try:
            with self._tables() as tables:
                first.result = tables.totals()
                working = self._tell(first.answer)
                while working:
                    working = self._turn(tables)
        except Exception as error:
            # Boundary: the tables could not be opened, and start() raises it. Later it is a defect
            # of this file: the thread ends, and nobody waits for it any more.
            first.error = error
            self._tell(lambda: self._give_up(first))

    def _turn(self, tables: Tables) -> bool:
        """Take everything that waits, run it, answer it. False if there is nothing to come."""
        batch: list[_Call] = []
        call = self._queue.get()
        while call is not None:
            batch.append(call)
            if self._queue.empty():
                break
            call = self._queue.get()
        done = _commit(tables, batch)
        heard = self._tell(lambda: self._answer(done))
        tables.tidy()
        return heard and call is not None

    def _tell(self, what: Callable[[], None]) -> bool:
        """Have something done on the loop. False if the loop has ended without closing the store:
        then nobody is left to tell or to work for."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            return False
        return True


def _commit(tables: Tables, batch: list[_Call]) -> _Done:
    """Run a batch in one transaction."""
    start = perf_counter()
    try:
        tables.begin()
        for call in batch:
            _run(call, tables)
        wrote = tables.commit()
    except Exception as error:
        # Boundary: whatever the disk or a defect did, the batch is undone, and each of its callers
        # is told so. At most its segments have remained, and a writer may repeat those. The thread
        # lives, and so does the next batch.
        tables.rollback()
        for call in batch:
            call.error = _unavailable(error)
        return _Done(len(batch), None, set(), None)
    seconds = perf_counter() - start if wrote else None
    return _Done(len(batch), tables.totals(), tables.take_touched(), seconds)


def _unavailable(cause: Exception) -> HubError:
    # SQLite's own words are safe to show; those of other errors may name paths.
    reason = str(cause) if isinstance(cause, sqlite3.Error) else "internal error"
    error = HubError("store_unavailable", f"Responses cannot be stored now: {reason}.")
    error.__cause__ = cause
    return error


def _run(call: _Call, tables: Tables) -> None:
    try:
        call.result = call.work(tables)
    except (sqlite3.Error, OSError):
        raise
    except Exception as error:
        # Boundary: a call that is refused (``Fenced``) or that cannot be done (a text that is no
        # UTF-8) has left no trace in the tables. Its caller is told, and its neighbours go on.
        call.error = error
