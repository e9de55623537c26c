"""Virtual time: an event loop whose clock jumps instead of waiting.

All of hub's timing goes through its event loop (``loop.time``, ``call_later``, ``asyncio.sleep``),
so running on another loop is all it takes to inject another clock. On this one an hour of the
simulated engine takes as long as its computations. The same idea is trio's ``MockClock`` with
``autojump_threshold=0``.

For code that only waits for timers and for itself: a socket's data would arrive "after" the clock
has jumped.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that lets time pass by saying so."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("virtual time stands still: nothing is scheduled any more")
            self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, starting at 0 s."""

    def __init__(self) -> None:
        self._virtual = _JumpingSelector()
        super().__init__(self._virtual)
        # The clock must pass a timer's time exactly; asyncio adds this much when it looks for
        # timers that are due, to hide a real clock's grain.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
