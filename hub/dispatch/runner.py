"""Runs requests that have a place, one task each, and gives the place back when they end."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from hub.dispatch.flight import Flight, Job
from hub.dispatch.observed import Counts
from hub.dispatch.terms import Class, Ticket
from hub.dispatch.upstream import Upstream
from hub.errors import HubError

logger = logging.getLogger("hub.dispatch")

OnEnd = Callable[[Flight, HubError | None, bool], None]


class Runner:
    """See the top of this file."""

    def __init__(self, counts: Counts, on_end: OnEnd, on_room: Callable[[], None]) -> None:
        """``on_end`` is told of every end: with the error, and whether it was cancelled. Its place
        is free by then. ``on_room`` is called after it, and when a place gets free otherwise."""
        self.flights: dict[Job, Flight] = {}
        """Every request that has a place and whose job does not know its end yet."""
        self._counts = counts
        self._on_end = on_end
        self._on_room = on_room
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, job: Job, ticket: Ticket, upstream: Upstream) -> Flight:
        """Take a request on, whose place is reserved."""
        flight = Flight(job, ticket, upstream, on_first=self._first, on_done=self._done)
        self.flights[job] = flight
        if upstream.stage is not None:
            upstream.stage.put(flight, _now())
        return flight

    def start(self, flights: Sequence[Flight]) -> None:
        """Run requests that leave together."""
        now = _now()
        for upstream in dict.fromkeys(flight.upstream for flight in flights):
            there = [flight for flight in flights if flight.upstream is upstream]
            for group in _groups(there) if upstream.arrays else [[flight] for flight in there]:
                self._run(upstream, group, now)
        # All are on their way by now: who is told of its start may cancel another.
        for flight in flights:
            flight.ticket.attempts += 1
            if flight.ticket.attempts == 1:
                self._counts.waits[flight.ticket.terms.rank].note(now - flight.ticket.since)
                if not self._told(flight):
                    flight.job.started()

    def _run(self, upstream: Upstream, group: Sequence[Flight], now: float) -> None:
        if len(group) == 1:
            run = upstream.engine.generate(group[0].generation, group[0].sink)
        else:
            self._counts.arrays += 1
            run = upstream.engine.generate_array(group)
        task = asyncio.create_task(run)
        self._tasks.add(task)
        for flight in group:
            flight.task, flight.group, flight.sent_at = task, group, now
        # A task that is cancelled before its first step never runs its own ``finally``.
        task.add_done_callback(self._ender(group))

    def cancel(self, flight: Flight) -> None:
        """End a request. Its job knows as soon as the engine let go of it; a member of an array at
        once, although the array goes on."""
        if flight.left:
            return
        flight.left = True
        if flight.task is None:
            self.unstage(flight)
            self._counts.cancelled["queued"] += 1
            flight.job.cancelled()
            self._on_room()
            return
        self._stop_if_unwanted(flight)
        if len(flight.group) > 1:
            del self.flights[flight.job]
            self._on_end(flight, None, True)

    def unstage(self, flight: Flight) -> None:
        """Take a request out of the batch that is being gathered, and free its place."""
        assert flight.upstream.stage is not None
        flight.upstream.stage.remove(flight)
        self._release(flight)

    async def close(self) -> None:
        """Return when everything has ended. It was cancelled before."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _stop_if_unwanted(self, flight: Flight) -> None:
        """Stop what runs a request, unless it runs another one that is still wanted."""
        assert flight.task is not None
        if all(member.left or member.over for member in flight.group):
            flight.task.cancel()

    def _told(self, flight: Flight) -> bool:
        """Whether its job knows its end already."""
        return self.flights.get(flight.job) is not flight

    def _first(self, flight: Flight) -> None:
        now, upstream = _now(), flight.upstream
        flight.first_at = now
        flight.crowd = upstream.crowd(now)
        before = upstream.breaker.state, upstream.window.size
        upstream.first_token(now, flight.sent_at, flight.ticket.prompt_tokens)
        if before != (upstream.breaker.state, upstream.window.size):
            # There may be more room now. Later, since the engine is in the middle of a call.
            asyncio.get_running_loop().call_soon(self._on_room)

    def _done(self, flight: Flight, error: HubError | None) -> None:
        self._end(flight, error, cancelled=flight.left)
        if not all(member.over for member in flight.group):
            self._stop_if_unwanted(flight)
        self._on_room()

    def _ender(self, group: Sequence[Flight]) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            failure = None if task.cancelled() else task.exception()
            if failure is not None and not isinstance(failure, HubError):
                # The boundary of one generation: whatever an engine raises ends its request as
                # failed; the capacity is released and every other request lives on.
                logger.error("engine %s failed", group[0].upstream.name, exc_info=failure)
                failure = HubError("server_error", "The request failed inside hub.")
            for flight in group:
                if not flight.over:
                    cancelled = task.cancelled() or (flight.left and failure is not None)
                    self._end(flight, failure, cancelled=cancelled)
                flight.let_go()
            self._on_room()

        return ended

    def _end(self, flight: Flight, error: HubError | None, *, cancelled: bool) -> None:
        upstream, now = flight.upstream, _now()
        tokens = flight.job.tokens
        told = self._told(flight)
        if cancelled or told:
            upstream.ended["cancelled"] += 1
        elif error is not None:
            upstream.failed(error, now, flight.sent_at, said=flight.said)
        else:
            upstream.completed(now, flight.sent_at)
            if flight.first_at is not None:
                upstream.decoded(now, flight.first_at, tokens - 1, flight.crowd)
        self._release(flight)
        if not told:
            self._on_end(flight, error, cancelled)

    def _release(self, flight: Flight) -> None:
        assert not flight.over, "a place is given back once"
        flight.over = True
        flight.upstream.give_back(flight.ticket.need, _now())
        if not self._told(flight):
            del self.flights[flight.job]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _groups(flights: Sequence[Flight]) -> list[list[Flight]]:
    """Raw completions of the background class that differ in their prompt only, together."""
    groups: list[list[Flight]] = []
    arrays: list[list[Flight]] = []
    for flight in flights:
        generation = flight.generation
        raw = generation.prompt is not None and generation.suffix is None
        fits = raw and flight.ticket.terms.rank is Class.BACKGROUND
        for array in arrays if fits else ():
            if replace(array[0].generation, prompt=generation.prompt) == generation:
                array.append(flight)
                break
        else:
            groups.append([flight])
            if fits:
                arrays.append(groups[-1])
    return groups
