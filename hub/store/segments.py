"""log.db: the segments of all logs.

New segments are gathered and written together, so that a batch of them is one statement and whether
it must be synced is known before its transaction begins. A power loss may undo what was not synced
(it is not in the file yet, only in the operating system's memory); a process's death undoes nothing
that was committed.
"""

import sqlite3
from collections.abc import Iterable

from hub.store.base import Segment
from hub.store.size import SEGMENT_OVERHEAD

VACUUM_PAGES = 2048
"""Pages that are given back to the file system at once: 8 MiB, some 10 ms."""


class Segments:
    """The segments of all logs, by the number of their record. For one thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._new: dict[int, list[Segment]] = {}
        self._synced = False
        self._forgotten: list[int] = []

    def add(self, n: int, segment: Segment, *, synced: bool = False) -> None:
        """Write a segment with the next commit; ``synced``: so that a power loss spares it, and
        everything in the file before it."""
        self._new.setdefault(n, []).append(segment)
        self._synced |= synced

    def read(self, n: int, after: int) -> list[Segment]:
        """The segments that reach beyond ``after``, also those that are not committed yet."""
        rows = self._database.execute(
            "SELECT first, last, body FROM segments WHERE n = ? AND last > ? ORDER BY last",
            (n, after),
        )
        new = self._new.get(n, ())
        return [Segment(*row) for row in rows] + [one for one in new if one.last > after]

    def extent(self, n: int) -> tuple[int, int]:
        """The last event of a log, and the bytes that its segments count for."""
        last, size = self._database.execute(
            "SELECT coalesce(max(last), -1), coalesce(sum(length(body) + ?), 0)"
            " FROM segments WHERE n = ?",
            (SEGMENT_OVERHEAD, n),
        ).fetchone()
        return last, size

    def highest(self) -> int:
        """The highest number of a log, 0 if there is none."""
        (n,) = self._database.execute("SELECT coalesce(max(n), 0) FROM segments").fetchone()
        return int(n)

    def logs(self) -> list[int]:
        """The numbers of all logs, rising: one step in the index for each, however long it is."""
        rows = self._database.execute(
            "WITH RECURSIVE logs (n) AS ("
            " SELECT min(n) FROM segments UNION ALL"
            " SELECT (SELECT min(n) FROM segments WHERE n > logs.n) FROM logs WHERE n NOT NULL)"
            " SELECT n FROM logs WHERE n NOT NULL"
        )
        return [n for (n,) in rows]

    def forget(self, logs: Iterable[int]) -> None:
        """Delete logs at the next ``tidy``. Their records have gone, and that is committed: the
        other way round, a crash in between would leave a record without its log."""
        self._forgotten.extend(logs)

    def commit(self) -> bool:
        """Write what was added. False if that was nothing."""
        if not self._new:
            return False
        self._begin(synced=self._synced)
        self._database.executemany(
            "INSERT INTO segments (n, last, first, body) VALUES (?, ?, ?, ?)",
            [
                (n, segment.last, segment.first, segment.body)
                for n, segments in self._new.items()
                for segment in segments
            ],
        )
        self._database.execute("COMMIT")
        self._clear()
        return True

    def rollback(self) -> None:
        """Drop what was added since the last commit."""
        self._clear()
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def tidy(self, *, vacuum: bool) -> None:
        """Delete what was forgotten, and give space back if ``vacuum``.

        What fails is tried again by the next call, or by the next process.
        """
        if self._forgotten:
            with self._database:
                self._begin(synced=False)
                self._database.executemany(
                    "DELETE FROM segments WHERE n = ?", [(n,) for n in self._forgotten]
                )
            self._forgotten = []
        if vacuum:
            give_back(self._database)

    def _begin(self, *, synced: bool) -> None:
        self._database.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        self._database.execute("BEGIN IMMEDIATE")

    def _clear(self) -> None:
        self._new = {}
        self._synced = False


def give_back(database: sqlite3.Connection) -> None:
    """Give some of the empty pages of a database back to the file system."""
    # It gives back one page a step; execute() takes one step, a script runs to its end.
    database.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
