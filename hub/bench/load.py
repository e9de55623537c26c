"""The load generator: runs a ``Load`` against a server and says what it found.

The server's CPU time is that of the measured window: from the end of the warm-up until the time is
over, or until the last measured response has ended. What runs then is read on, checked, for as
long as ``Load.drain`` says.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from hub.bench import machine, plan
from hub.bench.alarm import Alarm
from hub.bench.answer import Answer
from hub.bench.clients import Stream, Target
from hub.bench.http_streams import HttpStream, PolledStream, SseStream, SyncStream
from hub.bench.lane_streams import Lane, LaneConnection
from hub.bench.machine import ProcessTree
from hub.bench.plan import Load
from hub.bench.record import Record
from hub.bench.tally import Moment, Moments, Result, Sofar, Tally, Traffic, Usage
from hub.bench.text import Vocabulary

RETRY = 0.1
"""Seconds after which a stream in closed loop goes on when its last response has failed."""
RAMP = 0.5
"""The share of the warm-up in which the streams of a closed loop begin, one after the other."""
MAX_STREAMS = 16384
"""HTTP connections at a time, in open loop. Beyond, requests wait for a free one."""
TELLING = 0.25
"""Seconds between two reports of how far a run is."""


class Run:
    """One run. Make one, await ``run`` once. Everything happens in the running loop."""

    def __init__(
        self,
        target: Target,
        load: Load,
        *,
        processes: ProcessTree | None = None,
        source: ProcessTree | None = None,
        vocabulary: Vocabulary | None = None,
        progress: Callable[[Sofar], None] | None = None,
    ) -> None:
        """``processes`` are the server's and ``source`` the token source's, if they are known;
        ``vocabulary`` is the source's. ``progress`` is told how far it is, while it goes on."""
        self._target = target
        self._load = load
        self._processes = processes
        self._source = source
        self._vocabulary = vocabulary or Vocabulary()
        self._progress = progress
        self._tally = Tally()
        self._traffic = Traffic()
        self._number = 0
        """The number of the next response."""
        self._measured = 0
        """Measured responses that were asked for."""
        self._tokens = 0
        """Tokens of responses that have ended."""
        self._starting = True
        self._stalled = False
        """Nothing has happened for too long."""
        self._running: dict[Answer, Stream] = {}
        self._ready: deque[Stream] = deque()
        self._due: deque[tuple[float, bool]] = deque()
        """What waits for a ready stream in open loop: when it was due, whether it is measured."""
        self._http: list[HttpStream] = []
        self._connections: list[LaneConnection] = []
        self._changed = asyncio.Event()
        """A response has ended."""

    @property
    def records(self) -> list[Record]:
        """The measured responses, once ``run`` has returned."""
        return self._tally.records

    @property
    def gaps(self) -> Sequence[float]:
        """The measured gaps between two frames with text, in seconds, once ``run`` has returned."""
        return self._tally.window.gaps

    async def run(self) -> Result:
        """Returns when all is over; every connection is closed then."""
        load, window = self._load, self._tally.window
        self._open_streams()
        start = self._moment()
        begun = self._tally.begun = start.at
        tasks = [
            asyncio.create_task(
                self._ramp(begun) if load.rate is None else self._arrive(load.rate, begun)
            )
        ]
        if self._progress is not None:
            tasks.append(asyncio.create_task(self._tell(self._progress)))
        try:
            if load.warmup:
                await asyncio.sleep(load.warmup)
            before = self._moment()
            window.open = True
            if load.seconds is not None:
                await asyncio.sleep(load.seconds)
            else:
                await self._until(lambda: len(self._tally.records) == load.requests)
            window.open = False
            after = self._moment()
            self._starting = False
            self._due.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(load.drain):
                    await self._until(lambda: not self._running)
            over = self._moment()
            peak = self._processes and self._processes.peak()
        finally:
            for task in tasks:
                task.cancel()
            self._close()
            await asyncio.gather(*tasks, return_exceptions=True)
        # One turn for the transports to tell that they are closed.
        await asyncio.sleep(0)
        return self._tally.result(
            load.mode,
            load.streams,
            Moments(start, before, after, over),
            limits=load.goodput,
            checked=load.checked,
            peak=peak or None,
        )

    async def _tell(self, progress: Callable[[Sofar], None]) -> None:
        while True:
            await asyncio.sleep(TELLING)
            progress(self._tally.so_far(time.monotonic(), self._streamed()))

    # When responses begin.

    def _open_streams(self) -> None:
        load = self._load
        if load.mode == "lanes":
            self._connections = [
                LaneConnection(self._target, self._traffic, load.lanes, self._ended, self._stray)
                for _ in range(load.connections)
            ]
            # Round and round the connections: the first to be used are not all on one.
            lanes = zip(*(one.lanes.values() for one in self._connections), strict=True)
            self._ready.extend(lane for row in lanes for lane in row)
        elif load.rate is None:
            self._ready.extend(self._open_http() for _ in range(load.connections))

    def _open_http(self) -> HttpStream:
        match self._load.mode:
            case "sync":
                stream: HttpStream = SyncStream(self._target, self._traffic, self._ended)
            case "background":
                stream = PolledStream(self._target, self._traffic, self._ended, self._load.poll)
            case mode:
                stream = SseStream(self._target, self._traffic, self._ended, chat=mode == "chat")
        self._http.append(stream)
        return stream

    async def _ramp(self, begun: float) -> None:
        """Closed loop: start every stream."""
        streams = [*self._ready]
        for number, stream in enumerate(streams):
            ahead = begun + RAMP * self._load.warmup * number / len(streams) - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            self._next(stream)

    async def _arrive(self, rate: float, begun: float) -> None:
        """Open loop: let requests arrive."""
        rung = asyncio.Event()
        alarm = Alarm(rung.set)
        try:
            for offset in plan.arrivals(rate, self._load.seed):
                due = begun + offset
                if due > time.monotonic():
                    rung.clear()
                    alarm.set(due)
                    await rung.wait()
                if not self._starting:
                    return
                self._due.append((due, self._count_measured()))
                self._pump()
        finally:
            alarm.close()

    def _pump(self) -> None:
        """Open loop: start what is due, as far as there are streams."""
        while self._due:
            if not self._ready:
                if self._load.mode == "lanes" or len(self._http) >= MAX_STREAMS:
                    return
                self._ready.append(self._open_http())
            due, measured = self._due.popleft()
            self._start(self._ready.popleft(), measured).begun = due

    def _next(self, stream: Stream) -> None:
        """Closed loop: start the next response."""
        if self._starting:
            self._start(stream, self._count_measured())

    def _count_measured(self) -> bool:
        """Whether the response that begins now is measured; it is counted then."""
        if not self._tally.window.open:
            return False
        self._measured += 1
        self._starting = self._measured != self._load.requests
        return True

    def _start(self, stream: Stream, measured: bool) -> Answer:
        load, number = self._load, self._number
        self._number += 1
        seed, tokens = plan.seed_of(load, number), plan.tokens_of(load, number)
        answer = Answer(
            None if load.any_text else self._vocabulary.answer(seed, tokens),
            seed=seed,
            tokens=None if load.any_text else tokens,
            window=self._tally.window,
            measured=measured,
            streamed=load.streamed,
        )
        self._running[answer] = stream
        lane = stream.name if isinstance(stream, Lane) else None
        stream.start(answer, plan.request(load, seed, tokens, lane))
        return answer

    # When they end.

    def _ended(self, stream: Stream, answer: Answer) -> None:
        del self._running[answer]
        self._tokens += self._tokens_of(answer)
        self._tally.add(answer)
        self._changed.set()
        if self._load.rate is not None:
            self._ready.append(stream)
            self._pump()
        elif answer.error is None:
            self._next(stream)
        elif self._starting:
            asyncio.get_running_loop().call_later(RETRY, self._next, stream)

    def _stray(self, code: str) -> None:
        self._tally.failed[code] += 1

    def _close(self) -> None:
        """Stop everything; what still runs is cut off, or was silent for too long."""
        self._starting = False
        now = time.monotonic()
        for answer in self._running:
            silence = now - max(answer.begun or now, answer.last)
            if self._stalled or silence >= self._load.timeout:
                answer.end(now, "timeout")
            self._tally.add(answer)
        self._running.clear()
        for connection in (*self._http, *self._connections):
            connection.close()

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Wait until something holds, or until nothing has happened for too long."""
        while not reached():
            self._changed.clear()
            seen = self._streamed()
            try:
                async with asyncio.timeout(self._load.timeout):
                    await self._changed.wait()
            except TimeoutError:
                if self._streamed() == seen:
                    self._stalled = True
                    return

    def _tokens_of(self, answer: Answer) -> int:
        """The tokens of an answer that have come; frames, as long as it is not known how many
        tokens they hold."""
        if self._load.any_text:
            return answer.frames if answer.tokens is None else answer.tokens
        assert answer.expected is not None
        assert answer.tokens is not None
        if answer.received == len(answer.expected):
            return answer.tokens
        return self._vocabulary.tokens(answer.seed, answer.received)

    def _streamed(self) -> int:
        """The tokens that have come so far."""
        return self._tokens + sum(map(self._tokens_of, self._running))

    def _moment(self) -> Moment:
        return Moment(
            at=time.monotonic(),
            tokens=self._streamed(),
            ended=self._tally.ended,
            client=time.process_time(),
            traffic=replace(self._traffic),
            usage=_usage(self._processes),
            source=_usage(self._source),
            machine=None if self._source is None else machine.busy(),
        )


def _usage(processes: ProcessTree | None) -> Usage | None:
    if processes is not None:
        with suppress(ProcessLookupError):
            return processes.usage()
    return None
