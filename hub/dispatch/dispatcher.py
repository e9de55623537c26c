"""The dispatcher: takes requests, finds them a place on an upstream, runs them there.

The only part that spawns generation: one task per request, from dispatch to its end. The rules are
elsewhere and pure: who is let in in ``admission.py``, who goes when in ``queue.py``, where in
``route.py``, how many at once in ``adapt.py``. Here they meet the loop's clock and the engines.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf

from hub.api.requests import Generation, estimate_tokens
from hub.dispatch.admission import refusal
from hub.dispatch.flight import Flight, Job
from hub.dispatch.health import Health
from hub.dispatch.observed import ClassStatistics, Counts, Statistics
from hub.dispatch.queue import Queue
from hub.dispatch.route import MATCH, pick, prefixes_of, usable
from hub.dispatch.runner import Runner
from hub.dispatch.terms import RULES, Class, Rules, Terms, Ticket
from hub.dispatch.upstream import Upstream
from hub.errors import Fault, HubError

RESERVED_FOR = 60.0
"""Seconds for which places are kept free for a class after its last request."""
MAX_ATTEMPTS = 3
"""A request that has broken so many upstreams is not tried on the next."""
USUAL_OUTPUT = 512
"""Tokens of KV cache that are reserved for an answer whose length nobody has limited."""


class Dispatcher:
    """See the top of this file. All calls but ``close`` are plain and take effect at once."""

    def __init__(
        self, upstreams: Sequence[Upstream], rules: Mapping[Class, Rules] | None = None
    ) -> None:
        self._upstreams: list[Upstream] = []
        self._queue = Queue(rules or RULES)
        self._tickets: dict[Job, Ticket] = {}
        """Those that wait in the queue."""
        self._jobs: dict[Ticket, Job] = {}
        self._counts = Counts()
        self._runner = Runner(self._counts, self._ended, self._pump)
        self._health = Health(self._pump)
        self._last_seen = dict.fromkeys(Class, -inf)
        self._timer: asyncio.TimerHandle | None = None
        self._kept_until = inf
        """When places that somebody waits for are no longer kept free for better classes."""
        self._closing = False
        self.on_added: Callable[[Upstream], None] | None = None
        """Told of every upstream that is added, before it is given anything."""
        self._retiring: set[asyncio.Task[None]] = set()
        for upstream in upstreams:
            self._adopt(upstream)

    # What others call.

    def submit(self, job: Job) -> None:
        """Queue a request, or dispatch it at once if there is room.

        Raises ``HubError``, and nothing was promised then: ``model_not_found`` if no upstream
        serves its model, the upstream's failure if all that do are broken,
        ``rate_limit_exceeded`` if too many wait, or so many that it would wait too long, and
        ``shutting_down`` after ``close``.
        """
        if self._closing:
            raise HubError("shutting_down", "hub is shutting down.", retry_after=1.0)
        candidates = self.candidates(job.generation.model)
        now = self._now()
        ticket = self._ticket(job.terms, job.generation, now)
        if (refused := refusal(ticket, candidates, self._queue, now)) is not None:
            why, error = refused
            self._counts.shed[why] += 1
            raise error
        self._last_seen[ticket.terms.rank] = now
        self._tickets[job] = ticket
        self._jobs[ticket] = job
        job.ledger.mark("queued")
        self._queue.put(ticket, now)
        raw = job.generation.prompt is not None and ticket.terms.rank is Class.BACKGROUND
        if raw and any(one.arrays for one in candidates):
            # Those that come in the same turn of the loop may leave as one array.
            self._ring_at(now)
        else:
            self._pump()

    def cancel(self, job: Job) -> None:
        """End a request in whatever phase it is. No effect if it has ended.

        A waiting one is ``cancelled`` at once, a running one as soon as its engine let go of it;
        one of an array at once, although its place is only free when the array is done with it.
        """
        ticket = self._tickets.get(job)
        flight = self._runner.flights.get(job)
        if ticket is not None:
            self._queue.remove(ticket)
            self._forget(ticket)
            self._counts.cancelled["queued"] += 1
            job.cancelled()
            # Those behind it may leave.
            self._pump()
        elif flight is not None:
            self._runner.cancel(flight)

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
        for upstream in self.upstreams:
            if upstream.leaving:
                continue  # since another one was asked
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

    @property
    def upstreams(self) -> list[Upstream]:
        """Those that are given requests."""
        return [one for one in self._upstreams if not one.leaving]

    def add(self, upstream: Upstream) -> None:
        """Give requests to one upstream more."""
        if self.on_added is not None:
            self.on_added(upstream)
        self._adopt(upstream)
        self._pump()

    def drain(self, upstream: Upstream) -> None:
        """Give an upstream nothing more. What runs there goes on to its end; then its engine is
        closed. Whoever waits for a model that is served nowhere any more fails."""
        upstream.leaving = True
        self._health.forget(upstream)
        for flight in upstream.stage.clear() if upstream.stage is not None else ():
            self._runner.unstage(flight)
            self._again(flight)
        self._retire()
        self._give_up(self._jobs)
        self._pump()

    @property
    def rules(self) -> dict[Class, Rules]:
        """What holds for each class now."""
        return {rank: queue.rules for rank, queue in self._queue.classes.items()}

    def configure(self, rules: Mapping[Class, Rules]) -> None:
        """Go by other rules from now on. Nobody who waits already is refused for them."""
        for rank, queue in self._queue.classes.items():
            queue.rules = rules[rank]
        self._pump()

    async def close(self) -> None:
        """Accept nothing more, cancel everything that waits or runs, and return when all of it has
        ended."""
        self._closing = True
        for job in [*self._tickets, *self._runner.flights]:
            self.cancel(job)
        await self._runner.close()
        while self._retiring:
            await asyncio.wait(self._retiring)
        await self._health.close()
        self._arm()

    @property
    def reserved(self) -> int:
        """Places that are taken on all upstreams; equal to the requests that have one."""
        return sum(upstream.window.in_flight for upstream in self._upstreams)

    def waiting(self) -> dict[Upstream, int]:
        """How many requests wait for each upstream: for one of several, in part for each."""
        found = dict.fromkeys(self.upstreams, 0)
        for model, number in Counter(ticket.model for ticket in self._jobs).items():
            candidates = self._candidates(model)
            for upstream in candidates:
                found[upstream] += -(-number // len(candidates))
        return found

    def look(self) -> None:
        """See who may leave: a window was changed."""
        self._pump()

    def statistics(self) -> Statistics:
        classes = {
            rank.label: ClassStatistics.of(queue, self._counts.waits[rank])
            for rank, queue in self._queue.classes.items()
        }
        upstreams = {one.name: one.statistics() for one in self._upstreams}
        return self._counts.statistics(len(self._runner.flights), classes, upstreams)

    # Dispatching.

    def _pump(self) -> None:
        """Send everything that may leave now. Called on arrival, on an end, on news of an upstream,
        and by the timer."""
        now = self._now()
        self._kept_until = inf
        for ticket in self._queue.expire(now):
            late = HubError("deadline_exceeded", "It has waited too long for a model server.")
            self._fail(ticket, "deadline", ticket.error or late)
        if any(upstream.window.room() for upstream in self._upstreams):
            self._settle()
        while (
            not self._closing
            and (batch := self._queue.take(now, self._place, idle=not self._runner.flights))
            is not None
        ):
            flights = [
                self._runner.put(self._forget(ticket), ticket, upstream)
                for ticket, upstream in batch.members
            ]
            self._send([one for one in flights if one.upstream.stage is None], batch.reason)
        for upstream in [*self._upstreams]:
            if upstream.stage is not None and (ready := upstream.stage.take(now)) is not None:
                self._send(ready[1], ready[0])
        self._retire()
        self._arm()

    def _send(self, flights: list[Flight], reason: str) -> None:
        if flights:
            self._counts.batch(reason, len(flights))
            for flight in flights:
                flight.ledger.sent(flight.upstream.name, len(flights), reason)
            self._runner.start(flights)

    def _place(self, ticket: Ticket, aged: bool) -> Upstream | None:
        """A place for a request, reserved."""
        rank = ticket.terms.rank
        until = max((self._last_seen[one] for one in Class if one < rank), default=-inf)
        until += RESERVED_FOR
        kept_free = not aged and self._now() < until
        share = self._queue.classes[rank].rules.ceiling if kept_free else 1.0
        candidates = self._candidates(ticket.model)
        spare = partial(self._spare, rank) if share < 1.0 else _none
        picked = pick(candidates, ticket, share, spare)
        if picked is None:
            if share < 1.0:
                self._kept_until = min(self._kept_until, until)
            for upstream in candidates:
                room = upstream.window.room(share, spare(upstream))
                if usable(upstream, ticket) and not room:
                    upstream.held_back()
                    self._health.watch(upstream)
            return None
        upstream, match = picked
        upstream.take(ticket.need, self._now(), rank)
        upstream.prefix_hits += match >= MATCH
        upstream.prefixes.note(ticket.prefixes)
        return upstream

    def _spare(self, rank: Class, upstream: Upstream) -> int:
        return upstream.demand.spare(rank, upstream.window.size, self._now())

    def _candidates(self, model: str) -> list[Upstream]:
        answers = [(upstream, upstream.engine.serves(model)) for upstream in self.upstreams]
        return [u for u, serves in answers if serves] or [u for u, s in answers if s is None]

    def _ticket(self, terms: Terms, generation: Generation, now: float) -> Ticket:
        patience = terms.patience
        if patience is None:
            patience = self._queue.classes[terms.rank].rules.patience
        if generation.prompt is None:
            prompt_tokens = estimate_tokens(generation.messages)
        else:
            around = [generation.suffix or "", *(one.text for one in generation.files)]
            prompt_tokens = 1 + sum(map(len, [generation.prompt, *around])) // 4
        return Ticket(
            terms,
            generation.model,
            prompt_tokens,
            prompt_tokens
            + (USUAL_OUTPUT if generation.max_tokens is None else generation.max_tokens),
            deadline=now + patience,
            prefixes=prefixes_of(generation) if len(self._upstreams) > 1 else (),
        )

    def _settle(self) -> None:
        """Charge tenants for what their running requests have made by now, where it matters."""
        contended = {rank for rank, one in self._queue.classes.items() if len(one.tenants) > 1}
        for job, flight in self._runner.flights.items() if contended else ():
            if flight.ticket.terms.rank in contended:
                self._queue.charge(flight.ticket, job.tokens)

    # Ending.

    def _ended(self, flight: Flight, error: HubError | None, cancelled: bool) -> None:
        """A request has ended at its upstream: for good, or it goes to another one."""
        self._queue.charge(flight.ticket, flight.job.tokens)
        if flight.upstream.breaker.state == "open":
            self._health.watch(flight.upstream)
            self._give_up(ticket for ticket in self._jobs if ticket.avoid)
        if cancelled:
            self._counts.cancelled["running"] += 1
            flight.job.cancelled()
        elif error is None:
            flight.job.completed()
        elif self._may_go_elsewhere(flight, error):
            flight.ticket.error = error
            flight.ticket.avoid.add(flight.upstream.name)
            self._counts.retried[error.code] += 1
            self._again(flight)
        else:
            flight.job.failed(error)

    def _may_go_elsewhere(self, flight: Flight, error: HubError) -> bool:
        """Whether a failed request is tried on another upstream: only if it has said nothing."""
        if flight.said or flight.left or flight.ticket.attempts >= MAX_ATTEMPTS:
            return False
        if error.row.fault is not Fault.UPSTREAM and error.code != "model_not_found":
            return False
        others = (one for one in self._candidates(flight.ticket.model))
        return any(one is not flight.upstream and usable(one, flight.ticket) for one in others)

    def _again(self, flight: Flight) -> None:
        """Queue a request again that has said nothing."""
        self._tickets[flight.job] = flight.ticket
        self._jobs[flight.ticket] = flight.job
        self._queue.put_back(flight.ticket)

    def _give_up(self, tickets: Iterable[Ticket]) -> None:
        """Fail those that wait for an upstream in vain: there is none for them, or they have failed
        on all that are well."""
        gone = HubError("upstream_unavailable", "The model server was taken out of service.")
        for ticket in [*tickets]:
            candidates = self._candidates(ticket.model)
            hopeless = not any(usable(one, ticket) for one in candidates)
            if not candidates or (ticket.avoid and hopeless):
                self._fail(ticket, "upstream_unavailable", ticket.error or gone)

    def _fail(self, ticket: Ticket, why: str, error: HubError) -> None:
        """Fail a request that waits, unless the end of another one has made it leave."""
        if ticket in self._jobs:
            self._counts.shed[why] += 1
            self._queue.remove(ticket)
            self._forget(ticket).failed(error)

    def _forget(self, ticket: Ticket) -> Job:
        job = self._jobs.pop(ticket)
        del self._tickets[job]
        return job

    # The upstreams.

    def _adopt(self, upstream: Upstream) -> None:
        """Add an upstream, under a name of its own."""
        names = {one.name for one in self._upstreams}
        number = 1
        while upstream.name in names:
            number += 1
            upstream.name = f"{upstream.engine.name} ({number})"
        self._upstreams.append(upstream)
        self._health.watch(upstream)

    def _retire(self) -> None:
        """Close the engines of those that are leaving and hold nothing any more."""
        for upstream in [*self._upstreams]:
            if upstream.leaving and not upstream.window.in_flight:
                self._upstreams.remove(upstream)
                task = asyncio.create_task(upstream.engine.close())
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    def _arm(self) -> None:
        """Have the timer ring when there is something to do without other news."""
        stages = (one.stage.due for one in self._upstreams if one.stage is not None)
        self._ring_at(min(self._queue.due, *stages, self._kept_until))

    def _ring_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due < inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._pump)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _none(upstream: Upstream) -> int:
    return 0
