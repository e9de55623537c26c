"""hub's commands as processes of their own."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hub.bench.processes import environment


@dataclass(frozen=True)
class Command:
    """A command that runs and listens."""

    process: asyncio.subprocess.Process
    said: list[str]
    """The lines that it printed up to the one that names its address."""
    url: str

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, give the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[Command]:
    """Run ``hub`` with arguments until it says where it serves; stop it at the end."""
    if arguments[0] == "serve" and "--store" not in arguments:
        arguments = (*arguments, "--store", "memory")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hub",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=None,
        env=environment(),
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        while True:
            line = (await process.stdout.readline()).decode()
            assert line, f"it ended after saying {said}"
            said.append(line)
            found = re.search(r"serves (https?://[\d.]+:\d+)", line)
            if found:
                break
        yield Command(process, said, found[1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
