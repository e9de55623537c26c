"""A timer that rings on time.

Event loops round their timers to milliseconds, and wake whatever is due in one of them together. A
model server's streams are independent: a thousand at 20 tokens per second make a token every
50 microseconds, and whoever paces them by such a timer measures bursts of 20. Linux has timers as
file descriptors (timerfd_create(2)), which are exact; elsewhere the loop's own timer has to do.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

_MONOTONIC = 1
_ABSOLUTE = 1


class _Spec(ctypes.Structure):
    """``struct itimerspec``: interval, then value, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """Calls ``ring`` in the running loop soon after the time that ``set`` names. ``close`` it."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._handle = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None)
            self._handle = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._handle >= 0:
            self._loop.add_reader(self._handle, self._readable)

    def set(self, at: float) -> None:
        """Ring at this time of ``time.monotonic()`` instead of any set before. A time that has
        passed rings in the loop's next turn."""
        if self._handle >= 0:
            seconds = int(at)
            # A value of zero would switch the timer off.
            spec = _Spec(0, 0, seconds, max(1, int((at - seconds) * 1e9)))
            self._libc.timerfd_settime(self._handle, _ABSOLUTE, ctypes.byref(spec), None)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._ring)

    def close(self) -> None:
        """Never ring again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def _readable(self) -> None:
        # Reading takes the ring away; set() in the meantime may have done so.
        with suppress(BlockingIOError):
            os.read(self._handle, 8)
            self._ring()
