"""What only the SQLite store does: files, commits, crashes, disks that fail."""

import asyncio
import json
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from hub.errors import HubError
from hub.store import schema
from hub.store.base import Fenced, Lease, Segment
from hub.store.files import opened
from hub.store.sqlite import SqliteStore
from hub.store.tables import Tables
from hub.store.writer import Writer
from tests.store.contract import LEASE, answer, claimed, delivery, job, refused, segment

ROOT = Path(__file__).parent.parent.parent


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(directory)
    await store.start(0.0)
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def database(directory: Path, name: str) -> Iterator[sqlite3.Connection]:
    """Look into a store's file, as an operator might."""
    with closing(sqlite3.connect(directory / name, isolation_level=None)) as database:
        yield database


# Commits.


async def test_calls_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        for number in range(500):
            store.put(job(f"resp_{number}"))
        last = store.append("resp_499", 0, segment(0, 0))
        assert store.statistics().waiting == 501
        assert store.lag > 0
        await last
        statistics = store.statistics()
        assert (statistics.waiting, store.lag) == (0, 0)
        # The first leaves at once, the others with the next.
        assert 1 <= statistics.commits <= 3
        assert statistics.last_commit > 0


async def test_appends_alone_leave_hub_db_untouched(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.put(job())
        await claimed(store)
        wal = tmp_path / "hub.db-wal"
        before = wal.stat().st_size, wal.stat().st_mtime_ns
        for number in range(20):
            await store.append("resp_a", 1, segment(number, number))
        assert await store.renew([Lease("resp_a", 1)], 100.0, LEASE) == []
        assert (wal.stat().st_size, wal.stat().st_mtime_ns) == before


async def test_reads_and_refusals_commit_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.put(job())
        commits = store.statistics().commits
        await store.get("ada", "resp_a")
        await store.read("resp_a")
        await store.claim("me", 0.0, LEASE, 0)
        await store.deliveries(0.0, 1)
        await refused(store.append("resp_a", 7, segment(0, 0)))
        assert store.statistics().commits == commits


async def test_a_call_that_fails_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    """The text cannot be written as UTF-8: found out when half of the call is done."""
    async with running(tmp_path) as store:
        store.put(job())
        bad = [delivery("evt_1"), delivery("evt_\ud800")]
        fenced = store.append("resp_a", 1, segment(0, 0))
        failed = store.complete("resp_a", 0, status="failed", result=b"", deliveries=bad)
        good = store.append("resp_a", 0, segment(0, 0))
        await refused(fenced, Fenced)
        await refused(failed, UnicodeEncodeError)
        await good
        assert await store.get("ada", "resp_a") == job()
        assert await store.deliveries(1000.0, 10) == []
        assert await store.read("resp_a") == [segment(0, 0)]


def test_a_power_loss_spares_what_it_must(tmp_path: Path) -> None:
    """Nobody can pull the plug here: this is how SQLite is asked for it. 1: NORMAL, 2: FULL."""
    with opened(tmp_path) as (hub, log):
        tables = Tables(hub, log)

        def level() -> int:
            """Of the commit of log.db."""
            tables.commit()
            (level,) = log.execute("PRAGMA synchronous").fetchone()
            return int(level)

        assert hub.execute("PRAGMA synchronous").fetchone() == (2,)
        tables.put(job(), segment(0, 0), None)
        assert level() == 2
        tables.append("resp_a", 0, segment(1, 1))
        assert level() == 1
        tables.append("resp_a", 0, segment(2, 2))
        tables.complete("resp_a", 0, "completed", b"{}", segment(3, 3), ())
        assert level() == 2


# Life after death.


async def test_what_was_asked_before_closing_is_done(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        store.put(job())
        store.append("resp_a", 0, segment(0, 0))
    await store.close()
    await refused(store.get("ada", "resp_a"), HubError)
    assert not (tmp_path / "hub.db-wal").exists()
    async with running(tmp_path) as store:
        assert await store.read("resp_a") == [segment(0, 0)]


async def test_the_leases_of_an_earlier_process_are_void(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.put(job())
        await claimed(store)
        await store.append("resp_a", 1, segment(0, 3))
        size = store.statistics().bytes
    async with running(tmp_path) as store:
        assert store.statistics().bytes == size
        assert await store.renew([Lease("resp_a", 1)], 101.0, LEASE) == [Lease("resp_a", 1)]
        assert await claimed(store, 101.0) == [("resp_a", 2)]
        await refused(store.append("resp_a", 2, segment(5, 5)), HubError)
        await store.append("resp_a", 2, segment(4, 4))


CRASHING = """
import asyncio, os, sys
from pathlib import Path
from hub.store.sqlite import SqliteStore
from tests.store.contract import answer, job, segment

async def one(store, name):
    for number in range(10**6):
        id = f"resp_{name}_{number}"
        await store.put(job(id))
        os.write(1, f"put {id}\\n".encode())
        await store.claim("me", 0.0, 60.0, 1)
        attempt = (await store.get("ada", id)).attempt
        for event in range(0, 6, 2):
            await store.append(id, attempt, segment(event, event + 1))
            os.write(1, f"append {id} {event + 1}\\n".encode())
        await store.complete(
            id, attempt, status="completed", result=id.encode(), segment=segment(6, 6)
        )
        os.write(1, f"complete {id}\\n".encode())

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.start(0.0)
    await asyncio.gather(*(one(store, f"{sys.argv[2]}_{name}") for name in range(16)))

asyncio.run(main())
"""
"""Tells of everything that the store has acknowledged, until it is killed."""


async def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[list[str]] = []
    for life in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CRASHING, tmp_path, str(life), cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(400 + 150 * life)]
        process.send_signal(signal.SIGKILL)
        lines += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
        acknowledged += [line.decode().split() for line in lines if line.endswith(b"\n")]
    reach = {what[1]: -1 for what in acknowledged}
    reach |= {id: int(last) for kind, id, *(last,) in filter(_is_append, acknowledged)}
    completed = {what[1] for what in acknowledged if what[0] == "complete"}
    assert completed
    async with running(tmp_path) as store:
        for id, last in reach.items():
            record = await store.get("ada", id)
            log = await store.read(id)
            assert record is not None
            assert [one.first for one in log] == [0, 2, 4, 6][: len(log)], "no gaps"
            assert (log[-1].last if log else -1) >= last
            if id in completed or record.result is not None:
                assert record.result == id.encode()
                assert log[-1].last == 6, "who has ended has all of his log"
    for name in ("hub.db", "log.db"):
        with database(tmp_path, name) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _is_append(what: list[str]) -> bool:
    return what[0] == "append"


async def test_a_log_without_a_record_goes_at_the_next_start(tmp_path: Path) -> None:
    """What a crash between the commits of the two files leaves."""
    async with running(tmp_path) as store:
        await store.put(answer(), segment=segment(0, 0))
    with database(tmp_path, "log.db") as log:
        log.execute("INSERT INTO segments VALUES (7, 1, 0, x'00'), (7, 2, 2, x'00')")
    async with running(tmp_path) as store:
        # A new record does not get the number of a log that may still be there.
        await store.put(job("resp_b"))
        assert await store.read("resp_b") == []
        assert await store.read("resp_a") == [segment(0, 0)]
    with database(tmp_path, "log.db") as log:
        assert log.execute("SELECT n FROM segments").fetchall() == [(1,)]
    with database(tmp_path, "hub.db") as hub:
        assert hub.execute("SELECT max(n) FROM records").fetchall() == [(8,)]


class Defective(Tables):
    """Tables that have a defect where nothing of a call depends on it any more."""

    def tidy(self) -> None:
        if self.totals().records:
            raise RuntimeError("a defect")


async def test_nobody_waits_for_a_thread_that_has_died(tmp_path: Path) -> None:
    @contextmanager
    def tables() -> Iterator[Tables]:
        with opened(tmp_path) as (hub, log):
            yield Defective(hub, log)

    writer = Writer(tables, lambda ids: None)
    await writer.start()
    await writer.call(lambda tables: tables.put(job(), None, None))
    await refused(writer.call(lambda tables: tables.get("ada", "resp_a")), HubError)
    assert writer.waiting == 0
    await writer.close()
    async with running(tmp_path) as store:
        assert await store.get("ada", "resp_a") == job()


# The directory.


async def test_it_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "some" / "where"
    async with running(directory) as store:
        await store.put(job(), segment=segment(0, 0))
        assert store.place == str(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert {"lock", "hub.db", "log.db", "hub.db-wal", "log.db-wal"} <= set(files)
        assert set(files.values()) == {0o600}


async def unusable(directory: Path, match: str) -> None:
    store = SqliteStore(directory)
    with pytest.raises(HubError, match=match) as caught:
        await store.start(0.0)
    assert caught.value.code == "store_unavailable"
    assert str(directory) in caught.value.message
    assert "--store" in caught.value.message
    await store.close()


async def test_two_cannot_share_it(tmp_path: Path) -> None:
    async with running(tmp_path):
        await unusable(tmp_path, "another hub is using it")
    async with running(tmp_path):
        pass


async def test_it_may_be_impossible_to_make(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await unusable(tmp_path / "file", "File exists")
    await unusable(tmp_path / "file" / "store", "Not a directory")


@pytest.mark.parametrize("name", ["hub.db", "log.db"])
async def test_files_that_are_no_databases_are_left_alone(tmp_path: Path, name: str) -> None:
    rubbish = b"no database " * 1000
    (tmp_path / name).write_bytes(rubbish)
    await unusable(tmp_path, "file is not a database")
    assert (tmp_path / name).read_bytes() == rubbish


async def test_a_damaged_table_is_told_of_at_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        for number in range(100):
            store.put(job(f"resp_{number}"))
    path = tmp_path / "hub.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    await unusable(tmp_path, "malformed")
    assert path.read_bytes() == content


async def test_a_start_that_is_cancelled_can_be_closed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    start = asyncio.create_task(store.start(0.0))
    await asyncio.sleep(0)
    start.cancel()
    await asyncio.wait([start])
    await store.close()
    async with running(tmp_path):
        pass


async def test_closing_what_was_never_started_is_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    await store.close()
    await refused(store.get("ada", "resp_a"), HubError)
    assert not (tmp_path / "store").exists()


def test_a_loop_that_ends_without_closing_lets_go_of_it(tmp_path: Path) -> None:
    async def forget() -> None:
        store = SqliteStore(tmp_path)
        await store.start(0.0)
        other.execute("BEGIN IMMEDIATE")  # It cannot answer before the loop has ended.
        store.put(job())

    with database(tmp_path, "hub.db") as other:
        asyncio.run(forget())
        (thread,) = (one for one in threading.enumerate() if one.name == "hub-store")
        other.execute("ROLLBACK")
        thread.join()

    async def look() -> None:
        async with running(tmp_path) as store:
            assert await store.get("ada", "resp_a") == job(), "it was asked for in time"

    asyncio.run(look())


# Versions.


async def test_a_database_of_version_1_is_read(tmp_path: Path) -> None:
    """As the first release has left it. Never edit this test: add one for the next version."""
    with database(tmp_path, "hub.db") as hub:
        hub.executescript(
            """
            CREATE TABLE records (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
                tenant TEXT NOT NULL, status TEXT NOT NULL, background INTEGER NOT NULL,
                created_at REAL NOT NULL, expires_at REAL NOT NULL, previous_response_id TEXT,
                attempt INTEGER NOT NULL, cancelled INTEGER NOT NULL, job INTEGER NOT NULL,
                size INTEGER NOT NULL);
            CREATE TABLE requests (n INTEGER PRIMARY KEY REFERENCES records ON DELETE CASCADE,
                body BLOB NOT NULL);
            CREATE TABLE results (n INTEGER PRIMARY KEY REFERENCES records ON DELETE CASCADE,
                body BLOB NOT NULL);
            CREATE TABLE idempotency (tenant TEXT NOT NULL, key TEXT NOT NULL,
                digest BLOB NOT NULL, id TEXT NOT NULL, expires_at REAL NOT NULL,
                PRIMARY KEY (tenant, key)) WITHOUT ROWID;
            CREATE TABLE deliveries (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
                response_id TEXT NOT NULL, url TEXT NOT NULL, body BLOB NOT NULL,
                next_at REAL NOT NULL, tries INTEGER NOT NULL);
            INSERT INTO records VALUES
                (1, 'resp_a', 'ada', 'queued', 1, 100.0, 1000.0, NULL, 2, 0, 1, 515);
            INSERT INTO requests VALUES (1, CAST('{"model":"sim"}' AS BLOB));
            PRAGMA user_version = 1;
            """
        )
    with database(tmp_path, "log.db") as log:
        log.executescript(
            """
            CREATE TABLE segments (n INTEGER NOT NULL, last INTEGER NOT NULL,
                first INTEGER NOT NULL, body BLOB NOT NULL,
                PRIMARY KEY (n, last)) WITHOUT ROWID;
            INSERT INTO segments VALUES (1, 3, 0, CAST('0-3' AS BLOB));
            PRAGMA user_version = 1;
            """
        )
    async with running(tmp_path) as store:
        assert await store.get("ada", "resp_a") == job(attempt=2)
        assert await store.read("resp_a") == [segment(0, 3)]
        assert await claimed(store) == [("resp_a", 3)]


@pytest.mark.parametrize("name", ["hub.db", "log.db"])
async def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as store:
        await store.put(job())
    with database(tmp_path, name) as file:
        file.execute("PRAGMA user_version = 99")
    before = (tmp_path / name).read_bytes()
    await unusable(tmp_path, "its tables have version 99, this hub knows 1")
    assert (tmp_path / name).read_bytes() == before


def test_migrations_run_in_order_from_where_a_database_is() -> None:
    scripts = [
        "CREATE TABLE t (a); INSERT INTO t VALUES (1)",
        "ALTER TABLE t ADD COLUMN b DEFAULT 2; -- A comment may end a script.",
        "UPDATE t SET a = a + b",
    ]
    for version in range(4):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
            schema.migrate(file, scripts[:version])
            assert file.execute("PRAGMA user_version").fetchone() == (version,)
            schema.migrate(file, scripts)
            schema.migrate(file, scripts)
            assert file.execute("SELECT a, b FROM t").fetchall() == [(3, 2)]
            assert file.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_migration_that_fails_leaves_the_version_before_it() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        good = "CREATE TABLE t (a)"
        with pytest.raises(sqlite3.OperationalError, match="nothing"):
            schema.migrate(file, [good, "INSERT INTO t VALUES (1); INSERT INTO nothing VALUES (1)"])
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        assert file.execute("SELECT * FROM t").fetchall() == []
        schema.migrate(file, [good, "INSERT INTO t VALUES (2)"])
        assert file.execute("SELECT * FROM t").fetchall() == [(2,)]


# Space, and disks that fail.


async def test_expired_space_goes_back_to_the_file_system(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        for number in range(40):
            store.put(
                answer(f"resp_{number}", result=bytes(100_000)),
                segment=Segment(0, 0, bytes(100_000)),
            )
    sizes = [(tmp_path / name).stat().st_size for name in ("hub.db", "log.db")]
    assert min(sizes) > 4_000_000
    async with running(tmp_path) as store:
        assert await store.expire(0.0, 1_000_000) == 36
    for name in ("hub.db", "log.db"):
        assert (tmp_path / name).stat().st_size < 1_000_000


FULL_DISK = """
import asyncio, json, resource, sys
from pathlib import Path
from hub.errors import HubError
from hub.store.base import Segment
from hub.store.sqlite import SqliteStore
from tests.store.contract import job, segment

async def fails(future):
    try:
        await future
    except HubError as error:
        return error.code
    return None

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.start(0.0)
    await store.put(job())
    await store.claim("me", 0.0, 60.0, 1)
    await store.append("resp_a", 1, segment(0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    big = bytes(400_000)
    failed = [
        await fails(store.append("resp_a", 1, Segment(1, 1, big))),
        await fails(store.append("resp_a", 1, Segment(2, 2, b""))),  # It would leave a gap.
        await fails(store.complete("resp_a", 1, status="completed", result=big)),
        await fails(store.put(job("resp_b", request=big))),
    ]
    # Calls that share their commit share its fate.
    shared = await asyncio.gather(
        fails(store.append("resp_a", 1, segment(1, 1))),
        fails(store.append("resp_a", 1, Segment(2, 2, big))),
        fails(store.renew([], 0.0, 60.0)),
        fails(store.get("ada", "resp_a")),
    )
    while_full = store.statistics()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    held = await store.claim("me", 1.0, 60.0, 1)
    await store.append("resp_a", 1, segment(1, 1))
    await store.complete(
        "resp_a", 1, status="completed", result=big, segment=segment(2, 2)
    )
    log = [one.last for one in await store.read("resp_a")]
    record = await store.get("ada", "resp_a")
    totals = store.statistics()
    print(json.dumps({
        "failed": failed, "shared": shared, "held": len(held), "log": log,
        "status": record.status, "records": while_full.records, "bytes": totals.bytes,
    }))
    await store.close()

asyncio.run(main())
"""


def test_a_full_disk_fails_its_calls_and_no_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stderr == b""
    found = json.loads(done.stdout)
    assert found["failed"] == ["store_unavailable"] * 4
    assert found["shared"][1] == "store_unavailable"
    assert found["held"] == 0, "the job's lease outlives the errors"
    assert (found["log"], found["status"]) == ([0, 1, 2], "completed")
    assert found["records"] == 1
    assert found["bytes"] == 500 + len(job().request) + 3 * 103 + 400_000
