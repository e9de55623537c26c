"""The load generator: runs a ``Load`` against a server and says what it found.

The server's CPU time is that of the measured window: from the end of the warm-up until the time is
over, or until the last measured response has ended. What runs then is read on, checked, for as
long as ``Load.drain`` says.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from hub.bench import machine, plan
from hub.bench.alarm import Alarm
from hub.bench.answer import Answer
from hub.bench.clients import Lane, LaneConnection, SseStream, Stream, Target
from hub.bench.machine import ProcessTree
from hub.bench.plan import Load
from hub.bench.tally import Result, Tally, Usage
from hub.bench.text import Vocabulary

RETRY = 0.1
"""Seconds after which a stream in closed loop goes on when its last response has failed."""
RAMP = 0.5
"""The share of the warm-up in which the streams of a closed loop begin, one after the other."""
MAX_STREAMS = 16384
"""HTTP connections at a time, in open loop. Beyond, requests wait for a free one."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """The counts at one moment."""

    at: float
    tokens: int
    ended: int
    client: float
    usage: Usage | None
    source: Usage | None
    machine: float | None


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
    ) -> None:
        """``processes`` are the server's and ``source`` the token source's, if they are known;
        ``vocabulary`` is the source's."""
        self._target = target
        self._load = load
        self._processes = processes
        self._source = source
        self._vocabulary = vocabulary or Vocabulary()
        self._tally = Tally()
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
        self._http: list[SseStream] = []
        self._connections: list[LaneConnection] = []
        self._changed = asyncio.Event()
        """A response has ended."""

    async def run(self) -> Result:
        """Returns when all is over; every connection is closed then."""
        load, window = self._load, self._tally.window
        self._open_streams()
        begun = time.monotonic()
        starting = asyncio.create_task(
            self._ramp(begun) if load.rate is None else self._arrive(load.rate, begun)
        )
        try:
            if load.warmup:
                await asyncio.sleep(load.warmup)
            before = self._sample()
            window.open = True
            if load.seconds is not None:
                await asyncio.sleep(load.seconds)
            else:
                await self._until(lambda: self._tally.measured == load.requests)
            window.open = False
            after = self._sample()
            self._starting = False
            self._due.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(load.drain):
                    await self._until(lambda: not self._running)
            peak = self._processes and self._processes.peak()
        finally:
            starting.cancel()
            self._close()
            await asyncio.gather(starting, return_exceptions=True)
        # One turn for the transports to tell that they are closed.
        await asyncio.sleep(0)
        return self._tally.result(
            mode=load.mode,
            streams=load.streams,
            seconds=after.at - before.at,
            tokens=after.tokens - before.tokens,
            requests=after.ended - before.ended,
            client=after.client - before.client,
            usage=_between(before.usage, after.usage),
            source=_between(before.source, after.source),
            machine=_difference(before.machine, after.machine),
            peak=peak or None,
        )

    # When responses begin.

    def _open_streams(self) -> None:
        load = self._load
        if load.mode == "lanes":
            self._connections = [
                LaneConnection(self._target, load.lanes, self._ended, self._stray)
                for _ in range(load.connections)
            ]
            # Round and round the connections: the first to be used are not all on one.
            lanes = zip(*(one.lanes.values() for one in self._connections), strict=True)
            self._ready.extend(lane for row in lanes for lane in row)
        elif load.rate is None:
            self._ready.extend(self._open_http() for _ in range(load.connections))

    def _open_http(self) -> SseStream:
        stream = SseStream(self._target, self._load.mode, self._ended)
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
            self._vocabulary.answer(seed, tokens),
            seed=seed,
            tokens=tokens,
            window=self._tally.window,
            measured=measured,
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
        """The tokens of an answer that have come."""
        if answer.received == len(answer.expected):
            return answer.tokens
        return self._vocabulary.tokens(answer.seed, answer.received)

    def _streamed(self) -> int:
        """The tokens that have come so far."""
        return self._tokens + sum(map(self._tokens_of, self._running))

    def _sample(self) -> _Sample:
        return _Sample(
            at=time.monotonic(),
            tokens=self._streamed(),
            ended=self._tally.ended,
            client=time.process_time(),
            usage=_usage(self._processes),
            source=_usage(self._source),
            machine=None if self._source is None else machine.busy(),
        )


def _usage(processes: ProcessTree | None) -> Usage | None:
    if processes is not None:
        with suppress(ProcessLookupError):
            return processes.usage()
    return None


def _between(before: Usage | None, after: Usage | None) -> Usage | None:
    return None if before is None or after is None else after.since(before)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
