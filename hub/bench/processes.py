"""hub's commands as processes of their own, beside the load generator."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hub.bench.machine import pin

STOPPING = 10.0
"""Seconds that a process has to end after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Served:
    """A command that listens."""

    url: str
    pid: int


class StartError(Exception):
    """A command has ended instead of serving."""


@asynccontextmanager
async def serving(*arguments: str, core: int | None = None) -> AsyncIterator[Served]:
    """Run ``hub`` with these arguments from when it says where it serves, until the block ends.

    ``core``: the one to run on. The environment's ``HUB_`` settings are left out.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hub",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.startswith("HUB_")},
    )
    assert process.stdout is not None
    try:
        if core is not None:
            pin(process.pid, core)
        while True:
            line = (await process.stdout.readline()).decode()
            if not line:
                raise StartError(f"'hub {' '.join(arguments)}' has ended instead of serving.")
            found = re.search(r"serves (http://[\w.:\[\]]+:\d+)", line)
            if found:
                break
        yield Served(found[1], process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOPPING):
                    await process.communicate()
            except TimeoutError:
                process.kill()
        await process.communicate()
