"""hub as several processes on one port, ``hub serve --workers``: who starts, watches and ends them.

A worker is the same command once more. It is given the sockets that it accepts from, and a channel:
over it the worker says that it serves and the supervisor gives its orders, and its end tells each
that the other one is gone. Orders do not come as signals, since those may come twice: a service
manager sends them to every process.

On Linux the kernel spreads the connections evenly over the sockets that listen on a port. Each
worker has one of its own there, which the supervisor holds, too: what waits in it while a worker
ends is for the next one. Elsewhere the workers share one, and whoever is first accepts; on Linux
that gave 40 to 120 of 200 connections to one of two workers.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from hub.server.door import BACKLOG, bind, listen

logger = logging.getLogger("hub.workers")

INHERITED = "HUB_WORKER"
"""The variable that tells a worker its channel and its sockets."""
SPREADS = sys.platform == "linux"
"""Whether the kernel spreads connections over the sockets of a port."""
STABLE = 10.0
"""Seconds that a worker must have served for another one to take its place at once."""
FIRST, MOST = 0.5, 30.0
"""Seconds until the next try for one that did not; they double from the first to the most."""
OVERDUE = 20.0
"""Seconds after the end of its drain after which a worker is killed."""

_SERVES, _RELOAD, _STOP, _HURRY = b"+", b"r", b"s", b"h"
_FAILED = 0
"""Beside the signals: nothing can be served."""


class Port:
    """The port that workers share."""

    def __init__(self, held: Sequence[socket.socket]) -> None:
        self._held = held
        """They listen where they are shared. Else they only keep the port."""

    @classmethod
    async def open(cls, host: str, port: int) -> "Port":
        """Take a port, 0 for a free one. Raises ``OSError`` if it cannot be had."""
        listeners = await listen(host, port)
        if not SPREADS:
            return cls(listeners)
        # That it can be shared must not hide that somebody else has it: so it was not shared first.
        places = [(one.family, one.getsockname()) for one in listeners]
        for one in listeners:
            one.close()
        return cls([bind(family, place, beside=True) for family, place in places])

    @property
    def number(self) -> int:
        number: int = self._held[0].getsockname()[1]
        return number

    def listeners(self) -> list[socket.socket]:
        """Sockets for one more worker; the caller closes them. Raises ``OSError``."""
        if not SPREADS:
            return [one.dup() for one in self._held]
        own = [bind(one.family, one.getsockname(), beside=True) for one in self._held]
        for one in own:
            one.listen(BACKLOG)
        return own

    def close(self) -> None:
        for one in self._held:
            one.close()


class Place:
    """What a worker was given, for the worker itself."""

    def __init__(self, channel: socket.socket, listeners: Sequence[socket.socket]) -> None:
        self._channel = channel
        self.listeners = listeners
        self.hurried = asyncio.Event()
        """It is to stop at once."""

    @classmethod
    def inherited(cls) -> "Place | None":
        """The place of this process; ``None`` if it is no worker."""
        numbers = os.environ.pop(INHERITED, "")
        if not numbers:
            return None
        channel, *listeners = (socket.socket(fileno=int(one)) for one in numbers.split(","))
        for one in (channel, *listeners):
            one.set_inheritable(False)
            one.setblocking(False)
        return cls(channel, listeners)

    def serves(self, order: Callable[[int], None]) -> None:
        """Tell the supervisor, and pass its orders on from now on: SIGHUP to read the settings
        again, SIGTERM to stop, also when the supervisor is gone."""
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        loop = asyncio.get_running_loop()

        def hear() -> None:
            said = self._channel.recv(64)
            if not said:
                loop.remove_reader(self._channel)
            if _RELOAD in said:
                order(signal.SIGHUP)
            if _STOP in said or not said:
                order(signal.SIGTERM)
            if _HURRY in said:
                self.hurried.set()

        loop.add_reader(self._channel, hear)
        self._channel.send(_SERVES)


class _Worker:
    """A process that serves, or is about to."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self.process = process
        self._channel = channel
        self._serving = False
        self._since = asyncio.get_running_loop().time()

    async def serves(self) -> bool:
        """Wait until it serves; false if it has ended instead."""
        self._serving = await asyncio.get_running_loop().sock_recv(self._channel, 1) == _SERVES
        if not self._serving:
            await self.process.wait()
        return self._serving

    async def ended(self) -> float:
        """Wait for its end: the seconds that it has lived."""
        await self.process.wait()
        return asyncio.get_running_loop().time() - self._since

    def order(self, what: bytes) -> None:
        """What does not listen yet can only be stopped."""
        with suppress(OSError):
            if self._serving:
                self._channel.send(what)
            elif what != _RELOAD:
                self.process.terminate()

    def forget(self) -> None:
        """It has ended."""
        self._channel.close()


class _Slot:
    """One worker after the other."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.listeners: list[socket.socket] = []
        self.worker: _Worker | None = None
        """The one that serves."""
        self.changing = asyncio.Lock()

    def close(self) -> None:
        """Let no connection wait here."""
        for one in self.listeners:
            one.close()
        self.listeners = []


class Workers:
    """The supervisor. ``run`` it once."""

    def __init__(self, command: Sequence[str], port: Port, count: int, *, drain: float) -> None:
        """``command`` is run ``count`` times; each has ``drain`` seconds to end."""
        self._command = command
        self._port = port
        self._patience = drain + OVERDUE
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        self._workers: list[_Worker] = []
        """All whose end was not seen yet."""
        self._rolling = asyncio.Lock()

    async def run(
        self,
        signals: asyncio.Queue[int],
        *,
        on_serving: Callable[[], None],
        on_stopping: Callable[[], None],
    ) -> int:
        """Keep the workers running until one of the ``signals`` is to stop: then they have their
        time to end, until the next signal. SIGHUP is passed on, and SIGUSR2 replaces them one by
        one. Gives an exit code: 0 if all went well.

        If the first worker cannot start, it has said why, and no other one is tried.
        """
        tasks = [asyncio.create_task(self._begin(signals, on_serving))]
        while (number := await signals.get()) in (signal.SIGHUP, signal.SIGUSR2):
            if number == signal.SIGUSR2:
                tasks.append(asyncio.create_task(self._replace_all()))
            else:
                self._order(_RELOAD)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._port.close()
        for slot in self._slots:
            slot.close()
        if number != _FAILED:
            on_stopping()
        ends = asyncio.gather(*map(self._end, self._living()))
        hurry = asyncio.create_task(signals.get())
        await asyncio.wait((ends, hurry), return_when=asyncio.FIRST_COMPLETED)
        if hurry.done():
            self._order(_HURRY)
        hurry.cancel()
        stopped = await ends
        self._living()
        return 0 if number != _FAILED and all(stopped) else 1

    async def _begin(self, signals: asyncio.Queue[int], on_serving: Callable[[], None]) -> None:
        first, *others = self._slots
        first.worker = await self._start(first)
        if first.worker is None:
            signals.put_nowait(_FAILED)
            return
        for slot, worker in zip(others, await self._start_all(others), strict=True):
            slot.worker = worker
        on_serving()
        async with asyncio.TaskGroup() as group:
            for slot in self._slots:
                group.create_task(self._keep(slot))

    async def _start_all(self, slots: Sequence[_Slot]) -> "list[_Worker | None]":
        return await asyncio.gather(*map(self._start, slots))

    async def _keep(self, slot: _Slot) -> None:
        """Start a worker whenever the slot's has ended."""
        wait = 0.0
        while True:
            worker = slot.worker
            lived = 0.0 if worker is None else await worker.ended()
            async with slot.changing:
                if slot.worker is not worker:
                    # It was replaced.
                    continue
                wait = 0.0 if lived >= STABLE else min(MOST, max(FIRST, 2 * wait))
                code = "" if worker is None else f" (exit code {worker.process.returncode})"
                logger.error("worker %d is gone%s; again in %g s", slot.number, code, wait)
                slot.worker = None
                if wait:
                    slot.close()
                    await asyncio.sleep(wait)
                slot.worker = await self._start(slot)

    async def _replace_all(self) -> None:
        """One after the other: the new one serves before the old one is told to stop."""
        async with self._rolling:
            for slot in self._slots:
                async with slot.changing:
                    old = slot.worker
                    new = await self._start(slot)
                    if new is None:
                        logger.error("worker %d cannot be replaced: the old ones stay", slot.number)
                        return
                    slot.worker = new
                if old is not None:
                    await self._end(old)
            logger.info("all workers were replaced")

    async def _start(self, slot: _Slot) -> _Worker | None:
        """A worker that serves; ``None`` if it does not, and said why."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                slot.listeners = slot.listeners or self._port.listeners()
                given = [one.fileno() for one in (theirs, *slot.listeners)]
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    # The first one speaks for all of them.
                    stdout=None if slot.number == 1 else asyncio.subprocess.DEVNULL,
                    pass_fds=given,
                    env={**os.environ, INHERITED: ",".join(map(str, given))},
                    # Ctrl-C in a terminal is for the supervisor.
                    start_new_session=True,
                )
            except (OSError, asyncio.CancelledError) as error:
                ours.close()
                if isinstance(error, asyncio.CancelledError):
                    raise
                logger.error("worker %d cannot be started: %s", slot.number, error.strerror)
                return None
        worker = _Worker(process, ours)
        self._workers = [*self._living(), worker]
        return worker if await worker.serves() else None

    def _living(self) -> list[_Worker]:
        """Those that have not ended."""
        for worker in self._workers:
            if worker.process.returncode is not None:
                worker.forget()
        return [worker for worker in self._workers if worker.process.returncode is None]

    def _order(self, what: bytes) -> None:
        for worker in self._living():
            worker.order(what)

    async def _end(self, worker: _Worker) -> bool:
        """Tell it to stop, and wait until it has: whether it did."""
        worker.order(_STOP)
        try:
            async with asyncio.timeout(self._patience):
                await worker.ended()
        except TimeoutError:
            logger.error("process %d does not stop: it is killed", worker.process.pid)
            worker.process.kill()
            await worker.ended()
        return worker.process.returncode in (0, -signal.SIGTERM)
