"""Which responses this node writes, and which it only shows.

    jobs                   what the store has a lease for: background work and, where nodes share a
                           store, every stored response. Its owner runs it and writes its log.
    mirrors                what another node owns, or nobody yet: shown here as its log grows

A response becomes this node's when it begins here or when its job is claimed; a mirror of it that
has readers becomes the response itself then. It stops being this node's when it was fenced off or
is handed over: its readers are told, and find a mirror.

Nodes tell each other what cannot wait: that a response was cancelled or deleted, that there is a
job, and which mirrors are read, so that their owner does not give up what is read elsewhere.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hub.archive import Archive, conflict
from hub.bounds import Bounds
from hub.dispatch.dispatcher import Dispatcher
from hub.errors import Fault, HubError
from hub.jobs import Jobs
from hub.journal import JobJournal
from hub.live import Live
from hub.mirror import Mirrors
from hub.policy import Policy
from hub.store.base import Delivery, Idempotency, Record, Segment, Store

LAST_WORDS = 5.0
"""Seconds that a process which ends waits for the store."""
AGAIN = 1.0
"""Seconds until a cancel is tried again that the store could not be told of."""
TOLD_AT_ONCE = 100
"""Ids in one message to the other nodes."""


class Ownership:
    """See the top of this file. ``start``, then ``close``."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        dispatcher: Dispatcher,
        bounds: Bounds,
        policy: Policy,
        *,
        now: Callable[[], float],
        deliveries: Callable[[Live], Sequence[Delivery]],
        on_kept: Callable[[], None],
    ) -> None:
        """``deliveries`` gives the webhooks that tell of an ended background response, and
        ``on_kept`` is called when they are in the store."""
        self._store = store
        self._archive = archive
        self._dispatcher = dispatcher
        self._bounds = bounds
        self._policy = policy
        self._deliveries = deliveries
        self._on_kept = on_kept
        self._jobs = Jobs(
            store, limit=policy.jobs, now=now, run=self._run, stop=self._stop, lease=policy.lease
        )
        self._mirrors = Mirrors(store, archive, owned=self._jobs.holds)
        self._tasks: set[asyncio.Task[None]] = set()
        self._teller: asyncio.TimerHandle | None = None
        self._over = False

    def start(self) -> None:
        """Take up what is in the store."""
        self._jobs.start()
        if self._store.shared:
            self._store.hear(self._heard)
            self._tell_what_is_read()

    async def close(self) -> None:
        """Claim no more. What is held stays held until it is done or handed over."""
        await self._jobs.close()

    def check_open(self) -> None:
        """Raises ``HubError`` ``shutting_down`` when all was given back: nothing is followed here
        any more."""
        if self._over:
            raise HubError("shutting_down", "hub is shutting down.", retry_after=1.0)

    def look(self) -> None:
        """Forget mirrors that nobody reads. To be called now and then."""
        self._mirrors.look()

    # Beginning.

    def begin(self, live: Live, record: Record, idempotency: Idempotency | None) -> None:
        """Own a foreground response that has just begun, on a shared store: it is kept from now on,
        and its readers see what is kept. Its log was held from its first event on."""
        live.attempt = record.attempt

        def kept(done: asyncio.Future[str]) -> None:
            # Not before: who renews what the store does not have yet is told to stop.
            if done.exception() is None and done.result() == live.id:
                self._jobs.hold(record)

        def put(segment: Segment | None) -> asyncio.Future[str]:
            hold = self._jobs.claimed()
            putting = self._store.put(record, segment=segment, idempotency=idempotency, hold=hold)
            putting.add_done_callback(kept)
            return putting

        self.write(live, put)
        assert isinstance(live.journal, JobJournal)
        live.journal.open(live.attempt)

    def write(
        self, live: Live, put: Callable[[Segment | None], asyncio.Future[str]] | None = None
    ) -> None:
        """Give a response the journal of a job: ``open`` it when the job is this node's."""
        assert live.transcript is not None, "what is kept has a transcript"

        def kept() -> None:
            self._jobs.done(live.id)
            self._on_kept()

        live.journal = JobJournal(
            self._store,
            live.transcript,
            tenant=live.tenant,
            on_fenced=lambda: self._fenced(live),
            deliveries=lambda: self._deliveries(live) if live.background else (),
            on_kept=kept,
            put=put,
            from_memory=self._policy.on_store_loss == "memory",
        )

    async def keep(self, live: Live, record: Record, idempotency: Idempotency | None) -> str:
        """Keep new background work; ``run`` it then. Gives the id under which it is kept, which is
        another one if the ``idempotency`` key was used before."""
        self.write(live)
        # Whoever claims it finds it here; it must be here before it can be claimed.
        self._archive.add(live)
        id = ""
        try:
            # Where nodes share the store it is this one's at once, so that no other claims it.
            here = self._store.shared and self._jobs.room > 0 and self._bounds.room()
            if here:
                record = replace(record, status="in_progress", attempt=1)
            hold = self._jobs.claimed() if here else None
            id = await self._store.put(record, idempotency=idempotency, hold=hold)
            if here and id == live.id:
                self._jobs.hold(record)
        finally:
            if id != live.id:
                self._archive.forget(live.id)
        return id

    async def run(self, live: Live, record: Record) -> None:
        """Have background work run that was kept just now: here, if there is room."""
        if self._jobs.holds(live.id):
            await self._run(replace(record, attempt=1))
        elif self._store.shared:
            # Any node may claim it.
            self._mirrors.add(live)
        elif self._bounds.room():
            self._jobs.wake()

    # Elsewhere.

    def show(self, live: Live) -> None:
        """A response was read from the store that has not ended: follow it, if nodes share it."""
        if self._store.shared and not self._jobs.holds(live.id):
            self._mirrors.add(live)

    def drop(self, live: Live) -> None:
        """Nobody reads a mirror any more: forget it."""
        self._mirrors.drop(live)

    def tell_read(self, live: Live) -> None:
        """A mirror has a reader: let its owner know."""
        self._store.tell("reading", live.id)

    def _tell_what_is_read(self) -> None:
        """Say which mirrors are read, again and again while they are."""
        read = self._mirrors.read
        for at in range(0, len(read), TOLD_AT_ONCE):
            self._store.tell("reading", " ".join(read[at : at + TOLD_AT_ONCE]))
        pause = max(0.1, self._policy.grace / 4)
        self._teller = asyncio.get_running_loop().call_later(pause, self._tell_what_is_read)

    def _heard(self, kind: str, body: str) -> None:
        """What another node says."""
        if kind == "job":
            self._jobs.wake()
        elif kind == "cancel":
            if self._jobs.holds(body):
                self._stop(body)
        elif kind == "deleted":
            if not self._jobs.holds(body):
                self._mirrors.let_go(body)
        elif kind == "reading":
            for id in body.split():
                live = self._archive.held(id)
                if live is not None and live.ends_alone is not None:
                    self.end_alone(live)
        elif kind == "missed":
            # Some of what is remembered or shown may have been deleted meanwhile.
            self._archive.forget_ended()
            self._later(self._mirrors.check())
            self._jobs.wake()

    def end_alone(self, live: Live) -> None:
        """Nobody reads a foreground response here: it ends when its grace is over, unless somebody
        comes back, here or elsewhere."""
        if live.ends_alone is not None:
            live.ends_alone.cancel()
        loop = asyncio.get_running_loop()
        live.ends_alone = loop.call_later(self._policy.grace, self._dispatcher.cancel, live)

    # Running.

    async def _run(self, record: Record) -> None:
        """A job is this node's: run it, or go on with it where its last owner has stopped."""
        if record.background and not (record.cancelled or self._bounds.room()):
            return await self._put_off(record.id)
        if self._runs_on(record):
            return
        live = await self._archive.load(record)
        if record.attempt > 1 and self._store.shared and not live.recorder.ended:
            # It may have been read before its last owner had written his last.
            await self._mirrors.settle(live)
        self._mirrors.close(live.id)
        live.elsewhere = False
        assert isinstance(live.journal, JobJournal)
        live.attempt = record.attempt
        self._bounds.guard(live)
        live.journal.open(record.attempt)
        if live.recorder.ended:
            return
        if record.cancelled:
            live.cancelled()
            return
        try:
            if live.go_on():
                self._dispatcher.submit(live)
        except HubError as error:
            # What is full or broken may be well later; where nobody can go on, nobody ever can.
            later = error.row.retryable and error.row.fault is not Fault.HUB
            if later and (record.background or error.code == "rate_limit_exceeded"):
                await self._give_back(live)
            else:
                live.failed(error)
        if not record.background and not live.readers and not live.recorder.ended:
            self.end_alone(live)

    def _runs_on(self, record: Record) -> bool:
        """Whether what was claimed has been running here all the time: its lease had lapsed, and
        nobody else has taken it. If somebody has, what runs here is another text."""
        live = self._archive.held(record.id)
        if live is None or not live.attempt:
            return False
        if record.attempt == live.attempt + 1:
            assert isinstance(live.journal, JobJournal)
            live.attempt = record.attempt
            live.journal.open(record.attempt)
            return True
        self._fenced(live)
        self._jobs.hold(record)
        return False

    async def _give_back(self, live: Live) -> None:
        live.attempt = 0
        if self._store.shared:
            self._archive.forget(live.id)
            live.moved()
        await self._put_off(live.id)

    async def _put_off(self, id: str) -> None:
        """Have a job claimed again, though not at once: nodes that are told of it would pass it on
        to each other without a pause."""
        if self._store.shared:
            self._jobs.let_lapse(id)
        else:
            await self._jobs.release(id)

    def _stop(self, id: str) -> None:
        live = self._archive.held(id)
        if live is None or (isinstance(live.journal, JobJournal) and live.journal.adrift):
            # Whose it is, its journal learns first: its readers must not be told of an end that
            # nobody keeps. If it is still this node's, the next renewal says it again.
            return
        self._dispatcher.cancel(live)

    def _fenced(self, live: Live) -> None:
        """Another node owns it. Before it was claimed here it is the claim that has overtaken its
        end, which is written again then. After it, who asks for it reads what is kept."""
        if not live.attempt:
            return
        self._jobs.done(live.id)
        self._archive.forget(live.id)
        journal = live.journal
        assert isinstance(journal, JobJournal)
        if not live.recorder.ended:
            if journal.conflicts:
                live.failure = conflict()
            elif journal.adrift:
                # Its readers have had what the other one does not know: they must not have both.
                live.failure = HubError("worker_lost", "Another node goes on with another text.")
            if live.failure is not None:
                self._dispatcher.cancel(live)
                return
        live.kept_as = journal.kept_as
        live.handed_over = True
        self._dispatcher.cancel(live)
        live.moved()

    # Cancelling.

    def cancel(self, live: Live) -> None:
        """End a response that nobody runs here: that waits, or that another node has."""
        if not self._store.shared:
            # Whoever is claiming it just now finds the wish in its record, or its log ended.
            self._store.cancel(live.tenant, live.id)
            self._end_unbegun(live)
            return
        self._later(self._cancel_elsewhere(live))

    def _end_unbegun(self, live: Live) -> None:
        assert isinstance(live.journal, JobJournal)
        live.journal.open(0)
        live.cancelled()

    async def _cancel_elsewhere(self, live: Live) -> None:
        try:
            await self._store.cancel(live.tenant, live.id)
            record = await self._store.get(live.tenant, live.id)
            if record is not None and record.result is None and not record.attempt:
                # Nobody has it. If somebody claims it now, he finds the wish in its record.
                waiting = await self._archive.revived(record)
                if not waiting.recorder.ended:
                    self._end_unbegun(waiting)
        except HubError:
            # The store is out of reach. It was promised, so it is asked for again.
            if not (self._over or live.log.sealed):
                asyncio.get_running_loop().call_later(AGAIN, self.cancel, live)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Handing over.

    async def hand_over(self) -> None:
        """Stop running what another node can go on with, and give it back to the store."""
        self._mirrors.let_all_go(waited_for=False)
        lives = [live for live in self._archive.live if self.can_move(live)]
        stopped = [live.let_go(self._dispatcher.cancel) for live in lives]
        # All at once: one after the other, hundreds would take longer than the drain.
        await asyncio.gather(*map(self._give_away, lives, stopped))

    def keep_unended(self) -> list[Live]:
        """All that this node owns: when their model servers let go of them now, they do not end.
        ``give_back`` them then."""
        owned = [live for live in self._archive.live if live.attempt]
        for live in owned:
            live.handed_over = True
        return owned

    async def give_back(self, lives: Sequence[Live]) -> None:
        """Another node, or this one after its next start, goes on with these."""
        self._over = True
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await asyncio.gather(*map(self._give_away, lives))
        for live in lives:
            # Where the store is out of reach, a lease that lapses gives it away.
            self._mirrors.let_go(live.id)
        await self._jobs.end()
        if self._teller is not None:
            self._teller.cancel()
        self._mirrors.let_all_go(waited_for=True)

    async def _give_away(self, live: Live, stopped: asyncio.Future[None] | None = None) -> None:
        if stopped is not None:
            await stopped
        await live.until_kept()
        await self._jobs.release(live.id)
        self._mirrors.let_go(live.id)

    def can_move(self, live: Live) -> bool:
        """Whether another node could go on with it just now, without its readers noticing."""
        if live.recorder.ended or not live.attempt or live.handed_over:
            return False
        if not isinstance(live.journal, JobJournal) or live.journal.adrift or live.waiters:
            return False
        unfinished = live.recorder.unfinished()
        if unfinished is None or live.orphaned:
            return False
        candidates = self._dispatcher.candidates(live.generation.model)
        return not unfinished[1] or all(one.engine.continues for one in candidates)
