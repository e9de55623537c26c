"""How the log of one response gets into the store, and when its readers may see it.

Two ways, by what was promised:

- A *foreground* response that is to be stored is kept when it has ended: record, log and result at
  once. Only its terminal event waits for that; its tokens are never held back.
- A *job*, which is a background response, and every stored one where nodes share a store, must
  survive the death of its process at any token: its log is held, and readers see an event once
  the store has it. The first call of a pause is written at once; what comes while a write is
  under way, or within ``GAP`` of the last one, goes together into the next. Never two writes of one
  response at a time, so that they cannot overtake.

A write that fails is repeated until it succeeds: nothing is dropped and nothing is shown that is
not kept, unless it is said that readers go on *from memory* meanwhile, up to the end. What the
store has lost again is written again. A job whose fence has risen is no longer ours to write.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from hub.api.transcript import Transcript
from hub.errors import HubError
from hub.store.base import (
    Behind,
    Delivery,
    Fenced,
    Idempotency,
    IdempotencyConflict,
    Record,
    Segment,
    Store,
)

logger = logging.getLogger("hub.journal")

GAP = 0.002
"""Seconds between two writes of one log, unless there was a pause."""
RETRY = 0.5
"""Seconds until a failed write is tried again."""


def result_of(transcript: Transcript) -> bytes:
    """The response object as it is kept."""
    return orjson.dumps(transcript.recorder.snapshot())


class ForegroundJournal:
    """Keeps a foreground response at its end. ``close`` is called when it is about to end."""

    def __init__(
        self,
        store: Store,
        transcript: Transcript,
        record: Callable[[str, bytes], Record],
        idempotency: Idempotency | None,
    ) -> None:
        """``record`` makes the record of a status and a result."""
        self._store = store
        self._transcript = transcript
        self._record = record
        self._idempotency = idempotency

    def close(self, end: Callable[[], None]) -> None:
        """Let ``end`` write the last events, and show them when all is kept."""
        transcript = self._transcript
        log = transcript.recorder.log
        log.hold()
        end()
        taken = transcript.take()
        assert taken is not None
        kept = self._store.put(
            self._record(transcript.recorder.status, result_of(transcript)),
            segment=Segment(*taken),
            idempotency=self._idempotency,
        )

        def written(future: asyncio.Future[str]) -> None:
            error = future.exception()
            if error is not None:
                # The answer itself is whole. It is not lost for its reader because it cannot be
                # read again later; a later request for it finds nothing.
                logger.error("%s could not be kept: %r", transcript.recorder.id, error)
            log.release(log.next - 1)

        kept.add_done_callback(written)
        # It makes a record of the response whose journal this is: a circle that only the collector
        # would free.
        del self._record


class JobJournal:
    """Writes a job's log as it grows, and its end."""

    def __init__(
        self,
        store: Store,
        transcript: Transcript,
        *,
        tenant: str,
        on_fenced: Callable[[], None],
        deliveries: Callable[[], Sequence[Delivery]],
        on_kept: Callable[[], None],
        put: Callable[[Segment | None], asyncio.Future[str]] | None = None,
        from_memory: bool = False,
    ) -> None:
        """``on_fenced``: stop, another owns it. ``deliveries`` gives the webhooks of its end, and
        ``on_kept`` is called when its end is in the store. ``put`` is the first write of a response
        that the store does not have yet. ``from_memory``: while the store fails, readers see what
        it does not have."""
        self._store = store
        self._transcript = transcript
        self._log = transcript.recorder.log
        self._tenant = tenant
        self._on_fenced = on_fenced
        self._deliveries = deliveries
        self._on_kept = on_kept
        self._loop = asyncio.get_running_loop()
        self._attempt = 0
        self._put = put
        self._tried = False
        """The put was tried, and has not succeeded."""
        self._from_memory = from_memory
        self._unwritten: list[Segment] = []
        """What was taken and is to be written, the oldest first."""
        self._written_so_far: list[Segment] = []
        """What the store may lose again, as long as it lives."""
        self._busy = False
        self._scheduled: asyncio.Handle | None = None
        self._last = -GAP
        self.fenced = False
        """Another owns it, or it was deleted: nothing more is written."""
        self.adrift = False
        """Its readers have seen what the store does not have."""
        self.kept_as = transcript.recorder.id
        """The id that the store has it by: another one, if its key had been used elsewhere."""
        self.conflicts = False
        """Its key had been used for another request."""
        self._may_be_kept = False
        """Its end was written, and the store said that this failed."""

    @property
    def shared(self) -> bool:
        """Whether other nodes may write this log, too."""
        return self._store.shared

    def open(self, attempt: int) -> None:
        """Begin to write, as the owner that ``attempt`` stands for."""
        self._attempt = attempt
        self.fenced = False
        # It was claimed, so its end is not in the store.
        self._may_be_kept = False
        self._log.hold(self._grew)
        if self._log.ended or self._put is not None:
            # Its last owner wrote the end of its log and died before the rest was kept; or its
            # beginning is to be written, whatever follows.
            self._grew()

    def _grew(self) -> None:
        """The log has an event more. Plain and cheap: runs for every token."""
        if self.fenced:
            if self._log.ended:
                # It is not ours to keep any more, but who reads it here must hear of its end.
                self._log.release(self._log.next - 1)
            return
        if self.adrift:
            self._show()
        if self._scheduled is None and not self._busy:
            due = self._last + GAP
            if self._loop.time() >= due:
                # In this turn of the loop still, so that what comes with it goes with it.
                self._scheduled = self._loop.call_soon(self._write)
            else:
                self._scheduled = self._loop.call_at(due, self._write)

    def _write(self) -> None:
        self._scheduled = None
        assert not self._busy, "the next write waits for the one before"
        assert not self.fenced, "what is fenced is not written"
        # A put that is tried again may have been carried out: then it keeps nothing more.
        if not self._unwritten and not self._tried:
            if (taken := self._transcript.take()) is not None:
                self._unwritten.append(Segment(*taken))
            self._tried = self._put is not None
        segment = self._unwritten.pop(0) if self._unwritten else None
        more = bool(self._unwritten) or self._transcript.pending
        ends = self._log.ended and not more and self._put is None
        recorder = self._transcript.recorder
        future: asyncio.Future[str] | asyncio.Future[None]
        if self._put is not None:
            future = self._put(segment)
        elif ends:
            future = self._store.complete(
                recorder.id,
                self._attempt,
                status=recorder.status,
                result=result_of(self._transcript),
                segment=segment,
                deliveries=self._deliveries(),
            )
        else:
            assert segment is not None, "it is written when it has grown"
            future = self._store.append(recorder.id, self._attempt, segment)
        self._busy = True
        if self._put is None:
            # The first text is not held up by what has come before it.
            self._last = self._loop.time()
        last = segment.last if segment is not None else self._transcript.taken
        attempt = self._attempt
        future.add_done_callback(lambda done: self._written(done, attempt, segment, last, ends))

    def _written(
        self,
        done: asyncio.Future[Any],
        attempt: int,
        segment: Segment | None,
        last: int,
        ends: bool,
    ) -> None:
        self._busy = False
        error = done.exception()
        if segment is not None and error is not None:
            self._unwritten.insert(0, segment)
        if error is None:
            self._succeeded(done.result(), segment, last, ends)
        elif isinstance(error, Fenced):
            if attempt != self._attempt:
                # Fenced off by the claim that it has been opened for since.
                self._grew()
            elif self._may_be_kept:
                self._busy = True
                record = self._store.get(self._tenant, self._transcript.recorder.id)
                record.add_done_callback(lambda done: self._asked(done, attempt))
            else:
                self._fence()
        elif isinstance(error, IdempotencyConflict):
            self.conflicts = True
            self._fence()
        elif isinstance(error, Behind):
            lost = [one for one in self._written_so_far if one.last > error.last]
            logger.warning(
                "the store has lost %d pieces of %s", len(lost), self._transcript.recorder.id
            )
            self._unwritten[:0] = lost
            self._written_so_far = self._written_so_far[: -len(lost) or None]
            self._retry(error)
        elif isinstance(error, HubError):
            self._may_be_kept = ends
            self._retry(error)
        else:
            raise error

    def _succeeded(self, id: str | None, segment: Segment | None, last: int, ends: bool) -> None:
        first, self._put = self._put, None
        self._tried = False
        if first is not None and id != self._transcript.recorder.id:
            # The same request has come to two nodes at once, and the other one was faster.
            assert id is not None, "a put gives an id"
            self.kept_as = id
            self._fence()
            return
        self.adrift = False
        if segment is not None and self._store.shared:
            self._written_so_far.append(segment)
        self._log.release(max(last, self._log.last))
        if ends:
            self._kept()
        elif self._unwritten or self._log.next - 1 > last or self._log.ended:
            self._grew()

    def _asked(self, done: asyncio.Future[Record | None], attempt: int) -> None:
        """Whether the first try to write its end was carried out, though its answer was an error,
        or another has claimed it meanwhile, and perhaps ended it, too."""
        self._busy = False
        error = done.exception()
        if attempt != self._attempt:
            self._grew()
        elif isinstance(error, HubError):
            self._retry(error)
        elif (
            (record := done.result()) is not None
            and record.result is not None
            and record.attempt == attempt
        ):
            self._unwritten = []
            self._log.release(self._log.next - 1)
            self._kept()
        else:
            self._fence()

    def _kept(self) -> None:
        """Its end is in the store. Whom this tells of it refers to it, too: let go of them, or both
        would stay until the collector finds them."""
        on_kept = self._on_kept
        self._on_kept = self._on_fenced = _nothing
        self._written_so_far = []
        self._deliveries = tuple
        on_kept()

    def _retry(self, error: HubError) -> None:
        # One of many that wait for the same: whoever claims work says that the store is in trouble.
        logger.debug("%s waits for the store: %s", self._transcript.recorder.id, error)
        self._scheduled = self._loop.call_later(RETRY, self._write)
        if self._from_memory and not self.adrift:
            self.adrift = True
            self._show()

    def _show(self) -> None:
        """Show what the store does not have, but no end: nobody is told of a result that another
        node may yet make another time."""
        self._log.release(self._log.next - 1 - self._log.ended)

    def _fence(self) -> None:
        self.fenced = True
        self._log.wake()
        self._on_fenced()


def _nothing() -> None:
    return None
