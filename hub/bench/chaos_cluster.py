"""The processes of a chaos run: a Redis, and nodes of hub that reach it through a fault proxy each.

Redis listens on a Unix socket in its own directory, so that no other process can take its place
while it is down. Its file of appended commands is synced every second: ``kill -9`` loses nothing of
it, since what is written is the kernel's.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hub.bench.fault_proxy import FaultProxy
from hub.bench.processes import StartError, environment

STARTING = 20.0
"""Seconds that a process may take to serve."""
AGAIN = 0.25
"""Seconds after which a node is started again that found no Redis."""
_READY = 0.01


class Process:
    """One process, started again and again. It can be killed, stopped and continued."""

    def __init__(self, log: Path) -> None:
        """Its error output is appended to ``log``."""
        self.process: asyncio.subprocess.Process | None = None
        self.draining: asyncio.Task[bytes] | None = None
        """Reads what it says on its output, which is nobody's."""
        self._log = log

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def spawn(self, *arguments: str) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            log.write(b"--- started\n")
            log.flush()
            self.process = await asyncio.create_subprocess_exec(
                *arguments, stdout=asyncio.subprocess.PIPE, stderr=log, env=environment()
            )
        return self.process

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.process is not None and self.alive:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def start(self) -> None:
        """Returns when it serves. Raises ``StartError``."""
        raise NotImplementedError

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Harmless when it is. A stopped one dies, too."""
        self.signal(signal.SIGKILL)
        await self.gone()

    async def gone(self) -> int:
        """Wait until it has ended. Its exit code."""
        if self.process is None:
            return 0
        code = await self.process.wait()
        if self.draining is not None:
            await self.draining
        return code


class Redis(Process):
    """``start``, then ``kill``, and so on: what it holds stays in ``directory``."""

    def __init__(self, executable: str, directory: Path) -> None:
        super().__init__(directory / "redis.log")
        self.socket = directory / "redis.sock"
        self._executable = executable
        self._directory = directory

    async def start(self) -> None:
        """Returns when it answers. Raises ``StartError``."""
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        named = [word for name, value in options.items() for word in (f"--{name}", value)]
        process = await self.spawn(self._executable, *named)
        assert process.stdout is not None
        self.draining = asyncio.create_task(process.stdout.read())
        with suppress(TimeoutError):
            async with asyncio.timeout(STARTING):
                while self.alive:
                    with suppress(OSError):
                        if (await self.command("PING")).startswith("+PONG"):
                            return
                    await asyncio.sleep(_READY)
        raise StartError(f"'{self._executable}' has ended, or does not answer.")

    async def command(self, line: str) -> str:
        """Send a command without arguments, or with simple ones; what it answers, as it comes.
        Raises ``OSError``."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            writer.write(line.encode() + b"\r\n")
            head = await reader.readline()
            body = await reader.readexactly(int(head[1:])) if head.startswith(b"$") else head
            return body.decode()
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("Redis has closed the connection") from error
        finally:
            writer.close()

    async def info(self) -> dict[str, str]:
        """What ``INFO`` tells. Raises ``OSError``."""
        lines = (await self.command("INFO everything")).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


class Node(Process):
    """One ``hub serve``, and the proxy between it and Redis."""

    def __init__(self, number: int, redis: Redis, directory: Path, serve: Sequence[str]) -> None:
        super().__init__(directory / f"node-{number}.log")
        self.number = number
        self.url = ""
        """Where it serves, or has served last."""
        self.proxy = FaultProxy(redis.socket)
        self.hits = 0
        """Faults that broke streams that only it could say."""
        self._serve = serve
        self._port = 0

    async def start(self) -> None:
        """Returns when it serves. Raises ``StartError``."""
        if not self._port:
            self._port = await self.proxy.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(STARTING):
                # It does not start without its store: somebody starts it again.
                while not await self._serves():  # noqa: ASYNC110 - another process
                    await asyncio.sleep(AGAIN)
                return
        raise StartError(f"Node {self.number} does not serve; see its log.")

    async def _serves(self) -> bool:
        store = f"redis://127.0.0.1:{self._port}/0"
        hub = (sys.executable, "-m", "hub", "serve", "--port", "0", "--store", store)
        process = await self.spawn(*hub, *self._serve, "--upstream-key", f"node-{self.number}")
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode():
            if found := re.search(r"serves (http://[\w.:\[\]]+:\d+)", line):
                self.url = found[1]
                self.draining = asyncio.create_task(process.stdout.read())
                return True
        await process.wait()
        return False

    async def end(self, patience: float) -> int:
        """SIGTERM, and wait; after ``patience`` seconds SIGKILL. The exit code."""
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                return await self.gone()
        await self.kill()
        return await self.gone()


class Cluster:
    """``async with``: a Redis and nodes that serve; at its end all of them are gone."""

    def __init__(
        self,
        directory: Path,
        *,
        redis: str,
        nodes: int,
        serve: Sequence[str],
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``serve``: further arguments of each ``hub serve``."""
        self.redis = Redis(redis, directory)
        self.nodes = [Node(number, self.redis, directory, serve) for number in range(nodes)]
        self._progress = progress

    async def __aenter__(self) -> "Cluster":
        try:
            await self.redis.start()
            self._progress(f"Redis serves, process {self.redis.process and self.redis.process.pid}")
            await asyncio.gather(*(node.start() for node in self.nodes))
        except BaseException:
            # Whatever has happened, an interrupt as well: no process that was started stays.
            await self.__aexit__()
            raise
        for node in self.nodes:
            pid = node.process and node.process.pid
            self._progress(f"node {node.number} serves {node.url}, process {pid}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(process.kill() for process in (*self.nodes, self.redis)))
        for node in self.nodes:
            if node.proxy.listening:
                await node.proxy.close()


def find_redis(path: str | None) -> str | None:
    """The server's executable: that one, or Redis' or Valkey's where the system looks."""
    if path is not None:
        return path if os.access(path, os.X_OK) else None
    return shutil.which("redis-server") or shutil.which("valkey-server")
