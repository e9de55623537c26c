"""A record, and the rows of hub.db that hold it."""

import sqlite3
from dataclasses import replace
from typing import Any

from hub.store.base import Record
from hub.store.jobs import is_job

SELECT = """
    SELECT records.id, tenant, status, background, created_at, expires_at, requests.body,
        previous_response_id, results.body, attempt, cancelled
    FROM records JOIN requests USING (n) LEFT JOIN results USING (n)
"""
"""The fields of ``Record``, in its order."""


def insert(database: sqlite3.Connection, n: int, record: Record, size: int) -> None:
    """Write a new record with its number and the bytes that it counts for."""
    database.execute(
        "INSERT INTO records (n, id, tenant, status, background, created_at, expires_at,"
        " previous_response_id, attempt, cancelled, job, size)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            n,
            record.id,
            record.tenant,
            record.status,
            record.background,
            record.created_at,
            record.expires_at,
            record.previous_response_id,
            record.attempt,
            record.cancelled,
            is_job(record),
            size,
        ),
    )
    database.execute("INSERT INTO requests (n, body) VALUES (?, ?)", (n, record.request))
    if record.result is not None:
        database.execute("INSERT INTO results (n, body) VALUES (?, ?)", (n, record.result))


def record(row: tuple[Any, ...]) -> Record:
    """The record of a row of ``SELECT``. SQLite knows no truth values, only 0 and 1."""
    kept = Record(*row)
    return replace(kept, background=bool(kept.background), cancelled=bool(kept.cancelled))
