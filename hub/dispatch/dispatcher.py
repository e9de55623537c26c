"""The dispatcher: takes requests, finds them a place on an upstream, runs them there.

The only place that spawns generation: one task per request, from dispatch to its end. The rules
of who goes when are in ``queue.py``; here they meet the loop's clock and the engines.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hub.api.requests import Generation
from hub.dispatch.queue import BatchQueue
from hub.dispatch.window import Window
from hub.engines.base import Engine, Sink
from hub.errors import HubError

logger = logging.getLogger("hub.dispatch")


class Job(Protocol):
    """One request, as the dispatcher sees it.

    ``started`` is called at most once, then exactly one of the others; without ``started`` only
    ``cancelled`` can come. None of them may raise.
    """

    @property
    def generation(self) -> Generation: ...
    @property
    def sink(self) -> Sink: ...
    def started(self) -> None: ...
    def completed(self) -> None: ...
    def failed(self, error: HubError) -> None: ...
    def cancelled(self) -> None: ...


class Upstream:
    """An engine and its window."""

    def __init__(self, engine: Engine, window: int) -> None:
        self.engine = engine
        self.window = Window(window)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the dispatcher is doing, and what it did since the start."""

    queued: int
    in_flight: int
    windows: dict[str, int]
    dispatched: dict[str, int]
    """Batches by the reason for which they left."""
    batches: dict[str, int]
    """Batches by their size."""
    refused: int


class Dispatcher:
    """See the top of this file. All calls but ``close`` are plain and take effect at once."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        *,
        batch_size: int = 8,
        flush_interval: float = 0.0,
        queue_size: int = 1024,
    ) -> None:
        """``flush_interval`` is in seconds."""
        self._upstreams = list(upstreams)
        self._queue: BatchQueue[Job] = BatchQueue(
            batch_size=batch_size, flush_interval=flush_interval, capacity=queue_size
        )
        self._running: dict[Job, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._reasons: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._refused = 0

    def submit(self, job: Job) -> None:
        """Queue a request, or dispatch it at once if there is room.

        Raises ``HubError`` ``model_not_found`` if no upstream serves its model, and
        ``rate_limit_exceeded`` if the queue is full; nothing was promised then.
        """
        self.candidates(job.generation.model)
        if self._queue.full:
            self._refused += 1
            raise HubError(
                "rate_limit_exceeded",
                f"{len(self._queue)} requests are waiting already. Try again later.",
                retry_after=1.0,
            )
        self._queue.put(job, self._now())
        self._pump()

    def cancel(self, job: Job) -> None:
        """End a request in whatever phase it is. No effect if it has ended.

        A waiting one is ``cancelled`` at once, a running one as soon as its engine let go of it.
        """
        task = self._running.get(job)
        if task is not None:
            task.cancel()
        elif self._queue.remove(job):
            job.cancelled()
            self._arm()

    def candidates(self, model: str) -> list[Upstream]:
        """The upstreams that may serve a model: those that list it, else those that might."""
        found = self._candidates(model)
        if not found:
            raise HubError(
                "model_not_found", f"No model '{model[:64]}' is served here.", param="model"
            )
        return found

    async def models(self) -> dict[str, str]:
        """The models of all upstreams, default first, each with the name of the first engine that
        serves it. Raises the first engine's ``HubError`` if none can be asked."""
        found: dict[str, str] = {}
        failures: list[HubError] = []
        for upstream in self._upstreams:
            try:
                names = await upstream.engine.models()
            except HubError as error:
                failures.append(error)
                continue
            for name in names:
                found.setdefault(name, upstream.engine.name)
        if failures and not found:
            raise failures[0]
        return found

    async def close(self) -> None:
        """Cancel everything that waits or runs, and return when all of it has ended."""
        for job in [*self._running]:
            self.cancel(job)
        while self._queue:
            batch = self._queue.take(self._now(), lambda job: job, room=1 << 30, idle=True)
            assert batch is not None
            for job, _ in batch.members:
                job.cancelled()
        self._arm()
        while self._running:
            await asyncio.wait(self._running.values())

    @property
    def reserved(self) -> int:
        """Places that are taken on all upstreams; equal to the requests that run."""
        return sum(upstream.window.in_flight for upstream in self._upstreams)

    def statistics(self) -> Statistics:
        return Statistics(
            queued=len(self._queue),
            in_flight=len(self._running),
            windows={u.engine.name: u.window.size for u in self._upstreams},
            dispatched=dict(self._reasons),
            batches={str(size): count for size, count in sorted(self._sizes.items())},
            refused=self._refused,
        )

    # Dispatching.

    def _pump(self) -> None:
        """Send every batch that may leave now. Called on arrival, on an end, and by the timer."""
        while True:
            room = sum(upstream.window.room for upstream in self._upstreams)
            batch = self._queue.take(self._now(), self._reserve, room=room, idle=not self._running)
            if batch is None:
                break
            self._reasons[batch.reason] += 1
            self._sizes[len(batch.members)] += 1
            for job, upstream in batch.members:
                job.started()
                task = asyncio.create_task(self._run(job, upstream))
                self._running[job] = task
                # A task that is cancelled before its first step never runs its own ``finally``.
                task.add_done_callback(self._ender(job, upstream))
        self._arm()

    def _candidates(self, model: str) -> list[Upstream]:
        answers = [(upstream, upstream.engine.serves(model)) for upstream in self._upstreams]
        return [u for u, serves in answers if serves] or [u for u, s in answers if s is None]

    def _reserve(self, job: Job) -> Upstream | None:
        """The candidate with the most room, reserved."""
        # There may be none any more: an engine may learn meanwhile what it does not serve.
        candidates = self._candidates(job.generation.model)
        best = max(candidates, key=lambda u: u.window.room, default=None)
        if best is None or best.window.room <= 0:
            return None
        best.window.take()
        return best

    async def _run(self, job: Job, upstream: Upstream) -> None:
        await upstream.engine.generate(job.generation, job.sink)

    def _ender(self, job: Job, upstream: Upstream) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            del self._running[job]
            upstream.window.give_back()
            if task.cancelled():
                job.cancelled()
            else:
                error = task.exception()
                if error is None:
                    job.completed()
                elif isinstance(error, HubError):
                    job.failed(error)
                else:
                    # The boundary of one generation: whatever an engine raises ends its request
                    # as failed; the capacity is released and every other request lives on.
                    logger.error("engine %s failed", upstream.engine.name, exc_info=error)
                    job.failed(HubError("server_error", "The request failed inside hub."))
            self._pump()

        return ended

    def _arm(self) -> None:
        """Have the timer ring when the queue next wants to be asked."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._queue.due
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._pump)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
