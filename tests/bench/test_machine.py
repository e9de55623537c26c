"""What /proc tells of processes."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from hub.bench import machine
from hub.bench.machine import ProcessTree

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")

CHILD = "held = b'x' * 50_000_000; print('up', flush=True); input()"


def test_a_commands_name_may_hold_anything() -> None:
    fields = machine.stat_fields("7 (a) S (b c) R 3 4")
    assert fields == ["R", "3", "4"]


async def test_a_tree_is_a_process_and_its_descendants() -> None:
    alone = ProcessTree(os.getpid())
    before = alone.resident()
    assert alone.peak() >= before > 0
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    await child.stdout.readline()
    tree = ProcessTree(child.pid)
    assert alone.peak() > tree.peak() >= tree.resident() >= 50_000_000
    usage = tree.usage()
    assert usage.cpu >= 0
    assert usage.writes > 0
    await child.communicate(b"\n")
    with pytest.raises(ProcessLookupError):
        tree.usage()
    with pytest.raises(ProcessLookupError):
        ProcessTree(child.pid)
    # What the child has used is counted with its parent, which has waited for it.
    assert alone.usage().cpu >= usage.cpu


def test_the_process_that_listens_is_found() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert machine.listening_pid(port) is None
        listening.listen()
        assert machine.listening_pid(port) == os.getpid()
    assert machine.listening_pid(port) is None


def test_addresses_of_this_machine() -> None:
    assert machine.is_local("127.0.0.1")
    assert machine.is_local("localhost")
    assert not machine.is_local("192.0.2.1")
    assert not machine.is_local("no such host.invalid")


def test_the_machine_is_described() -> None:
    busy = machine.busy()
    assert busy is not None
    assert busy > 0
    assert machine.cores()
    assert "core" in machine.description()
    assert "Python 3" in machine.description()
