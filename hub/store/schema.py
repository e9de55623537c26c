"""The tables of the SQLite store, and how a database comes to have them.

A database carries the number of the last script that it has seen (``PRAGMA user_version``). Opening
it runs the scripts that are missing, in order, each in a transaction of its own. So a script that
has been released is never edited: a change to the tables is a new script at the end.
"""

import sqlite3
from collections.abc import Sequence

HUB = (
    """
    CREATE TABLE records (
        n INTEGER PRIMARY KEY,              -- order of arrival, never used again; names the log
        id TEXT NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        status TEXT NOT NULL,
        background INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        previous_response_id TEXT,
        attempt INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        job INTEGER NOT NULL,               -- 1: a job that has not ended
        size INTEGER NOT NULL               -- with the log; as of the start until a job has ended
    );
    CREATE INDEX records_jobs ON records (n) WHERE job;
    CREATE INDEX records_expires ON records (expires_at) WHERE NOT job;
    CREATE INDEX records_age ON records (created_at, n) WHERE NOT job;

    -- On their own, since an UPDATE of a row writes all of it again.
    CREATE TABLE requests (
        n INTEGER PRIMARY KEY REFERENCES records ON DELETE CASCADE,
        body BLOB NOT NULL
    );
    CREATE TABLE results (
        n INTEGER PRIMARY KEY REFERENCES records ON DELETE CASCADE,
        body BLOB NOT NULL
    );

    CREATE TABLE idempotency (
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        digest BLOB NOT NULL,
        id TEXT NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (tenant, key)
    ) WITHOUT ROWID;
    CREATE INDEX idempotency_expires ON idempotency (expires_at);

    CREATE TABLE deliveries (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        response_id TEXT NOT NULL,
        url TEXT NOT NULL,
        body BLOB NOT NULL,
        next_at REAL NOT NULL,
        tries INTEGER NOT NULL
    );
    CREATE INDEX deliveries_due ON deliveries (next_at);
    """,
)
"""hub.db: everything but the logs."""

LOG = (
    """
    CREATE TABLE segments (
        n INTEGER NOT NULL,                 -- of the record
        last INTEGER NOT NULL,
        first INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (n, last)
    ) WITHOUT ROWID;
    """,
)
"""log.db: the segments."""


class TooNew(Exception):
    """A database was written by a later version of hub."""


def migrate(database: sqlite3.Connection, scripts: Sequence[str]) -> None:
    """Bring a database up to date. Raises ``TooNew`` before anything is changed.

    Foreign keys are to be off meanwhile: SQLite changes a table by making another in its place.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise TooNew(f"its tables have version {version}, this hub knows {len(scripts)}")
    for number, script in enumerate(scripts[version:], version + 1):
        try:
            database.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n;\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
