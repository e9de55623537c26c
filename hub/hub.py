"""The Hub: accepts requests, owns the responses that live, ends them, finds those that were kept.

What a response's end means for the world is decided here, and what its readers' going away means:

    store: false             the last reader's going cancels it; it is forgotten when it has ended
    store: true              it goes on for a grace period, in which a reader may come back
    background: true         it goes on whoever reads; it survives this process

Where nodes share a store, whatever is stored survives this process (``ownership.py``). Plain calls,
except where the store has to be asked.
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
from hub.dispatch.terms import DEFAULT, PROMISED, Class, Terms
from hub.errors import HubError
from hub.journal import ForegroundJournal, JobJournal
from hub.live import Live
from hub.ownership import Ownership
from hub.policy import Policy, Statistics
from hub.store.base import PATIENCE, Delivery, Idempotency, IdempotencyConflict, Record, Store

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
        others: Callable[[], bool] = lambda: False,
    ) -> None:
        """``now`` tells Unix time. ``deliveries`` gives the webhooks that tell of an ended
        background response, and ``on_kept`` is called when they are in the store. ``others``: are
        there other nodes, which could go on with what runs here."""
        self.dispatcher = dispatcher
        self.store = store
        self.policy = policy or Policy()
        self.now = now
        self._others = others
        self._archive = Archive(
            store,
            remembered=self.policy.remembered,
            revive=self._revive,
            on_loaded=lambda live: self._owned.show(live),
        )
        self.bounds = Bounds(self.policy, live=lambda: self._archive.live, stop=dispatcher.cancel)
        self._owned = Ownership(
            store,
            self._archive,
            dispatcher,
            self.bounds,
            self.policy,
            now=now,
            deliveries=deliveries,
            on_kept=on_kept,
        )
        self._accepted = 0
        self._by_status: Counter[str] = Counter()
        self.on_begun: list[Callable[[Live], None]] = []
        """Called with every response that was accepted. May not raise."""
        self.on_ended: list[Callable[[Live], None]] = []
        """Called with every response that has ended, when its readers see it. May not raise."""
        self._closing = False
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def closing(self) -> bool:
        """Whether it accepts nothing more, since its process is about to end."""
        return self._closing

    def unready(self) -> HubError | None:
        """Why nothing new that is stored can be accepted, if so."""
        if self._closing:
            return HubError("shutting_down", "hub is shutting down.", retry_after=1.0)
        if self.store.lag > (PATIENCE if self.store.shared else MAX_LAG):
            return HubError("store_unavailable", "The store is behind.", retry_after=MAX_LAG)
        return None

    def start(self) -> None:
        """Take up the background work that is in the store. It was started before."""
        self._owned.start()
        self._sweep()

    def _sweep(self) -> None:
        """Forget what has expired, now and at regular intervals."""
        self._archive.sweep(self.now(), self.policy.store_bytes)
        self._archive.expire(self.now() - self.policy.retention)
        self._owned.look()
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
        if live.transcript is not None and not self.store.shared:
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
        if live.transcript is not None and self.store.shared:
            record = replace(self._record(live, "in_progress", None), attempt=1)
            self._owned.begin(live, record, idempotency)
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
        record = self._record(live, "queued", None)
        try:
            id = await self._owned.keep(live, record, idempotency)
        except IdempotencyConflict:
            raise conflict() from None
        if id != live.id:
            return await self.open(id, tenant=tenant)
        self._watch(live)
        await self._owned.run(live, record)
        # It may have been given to another node already.
        return await self.open(id, tenant=tenant)

    def new(
        self, request: Request, context: Sequence[Json] = (), *, tenant: str = "", terms: Terms
    ) -> Live:
        """A response that nobody knows of yet, and that nothing writes."""
        refusal = self.unready()
        if refusal is not None and (self._closing or request.store):
            raise refusal
        # Others could go on with it only if they know that it has begun.
        held = self.store.shared and request.store and not request.background
        recorder = self._recorder(
            self.policy.within(request), context, new_id("resp"), self.now(), held=held
        )
        transcript = Transcript(recorder) if request.store else None
        live = Live(recorder, context, tenant=tenant, now=self.now, transcript=transcript)
        live.terms = terms
        return live

    def _recorder(
        self,
        request: Request,
        context: Sequence[Json] | None,
        id: str,
        created: float,
        *,
        held: bool = False,
    ) -> Recorder:
        recorder = Recorder(
            request if context is None else with_messages(request, context),
            id=id,
            model=request.model or self.policy.default_model,
            now=created,
            reasoning_events=self.policy.reasoning_events,
        )
        if held:
            recorder.log.hold()
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
            live = await self._archive.glance(id, record)
        result = orjson.dumps(live.recorder.snapshot())
        kept = await live.until_kept(PATIENCE) or self._archive.find(id, tenant) is live
        return result if kept else await self.result(id, tenant=tenant)

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
        rank = PROMISED.rank if record.background else Class.CHAT
        live.terms = replace(PROMISED, tenant=record.tenant, rank=rank)
        if record.result is None:
            self._owned.write(live)
            live.log.when_sealed(lambda: self._ended(live))
        return live

    # Ending.

    def cancel(self, live: Live) -> None:
        """Stop a response and its model server's work. No effect if it has ended.

        Its readers see the end when the model server was let go of, and the end is kept.
        """
        if live.recorder.ended:
            return
        if isinstance(live.journal, JobJournal) and not live.attempt:
            self._owned.cancel(live)
        else:
            self.dispatcher.cancel(live)

    async def delete(self, id: str, *, tenant: str = "") -> None:
        """Forget a response; a running one is stopped first. Raises ``response_not_found``."""
        live = await self.open(id, tenant=tenant)
        if not live.log.sealed:
            self.cancel(live)
            await self.ended(live)
        self._archive.forget(id)
        await self.store.delete(tenant, id)
        self.store.tell("deleted", id)

    async def ended(self, live: Live) -> Live:
        """Wait until a response has ended, wherever it runs meanwhile. Gives what it is here then.
        Cancelling the wait leaves it alone. Raises ``HubError`` if it cannot be followed."""
        while True:
            self.join(live)
            live.waiters += 1
            try:
                await live.until_ended()
            finally:
                live.waiters -= 1
                self.leave(live)
            if live.log.sealed:
                return live
            self._owned.check_open()
            live = await self.open(live.kept_as, tenant=live.tenant)
            self._owned.check_open()

    def join(self, live: Live) -> None:
        """A reader begins to read."""
        live.readers += 1
        if live.ends_alone is not None:
            live.ends_alone.cancel()
            live.ends_alone = None
        if live.elsewhere and live.readers == 1:
            self._owned.tell_read(live)

    def leave(self, live: Live) -> None:
        """A reader has stopped reading, at the end or before it. See the top of this file."""
        live.readers -= 1
        if live.readers or live.recorder.ended:
            return
        if live.elsewhere:
            self._owned.drop(live)
        elif not live.background:
            if live.recorder.request.store and not self._closing:
                self._owned.end_alone(live)
            elif not (live.attempt and self._closing):
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
        if live.elsewhere:
            return
        self._by_status[live.recorder.status] += 1
        for tell in self.on_ended:
            tell(live)

    async def until_idle(self) -> None:
        """Wait until no foreground response runs here."""
        while here := [live for live in self._archive.live if live.keeps_awake]:
            await here[0].until_ended()

    async def close(self, deadline: float) -> None:
        """Accept nothing more, give foreground responses ``deadline`` seconds to end, cancel the
        rest of them, and hand work over that the store knows of: it is given back as it is. Where
        other nodes could go on with it, it is handed over at once. What is given back can be
        resumed from wherever its readers are."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._owned.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                if self._others():
                    await self._owned.hand_over()
                await self.until_idle()
        owned = self._owned.keep_unended()
        await self.dispatcher.close()
        await self.until_idle()
        await self._owned.give_back(owned)

    def statistics(self) -> Statistics:
        return Statistics(
            live=len(self._archive.live),
            remembered=self._archive.remembered,
            accepted=self._accepted,
            by_status=dict(self._by_status),
        )
