"""The Hub: accepts requests, owns the responses that live, ends them, finds those that were kept.

What a response's end means for the world is decided here, and what its readers' going away means:

    store: false             the last reader's going cancels it; it is forgotten when it has ended
    store: true              it goes on for a grace period, in which a reader may come back
    background: true         it goes on whoever reads; it survives this process

Plain calls, except where the store has to be asked.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import orjson

from hub.api.ids import new_id
from hub.api.prompt import with_messages
from hub.api.recorder import Recorder
from hub.api.requests import Json, Request
from hub.api.transcript import Transcript
from hub.archive import Archive, conflict
from hub.bounds import Bounds
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import DEFAULT, PROMISED, Terms
from hub.errors import Fault, HubError
from hub.jobs import Jobs
from hub.journal import ForegroundJournal, JobJournal
from hub.live import Live
from hub.policy import Policy, Statistics
from hub.store.base import Delivery, Idempotency, IdempotencyConflict, Record, Store

SWEEP = 60.0
"""Seconds between two looks for what has expired."""
MAX_LAG = 5.0
"""Seconds that the store may be behind before nothing more that it has to keep is accepted."""


class Hub:
    """See the top of this file. ``start``, then ``close``."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store,
        policy: Policy | None = None,
        *,
        now: Callable[[], float] = time.time,
        deliveries: Callable[[Live], Sequence[Delivery]] = lambda live: (),
        on_kept: Callable[[], None] = lambda: None,
    ) -> None:
        """``now`` tells Unix time. ``deliveries`` gives the webhooks that tell of an ended
        background response, and ``on_kept`` is called when they are in the store."""
        self.dispatcher = dispatcher
        self.store = store
        self.policy = policy or Policy()
        self.now = now
        self._deliveries = deliveries
        self._on_kept = on_kept
        self._archive = Archive(store, remembered=self.policy.remembered, revive=self._revive)
        self._jobs = Jobs(
            store, limit=self.policy.jobs, now=now, run=self._run_job, stop=self._stop_job
        )
        self.bounds = Bounds(self.policy, live=lambda: self._archive.live, stop=dispatcher.cancel)
        self._accepted = 0
        self._by_status: Counter[str] = Counter()
        self.on_begun: list[Callable[[Live], None]] = []
        """Called with every response that was accepted. May not raise."""
        self.on_ended: list[Callable[[Live], None]] = []
        """Called with every response that has ended, when its readers see it. May not raise."""
        self._closing = False
        self._sweeper: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take up the background work that is in the store. It was started before."""
        self._jobs.start()
        self._sweep()

    def _sweep(self) -> None:
        """Forget what has expired, now and at regular intervals."""
        self.store.expire(self.now(), self.policy.store_bytes)
        self._archive.expire(self.now() - self.policy.retention)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    # Accepting.

    def submit(
        self,
        request: Request,
        context: Sequence[Json] = (),
        *,
        tenant: str = "",
        terms: Terms = DEFAULT,
        idempotency: Idempotency | None = None,
    ) -> Live:
        """Accept a foreground request, or refuse it with a ``HubError``: nothing is promised then.

        ``context`` holds the items of the chain before it. Read ``.log`` of what is returned from
        its beginning; it already holds ``response.created``. Call ``join`` before reading, and
        ``leave`` after it. With the ``idempotency`` key of one that lives, it is that one.
        """
        known = None if idempotency is None else self._archive.known(idempotency, tenant)
        if known is not None:
            return known
        live = self.new(request, context, tenant=tenant, terms=terms)
        self.bounds.admit(live)
        live.stop_early(self.dispatcher.cancel)
        if live.transcript is not None:
            live.journal = ForegroundJournal(
                self.store,
                live.transcript,
                lambda status, result: self._record(live, status, result),
                idempotency,
            )
        if request.generate:
            self.dispatcher.submit(live)
        else:
            self.dispatcher.candidates(request.model)
            live.started()
            live.completed()
        self._watch(live)
        if idempotency is not None:
            self._archive.know(live, idempotency)
        return live

    async def accept(
        self,
        request: Request,
        context: Sequence[Json] = (),
        *,
        tenant: str = "",
        terms: Terms = PROMISED,
        idempotency: Idempotency | None = None,
    ) -> Live:
        """Accept a background request: when this returns, it is on disk.

        With an ``idempotency`` key that was used before, gives the response of then.
        """
        live = self.new(request, context, tenant=tenant, terms=terms)
        self.bounds.admit_job(live)
        self.dispatcher.candidates(request.model)
        self._add_job_journal(live)
        record = self._record(live, "queued", None)
        # Whoever claims it finds it here; it must be here before it can be claimed.
        self._archive.add(live)
        id = ""
        try:
            id = await self.store.put(record, idempotency=idempotency)
        except IdempotencyConflict:
            raise conflict() from None
        finally:
            if id != live.id:
                self._archive.forget(live.id)
        if id != live.id:
            return await self.open(id, tenant=tenant)
        self._watch(live)
        if self.bounds.room():
            self._jobs.wake()
        return live

    def new(
        self, request: Request, context: Sequence[Json] = (), *, tenant: str = "", terms: Terms
    ) -> Live:
        """A response that nobody knows of yet, and that nothing writes."""
        if self._closing:
            raise HubError("shutting_down", "hub is shutting down.", retry_after=1.0)
        if request.store and self.store.lag > MAX_LAG:
            raise HubError("store_unavailable", "The store is behind.", retry_after=MAX_LAG)
        recorder = self._recorder(self.policy.within(request), context, new_id("resp"), self.now())
        transcript = Transcript(recorder) if request.store else None
        live = Live(recorder, context, tenant=tenant, now=self.now, transcript=transcript)
        live.terms = terms
        return live

    def _recorder(
        self, request: Request, context: Sequence[Json] | None, id: str, created: float
    ) -> Recorder:
        recorder = Recorder(
            request if context is None else with_messages(request, context),
            id=id,
            model=request.model or self.policy.default_model,
            now=created,
            reasoning_events=self.policy.reasoning_events,
        )
        recorder.created()
        return recorder

    def _record(self, live: Live, status: str, result: bytes | None) -> Record:
        recorder = live.recorder
        return Record(
            id=live.id,
            tenant=live.tenant,
            status=status,
            background=live.background,
            created_at=recorder.created_at,
            expires_at=recorder.created_at + self.policy.retention,
            # The default model may be another one when it is read again.
            request=orjson.dumps({**recorder.request.body, "model": recorder.model}),
            previous_response_id=recorder.request.previous_response_id,
            result=result,
        )

    # Finding.

    def find(self, id: str, *, tenant: str = "") -> Live | None:
        """The response of that id, if it is in memory."""
        return self._archive.find(id, tenant)

    async def open(self, id: str, *, tenant: str = "") -> Live:
        """The response of that id, whether it lives, has ended, or is only in the store. Raises
        ``HubError`` ``response_not_found``, also for another tenant's."""
        return await self._archive.open(id, tenant)

    async def context(self, request: Request, *, tenant: str = "") -> Sequence[Json]:
        """The items of the stored chain that a request goes on from, if it names a parent. Raises
        ``HubError`` ``previous_response_not_found``."""
        parent = request.previous_response_id
        return () if parent is None else await self._archive.history(parent, tenant)

    async def result(self, id: str, *, tenant: str = "") -> bytes:
        """The response object as JSON, as it is now: of what readers may see, at least."""
        live = self._archive.find(id, tenant)
        if live is None:
            record = await self._archive.record(id, tenant)
            if record is not None and record.result is not None:
                return record.result
            live = await self._archive.open(id, tenant)
        result = orjson.dumps(live.recorder.snapshot())
        await live.until_kept()
        return result

    async def repeated(self, idempotency: Idempotency, *, tenant: str = "") -> Live | None:
        """The response that an earlier request with this key made, if there was one.

        One that is not stored is known while it lives. Raises ``HubError``
        ``idempotency_conflict`` if that was another request.
        """
        return await self._archive.repeated(idempotency, tenant)

    def _revive(self, record: Record, request: Request, context: Sequence[Json] | None) -> Live:
        recorder = self._recorder(self.policy.clamp(request), context, record.id, record.created_at)
        live = Live(
            recorder, context, tenant=record.tenant, now=self.now, transcript=Transcript(recorder)
        )
        live.terms = replace(PROMISED, tenant=record.tenant)
        if record.result is None:
            self._add_job_journal(live)
            live.log.when_sealed(lambda: self._ended(live))
        return live

    # Background work.

    def _add_job_journal(self, live: Live) -> None:
        assert live.transcript is not None

        def kept() -> None:
            self._jobs.done(live.id)
            self._on_kept()

        def fenced() -> None:
            # Before it was claimed it is the claim that has overtaken its end, which is written
            # again then. After it another process has it, and who asks for it reads what is kept.
            if live.attempt:
                live.handed_over = True
                self._jobs.done(live.id)
                self._archive.forget(live.id)
                self.dispatcher.cancel(live)

        live.journal = JobJournal(
            self.store,
            live.transcript,
            tenant=live.tenant,
            on_fenced=fenced,
            deliveries=lambda: self._deliveries(live),
            on_kept=kept,
        )

    async def _run_job(self, record: Record) -> None:
        """A job was claimed: run it, or go on with it where its last owner stopped."""
        if not (record.cancelled or self.bounds.room()):
            return await self._jobs.release(record.id)
        live = await self._archive.load(record)
        assert isinstance(live.journal, JobJournal)
        live.attempt = record.attempt
        self.bounds.guard(live)
        live.journal.open(record.attempt)
        if live.recorder.ended:
            return
        if record.cancelled:
            live.cancelled()
            return
        try:
            if live.go_on():
                self.dispatcher.submit(live)
        except HubError as error:
            # What is full or broken may be well later; where nobody can go on, nobody ever can.
            if error.row.retryable and error.row.fault is not Fault.HUB:
                live.attempt = 0
                await self._jobs.release(live.id)
            else:
                live.failed(error)

    def _stop_job(self, id: str) -> None:
        for live in [live for live in self._archive.live if live.id == id]:
            self.dispatcher.cancel(live)

    # Ending.

    def cancel(self, live: Live) -> None:
        """Stop a response and its model server's work. No effect if it has ended.

        Its readers see the end when the model server was let go of, and the end is kept.
        """
        if live.recorder.ended:
            return
        if isinstance(live.journal, JobJournal) and not live.attempt:
            # Nobody runs it yet. Whoever is claiming it just now finds the wish in its record, or
            # its log ended.
            self.store.cancel(live.tenant, live.id)
            live.journal.open(0)
            live.cancelled()
        else:
            self.dispatcher.cancel(live)

    async def delete(self, id: str, *, tenant: str = "") -> None:
        """Forget a response; a running one is stopped first. Raises ``response_not_found``."""
        live = await self.open(id, tenant=tenant)
        if not live.log.sealed:
            self.cancel(live)
            await live.until_ended()
        self._archive.forget(id)
        await self.store.delete(tenant, id)

    def join(self, live: Live) -> None:
        """A reader begins to read."""
        live.readers += 1
        if live.ends_alone is not None:
            live.ends_alone.cancel()

    def leave(self, live: Live) -> None:
        """A reader has stopped reading, at the end or before it. See the top of this file."""
        live.readers -= 1
        if live.readers or live.background or live.recorder.ended:
            return
        if live.recorder.request.store and not self._closing:
            loop = asyncio.get_running_loop()
            live.ends_alone = loop.call_later(self.policy.grace, self.dispatcher.cancel, live)
        else:
            self.dispatcher.cancel(live)

    def _watch(self, live: Live) -> None:
        """Hold a response while it lives, count and remember it when it has ended."""
        self._accepted += 1
        for tell in self.on_begun:
            tell(live)
        self._archive.add(live)
        live.log.when_sealed(lambda: self._ended(live))

    def _ended(self, live: Live) -> None:
        self._archive.ended(live)
        self._by_status[live.recorder.status] += 1
        for tell in self.on_ended:
            tell(live)

    async def until_idle(self) -> None:
        """Wait until no foreground response lives."""
        while foreground := [x for x in self._archive.live if not x.background]:
            await foreground[0].until_ended()

    async def close(self, deadline: float) -> None:
        """Accept nothing more, give foreground responses ``deadline`` seconds to end, cancel the
        rest of them, and hand background work over: it is given back to the store as it is."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._jobs.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self.until_idle()
        jobs = [live for live in self._archive.live if live.background and live.attempt]
        for live in jobs:
            live.handed_over = True
        await self.dispatcher.close()
        await self.until_idle()
        for live in jobs:
            await live.until_kept()
            await self._jobs.release(live.id)
            self._archive.forget(live.id)

    def statistics(self) -> Statistics:
        return Statistics(
            live=len(self._archive.live),
            remembered=self._archive.remembered,
            accepted=self._accepted,
            by_status=dict(self._by_status),
        )
