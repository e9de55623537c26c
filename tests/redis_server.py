"""A real ``redis-server`` for tests: of its own directory and port, and gone with the process."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(
    PROGRAM is None, reason="there is no redis-server here (Debian: apt install redis-server)"
)


class RedisServer:
    """One that is started, killed and started again with what it has on its disk."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        assert PROGRAM is not None
        command = [PROGRAM, "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self._directory), "--appendonly", "yes", "--save", ""]
        # With "everysec", its default, a kill may lose what was written while it synced.
        command += ["--appendfsync", "always"]
        self._process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                if self.ask("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return
            except OSError:
                assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, SIGKILL."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, *words: str) -> bytes:
        """A command as a person would give it; the answer's first bytes, as they are on the wire.
        For tests that may block."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            return connection.recv(1 << 16)


@contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    """One that runs."""
    # In memory, where there is such a place: its disk is not what is tested.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        server = RedisServer(Path(directory))
        try:
            server.start(*options)
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    """One for all tests of this process."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """It runs, and holds nothing."""
    redis_process.ask("FLUSHALL")
    return redis_process
