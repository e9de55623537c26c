"""The directory of the SQLite store: whose it is, and how its databases are opened.

Two files, because they need not be equally safe, and syncing is what costs: ``hub.db`` is synced at
every commit, ``log.db`` mostly is not. A third, ``lock``, is locked for as long as a process uses
the directory; the operating system lets go of it when the process dies, however it dies.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from hub.errors import HubError
from hub.store.schema import HUB, LOG, TooNew, migrate

PRAGMAS = (
    "busy_timeout = 5000",  # ms; only for people who look in with other tools
    "journal_mode = WAL",
    "journal_size_limit = 67108864",  # bytes that a log file keeps after a burst
    "wal_autocheckpoint = 4000",  # pages, 16 MiB: rarer is fewer pauses, and a longer start
    "temp_store = MEMORY",
    "mmap_size = 0",  # an error of the disk would be a signal that ends the process
)


@contextmanager
def opened(directory: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """The databases ``hub.db`` and ``log.db`` of a directory, made where they are missing.

    Closing them moves what their write-ahead logs hold into them. Raises ``HubError``
    ``store_unavailable`` if the directory cannot be used; nothing is ever deleted to make it so.
    """
    try:
        # Only the user may look in: responses are private.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unusable(directory, error) from error
    try:
        _lock(lock, directory)
        with (
            closing(_database(directory / "hub.db", HUB)) as hub,
            closing(_database(directory / "log.db", LOG)) as log,
        ):
            yield hub, log
    finally:
        os.close(lock)


def _lock(file: int, directory: Path) -> None:
    if sys.platform == "win32":
        raise unusable(directory, "it cannot be locked on this system")
    import fcntl  # There is none on Windows.

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise unusable(directory, "another hub is using it") from error
    except OSError as error:
        raise unusable(directory, error) from error


def _database(path: Path, scripts: Sequence[str]) -> sqlite3.Connection:
    try:
        # SQLite would make it readable for everybody whom the umask allows. What else it makes
        # (-wal, -shm) gets the same rights as this.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(path, isolation_level=None)
        try:
            _prepare(database, scripts)
        except BaseException:
            database.close()
            raise
    except (sqlite3.Error, OSError, TooNew) as error:
        raise unusable(path, error) from error
    return database


def _prepare(database: sqlite3.Connection, scripts: Sequence[str]) -> None:
    if database.execute("PRAGMA page_count").fetchone() == (0,):
        # Once there are tables, and once the journal mode is set, it is too late for it.
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for pragma in PRAGMAS:
        database.execute(f"PRAGMA {pragma}")
    database.execute("PRAGMA synchronous = FULL")
    migrate(database, scripts)
    database.execute("PRAGMA foreign_keys = ON")


def unusable(path: Path, reason: str | Exception) -> HubError:
    """Why a store cannot be opened, for whoever starts it."""
    if isinstance(reason, OSError):
        reason = reason.strerror or str(reason)
    return HubError(
        "store_unavailable",
        f"Responses cannot be kept in {path}: {reason}. Choose another place with --store.",
    )
