"""Asking upstreams how they are: the broken ones whether they are back, the full ones how full.

Nothing is asked of an upstream that is well and has room: timers run only where there is something
to find out, and at most one question is open per upstream.
"""

import asyncio
import logging
from collections.abc import Callable

from hub.dispatch.upstream import Upstream
from hub.errors import HubError

logger = logging.getLogger("hub.dispatch")

POLL = 1.0
"""Seconds between two questions to an upstream that holds requests back."""


class Health:
    """See the top of this file. ``close`` it."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        """``on_news`` is called when an upstream may be given requests again, or more of them."""
        self._on_news = on_news
        self._timers: dict[Upstream, asyncio.TimerHandle] = {}
        self._tasks: dict[Upstream, asyncio.Task[None]] = {}
        self._closed = False

    def watch(self, upstream: Upstream) -> None:
        """Something has changed: see whether there is something to ask, and when."""
        if self._closed or upstream.leaving:
            return
        if upstream in self._timers or upstream in self._tasks:
            return
        if upstream.breaker.state == "open":
            self._ask_at(upstream, upstream.breaker.until)
        elif upstream.limited:
            self._ask_at(upstream, asyncio.get_running_loop().time() + POLL)

    def forget(self, upstream: Upstream) -> None:
        """Ask no more."""
        timer = self._timers.pop(upstream, None)
        if timer is not None:
            timer.cancel()
        task = self._tasks.get(upstream)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        self._closed = True
        for upstream in [*self._timers, *self._tasks]:
            self.forget(upstream)
        while self._tasks:
            await asyncio.wait(self._tasks.values())
            # Their callbacks run after this wait's.
            await asyncio.sleep(0)

    def _ask_at(self, upstream: Upstream, when: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[upstream] = loop.call_at(when, self._ask, upstream)

    def _ask(self, upstream: Upstream) -> None:
        del self._timers[upstream]
        upstream.limited = False
        task = asyncio.create_task(self._probe(upstream))
        self._tasks[upstream] = task
        task.add_done_callback(lambda _: self._asked(upstream))

    def _asked(self, upstream: Upstream) -> None:
        del self._tasks[upstream]
        self.watch(upstream)

    async def _probe(self, upstream: Upstream) -> None:
        # Not if it opens meanwhile: its time is not over then.
        trial = upstream.breaker.state == "open"
        failure: HubError | None = None
        try:
            load = await upstream.engine.probe()
            if trial:
                # It may be another server by now. Asking lets the engine know what it serves.
                await upstream.engine.models()
        except HubError as error:
            failure = error
        except Exception:
            # The boundary of one question: a defect of an engine counts as no answer to it.
            logger.exception("engine %s failed to say how it is", upstream.name)
            failure = HubError("server_error", "The model server's state cannot be read.")
        now = asyncio.get_running_loop().time()
        if failure is None:
            if trial:
                upstream.breaker.answered()
            upstream.said(load, now)
            self._on_news()
        elif trial:
            upstream.failure = failure
            upstream.breaker.silent(now)
