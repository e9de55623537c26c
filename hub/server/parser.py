"""What large requests ask for is worked out off the event loop.

A megabyte of many small values takes tens of milliseconds to decode and check, in which nobody's
token would move. How much of that the loop still feels is the interpreter's switch interval, which
``hub serve`` sets.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hub.api.prompt import with_messages
from hub.api.requests import Json, Request

LARGE = 64 * 1024
"""Bytes of a request above which it is parsed in the thread. Handing over takes about 0.1 ms; the
worst body of this size takes 3 ms."""
MANY = 2000
"""Items of a chain above which its messages are made in the thread: about 1 ms of work."""

T = TypeVar("T")


class Parser:
    """One thread, and what waits for it, in order of arrival. ``close`` it at the end.

    One, because several would be no faster under one interpreter lock, and each would have its turn
    before the loop has one. What waits is not bounded here: it is one request per connection.
    """

    def __init__(self) -> None:
        # Started with its first work.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="hub-parser")

    def start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do the work in the thread. Cancel the future if its result is of no use any more."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """The result of the work for a request of so many bytes. Raises what the work raises."""
        return work() if size <= LARGE else await self.start(work)

    async def with_messages(self, request: Request, context: Sequence[Json]) -> Request:
        """``with_messages``, in the thread if that is worth it. Raises ``HubError``."""

        def work() -> Request:
            return with_messages(request, context)

        return await self.start(work) if is_long(request, context) else work()

    def close(self) -> None:
        """What runs is not waited for, and what waits is not done."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def is_long(request: Request, context: Sequence[Json]) -> bool:
    """Whether its messages are not made yet and too many to be made on the loop."""
    return not request.generation.messages and len(context) + len(request.items) > MANY
