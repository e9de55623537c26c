"""What the machine tells of processes, by ``/proc``; nothing where there is none.

A server's cost is the user and system time of its process and all its descendants, and the sum of
the most memory that each has had resident.
"""

import os
import platform
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from hub.bench.tally import Usage

_PROC = Path("/proc")
_LISTEN = "0A"


class ProcessTree:
    """A process and its descendants, alive or waited for by one of them."""

    def __init__(self, pid: int) -> None:
        """Raises ``ProcessLookupError`` if ``/proc`` knows no such process."""
        self.pid = pid
        if not (_PROC / str(pid)).is_dir():
            raise ProcessLookupError(pid)

    def usage(self) -> Usage:
        """What it has used so far. Raises ``ProcessLookupError`` when it has ended.

        Times have the kernel's resolution, 10 ms: measure over seconds.
        """
        ticks = reads = writes = 0
        pids = self._pids()
        if not pids:
            raise ProcessLookupError(self.pid)
        for pid in pids:
            with suppress(OSError):
                fields = stat_fields((_PROC / str(pid) / "stat").read_text())
                # utime, stime, and those of children that have ended: proc(5), 14 to 17.
                ticks += sum(int(field) for field in fields[11:15])
            with suppress(OSError):
                counts = dict(
                    line.split(": ") for line in (_PROC / str(pid) / "io").read_text().splitlines()
                )
                reads += int(counts["syscr"])
                writes += int(counts["syscw"])
        return Usage(ticks / os.sysconf("SC_CLK_TCK"), reads, writes)

    def peak(self) -> int:
        """The most memory that its processes have had resident (``VmHWM``), in bytes, added up."""
        return sum(_status(pid, "VmHWM") for pid in self._pids()) * 1024

    def resident(self) -> int:
        """The memory that its processes have resident now (``VmRSS``), in bytes, added up."""
        return sum(_status(pid, "VmRSS") for pid in self._pids()) * 1024

    def _pids(self) -> list[int]:
        children: dict[int, list[int]] = {}
        alive: set[int] = set()
        for path in _PROC.iterdir():
            if path.name.isdigit():
                with suppress(OSError):
                    parent = int(stat_fields((path / "stat").read_text())[1])
                    children.setdefault(parent, []).append(int(path.name))
                    alive.add(int(path.name))
        found = [self.pid] if self.pid in alive else []
        for pid in found:  # grows while it is walked
            found += children.get(pid, ())
        return found


def processes_at(host: str, port: int) -> ProcessTree | None:
    """The server that listens there, if it is on this machine and its process can be told."""
    pid = listening_pid(port) if is_local(host) else None
    if pid is not None:
        with suppress(ProcessLookupError):
            return ProcessTree(pid)
    return None


def stat_fields(text: str) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the third on. The second, the command's name in
    parentheses, may hold spaces and parentheses itself."""
    return text.rpartition(")")[2].split()


def listening_pid(port: int) -> int | None:
    """The process that listens on a TCP port of this machine; ``None`` if that cannot be told."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    # Of a server's workers, which share the socket, the first: usually their parent.
    for pid in sorted(int(path.name) for path in _PROC.iterdir() if path.name.isdigit()):
        with suppress(OSError):
            for handle in (_PROC / str(pid) / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(handle) in inodes:
                        return pid
    return None


def is_local(host: str) -> bool:
    """Whether an address is one of this machine's."""
    try:
        return all(
            str(info[4][0]).startswith("127.") or info[4][0] == "::1"
            for info in socket.getaddrinfo(host, None)
        )
    except OSError:
        return False


def cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(pid: int, core: int) -> None:
    """Let a process (0: this one) and its future threads run on one core, where that can be had."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {core})


def busy() -> float | None:
    """The CPU time of everything on this machine since its start, in seconds, if it tells."""
    with suppress(OSError):
        fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
        # All but idle, iowait, and what guests had, which is in the others: proc(5), /proc/stat.
        ticks = sum(int(field) for at, field in enumerate(fields[:8]) if at not in (3, 4))
        return ticks / os.sysconf("SC_CLK_TCK")
    return None


def description() -> str:
    """The machine in one line: cores, processor, system, Python, event loop."""
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = (_PROC / "cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    loop = "uvloop" if find_spec("uvloop") else "asyncio's loop"
    count = os.cpu_count()
    return (
        f"{count} core{'s' * (count != 1)} ({model}), {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {loop}"
    )


def _status(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
