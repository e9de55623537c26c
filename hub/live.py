"""One response that lives: its log, and how to wait for it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from hub.api.recorder import Recorder
from hub.api.requests import Generation, Json, memory_of
from hub.api.stopping import Stopping
from hub.api.transcript import Transcript
from hub.dispatch.terms import DEFAULT
from hub.engines.base import Sink
from hub.errors import HubError
from hub.journal import ForegroundJournal, JobJournal
from hub.ledger import Ledger
from hub.log import ResponseLog


class Live:
    """One response: in the queue, at a model server, or ended and still remembered.

    Implements ``dispatch.flight.Job``.
    """

    def __init__(
        self,
        recorder: Recorder,
        context: Sequence[Json] | None,
        *,
        tenant: str,
        now: Callable[[], float],
        transcript: Transcript | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``context`` holds the items of the chain before it, ``None`` if they are lost;
        ``transcript`` stands before the recorder of a response that is kept. ``clock`` is that of
        its ledger: not the loop's, since uvloop's stands still while a callback runs."""
        self.recorder = recorder
        self.tenant = tenant
        self.terms = DEFAULT
        self.ledger = Ledger(clock)
        self._clock = clock
        self.generation: Generation = recorder.request.generation
        self.asked = memory_of(recorder.request)
        """About how many bytes its request holds."""
        self.transcript = transcript
        self._kept: Recorder | Transcript = transcript or recorder
        self.sink: Sink = self._kept
        """Where an engine puts what the model says."""
        self.stopped: str | None = None
        """The rule by which hub itself has ended its text, once it has its end."""
        self.journal: ForegroundJournal | JobJournal | None = None
        self.attempt = 0
        """The fencing number of the claim under which it runs; 0 before any."""
        self.key: str | None = None
        """The idempotency key of its request, while it lives."""
        self.readers = 0
        self.ends_alone: asyncio.TimerHandle | None = None
        """Ends it when its grace is over, unless a reader comes back."""
        self.failure: HubError | None = None
        """It was given up: it fails with this, whatever its engine says from now on."""
        self.handed_over = False
        """It stops here without an end: another process goes on with it."""
        self.kept_as = recorder.id
        """The id by which it is found when it has moved: another one's, if its idempotency key had
        been used at another node just before."""
        self.elsewhere = False
        """Another node writes it, and its log shows what the store has of it."""
        self.waiters = 0
        """Readers that could not come back for the rest: they wait for the whole answer."""
        self._moved: list[Callable[[], None]] | None = []
        """What is called when it moves; ``None`` once it has."""
        self._stopped: asyncio.Future[None] | None = None
        self._context = context
        self._now = now

    @property
    def id(self) -> str:
        return self.recorder.id

    @property
    def log(self) -> ResponseLog:
        return self.recorder.log

    @property
    def orphaned(self) -> bool:
        """Whether the chain before it is lost: it can be read, though not gone on with."""
        return self._context is None

    @property
    def background(self) -> bool:
        """Whether it goes on whoever reads it."""
        return self.recorder.request.background

    @property
    def keeps_awake(self) -> bool:
        """Whether it runs here for somebody who waits."""
        return not (self.background or self.elsewhere or self.handed_over)

    def check_cursor(self, cursor: int, param: str) -> None:
        """Refuse a cursor on events that do not exist yet: its reader has not read this log. Where
        nodes share the store he may have read it elsewhere, and this node has to hear of it yet."""
        shared = isinstance(self.journal, JobJournal) and self.journal.shared
        if shared and not self.log.sealed and cursor > self.log.last:
            return
        if not -1 <= cursor <= self.log.last:
            raise HubError(
                "invalid_value",
                f"'{param}' is {cursor}, but the last event is number {self.log.last}.",
                param=param,
            )

    def input(self) -> list[Json]:
        """The items that the model was given."""
        return [*(self._context or ()), *self.recorder.request.items]

    def history(self) -> list[Json]:
        """The items of the whole chain up to and with this response's output."""
        return [*self.input(), *self.recorder.output]

    def weigh(self) -> int:
        """About how many bytes it holds: its log, and what it was asked."""
        return self.log.size + self.asked

    def go_on(self) -> bool:
        """Prepare to go on where an earlier attempt has stopped.

        True if an engine is to be asked: for the rest of the text, or for all of it. False if
        there was nothing left to say; the response is complete then. Raises ``HubError``
        ``worker_lost`` if nobody can go on from what was said, and
        ``previous_response_not_found`` if nobody knows any more what was said before.
        """
        if self.recorder.finished is not None:
            # The model had said everything; only the end was not kept.
            self.completed()
            return False
        if self.orphaned:
            raise HubError(
                "previous_response_not_found",
                "The previous response was deleted.",
                param="previous_response_id",
            )
        unfinished = self.recorder.unfinished()
        if unfinished is None:
            raise HubError("worker_lost", "The process that ran it died where nobody can go on.")
        text, tokens = unfinished
        if not tokens:
            return True
        assert self.transcript is not None
        self.transcript.carried = tokens
        generation = self.recorder.request.generation
        left = None if generation.max_tokens is None else generation.max_tokens - tokens
        if left is not None and left <= 0:
            self.sink.finish("length")
            self.completed()
            return False
        self.generation = replace(
            generation,
            messages=[*generation.messages, {"role": "assistant", "content": text}],
            max_tokens=left,
            continues=True,
        )
        return True

    def stop_early(self, stop: Callable[["Live"], None]) -> None:
        """End its text by the rules of its request, if it has any. ``stop`` lets go of its
        upstream."""
        rules = self.recorder.request.early_stop
        if rules is not None:
            self.sink = Stopping(self._kept, rules, clock=self._clock, on_stop=lambda: stop(self))

    async def until_ended(self) -> None:
        """Wait until its readers see the terminal event, or never will here, since it has moved to
        another node. Cancelling the wait leaves it alone."""
        sealed = asyncio.get_running_loop().create_future()

        def ended() -> None:
            if not sealed.done():
                sealed.set_result(None)

        self.log.when_sealed(ended)
        self.when_moved(ended)
        try:
            await sealed
        finally:
            self.log.forget(ended)
            self.stay(ended)

    def when_moved(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` once, when another node goes on with it: its log says no more here. At once
        if that is so."""
        if self._moved is None:
            tell()
        else:
            self._moved.append(tell)

    def stay(self, tell: Callable[[], None]) -> None:
        """Do not call what ``when_moved`` was given. No effect if it was called already."""
        if self._moved is not None and tell in self._moved:
            self._moved.remove(tell)

    def moved(self) -> None:
        """Another node goes on with it. Tell its readers."""
        moved, self._moved = self._moved, None
        for tell in moved or ():
            tell()

    def let_go(self, stop: Callable[["Live"], None]) -> asyncio.Future[None]:
        """Have its model server let go of it, without an end. Done when nothing more is said."""
        self.handed_over = True
        self._stopped = asyncio.get_running_loop().create_future()
        stop(self)
        return self._stopped

    async def until_news(self, patience: float) -> None:
        """Wait until the model has said something or the response has ended, but not longer than
        ``patience`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._until(lambda: bool(self.recorder.output) or self.log.sealed)

    async def until_kept(self, patience: float | None = None) -> bool:
        """Wait until readers may see all that was written so far, or never will from here: then it
        is False, since another node owns it. Raises ``HubError`` ``store_unavailable`` after
        ``patience`` seconds."""
        last, journal = self.log.next - 1, self.journal

        def fenced() -> bool:
            return isinstance(journal, JobJournal) and journal.fenced

        try:
            async with asyncio.timeout(patience):
                await self._until(lambda: self.log.last >= last or fenced())
        except TimeoutError:
            raise HubError("store_unavailable", "The store is behind.", retry_after=1.0) from None
        return not fenced()

    async def _until(self, holds: Callable[[], bool]) -> None:
        if holds():
            return
        reached = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not reached.done() and holds():
                reached.set_result(None)

        self.log.subscribe(wake)
        try:
            await reached
        finally:
            self.log.unsubscribe(wake)

    # dispatch.flight.Job

    @property
    def tokens(self) -> int:
        usage = self.recorder.reported_usage
        # An event of the log is a token, but for a few.
        return self.log.next if usage is None else usage.output_tokens

    def started(self) -> None:
        # A later attempt goes on with a response that has started before.
        if not self.recorder.dispatched:
            self._kept.started()

    def completed(self) -> None:
        self._end(lambda: self._kept.complete(self._now()))

    def failed(self, error: HubError) -> None:
        self._end(lambda: self._kept.fail(error))

    def cancelled(self) -> None:
        if isinstance(self.sink, Stopping) and self.sink.reason is not None:
            self.completed()
        elif not self.handed_over:
            self._end(self._kept.cancel)
        elif self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    def _end(self, end: Callable[[], None]) -> None:
        if (failure := self.failure) is not None:
            end = partial(self._kept.fail, failure)
        if isinstance(self.sink, Stopping):
            # It refers back to this one.
            self.stopped, self.sink = self.sink.reason, self._kept
        # What ends it repeats what was said: no reason to give it up.
        self.log.unbound()
        self.ledger.mark("ended")
        if self._stopped is not None and not self._stopped.done():
            # It was faster than whoever wanted it to stop.
            self._stopped.set_result(None)
        told = self.ledger.told(self.terms.rank.label)
        if self.transcript is not None:
            self.transcript.tell(told)
        else:
            self.recorder.told = told
        if isinstance(self.journal, ForegroundJournal):
            self.journal.close(end)
        else:
            end()
