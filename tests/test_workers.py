"""Several processes on one port: who is started, and what they are told. With processes that do
nothing, in the place of hub's."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hub import workers as workers_module
from hub.workers import INHERITED, SPREADS, Place, Port, Workers

SERVES = """
import os, socket, sys
numbers = map(int, os.environ["HUB_WORKER"].split(","))
channel, *listeners = (socket.socket(fileno=one) for one in numbers)
assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in listeners)
with open(sys.argv[1], "a") as lives:
    lives.write(f"{os.getpid()}\\n")
channel.setblocking(True)
channel.send(b"+")
"""
STAYS = f"""{SERVES}
while channel.recv(1) not in (b"s", b""): pass
"""
"""A worker that serves until it is told to stop."""
LEAVES = f"""{SERVES}
sys.exit(1)
"""
FIRST_TWO = STAYS.replace(
    "channel.send", "len(open(sys.argv[1]).readlines()) > 2 and sys.exit(1)\nchannel.send"
)
"""Of such workers the third one does not serve, nor any after it."""


class Run:
    """A supervisor that runs, and its workers' process ids in their order."""

    def __init__(self, lives: Path) -> None:
        self._lives = lives
        self.signals: asyncio.Queue[int] = asyncio.Queue()
        self.said: list[str] = []
        self.end: asyncio.Task[int] | None = None

    @property
    def started(self) -> list[int]:
        return [int(line) for line in self._lives.read_text().split()]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what processes do: nothing tells of it."""
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def code(self) -> int:
        assert self.end is not None
        return await self.end


@asynccontextmanager
async def running(script: str, tmp_path: Path, *, drain: float = 20.0) -> AsyncIterator[Run]:
    """Two workers of a script."""
    lives = tmp_path / "lives"
    lives.touch()
    one = Run(lives)
    port = await Port.open("127.0.0.1", 0)
    command = (sys.executable, "-c", script, str(lives))
    one.end = asyncio.create_task(
        Workers(command, port, 2, drain=drain).run(
            one.signals,
            on_serving=lambda: one.said.append("serving"),
            on_stopping=lambda: one.said.append("stopping"),
        )
    )
    yield one
    one.signals.put_nowait(signal.SIGTERM)
    await one.end


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "FIRST", 0.01)
    monkeypatch.setattr(workers_module, "MOST", 0.02)


# The port.


async def test_workers_share_a_port_that_is_nobody_elses() -> None:
    """Not even another supervisor's, which could share it, too."""
    port = await Port.open("127.0.0.1", 0)
    first, second = port.listeners(), port.listeners()
    assert {one.getsockname() for one in (*first, *second)} == {("127.0.0.1", port.number)}
    with pytest.raises(OSError, match="in use"):
        await Port.open("127.0.0.1", port.number)
    # It is kept while no worker listens.
    for one in first + second:
        one.close()
    (third,) = port.listeners()
    _, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.close()
    third.close()
    port.close()


@pytest.mark.skipif(not SPREADS, reason="whoever is first accepts")
async def test_connections_are_spread_over_the_workers() -> None:
    port = await Port.open("127.0.0.1", 0)
    queues = [*port.listeners(), *port.listeners()]
    connections = [await asyncio.open_connection("127.0.0.1", port.number) for _ in range(100)]
    counts = []
    for queue in queues:
        count = 0
        try:
            while True:
                queue.accept()[0].close()
                count += 1
        except BlockingIOError:
            counts.append(count)
    for _, writer in connections:
        writer.close()
    for queue in queues:
        queue.close()
    port.close()
    assert sum(counts) == 100
    # By a hash: fewer than 20 of 100 come in fewer than one of a billion runs.
    assert min(counts) >= 20


# A worker, for itself.


async def test_a_worker_is_told_by_its_channel_and_stops_without_its_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Place.inherited() is None
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv(INHERITED, f"{theirs.detach()},{listener.detach()}")
    place = Place.inherited()
    assert place is not None
    assert Place.inherited() is None
    orders: asyncio.Queue[int] = asyncio.Queue()
    before = signal.getsignal(signal.SIGUSR2)
    place.serves(orders.put_nowait)
    signal.signal(signal.SIGUSR2, before)
    assert ours.recv(1) == b"+"
    ours.send(b"r")
    assert await orders.get() == signal.SIGHUP
    ours.send(b"s")
    assert await orders.get() == signal.SIGTERM
    assert not place.hurried.is_set()
    ours.send(b"h")
    await place.hurried.wait()
    ours.close()
    assert await orders.get() == signal.SIGTERM
    assert orders.empty()
    for one in (*place.listeners, place._channel):
        one.close()


# The supervisor.


async def test_workers_run_until_they_are_told_to_stop(tmp_path: Path) -> None:
    async with running(STAYS, tmp_path) as run:
        await run.until(lambda: "serving" in run.said)
        assert len(run.started) == 2
        run.signals.put_nowait(signal.SIGHUP)
        run.signals.put_nowait(signal.SIGTERM)
        assert await run.code() == 0
    assert run.said == ["serving", "stopping"]


async def test_if_the_first_cannot_start_no_other_one_is_tried(tmp_path: Path) -> None:
    async with running("raise SystemExit(3)", tmp_path) as run:
        assert await run.code() == 1
    assert run.said == []


async def test_a_worker_that_dies_is_started_again_but_not_at_once_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(LEAVES, tmp_path) as run:
        await run.until(lambda: len(run.started) >= 8)
    assert "worker 1 is gone (exit code 1); again in 0.01 s" in caplog.text
    assert "again in 0.02 s" in caplog.text


async def test_workers_are_replaced_one_by_one(tmp_path: Path) -> None:
    async with running(STAYS, tmp_path) as run:
        await run.until(lambda: "serving" in run.said)
        run.signals.put_nowait(signal.SIGUSR2)
        await run.until(lambda: len(run.started) == 4)
        run.signals.put_nowait(signal.SIGTERM)
        assert await run.code() == 0
    assert len(set(run.started)) == 4


async def test_what_cannot_be_replaced_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(FIRST_TWO, tmp_path) as run:
        await run.until(lambda: "serving" in run.said)
        run.signals.put_nowait(signal.SIGUSR2)
        await run.until(lambda: "cannot be replaced: the old ones stay" in caplog.text)
        run.signals.put_nowait(signal.SIGTERM)
        assert await run.code() == 0
    assert len(run.started) == 3


async def test_a_worker_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "OVERDUE", 0.0)
    deaf = f"{SERVES}\nimport time\ntime.sleep(60)"
    async with running(deaf, tmp_path, drain=0.1) as run:
        await run.until(lambda: "serving" in run.said)
        run.signals.put_nowait(signal.SIGTERM)
        assert await run.code() == 1
    assert "does not stop: it is killed" in caplog.text


async def test_who_asks_twice_does_not_want_to_wait(tmp_path: Path) -> None:
    busy = STAYS.replace('(b"s", b"")', '(b"h", b"")')
    async with running(busy, tmp_path) as run:
        await run.until(lambda: "serving" in run.said)
        run.signals.put_nowait(signal.SIGTERM)
        await run.until(lambda: "stopping" in run.said)
        run.signals.put_nowait(signal.SIGTERM)
        assert await run.code() == 0
