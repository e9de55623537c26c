"""The journal: what the store has, and when readers see it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.recorder import Recorder
from hub.api.responses import parse_create
from hub.api.transcript import Transcript
from hub.errors import HubError
from hub.journal import GAP, RETRY, ForegroundJournal, JobJournal, result_of
from hub.store.base import (
    Behind,
    Delivery,
    Fenced,
    Hold,
    Idempotency,
    IdempotencyConflict,
    Record,
    Segment,
)
from hub.store.memory import MemoryStore
from tests.traces import traces
from tests.virtual import virtual

ID = "resp_" + "0" * 32
LEASE = 15.0

Outcome = Literal["kept", "refused", "kept in silence"]
"""What becomes of a write: carried out, not carried out, or carried out and called an error."""


@dataclass(eq=False)
class Write:
    """A write in the hands of a test."""

    at: float
    kind: str
    attempt: int
    segment: Segment | None
    carry_out: Callable[[], asyncio.Future[Any]]
    answer: asyncio.Future[Any]

    def settle(self, outcome: Outcome = "kept") -> None:
        """Carry it out or not, and answer."""
        error: BaseException | None = HubError("store_unavailable", "The disk is full.")
        if outcome != "refused":
            error = self.carry_out().exception() or (error if outcome != "kept" else None)
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)


class ScriptedStore(MemoryStore):
    """A store whose writes wait until the test settles them, or take as long as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Write] = []
        self.takes: float | None = None

    @property
    def waiting(self) -> list[Write]:
        return [write for write in self.writes if not write.answer.done()]

    def _later(
        self,
        kind: str,
        attempt: int,
        segment: Segment | None,
        carry_out: Callable[[], asyncio.Future[Any]],
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        write = Write(loop.time(), kind, attempt, segment, carry_out, loop.create_future())
        self.writes.append(write)
        if self.takes is not None:
            loop.call_later(self.takes, write.settle)
        return write.answer

    def put(
        self,
        record: Record,
        *,
        segment: Segment | None = None,
        idempotency: Idempotency | None = None,
        hold: Hold | None = None,
    ) -> asyncio.Future[str]:
        keep = super().put
        return self._later(
            "put", 0, segment, lambda: keep(record, segment=segment, idempotency=idempotency)
        )

    def append(self, id: str, attempt: int, segment: Segment) -> asyncio.Future[None]:
        keep = super().append
        return self._later("append", attempt, segment, lambda: keep(id, attempt, segment))

    def complete(
        self,
        id: str,
        attempt: int,
        *,
        status: str,
        result: bytes,
        segment: Segment | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> asyncio.Future[None]:
        keep = super().complete
        return self._later(
            "complete",
            attempt,
            segment,
            lambda: keep(
                id, attempt, status=status, result=result, segment=segment, deliveries=deliveries
            ),
        )


def new_transcript(*, background: bool) -> Transcript:
    recorder = Recorder(
        parse_create({"input": "Hi", "background": background}), id=ID, model="m", now=100.0
    )
    recorder.created()
    return Transcript(recorder)


def record_of(transcript: Transcript, status: str, result: bytes | None) -> Record:
    recorder = transcript.recorder
    return Record(
        ID, "ada", status, recorder.request.background, 100.0, 1000.0, b"{}", result=result
    )


async def turn() -> None:
    """Let the callbacks run that wait for this turn of the loop, and those of what they did."""
    for _ in range(3):
        await asyncio.sleep(0)


class Job:
    """A job that was claimed, its journal, and the store in the hands of the test."""

    def __init__(self) -> None:
        self.store = ScriptedStore()
        self.transcript = new_transcript(background=True)
        self.log = self.transcript.recorder.log
        self.fenced = 0
        self.kept = 0
        self.asked_for_deliveries = 0
        self.attempt = 0
        self.journal = JobJournal(
            self.store,
            self.transcript,
            tenant="ada",
            on_fenced=self._fenced,
            deliveries=self._deliveries,
            on_kept=self._kept,
        )

    def _fenced(self) -> None:
        self.fenced += 1

    def _kept(self) -> None:
        assert self.log.sealed, "its readers see the end by then"
        self.kept += 1

    def _deliveries(self) -> Sequence[Delivery]:
        return [Delivery("evt_1", ID, "https://example.com/hook", b"{}", 100.0)]

    async def put(self) -> "Job":
        """Have it in the store, for somebody to claim."""
        await self.store.start(0.0)
        self.store.put(record_of(self.transcript, "queued", None))
        self.store.writes.pop().settle()
        return self

    async def start(self) -> "Job":
        """Claim it and begin to write."""
        await self.put()
        await self.claim()
        self.journal.open(self.attempt)
        return self

    async def claim(self) -> None:
        """Claim it, whoever has it."""
        far = 1e9 * (self.attempt + 1)
        (record,) = await self.store.claim("me", far, LEASE, 1)
        self.attempt = record.attempt

    def settle(self, outcome: Outcome = "kept") -> None:
        """Settle the one write that is under way."""
        (write,) = self.store.waiting
        write.settle(outcome)

    async def settle_all(self) -> None:
        """Let every write succeed until there is none."""
        await asyncio.sleep(2 * RETRY)
        while self.store.waiting:
            self.settle()
            await asyncio.sleep(2 * RETRY)

    async def stored(self) -> list[Segment]:
        return [*await self.store.read(ID)]

    async def reach(self) -> int:
        """The last event that the store has."""
        segments = await self.stored()
        return segments[-1].last if segments else 1

    async def check_kept_exactly(self) -> None:
        """The store has the log, each event once, and its end; readers see all of it."""
        again = new_transcript(background=True)
        for segment in await self.stored():
            assert segment.first == again.recorder.log.next
            again.play(segment.body)
        assert wires(again) == wires(self.transcript)
        kept = await self.store.get("ada", ID)
        assert kept is not None
        assert kept.result == result_of(self.transcript)
        assert kept.status == self.transcript.recorder.status
        assert len(await self.store.deliveries(1e9, 9)) == 1
        assert self.log.sealed


def wires(transcript: Transcript) -> list[bytes]:
    return [event.wire for event in transcript.recorder.log.read(-1)]


def end(transcript: Transcript) -> None:
    transcript.finish("stop")
    transcript.complete(105.0)


# Jobs: what readers may see.

says = st.tuples(st.just("say"), st.text(max_size=3))
settles = st.tuples(st.just("settle"), st.sampled_from(["kept", "refused", "kept in silence"]))
waits = st.tuples(st.just("wait"), st.sampled_from([0.0, GAP / 2, GAP, RETRY / 2, RETRY]))
claims = st.tuples(st.just("claim"))


@given(traces(st.one_of(says, says, settles, settles, waits), 40), st.booleans())
@virtual
async def test_readers_see_what_the_store_has_and_nothing_is_lost(
    steps: list[tuple[Any, ...]], ends: bool
) -> None:
    """Whatever the store makes of the writes: no reader sees an event before the store has it,
    there is never more than one write under way, and in the end every event is there once."""
    job = await Job().start()
    job.transcript.started()
    acknowledged = job.log.last
    for step in [*steps, ("end",)] if ends else steps:
        match step:
            case ("say", str(text)):
                job.transcript.text(text)
            case ("settle", outcome):
                for write in job.store.waiting:
                    write.settle(outcome)
                    if outcome == "kept" and write.segment is not None:
                        acknowledged = write.segment.last
            case ("wait", float(seconds)):
                await asyncio.sleep(seconds)
            case _:
                end(job.transcript)
        await turn()
        assert len(job.store.waiting) <= 1
        assert job.log.last == acknowledged <= await job.reach()
    if not ends:
        end(job.transcript)
    await job.settle_all()
    await job.check_kept_exactly()
    assert (job.kept, job.fenced) == (1, 0)


@virtual
async def test_a_lone_call_is_written_in_the_same_turn_of_the_loop() -> None:
    """After a pause nothing is waited for, and what is said in one turn goes together."""
    job = await Job().start()
    await asyncio.sleep(1.0)
    job.transcript.started()
    job.transcript.text("a")
    job.transcript.text("b")
    before = asyncio.get_running_loop().time()
    assert job.store.waiting == []
    await asyncio.sleep(0)
    (write,) = job.store.waiting
    assert write.at == before
    assert write.segment is not None
    assert write.segment.last == job.log.next - 1


@given(st.lists(st.floats(0, 3 * GAP), max_size=12), st.floats(0, 2 * GAP))
@virtual
async def test_writes_keep_their_distance(pauses: list[float], takes: float) -> None:
    """Two writes of a log begin ``GAP`` apart at least, and what is said meanwhile goes together
    into the next; nothing waits longer than for that and for the write before it."""
    job = await Job().start()
    job.store.takes = takes
    said: dict[int, float] = {}
    for pause in [*pauses, 0.1]:
        job.transcript.text("a")
        said[job.log.next - 1] = asyncio.get_running_loop().time()
        await asyncio.sleep(pause)
    writes = job.store.writes
    grain = 1e-6
    assert all(later.at - write.at >= GAP - grain for write, later in pairwise(writes))
    for number, at in said.items():
        (write,) = [w for w in writes if w.segment and w.segment.first <= number <= w.segment.last]
        assert at <= write.at <= at + max(GAP, takes) + grain
    assert job.log.last == job.log.next - 1


@virtual
async def test_a_failed_write_is_repeated_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """What the store did not take is written again after ``RETRY`` with the same segment; what
    was said meanwhile comes after it, and nobody sees anything before."""
    job = await Job().start()
    job.transcript.started()
    await turn()
    seen = job.log.last
    for attempt in range(3):
        (write,) = job.store.waiting
        assert write.at == pytest.approx(attempt * RETRY)
        assert write.segment == job.store.writes[0].segment
        write.settle("refused")
        await turn()
        job.transcript.text("more")
        await asyncio.sleep(RETRY)
        await turn()
        assert job.log.last == seen
    job.settle()
    await turn()
    assert job.log.last == seen + 1
    await asyncio.sleep(GAP)
    await turn()
    (write,) = job.store.waiting
    assert write.segment is not None
    assert (write.segment.first, write.segment.last) == (seen + 2, job.log.next - 1)
    # Hundreds wait at the same time: that is said elsewhere, once.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Jobs: the end.


def finish_normally(transcript: Transcript) -> None:
    transcript.text("so far")
    end(transcript)


def fail(transcript: Transcript) -> None:
    transcript.fail(HubError("upstream_error", "No."))


def cancel(transcript: Transcript) -> None:
    transcript.cancel()


@pytest.mark.parametrize("ending", [finish_normally, fail, cancel])
@virtual
async def test_the_end_is_completed_once_with_its_last_segment(
    ending: Callable[[Transcript], None],
) -> None:
    """However a job ends, its last events, its result and its webhooks are one write, and readers
    see the end when that is kept."""
    job = await Job().start()
    job.transcript.started()
    await turn()
    job.settle()
    await asyncio.sleep(GAP)
    seen = job.log.last
    ending(job.transcript)
    await turn()
    assert [write.kind for write in job.store.writes] == ["append", "complete"]
    assert job.log.ended
    assert (job.log.last, job.log.sealed, job.kept) == (seen, False, 0)
    job.settle()
    await turn()
    assert (job.log.last, job.log.sealed, job.kept) == (job.log.next - 1, True, 1)
    await job.check_kept_exactly()
    await asyncio.sleep(1.0)
    assert len(job.store.writes) == 2


@virtual
async def test_an_end_behind_a_failed_write_comes_after_it() -> None:
    """A log may end while a write of it is to be repeated: that goes first, the end follows."""
    job = await Job().start()
    job.transcript.started()
    await turn()
    job.settle("refused")
    end(job.transcript)
    await job.settle_all()
    assert [write.kind for write in job.store.writes] == ["append", "append", "complete"]
    await job.check_kept_exactly()
    assert job.kept == 1


@virtual
async def test_an_end_that_was_kept_in_silence_counts() -> None:
    """A ``complete`` that succeeded though it said otherwise is fenced off when it is repeated:
    then it is kept."""
    job = await Job().start()
    job.transcript.started()
    end(job.transcript)
    await turn()
    job.settle("kept in silence")
    await turn()
    assert not job.log.sealed
    await job.settle_all()
    assert [write.kind for write in job.store.writes] == ["complete", "complete"]
    assert (job.kept, job.fenced) == (1, 0)
    await job.check_kept_exactly()


@virtual
async def test_an_end_that_was_refused_and_then_overtaken_is_not_taken_for_kept() -> None:
    """The repeated ``complete`` is fenced off by a claim, not by the first one: it is for the next
    owner to write the end, all of it."""
    job = await Job().start()
    job.transcript.started()
    end(job.transcript)
    await turn()
    job.settle("refused")
    await job.claim()
    await job.settle_all()
    assert (job.kept, job.fenced) == (0, 1)
    job.journal.open(job.attempt)
    await job.settle_all()
    assert job.kept == 1
    await job.check_kept_exactly()


@virtual
async def test_a_log_that_had_ended_is_completed() -> None:
    """Who opens a log whose end is in the store, but not its result, completes it."""
    job = await Job().put()
    await job.claim()
    dead = new_transcript(background=True)
    dead.started()
    end(dead)
    taken = dead.take()
    assert taken is not None
    job.store.append(ID, job.attempt, Segment(*taken))
    job.settle()
    await job.claim()
    job.transcript.play(taken[2])
    job.journal.open(job.attempt)
    await turn()
    (write,) = job.store.waiting
    assert (write.kind, write.segment, write.attempt) == ("complete", None, 2)
    write.settle()
    await turn()
    await job.check_kept_exactly()
    assert job.kept == 1


# Jobs: fences.


@given(traces(st.one_of(says, says, settles, waits, claims), 30))
@virtual
async def test_a_fenced_job_stops_until_it_is_claimed_again(steps: list[tuple[Any, ...]]) -> None:
    """Once the store says that another one has it, nothing more is written and nothing shown,
    however much is said; ``on_fenced`` is called once. Claimed and opened again, it goes on with
    the same segment, and nothing is lost or doubled."""
    job = await Job().start()
    job.transcript.started()
    fenced = 0
    for step in steps:
        match step:
            case ("say", str(text)):
                job.transcript.text(text)
            case ("settle", outcome):
                for write in job.store.waiting:
                    stale = write.attempt != job.attempt and outcome != "refused"
                    write.settle(outcome)
                    fenced += stale
            case ("wait", float(seconds)):
                await asyncio.sleep(seconds)
            case _ if job.attempt <= 1:
                await job.claim()
        await turn()
        assert len(job.store.waiting) <= 1
        assert job.log.last <= await job.reach()
        assert job.fenced == fenced <= 1
        if fenced:
            assert job.store.waiting == []
    await job.claim()
    job.journal.open(job.attempt)
    end(job.transcript)
    await job.settle_all()
    await job.check_kept_exactly()
    assert (job.kept, job.fenced) == (1, fenced)


@virtual
async def test_each_claim_can_be_fenced_once() -> None:
    """``on_fenced`` is called for every claim that was lost."""
    job = await Job().start()
    for lost in range(1, 4):
        await job.claim()
        job.transcript.text("a")
        await asyncio.sleep(GAP)
        job.settle()
        await turn()
        job.transcript.text("b")
        await asyncio.sleep(1.0)
        assert job.fenced == lost
        assert job.store.waiting == []
        job.journal.open(job.attempt)
        await asyncio.sleep(GAP)
    assert job.log.last < job.log.next - 1


@virtual
async def test_who_reads_a_fenced_job_hears_of_its_end() -> None:
    """What is not ours to keep any more can still end here: its readers are woken at the fence and
    see the end, and nothing is written."""
    job = await Job().start()
    await job.claim()
    woken: list[bool] = []
    job.log.subscribe(lambda: woken.append(job.log.sealed))
    job.transcript.started()
    await turn()
    job.settle()
    await turn()
    assert (woken, job.journal.fenced) == ([False], True)
    job.transcript.cancel()
    assert (woken, job.log.sealed) == ([False, True], True)
    await asyncio.sleep(1.0)
    assert (len(job.store.writes), job.kept) == (1, 0)


@virtual
async def test_a_write_that_a_new_claim_has_overtaken_is_repeated_under_it() -> None:
    """Cancelled before it was claimed, a job is ended as nobody's; the claim that was under way
    fences that off, and the claimer ends it."""
    job = await Job().put()
    job.journal.open(0)
    job.transcript.cancel()
    await turn()
    await job.claim()
    job.journal.open(job.attempt)
    job.settle()
    await turn()
    assert not job.log.sealed
    assert job.fenced == 0, "its claimer is here"
    await job.settle_all()
    assert [write.attempt for write in job.store.writes] == [0, 1]
    await job.check_kept_exactly()
    assert (job.kept, job.fenced) == (1, 0)


@virtual
async def test_the_end_of_an_earlier_claim_does_not_count_for_a_later_one() -> None:
    """What was claimed again has no end in the store: an end that failed before is written anew,
    and its being fenced off is that."""
    job = await Job().start()
    job.transcript.started()
    end(job.transcript)
    await turn()
    job.settle("refused")
    await turn()
    await job.claim()
    job.journal.open(job.attempt)
    await job.claim()
    await asyncio.sleep(RETRY)
    job.settle()
    await turn()
    assert (job.kept, job.fenced, job.log.sealed) == (0, 1, False)


def test_a_defect_of_the_store_is_nobodys_to_repeat() -> None:
    """What is neither a fence nor an error of the store is a defect, and is not hidden."""

    @virtual
    async def defect() -> None:
        job = await Job().start()
        job.transcript.started()
        await turn()
        (write,) = job.store.waiting
        write.answer.set_exception(ZeroDivisionError())
        await asyncio.sleep(1.0)
        assert len(job.store.writes) == 1

    with pytest.raises(ZeroDivisionError):
        defect()


# Foreground responses.


class Foreground:
    """A foreground response that is to be kept."""

    def __init__(self, idempotency: Idempotency | None = None) -> None:
        self.store = ScriptedStore()
        self.transcript = new_transcript(background=False)
        self.log = self.transcript.recorder.log
        self.journal = ForegroundJournal(
            self.store,
            self.transcript,
            lambda status, result: record_of(self.transcript, status, result),
            idempotency,
        )

    async def end(self, ending: Callable[[Transcript], None]) -> Write:
        await self.store.start(0.0)
        self.journal.close(lambda: ending(self.transcript))
        await turn()
        (write,) = self.store.writes
        return write


@pytest.mark.parametrize("ending", [finish_normally, fail, cancel])
@virtual
async def test_only_the_end_of_a_foreground_response_waits(
    ending: Callable[[Transcript], None],
) -> None:
    """Its tokens are seen at once; its record, log and result are one write, and readers see its
    end when that is kept."""
    key = Idempotency("key", b"digest", 1000.0)
    one = Foreground(key)
    one.transcript.started()
    for text in "abc":
        one.transcript.text(text)
        assert one.log.last == one.log.next - 1
    seen = one.log.last
    write = await one.end(ending)
    assert (one.log.last, one.log.ended, one.log.sealed) == (seen, True, False)
    write.settle()
    await turn()
    assert (one.log.last, one.log.sealed) == (one.log.next - 1, True)
    record = await one.store.get("ada", ID)
    assert record is not None
    assert record.status == one.transcript.recorder.status
    assert record.result == result_of(one.transcript)
    assert orjson.loads(record.result)["id"] == ID
    again = new_transcript(background=False)
    for segment in await one.store.read(ID):
        again.play(segment.body)
    assert wires(again) == wires(one.transcript)
    assert await one.store.repeated("ada", key) == ID


@virtual
async def test_a_foreground_response_that_cannot_be_kept_still_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reader gets the end of its answer all the same, and the log of hub says what was lost."""
    one = Foreground()
    write = await one.end(finish_normally)
    write.settle("refused")
    await turn()
    assert one.log.sealed
    assert one.log.last == one.log.next - 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.startswith(f"{ID} could not be kept")


def test_a_fence_is_what_the_store_raises() -> None:
    """The scripted store fences as the contract says: that is what these tests rest on."""

    @virtual
    async def check() -> None:
        job = await Job().start()
        await job.claim()
        job.transcript.started()
        await turn()
        (write,) = job.store.waiting
        write.settle()
        assert isinstance(write.answer.exception(), Fenced)

    check()


# Responses that a shared store does not have yet.


class SharedScript(ScriptedStore):
    """The scripted store, as one that nodes share: it may lose what it had."""

    shared = True

    def lose(self, count: int) -> None:
        """Forget the last segments of the log."""
        log = self._ledger._kept[ID].log
        del log[len(log) - count :]
        job = self._ledger._jobs.get(ID)
        assert job is not None
        job.last = log[-1].last if log else -1


class Begun:
    """A foreground response of a shared store, whose first write is its ``put``."""

    def __init__(self, *, from_memory: bool = False) -> None:
        self.store = SharedScript()
        self.transcript = new_transcript(background=False)
        self.log = self.transcript.recorder.log
        self.fenced = self.kept = 0
        self.id = ID
        self.journal = JobJournal(
            self.store,
            self.transcript,
            tenant="ada",
            on_fenced=self._fenced,
            deliveries=lambda: (),
            on_kept=self._kept,
            put=self._put,
            from_memory=from_memory,
        )

    async def start(self) -> "Begun":
        await self.store.start(0.0)
        # Held from its first event on, as the hub does.
        self.log.hold()
        self.log._visible = 0
        self.journal.open(1)
        await turn()
        return self

    def _put(self, segment: Segment | None) -> asyncio.Future[str]:
        record = replace(record_of(self.transcript, "in_progress", None), attempt=1)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def settled(write: asyncio.Future[Any]) -> None:
            error = write.exception()
            if error is None:
                done.set_result(self.id)
            else:
                done.set_exception(error)

        self.store.put(record, segment=segment, hold=Hold("me", 1e9)).add_done_callback(settled)
        return done

    def _fenced(self) -> None:
        self.fenced += 1

    def _kept(self) -> None:
        self.kept += 1

    def settle(self, outcome: Outcome = "kept") -> None:
        (write,) = self.store.waiting
        write.settle(outcome)

    def fail(self, error: Exception) -> None:
        (write,) = self.store.waiting
        write.answer.set_exception(error)

    async def settle_all(self) -> None:
        await asyncio.sleep(2 * RETRY)
        while self.store.waiting:
            (write,) = self.store.waiting
            if write.kind == "append" and write.segment is not None:
                log = await self.store.read(ID)
                if log and log[-1].last < write.segment.first - 1:
                    write.answer.set_exception(Behind(log[-1].last, "lost"))
                    await asyncio.sleep(2 * RETRY)
                    continue
            write.settle()
            await asyncio.sleep(2 * RETRY)

    async def check_kept_exactly(self) -> None:
        again = new_transcript(background=False)
        for segment in await self.store.read(ID):
            assert segment.first == again.recorder.log.next
            again.play(segment.body)
        assert wires(again) == wires(self.transcript)
        assert self.log.sealed


@given(traces(st.one_of(says, says, settles, settles, waits), 30))
@virtual
async def test_what_has_just_begun_is_put_with_its_first_piece(
    steps: list[tuple[Any, ...]],
) -> None:
    """The first write is the ``put``, repeated as it was until it succeeds, whatever became of it;
    the rest follows in order, and nobody sees anything before."""
    begun = await Begun().start()
    begun.transcript.started()
    for step in steps:
        match step:
            case ("say", str(text)):
                begun.transcript.text(text)
            case ("settle", outcome):
                for write in begun.store.waiting:
                    write.settle(outcome)
            case ("wait", float(seconds)):
                await asyncio.sleep(seconds)
        await turn()
        kinds = [write.kind for write in begun.store.writes]
        assert "put" not in kinds[kinds.count("put") :], "once it is there, it is appended to"
        puts = [write.segment for write in begun.store.writes if write.kind == "put"]
        assert all(segment == puts[0] for segment in puts)
    end(begun.transcript)
    await begun.settle_all()
    await begun.check_kept_exactly()
    assert (begun.kept, begun.fenced) == (1, 0)


@virtual
async def test_the_slower_one_of_two_is_fenced_and_knows_the_other() -> None:
    """If the store has it under another id, the same request was faster elsewhere: nothing of this
    one is shown or written any more."""
    begun = await Begun().start()
    begun.id = "resp_" + "1" * 32
    begun.transcript.text("a")
    begun.settle()
    await asyncio.sleep(1.0)
    assert (begun.fenced, begun.journal.kept_as, begun.log.last) == (1, begun.id, -1)
    assert len(begun.store.writes) == 1


@virtual
async def test_a_key_of_another_request_is_a_fence_too() -> None:
    """If the key was used for another request, nothing of this one is kept."""
    begun = await Begun().start()
    begun.fail(IdempotencyConflict("key"))
    await asyncio.sleep(1.0)
    assert (begun.fenced, begun.journal.conflicts) == (1, True)
    assert len(begun.store.writes) == 1


@given(
    st.lists(st.text(min_size=1, max_size=2), min_size=1, max_size=8),
    st.integers(1, 8),
    st.booleans(),
)
@virtual
async def test_what_the_store_has_lost_is_written_again(
    said: list[str], lost: int, ends: bool
) -> None:
    """When the store says that its log ends earlier, all that came after that is written again, in
    order, and then the rest: readers see nothing twice, and nothing is missing."""
    begun = await Begun().start()
    begun.transcript.started()
    begun.settle()
    for text in said:
        begun.transcript.text(text)
        await asyncio.sleep(GAP)
        await turn()
        for write in begun.store.waiting:
            write.settle()
        await turn()
    seen = begun.log.last
    log = await begun.store.read(ID)
    begun.store.lose(min(lost, len(log) - 1))
    begun.transcript.text("more")
    await asyncio.sleep(GAP)
    await turn()
    reach = (await begun.store.read(ID))[-1].last
    (write,) = begun.store.waiting
    assert write.segment is not None
    if reach < write.segment.first - 1:
        begun.fail(Behind(reach, "lost"))
    assert begun.log.last == seen
    if ends:
        end(begun.transcript)
        await begun.settle_all()
    else:
        await begun.settle_all()
        end(begun.transcript)
        await begun.settle_all()
    await begun.check_kept_exactly()
    assert begun.kept == 1


@virtual
async def test_an_end_that_another_owner_wrote_is_not_taken_for_ones_own() -> None:
    """A repeated ``complete`` is fenced off, and the response has ended: but as a later attempt. It
    is another text, and nothing of this one's end is shown."""
    begun = await Begun().start()
    begun.transcript.started()
    begun.settle()
    await turn()
    seen = begun.log.last
    await asyncio.sleep(GAP)
    begun.transcript.cancel()
    await turn()
    begun.settle("refused")
    (record,) = await begun.store.claim("another", 2e9, LEASE, 1, foreground=True)
    MemoryStore.complete(begun.store, ID, record.attempt, status="completed", result=b"{}")
    await asyncio.sleep(RETRY)
    begun.settle()
    await turn()
    assert (begun.fenced, begun.kept, begun.log.last) == (1, 0, seen)


# Readers that go on from memory.


@virtual
async def test_from_memory_readers_see_what_the_store_lacks() -> None:
    """Once a write has failed, readers see everything at once, also the end; when the store is back
    it is written in order, and nobody is adrift any more."""
    begun = await Begun(from_memory=True).start()
    begun.transcript.started()
    begun.settle()
    await asyncio.sleep(GAP)
    begun.transcript.text("a")
    await turn()
    assert not begun.journal.adrift
    assert begun.log.last < begun.log.next - 1
    begun.settle("refused")
    await turn()
    assert begun.journal.adrift
    assert begun.log.last == begun.log.next - 1
    begun.transcript.text("b")
    assert begun.log.last == begun.log.next - 1
    await asyncio.sleep(RETRY)
    begun.settle()
    await turn()
    assert not begun.journal.adrift
    begun.transcript.text("c")
    assert begun.log.last < begun.log.next - 1, "from now on it is written first again"
    end(begun.transcript)
    await begun.settle_all()
    await begun.check_kept_exactly()


@virtual
async def test_a_fence_while_adrift_shows_nothing_more() -> None:
    """Who is fenced off while his readers go on from memory tells his owner, who knows that they
    have seen too much; only the end that he is given then is shown."""
    begun = await Begun(from_memory=True).start()
    begun.transcript.started()
    begun.settle()
    await asyncio.sleep(GAP)
    begun.transcript.text("a")
    await turn()
    begun.settle("refused")
    await turn()
    await begun.store.claim("another", 2e9, LEASE, 1, foreground=True)
    await asyncio.sleep(RETRY)
    begun.settle()
    await turn()
    assert (begun.fenced, begun.journal.adrift) == (1, True)
    seen = begun.log.last
    begun.transcript.text("b")
    assert begun.log.last == seen
    begun.transcript.fail(HubError("worker_lost", "No."))
    assert begun.log.sealed
