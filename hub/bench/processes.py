"""hub's commands as processes of their own, beside the load generator."""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

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


def environment() -> dict[str, str]:
    """That of a hub which is nobody's."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith("HUB_")}
    return {**bare, "XDG_DATA_HOME": str(Path(tempfile.gettempdir(), "no-hub-of-anybody"))}


@asynccontextmanager
async def serving(*arguments: str, core: int | None = None) -> AsyncIterator[Served]:
    """Run ``hub`` with these arguments from when it says where it serves, until the block ends.

    ``core``: the one to run on. The environment's ``HUB_`` settings are left out, and so are keys
    and a store of this user's.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hub",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
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
